"""Releases and base models come from a hub on this machine, by the real client."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from e4t import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.config import BackboneConfig
from encoder.errors import ModelError
from encoder.hub_client import is_hub_id, resolved_revision
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline
from encoder.releases import download as encoder_hub
from encoder.releases.download import release_folder
from encoder.releases.release import INDEX, REQUIRED_FILES, Release
from tests.bases import SHIPPED
from tests.hub_server import TOKEN, Files, Hub, files_in

FACES = SHIPPED.with_name("faces")


def with_version(files: Files, version: str) -> Files:
    return files | {INDEX: json.dumps(json.loads(files[INDEX]) | {"version": version}).encode()}


@pytest.fixture
def faces() -> Files:
    return files_in(FACES)


def refusal(place: str | Path) -> str:
    """What a release that cannot be had says, which is one line."""
    with pytest.raises(ModelError) as caught:
        release_folder(place)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_release_comes_from_the_hub_with_the_same_bytes(hub: Hub, faces: Files) -> None:
    hub.put("me/faces", faces)
    assert files_in(release_folder("me/faces")) == faces


def test_main_is_what_one_gets_and_a_tag_if_one_asks(hub: Hub, faces: Files) -> None:
    commit = hub.put("me/faces", with_version(faces, "1.0.0"), tag="v1.0.0")
    hub.put("me/faces", with_version(faces, "2.0.0"), tag="v2.0.0")
    asked = ("me/faces@v1.0.0", "me/faces", f"me/faces@{commit}")
    assert [Release.open(release_folder(place)).version for place in asked] == ["1.0.0", "2.0.0", "1.0.0"]


def test_no_pickle_no_code_and_nothing_hidden_is_downloaded(hub: Hub, faces: Files) -> None:
    others = ("pytorch_model.bin", "x/weights.pt", "model.pkl", "pipeline.py", ".cache/a.json", "big.tar", "LICENSE")
    hub.put("me/faces", faces | dict.fromkeys(others, b"not of a release"))
    assert files_in(release_folder("me/faces")) == faces
    assert hub.asked["HEAD file"] <= 2 * len(faces)


def test_a_folder_that_is_there_wins_over_the_hub(
    hub: Hub, faces: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("me/faces", faces)
    (tmp_path / "me" / "faces").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert release_folder("me/faces") == Path("me/faces")
    assert not hub.asked


@pytest.mark.parametrize(
    "place", ["/nowhere/faces", "./faces", "../faces", "a/b/c", "faces", "me/fa ces", Path("me/x")]
)
def test_what_is_neither_folder_nor_hub_id_is_one_line_and_no_request(hub: Hub, place: str | Path) -> None:
    assert f"release {place}: no such folder; make one with `e4t release`, or give a hub id" in refusal(place)
    assert not hub.asked


def test_the_second_time_only_asks_whether_there_is_something_new(hub: Hub, faces: Files) -> None:
    hub.put("me/faces", faces)
    first = release_folder("me/faces")
    hub.asked.clear()
    assert release_folder("me/faces") == first
    assert dict(hub.asked) == {"GET model": 1}


@pytest.mark.parametrize("place", ["me/faces", "me/faces@v1.0.1"])
def test_what_was_opened_once_opens_without_a_connection(
    hub: Hub, faces: Files, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    hub.put("me/faces", faces, tag="v1.0.1")
    first = release_folder(place)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert release_folder(place) == first
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert release_folder(place) == first


def test_what_was_opened_once_opens_while_the_hub_has_troubles(hub: Hub, faces: Files) -> None:
    hub.put("me/faces", faces)
    first = release_folder("me/faces")
    hub.faults = {"*": 503}
    assert release_folder("me/faces") == first


def test_what_was_never_opened_cannot_be_opened_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set and the local cache does not hold it" in refusal("me/faces")


def test_a_download_that_was_cut_is_one_line_and_the_next_one_finishes_it(hub: Hub, faces: Files) -> None:
    hub.put("me/faces", faces)
    hub.faults = {"GET large": "cut"}
    assert "run this again" in refusal("me/faces")
    hub.faults = {}
    assert files_in(release_folder("me/faces")) == faces


def test_half_a_download_is_not_opened_offline(hub: Hub, faces: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("me/faces", faces)
    hub.faults = {"GET large": "cut"}
    refusal("me/faces")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal("me/faces")


@pytest.mark.parametrize(
    ("fault", "advice"),
    [
        (401, "run `hf auth login` or set HF_TOKEN"),
        (403, "request access"),
        (404, "no such model or revision; check the name"),
        (429, "run this again in a few minutes"),
        (503, "run this again later"),
        ("cut", "check the connection, then run this again"),
    ],
)
@pytest.mark.parametrize("kind", ["GET model", "GET tree", "HEAD file", "GET file", "GET large"])
def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(
    hub: Hub, faces: Files, kind: str, fault: int | str, advice: str
) -> None:
    hub.put("me/faces", faces)
    hub.faults = {kind: fault}
    said = refusal("me/faces")
    assert said.startswith("release me/faces: no such folder here; the hub: ")
    assert advice in said


def test_models_and_revisions_that_do_not_exist_are_one_line(hub: Hub, faces: Files) -> None:
    hub.put("me/faces", faces)
    assert "no such model or revision" in refusal("me/nothing")
    assert "no such model or revision" in refusal("me/faces@v9.9.9")


def test_a_private_release_wants_a_token(hub: Hub, faces: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("me/faces", faces)
    hub.models["me/faces"].private = True
    monkeypatch.delenv("HF_TOKEN")
    assert "run `hf auth login` or set HF_TOKEN" in refusal("me/faces")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert files_in(release_folder("me/faces")) == faces


@pytest.mark.parametrize("missing", sorted(REQUIRED_FILES))
def test_a_model_that_is_no_release_is_not_downloaded(hub: Hub, faces: Files, missing: str) -> None:
    del faces[missing]
    hub.put("me/faces", faces)
    assert f"me/faces on the hub is not a release of e4t: it lacks {missing}" in refusal("me/faces")
    assert hub.asked["GET file"] == hub.asked["GET large"] == 0


@pytest.mark.parametrize("limit", ["LARGEST_WEIGHTS", "LARGEST_OTHER"])
def test_what_is_far_too_large_is_not_downloaded(
    hub: Hub, faces: Files, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(encoder_hub, limit, 1000)
    hub.put("me/faces", faces)
    assert "far more than a release" in refusal("me/faces")
    assert hub.asked["GET file"] == hub.asked["GET large"] == 0


def test_a_downloaded_release_on_a_local_base_asks_for_the_base(hub: Hub, faces: Files) -> None:
    hub.put("me/faces", faces)
    with pytest.raises(ConfigError, match=r"faces 1\.0\.1 was made on \.\./base, .* with --base, a folder or hub id"):
        E4TPipeline.from_pretrained("me/faces")
    assert E4TPipeline.from_pretrained("me/faces", base=str(SHIPPED), device="cpu").release == "faces 1.0.1"


def test_a_given_base_brings_its_own_picture_tower_in_place_of_one_that_is_not_here(hub: Hub, faces: Files) -> None:
    index = json.loads(faces[INDEX])
    index["base"]["clip"] = "../clip"
    hub.put("me/faces", faces | {INDEX: json.dumps(index).encode()})
    opened = Release.open(release_folder("me/faces"))
    assert opened.backbone_config(str(SHIPPED)) == BackboneConfig(model=str(SHIPPED))


def test_a_release_whose_base_is_on_the_hub_opens_by_its_id_alone(hub: Hub, faces: Files) -> None:
    index = json.loads(faces[INDEX])
    index["base"] |= {"model": "me/base", "revision": hub.put("me/base", files_in(SHIPPED))}
    hub.put("me/base", {"README.md": b"the base has been emptied"})
    hub.put("me/faces", faces | {INDEX: json.dumps(index).encode()})
    there, here = (E4TPipeline.from_pretrained(place, device="cpu") for place in ("me/faces", FACES))
    prompt = "a portrait of a person"
    assert (
        there(prompt, 2, generator=seeded_generators(0, 1))[0].tobytes()
        == here(prompt, 2, generator=seeded_generators(0, 1))[0].tobytes()
    )


@pytest.mark.parametrize("revision", [None, "main", "stable"])
def test_the_revision_is_the_commit_that_was_loaded_even_if_the_hub_has_moved_on(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    commit = hub.put("me/base", files_in(SHIPPED), tag="stable")
    Backbone.load(BackboneConfig(model="me/base", revision=revision))
    hub.models["me/base"].tags["stable"] = hub.put("me/base", {"README.md": b"another"})
    assert resolved_revision("me/base", revision) == commit
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolved_revision("me/base", revision) == commit


def test_the_revision_of_what_was_not_loaded_is_asked_for(hub: Hub) -> None:
    commit = hub.put("me/base", {"README.md": b"a base"})
    assert resolved_revision("me/base", None) == commit
    assert resolved_revision("me/base", commit) == commit


def test_a_folder_has_no_revision(hub: Hub) -> None:
    assert resolved_revision(str(SHIPPED), None) is None
    assert not hub.asked


def test_a_revision_that_nobody_knows_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match="base model me/base is no local folder, and the hub cannot resolve it: no such model"
    ):
        resolved_revision("me/base", None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        resolved_revision("me/base", None)


@pytest.mark.parametrize("text", ["me/faces", "stabilityai/stable-diffusion-2-1", "a.b/c_d-e"])
def test_owner_and_name_are_a_hub_id(text: str) -> None:
    assert is_hub_id(text)


@pytest.mark.parametrize(
    "text", ["", "faces", "/faces", "./faces", "../faces", "a/b/c", "a/", "a b/c", "a/b--c", "a/b@c"]
)
def test_what_the_hub_would_not_take_as_a_name_is_no_hub_id(text: str) -> None:
    assert not is_hub_id(text)


def test_the_command_takes_a_hub_id_and_later_needs_no_connection(hub: Hub, faces: Files, tmp_path: Path) -> None:
    hub.put("me/faces", faces, tag="v1.0.1")

    def generate(output: str, **variables: str) -> subprocess.CompletedProcess[str]:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-m", "e4t", "generate", "--release", "me/faces@v1.0.1", "--base", str(SHIPPED)]
        command += ["--steps", "2", "--prompt", "a portrait of a person", "--output", str(tmp_path / output)]
        environment = os.environ | settings | variables
        return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)  # noqa: S603

    first = generate("first")
    assert first.returncode == 0, first.stderr
    again = generate("again", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert files_in(tmp_path / "first") == files_in(tmp_path / "again")
    lost = generate("lost", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "elsewhere"))
    assert lost.returncode == 1
    wanted = "e4t: release me/faces@v1.0.1: no such folder here; the hub: no answer from http://127.0.0.1:9 "
    assert lost.stderr == wanted + "([Errno 111] Connection refused); check the connection, then run this again\n"
