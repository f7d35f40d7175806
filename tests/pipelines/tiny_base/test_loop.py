import torch
from torch import nn

from pipelines.tiny_base.loop import init_from


def test_a_new_model_takes_what_fits_and_keeps_its_own_vocabulary() -> None:
    known = nn.ModuleDict({"words": nn.Embedding(5, 4), "layer": nn.Linear(4, 4)})
    new = nn.ModuleDict({"words": nn.Embedding(7, 4), "layer": nn.Linear(4, 4)})
    words = new["words"].weight.detach().clone()
    init_from(new, known)
    assert torch.equal(new["layer"].weight, known["layer"].weight)
    assert torch.equal(new["words"].weight, words)
