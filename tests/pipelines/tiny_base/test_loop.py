import torch
from torch import nn

from pipelines.tiny_base.loop import init_from


def test_matching_weights_are_copied_and_token_embeddings_are_kept() -> None:
    known = nn.ModuleDict({"tokens": nn.Embedding(5, 4), "layer": nn.Linear(4, 4)})
    new = nn.ModuleDict({"tokens": nn.Embedding(7, 4), "layer": nn.Linear(4, 4)})
    token_embeddings = new["tokens"].weight.detach().clone()
    init_from(new, known)
    assert torch.equal(new["layer"].weight, known["layer"].weight)
    assert torch.equal(new["tokens"].weight, token_embeddings)
