"""Releases and base models are downloaded by the real client from a hub server on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.config import BackboneConfig
from encoder.errors import ModelError
from encoder.hub_client import is_hub_id, resolved_revision
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline
from encoder.releases import download
from encoder.releases.download import release_folder
from encoder.releases.index import INDEX
from encoder.releases.release import REQUIRED_FILES, Release
from tests.bases import SHIPPED
from tests.hub_server import TOKEN, Files, Hub, files_in

FACES = SHIPPED.with_name("faces")


def with_version(files: Files, version: str) -> Files:
    return files | {INDEX: json.dumps(json.loads(files[INDEX]) | {"version": version}).encode()}


@pytest.fixture
def faces() -> Files:
    return files_in(FACES)


def refusal(location: str | Path) -> str:
    """Return the error message of a release that cannot be loaded, and check that it is one line."""
    with pytest.raises(ModelError) as caught:
        release_folder(location)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_release_is_downloaded_with_the_same_bytes(hub: Hub, faces: Files) -> None:
    hub.put("me/faces", faces)
    assert files_in(release_folder("me/faces")) == faces


def test_the_default_revision_is_main_and_tags_and_commits_can_be_given(hub: Hub, faces: Files) -> None:
    commit = hub.put("me/faces", with_version(faces, "1.0.0"), tag="v1.0.0")
    hub.put("me/faces", with_version(faces, "2.0.0"), tag="v2.0.0")
    locations = ("me/faces@v1.0.0", "me/faces", f"me/faces@{commit}")
    assert [Release.open(release_folder(location)).version for location in locations] == ["1.0.0", "2.0.0", "1.0.0"]


def test_no_pickle_code_or_hidden_file_is_downloaded(hub: Hub, faces: Files) -> None:
    others = ("pytorch_model.bin", "x/weights.pt", "model.pkl", "pipeline.py", ".cache/a.json", "big.tar", "LICENSE")
    hub.put("me/faces", faces | dict.fromkeys(others, b"not of a release"))
    assert files_in(release_folder("me/faces")) == faces
    assert hub.request_counts["HEAD file"] <= 2 * len(faces)


def test_an_existing_folder_wins_over_the_hub(
    hub: Hub, faces: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put("me/faces", faces)
    (tmp_path / "me" / "faces").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert release_folder("me/faces") == Path("me/faces")
    assert not hub.request_counts


@pytest.mark.parametrize(
    "location", ["/nowhere/faces", "./faces", "../faces", "a/b/c", "faces", "me/fa ces", Path("me/x")]
)
def test_a_name_that_is_neither_folder_nor_hub_id_is_refused_without_a_request(hub: Hub, location: str | Path) -> None:
    assert f"release {location}: no such folder; make one with `e4t release`, or give a hub id" in refusal(location)
    assert not hub.request_counts


def test_a_second_download_only_asks_for_a_newer_commit(hub: Hub, faces: Files) -> None:
    hub.put("me/faces", faces)
    first = release_folder("me/faces")
    hub.request_counts.clear()
    assert release_folder("me/faces") == first
    assert dict(hub.request_counts) == {"GET model": 1}


@pytest.mark.parametrize("location", ["me/faces", "me/faces@v1.0.1"])
def test_a_downloaded_release_opens_without_a_connection(
    hub: Hub, faces: Files, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    hub.put("me/faces", faces, tag="v1.0.1")
    first = release_folder(location)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert release_folder(location) == first
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert release_folder(location) == first


def test_a_downloaded_release_opens_while_the_hub_fails(hub: Hub, faces: Files) -> None:
    hub.put("me/faces", faces)
    first = release_folder("me/faces")
    hub.faults = {"*": 503}
    assert release_folder("me/faces") == first


def test_a_release_that_was_not_downloaded_cannot_be_opened_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set and the local cache does not hold it" in refusal("me/faces")


def test_an_interrupted_download_is_one_line_and_the_next_run_completes_it(hub: Hub, faces: Files) -> None:
    hub.put("me/faces", faces)
    hub.faults = {"GET large": "cut"}
    assert "run this again" in refusal("me/faces")
    hub.faults = {}
    assert files_in(release_folder("me/faces")) == faces


def test_an_incomplete_download_is_not_opened_offline(hub: Hub, faces: Files, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_an_error_of_the_hub_is_one_line_that_says_what_to_do(
    hub: Hub, faces: Files, kind: str, fault: int | str, advice: str
) -> None:
    hub.put("me/faces", faces)
    hub.faults = {kind: fault}
    message = refusal("me/faces")
    assert message.startswith("release me/faces: not a local folder, and the hub cannot provide it: ")
    assert advice in message


def test_a_missing_model_or_revision_is_one_line(hub: Hub, faces: Files) -> None:
    hub.put("me/faces", faces)
    assert "no such model or revision" in refusal("me/nothing")
    assert "no such model or revision" in refusal("me/faces@v9.9.9")


def test_a_private_release_needs_a_token(hub: Hub, faces: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("me/faces", faces)
    hub.models["me/faces"].private = True
    monkeypatch.delenv("HF_TOKEN")
    assert "run `hf auth login` or set HF_TOKEN" in refusal("me/faces")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert files_in(release_folder("me/faces")) == faces


@pytest.mark.parametrize("missing", sorted(REQUIRED_FILES))
def test_a_model_that_is_not_a_release_is_not_downloaded(hub: Hub, faces: Files, missing: str) -> None:
    del faces[missing]
    hub.put("me/faces", faces)
    assert f"me/faces on the hub is not a release of e4t: it lacks {missing}" in refusal("me/faces")
    assert hub.request_counts["GET file"] == hub.request_counts["GET large"] == 0


@pytest.mark.parametrize("limit", ["MAX_WEIGHTS_BYTES", "MAX_OTHER_BYTES"])
def test_a_far_too_large_file_is_not_downloaded(
    hub: Hub, faces: Files, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(download, limit, 1000)
    hub.put("me/faces", faces)
    assert "far more than a release" in refusal("me/faces")
    assert hub.request_counts["GET file"] == hub.request_counts["GET large"] == 0


def test_a_downloaded_release_of_a_local_base_model_asks_for_it(hub: Hub, faces: Files) -> None:
    hub.put("me/faces", faces)
    with pytest.raises(
        ConfigError, match=r"faces 1\.0\.1 needs the base model \.\./base \(.*with --base, a folder or hub id"
    ):
        E4TPipeline.from_pretrained("me/faces")
    assert E4TPipeline.from_pretrained("me/faces", base=str(SHIPPED), device="cpu").release == "faces 1.0.1"


def test_a_given_base_model_replaces_a_missing_image_encoder_by_its_own(hub: Hub, faces: Files) -> None:
    index = json.loads(faces[INDEX])
    index["base"]["clip"] = "../clip"
    hub.put("me/faces", faces | {INDEX: json.dumps(index).encode()})
    opened = Release.open(release_folder("me/faces"))
    assert opened.backbone_config(str(SHIPPED)) == BackboneConfig(model=str(SHIPPED))


def test_the_base_model_of_a_release_is_downloaded_at_its_pinned_revision(hub: Hub, faces: Files) -> None:
    index = json.loads(faces[INDEX])
    index["base"] |= {"model": "me/base", "revision": hub.put("me/base", files_in(SHIPPED))}
    hub.put("me/base", {"README.md": b"the base has been emptied"})
    hub.put("me/faces", faces | {INDEX: json.dumps(index).encode()})
    from_hub, from_folder = (E4TPipeline.from_pretrained(location, device="cpu") for location in ("me/faces", FACES))
    prompt = "a portrait of a person"
    assert (
        from_hub(prompt, 2, generator=seeded_generators(0, 1))[0].tobytes()
        == from_folder(prompt, 2, generator=seeded_generators(0, 1))[0].tobytes()
    )


@pytest.mark.parametrize("revision", [None, "main", "stable"])
def test_the_revision_is_the_loaded_commit_even_if_the_hub_has_a_newer_one(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    commit = hub.put("me/base", files_in(SHIPPED), tag="stable")
    Backbone.load(BackboneConfig(model="me/base", revision=revision))
    hub.models["me/base"].tags["stable"] = hub.put("me/base", {"README.md": b"another"})
    assert resolved_revision("me/base", revision) == commit
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolved_revision("me/base", revision) == commit


def test_the_revision_of_a_model_that_was_not_loaded_is_requested(hub: Hub) -> None:
    commit = hub.put("me/base", {"README.md": b"a base"})
    assert resolved_revision("me/base", None) == commit
    assert resolved_revision("me/base", commit) == commit


def test_a_folder_has_no_revision(hub: Hub) -> None:
    assert resolved_revision(str(SHIPPED), None) is None
    assert not hub.request_counts


def test_an_unknown_revision_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_an_invalid_repository_name_is_not_a_hub_id(text: str) -> None:
    assert not is_hub_id(text)


@pytest.mark.long
def test_the_command_takes_a_hub_id_and_later_runs_offline(hub: Hub, faces: Files, tmp_path: Path) -> None:
    hub.put("me/faces", faces, tag="v1.0.1")

    def generate(output: str, **variables: str) -> subprocess.CompletedProcess[str]:
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-m", "e4t", "generate", "--release", "me/faces@v1.0.1", "--base", str(SHIPPED)]
        command += ["--prompt", "a portrait of a person", "--num-inference-steps", "2"]
        command += ["--output", str(tmp_path / output)]
        environment = os.environ | settings | variables
        return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)  # noqa: S603

    first = generate("first")
    assert first.returncode == 0, first.stderr
    again = generate("again", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert files_in(tmp_path / "first") == files_in(tmp_path / "again")
    offline = generate("offline", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "elsewhere"))
    assert offline.returncode == 1
    assert offline.stderr == (
        "e4t: release me/faces@v1.0.1: not a local folder, and the hub cannot provide it: no answer from "
        "http://127.0.0.1:9 ([Errno 111] Connection refused); check the connection, then run this again\n"
    )
