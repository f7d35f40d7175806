"""The E4T method: domain encoder, weight offsets, tuning and sampling. Independent of datasets, clusters and trackers."""
