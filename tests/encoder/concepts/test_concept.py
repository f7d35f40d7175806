"""Concepts are saved and loaded, in the current and in earlier formats."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from encoder.concepts.concept import FORMAT_VERSION, Concept
from encoder.concepts.concept_tokens import ConceptToken, EncodedToken, LearnedToken, RareToken
from encoder.concepts.weight_deltas import LowRankDelta
from encoder.errors import ModelError

VERSION_3 = Path(__file__).parent / "fixtures" / "version_3"
"""A Textual Inversion concept that was saved by a version of e4t with format 3."""


def write_version_3(folder: Path, tensors: dict[str, torch.Tensor], word: dict[str, Any]) -> Path:
    """Write a concept as a version of e4t with format 3 did."""
    folder.mkdir()
    save_file(tensors, folder / "concept.safetensors")
    config = {"format_version": 3, "release": "faces 1.0.1", "word": word, "settings": {"stored_error": 0.0}}
    (folder / "concept.json").write_text(json.dumps(config))
    return folder


def test_a_learned_token_of_format_3_is_loaded() -> None:
    concept = Concept.load(VERSION_3)
    assert (concept.release, concept.weight_deltas) == ("faces 1.0.1", {})
    assert isinstance(concept.token, LearnedToken)
    assert concept.token.widths == (128,)
    assert torch.equal(concept.token.embedding, load_file(VERSION_3 / "concept.safetensors")["embedding"])


def test_a_rare_token_of_format_3_is_loaded(tmp_path: Path) -> None:
    folder = write_version_3(tmp_path / "concept", {"unet/conv_in.bias": torch.ones(4)}, {"text": "sks"})
    assert Concept.load(folder).token == RareToken("sks")


def test_domain_encoder_deltas_of_format_3_get_the_current_parameter_names(tmp_path: Path) -> None:
    tensors = {
        "class_tokens": torch.zeros(1, 4, 8),
        "encoder/from_clip.0.weight": torch.full((2, 2), 1.0),
        "encoder/to_embedding.weight/values": torch.full((2, 2), 2, dtype=torch.int8),
        "encoder/to_embedding.weight/scale": torch.ones(2, 1),
        "unet/conv_in.bias": torch.full((4,), 3.0),
    }
    concept = Concept.load(write_version_3(tmp_path / "concept", tensors, {}))
    assert isinstance(concept.token, EncodedToken)
    assert concept.weight_deltas["encoder"].keys() == {"clip_proj.0.weight", "out_proj.weight"}
    assert concept.weight_deltas["unet"].keys() == {"conv_in.bias"}


@pytest.mark.parametrize(
    "token", [EncodedToken(torch.randn(1, 4, 8)), LearnedToken(torch.randn(6), (2, 4)), RareToken("sks")]
)
def test_a_concept_is_the_same_after_saving_and_loading(tmp_path: Path, token: ConceptToken) -> None:
    deltas = {"unet": {"a.weight": LowRankDelta(torch.randn(4, 2), torch.randn(2, 3)), "b.bias": torch.randn(4)}}
    concept = Concept(weight_deltas=deltas, token=token, release="faces 1.0.1", settings={"steps": 5})
    for loaded in (Concept.load(concept.save(tmp_path / "concept")), Concept.from_bytes(concept.to_bytes())):
        assert type(loaded.token) is type(token)
        assert loaded.to_bytes() == concept.to_bytes()
        assert loaded.digest == concept.digest


def test_a_concept_is_saved_in_the_current_format(tmp_path: Path) -> None:
    Concept(weight_deltas={}, token=RareToken("sks"), release="x 1.0.0").save(tmp_path / "concept")
    config = json.loads((tmp_path / "concept" / "concept.json").read_text())
    assert config == {"format_version": 4, "release": "x 1.0.0", "token": {"text": "sks"}, "settings": {}}


def test_a_concept_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    Concept(weight_deltas={}, token=RareToken("sks"), release="x 1.0.0").save(tmp_path / "concept")
    path = tmp_path / "concept" / "concept.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": FORMAT_VERSION + 1}))
    with pytest.raises(ModelError, match="upgrade e4t"):
        Concept.load(tmp_path / "concept")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["token", "delta", "low rank"])
def test_a_concept_with_a_value_that_is_not_finite_cannot_be_made(where: str, value: float) -> None:
    broken, sound = torch.tensor([[1.0, value]]), torch.ones(2)
    token: ConceptToken = LearnedToken(broken[0] if where == "token" else sound, (2,))
    deltas = {"delta": {"conv.bias": broken[0]}, "low rank": {"to_q.weight": LowRankDelta(broken.T, sound[None])}}
    with pytest.raises(ModelError, match=r"concept of faces 1.0.0: .* not finite .* lower --learning-rate"):
        Concept(weight_deltas={"unet": deltas.get(where, {})}, token=token, release="faces 1.0.0")


def test_a_concept_file_with_a_value_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    concept = Concept(weight_deltas={"unet": {"conv.bias": torch.ones(2)}}, token=RareToken("sks"), release="faces 1")
    concept.save(tmp_path / "concept")
    tensors = load_file(tmp_path / "concept" / "concept.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()},
              tmp_path / "concept" / "concept.safetensors")  # fmt: skip
    with pytest.raises(ModelError, match="not finite"):
        Concept.load(tmp_path / "concept")
