"""``e4t pretrain``: train the domain encoder and the weight offsets."""
