"""Tests of importing checkpoints of mkshing/e4t-diffusion, from the three files to generated images."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from encoder.concepts.concept import Concept
from encoder.errors import ModelError
from encoder.model.patch_encoder import PatchEncoder
from encoder.model.registry import build_encoder
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline
from tests.mkshing import write_checkpoint

E4T = Callable[..., tuple[int, str, str]]
Import = Callable[..., tuple[int, str, str]]
FILES = ("config.json", "weight_offsets.pt", "encoder.pt")
ORANGE = Image.new("RGB", (48, 40), (220, 120, 20))


@pytest.fixture
def base(family_folders: Path) -> Path:
    return family_folders / "sd1"


@pytest.fixture
def checkpoint(base: Path, tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "faces", base)


@pytest.fixture
def imported(e4t: E4T, base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Import:
    """Return a function that imports a checkpoint into ``tmp_path / "release"`` with the command."""

    def run(checkpoint: Path, *words: Any) -> tuple[int, str, str]:
        capfd.readouterr()  # discard output of creating the checkpoint
        image_encoder = () if "--image-encoder" in words else ("--image-encoder", base / "clip")
        return e4t("import", "mkshing", checkpoint, "--output", tmp_path / "release", *image_encoder, *words)

    return run


def test_an_imported_release_tunes_and_generates_by_command(
    e4t: E4T, imported: Import, checkpoint: Path, tmp_path: Path
) -> None:
    release, concept = tmp_path / "release", tmp_path / "concept"
    ORANGE.save(tmp_path / "me.png")
    code, out, err = imported(checkpoint)
    assert code == 0, err
    assert "faces 0.1.0" in out
    tune_options = ("--image", tmp_path / "me.png", "--output", concept, "--steps", "2", "--batch-size", "2")
    generate_options = (
        "--prompt",
        "a photo of *s",
        "--count",
        "1",
        "--num-inference-steps",
        "2",
        "--output",
        tmp_path / "images",
    )
    for command in (("tune", *tune_options), ("generate", "--concept", concept, *generate_options)):
        code, _, err = e4t(command[0], "--release", release, *command[1:])
        assert code == 0, err
    assert Image.open(tmp_path / "images" / "0000.png").size == (32, 32)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_concept_of_an_imported_release_is_saved_loaded_and_unloaded(
    imported: Import, family_folders: Path, tmp_path: Path, family: str
) -> None:
    folder = family_folders / family
    assert imported(write_checkpoint(tmp_path / "some", folder), "--image-encoder", folder / "clip")[0] == 0
    pipe = E4TPipeline.from_pretrained(tmp_path / "release", device="cpu")
    before = {name: tensor.clone() for name, tensor in pipe.backbone.state_dict().items()}
    pipe.tune(ORANGE, steps=2, batch_size=2).save(tmp_path / "concept")
    images = pipe.sample(["a photo of *s"], pipe.sample_config, seeded_generators(1, 1))
    pipe.unload_concept()
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipe.backbone.state_dict().items())
    pipe.load_concept(Concept.load(tmp_path / "concept"))
    assert torch.equal(pipe.sample(["a photo of *s"], pipe.sample_config, seeded_generators(1, 1)), images)


def test_tuning_an_imported_release_changes_its_encoder_and_lowers_the_loss(
    imported: Import, checkpoint: Path, tmp_path: Path
) -> None:
    assert imported(checkpoint)[0] == 0
    pipe, losses = E4TPipeline.from_pretrained(tmp_path / "release", device="cpu"), list[float]()
    assert isinstance(pipe.domain_encoder, PatchEncoder)
    settings = {"steps": 12, "batch_size": 16, "learning_rate": 1e-3, "regularization_weight": 0.0}
    concept = pipe.tune(ORANGE, on_step=lambda _, loss: losses.append(float(loss.denoising)), **settings)
    assert {"unet_proj.0.weight", "fusion_proj.weight", "clip_proj.2.weight"} <= concept.weight_deltas["encoder"].keys()
    assert sum(losses[-3:]) < sum(losses[:3])


def test_an_imported_release_records_its_settings_and_source_files(
    imported: Import, checkpoint: Path, tmp_path: Path
) -> None:
    assert imported(checkpoint, "--name", "foreign-faces", "--version", "1.2.0")[0] == 0
    index = json.loads((tmp_path / "release" / "index.json").read_text())
    assert (index["name"], index["version"], index["resolution"]) == ("foreign-faces", "1.2.0", 32)
    assert index["conditioning"]["domain_word"] == "person"
    assert index["conditioning"]["templates"] == ["a photo of *s"]
    tuning = {name: index["tuning"][name] for name in ("steps", "batch_size", "learning_rate", "regularization_weight")}
    assert tuning == pytest.approx(
        {"steps": 30, "batch_size": 16, "learning_rate": 1.6e-5, "regularization_weight": 0.016}
    )
    assert index["sampling"] | {"num_inference_steps": 50, "guidance_scale": 7.5} == index["sampling"]
    imported_from = json.loads((tmp_path / "release" / "provenance.json").read_text())["imported"]
    digests = {name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in FILES}
    assert imported_from["from"] == "mkshing/e4t-diffusion"
    assert {name: file["sha256"] for name, file in imported_from["files"].items()} == digests
    assert not [path for path in (tmp_path / "release").rglob("*") if path.suffix in {".pt", ".bin", ".pkl"}]


@pytest.mark.parametrize(("trained", "kept"), [(None, True), (True, True), (False, False)])
def test_an_included_image_encoder_is_kept_unless_it_was_frozen(
    imported: Import, base: Path, tmp_path: Path, trained: bool | None, kept: bool
) -> None:
    image_encoder = CLIPVisionModel(CLIPVisionConfig.from_pretrained(base / "clip"))
    settings = {} if trained is None else {"unfreeze_clip_vision": trained}
    assert imported(write_checkpoint(tmp_path / "some", base, trained_image_encoder=image_encoder, **settings))[0] == 0
    pipe = E4TPipeline.from_pretrained(tmp_path / "release", device="cpu")
    expected = image_encoder if kept else CLIPVisionModel.from_pretrained(base / "clip")
    assert (tmp_path / "release" / "clip").exists() == kept
    loaded, weights = pipe.image_encoder.state_dict(), expected.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_a_missing_trained_image_encoder_is_reported(imported: Import, base: Path, tmp_path: Path) -> None:
    code, _, err = imported(write_checkpoint(tmp_path / "some", base, unfreeze_clip_vision=True))
    assert (code, err.count("\n"), "lacks the image encoder" in err) == (1, 1, True)


def test_an_imported_release_works_without_its_encoder(imported: Import, checkpoint: Path, tmp_path: Path) -> None:
    assert imported(checkpoint)[0] == 0
    pipe = E4TPipeline.from_pretrained(tmp_path / "release", device="cpu", base_only=True)
    assert pipe("a photo of a person", num_inference_steps=2)[0].size == (32, 32)


@pytest.mark.parametrize("name", FILES[1:])
def test_code_in_a_checkpoint_is_rejected_and_not_run(
    imported: Import, checkpoint: Path, tmp_path: Path, name: str
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save(torch.load(checkpoint / name, weights_only=True) | {"trap": Trap()}, checkpoint / name)
    code, _, err = imported(checkpoint)
    assert (code, err.count("\n"), "was not run" in err) == (1, 1, True)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "No such file"),
        ("config.json", b"[1", "is not a configuration of mkshing/e4t-diffusion"),
        ("config.json", b"[1]", "is not a configuration of mkshing/e4t-diffusion"),
        ("config.json", b"[" * 50_000, "is not a configuration of mkshing/e4t-diffusion"),
        ("config.json", b" " * 70_000 + b"{}", "more than 65,536 bytes"),
        ("config.json", b"{}", "domain_class_token"),
        ("config.json", b'{"domain_class_token": 3}', "domain_class_token is 3"),
        ("config.json", b'{"domain_class_token": "cat", "domain_embed_scale": NaN}', "domain_embed_scale is nan"),
        ("config.json", b'{"domain_class_token": "cat", "resolution": 1e9}', "resolution is 1000000000.0"),
        ("config.json", b'{"domain_class_token": "cat", "pretrained_args": {}}', "belongs to one tuned concept"),
        ("weight_offsets.pt", None, "No such file"),
        ("weight_offsets.pt", b"PK\x03\x04", "not a complete file"),
        ("encoder.pt", b"\x80\x02}.", "not a complete file"),
        ("encoder.pt", b"0" * 3_000_000, "more than the"),
    ],
)
def test_invalid_files_are_rejected_in_one_line(
    imported: Import, checkpoint: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    (checkpoint / name).unlink()
    if content is not None:
        (checkpoint / name).write_bytes(content)
    code, _, err = imported(checkpoint)
    assert (code, err.count("\n"), message in err) == (1, 1, True), err
    assert not (tmp_path / "release").exists()


def test_an_encoder_for_another_base_model_is_rejected(
    imported: Import, checkpoint: Path, family_folders: Path
) -> None:
    code, _, err = imported(checkpoint, "--base", family_folders / "sd2")
    assert (code, err.count("\n"), "this base model needs" in err) == (1, 1, True), err


@pytest.mark.parametrize("words", [("--version", "one"), ("--base", "/nowhere"), ("--image-encoder", "/nowhere")])
def test_an_invalid_option_is_a_configuration_error(imported: Import, checkpoint: Path, words: tuple[str, str]) -> None:
    code, _, err = imported(checkpoint, *words)
    assert (code, err.count("\n")) == (78, 1), err


def test_an_unknown_encoder_kind_asks_to_upgrade() -> None:
    with pytest.raises(ModelError, match="upgrade e4t"):
        build_encoder(kind="of tomorrow")
