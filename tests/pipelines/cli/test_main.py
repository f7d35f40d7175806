"""Invalid input ends in one line that says what is wrong and what to do, an exit code, and no partial output."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

SHIPPED_RELEASE = Path(__file__).parents[3] / "models" / "faces"
E4T = Callable[..., tuple[int, str, str]]


def is_error(result: tuple[int, str, str], code: int, *words: str) -> bool:
    """Whether a command printed one line with these words and returned this exit code."""
    exit_code, _, err = result
    assert exit_code == code
    assert err.startswith("e4t: ")
    assert err.count("\n") == 1
    return all(word in err for word in words)


def test_an_unknown_recipe_key_is_an_error(e4t: E4T, recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "color: red\n")
    assert is_error(e4t("prepare", "--recipe", recipe), 78, "color")


def test_an_unknown_recipe_is_an_error_that_lists_the_known_ones(e4t: E4T) -> None:
    assert is_error(e4t("prepare", "--recipe", "nope"), 78, "nope", "quickstart")


def test_a_value_out_of_range_is_an_error(e4t: E4T, recipe: Path) -> None:
    assert is_error(e4t("prepare", "--recipe", recipe, "--data.quality", "500"), 78, "quality", "500")


def test_a_missing_source_is_an_error_and_nothing_is_written(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    result = e4t(
        "prepare", "--recipe", recipe, "--data.source", tmp_path / "nowhere", "--data.output", tmp_path / "out"
    )
    assert is_error(result, 1, "nowhere")
    assert not (tmp_path / "out").exists()


def test_pretraining_without_shards_is_an_error(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    assert is_error(e4t("pretrain", "--recipe", recipe, "--data.output", tmp_path), 1, "manifest.json", "e4t prepare")


def test_a_batch_size_that_does_not_divide_is_an_error(e4t: E4T, recipe: Path) -> None:
    assert is_error(e4t("pretrain", "--recipe", recipe, "--nproc", "4"), 78, "batch_size")


@pytest.mark.distributed
def test_a_rendezvous_port_in_use_is_an_error(e4t: E4T, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        monkeypatch.setenv("MASTER_PORT", port)
        result = e4t("pretrain", "--recipe", recipe, "--nproc", "2")
    assert is_error(result, 1, f"127.0.0.1:{port}", "MASTER_PORT")


def test_an_unreadable_image_is_an_error(e4t: E4T, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"not an image")
    assert is_error(e4t("tune", "--release", tmp_path, "--image", tmp_path / "image.png"), 1, "image.png")


def test_a_folder_that_is_not_a_release_is_an_error(e4t: E4T, tmp_path: Path) -> None:
    assert is_error(e4t("generate", "--release", tmp_path, "--prompt", "a cat"), 1, "not a release folder")


def test_a_release_of_a_newer_format_is_an_error(e4t: E4T, tmp_path: Path) -> None:
    (tmp_path / "domain_encoder").mkdir()
    (tmp_path / "domain_encoder" / "config.json").write_text("{}")
    (tmp_path / "index.json").write_text(json.dumps({"kind": "e4t-domain-encoder", "format_version": 99}))
    assert is_error(e4t("generate", "--release", tmp_path, "--prompt", "a cat"), 1, "99", "upgrade")


def test_a_plan_has_memory_speed_and_whether_it_fits(e4t: E4T, recipe: Path, tmp_path: Path) -> None:
    code, out, err = e4t(
        "plan", "--recipe", recipe, "--devices", "2", "--device", "l4", "--json", tmp_path / "plan.json"
    )
    assert code == 0, err
    assert "frozen weights" in out
    assert "images/s" in out
    assert "fits" in out
    stages = {plan["stage"]: plan for plan in json.loads((tmp_path / "plan.json").read_text())}
    assert stages["pre-training"]["num_devices"] == 2
    assert stages["tuning"]["total_bytes"] == sum(stages["tuning"]["device_memory"].values())


def test_a_plan_for_an_unknown_device_lists_the_known_ones(e4t: E4T, recipe: Path) -> None:
    assert is_error(e4t("plan", "--recipe", recipe, "--device", "abacus"), 78, "H100")


def test_tune_uses_the_settings_and_mask_of_the_command_line(e4t: E4T, tmp_path: Path) -> None:
    image, mask = tmp_path / "me.png", tmp_path / "mask.png"
    Image.new("RGB", (80, 64), "teal").save(image)
    Image.new("L", (80, 64), 255).save(mask)
    options = ("--trainable", "lora", "--lora-rank", "2", "--steps", "1", "--batch-size", "2", "--device", "cpu")
    code, _, err = e4t(
        "tune", "--release", SHIPPED_RELEASE, "--image", image, "--mask", mask, *options, "--output", tmp_path / "me"
    )
    assert code == 0, err
    settings = json.loads((tmp_path / "me" / "concept.json").read_text())["settings"]
    assert (settings["trainable"], settings["lora_rank"], settings["steps"]) == ("lora", 2, 1)
    assert (tmp_path / "me" / "concept.safetensors").stat().st_size < 8_000_000


def test_a_tuning_setting_out_of_range_is_an_error(e4t: E4T, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "me.png")
    words = ("tune", "--release", SHIPPED_RELEASE, "--image", tmp_path / "me.png", "--lora-rank", "0")
    assert is_error(e4t(*words, "--output", tmp_path / "me"), 78, "lora_rank")
