"""Tests of pushing releases to a local hub server with the real client, and downloading them again."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from e4t_errors import ConfigError
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline
from encoder.releases.index import INDEX
from encoder.releases.release import Release
from pipelines.errors import RunError
from pipelines.release.hub_push import push
from tests.bases import SHIPPED
from tests.hub_server import TOKEN, Hub

FACES = SHIPPED.with_name("faces")
NAMES = [
    "README.md",
    "domain_encoder/config.json",
    "domain_encoder/model.safetensors",
    "index.json",
    "provenance.json",
    "samples.png",
    "weight_offsets/config.json",
    "weight_offsets/model.safetensors",
]


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Return a copy of the shipped release, faces 1.0.1."""
    return Release.open(shutil.copytree(FACES, tmp_path / "faces"))


def with_version(release: Release, version: str) -> Release:
    index = json.loads((release.folder / INDEX).read_text())
    (release.folder / INDEX).write_text(json.dumps(index | {"version": version}))
    return Release.open(release.folder)


def push_error(release: Release, **settings: bool) -> str:
    """Return the one-line error of a push that fails."""
    with pytest.raises(RunError) as caught:
        push(release, "me/faces", **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_push_is_one_commit_of_the_release_files_and_a_tag(release: Release, hub: Hub) -> None:
    assert push(release, "me/faces") == f"{hub.url}/me/faces/tree/v1.0.1"
    model = hub.models["me/faces"]
    assert model.messages == ["initial commit", "faces 1.0.1"]
    assert model.tags == {"v1.0.1": model.main}
    assert hub.files("me/faces") == {name: (release.folder / name).read_bytes() for name in NAMES}


def test_a_downloaded_release_generates_the_same_image(release: Release, hub: Hub) -> None:
    push(release, "me/faces")
    local, downloaded = (
        E4TPipeline.from_pretrained(location, base=str(SHIPPED), device="cpu")
        for location in (FACES, "me/faces@v1.0.1")
    )
    prompt = "a portrait of a person in a red shirt"
    assert (
        local(prompt, 3, generator=seeded_generators(0, 1))[0].tobytes()
        == downloaded(prompt, 3, generator=seeded_generators(0, 1))[0].tobytes()
    )


def test_pushing_identical_files_again_changes_nothing(
    release: Release, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    url = push(release, "me/faces")
    caplog.set_level("INFO", "e4t")
    assert push(release, "me/faces") == url
    assert "me/faces already has v1.0.1 with identical files" in caplog.text
    assert len(hub.models["me/faces"].commits) == 2
    assert hub.request_counts["POST commit"] == hub.request_counts["POST tag"] == 1


@pytest.mark.parametrize("name", ["README.md", "weight_offsets/model.safetensors"])
def test_an_existing_version_with_other_files_is_rejected(release: Release, hub: Hub, name: str) -> None:
    push(release, "me/faces")
    before = hub.files("me/faces")
    if name.endswith(".safetensors"):
        tensors = load_file(release.folder / name)
        save_file({key: tensor + 1 for key, tensor in tensors.items()}, release.folder / name)
    else:
        (release.folder / name).write_text("another text")
    assert f"tag v1.0.1 of me/faces already exists with a different {name}; tags never change" in push_error(release)
    assert hub.files("me/faces") == before


def test_an_existing_version_with_an_additional_file_is_rejected(release: Release, hub: Hub) -> None:
    push(release, "me/faces")
    (release.folder / "samples.png").unlink()
    assert "a different samples.png" in push_error(release)


def test_a_new_version_keeps_the_tag_of_the_old_one(release: Release, hub: Hub) -> None:
    push(release, "me/faces")
    push(with_version(release, "1.1.0"), "me/faces")
    versions = [json.loads(hub.files("me/faces", tag)[INDEX])["version"] for tag in ("v1.0.1", "v1.1.0", "main")]
    assert versions == ["1.0.1", "1.1.0", "1.1.0"]


def test_a_new_version_removes_its_obsolete_files_and_keeps_foreign_ones(release: Release, hub: Hub) -> None:
    push(release, "me/faces")
    hub.put("me/faces", hub.files("me/faces") | {"LICENSE": b"theirs"})
    (release.folder / "samples.png").unlink()
    push(with_version(release, "1.1.0"), "me/faces")
    assert sorted(hub.files("me/faces")) == ["LICENSE", *(name for name in NAMES if name != "samples.png")]


def test_hidden_files_tracking_data_and_code_are_not_pushed(release: Release, hub: Hub) -> None:
    for name in (".env", ".cache/huggingface/x.json", "mlruns/.trash/a.json", "model.bin", "train.py", "runs/x.pt"):
        path = release.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    push(release, "me/faces")
    assert sorted(hub.files("me/faces")) == NAMES


def test_a_link_out_of_the_release_is_rejected_before_any_request(release: Release, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (release.folder / "extra.json").symlink_to(tmp_path / "secret.json")
    assert "extra.json is a link to a file outside of the release" in push_error(release)
    assert not hub.request_counts


def test_a_linked_folder_makes_the_release_incomplete(release: Release, hub: Hub, tmp_path: Path) -> None:
    shutil.move(release.folder / "weight_offsets", tmp_path / "elsewhere")
    (release.folder / "weight_offsets").symlink_to(tmp_path / "elsewhere")
    assert "it lacks weight_offsets/model.safetensors" in push_error(release)
    assert not hub.request_counts


def test_a_private_release_is_not_pushed_to_a_public_repository(release: Release, hub: Hub) -> None:
    push(release, "me/faces")
    assert "is public on the hub" in push_error(with_version(release, "1.1.0"), private=True)
    push(release, "me/secret", private=True)
    assert hub.models["me/secret"].private


def test_an_interrupted_push_is_completed_by_the_next_one(release: Release, hub: Hub) -> None:
    hub.faults = {"PUT large": "cut"}
    assert "no answer from" in push_error(release)
    assert hub.files("me/faces") == {}, "there is no partial commit"
    hub.faults = {"POST tag": 503}
    assert "run this again later" in push_error(release)
    assert hub.models["me/faces"].tags == {}
    hub.faults = {}
    push(release, "me/faces")
    assert hub.models["me/faces"].messages == ["initial commit", "faces 1.0.1"]
    assert sorted(hub.files("me/faces", "v1.0.1")) == NAMES


def test_a_file_that_the_hub_ignores_prevents_the_tag(release: Release, hub: Hub) -> None:
    hub.put("me/faces", {".gitignore": b"samples.png"})
    assert "did not store samples.png unchanged" in push_error(release)
    assert hub.models["me/faces"].tags == {}


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "run `hf auth login` or set HF_TOKEN"),
        (403, "access denied; request access to the repository"),
        (404, "check the name"),
        (409, "the repository is being changed by another client"),
        (412, "the repository was changed by another client in the meantime"),
        (422, "request refused (HTTP 422"),
        (429, "run this again in a few minutes"),
        (500, "run this again later"),
        (503, "run this again later"),
    ],
)
def test_an_http_error_is_reported_in_one_line_with_advice(
    release: Release, hub: Hub, status: int, advice: str
) -> None:
    hub.faults = {"POST commit": status}
    error = push_error(release)
    assert advice in error
    assert "is complete, but was not pushed to me/faces" in error


@pytest.mark.parametrize("fault", [503, "cut"])
@pytest.mark.parametrize(
    "kind",
    ["POST create", "GET model", "GET refs", "GET tree", "POST yaml", "POST preupload", "POST batch", "POST commit"],
)
def test_any_failing_request_is_reported_in_one_line_and_the_next_push_succeeds(
    release: Release, hub: Hub, kind: str, fault: int | str
) -> None:
    hub.faults = {kind: fault}
    assert "run this again" in push_error(release)
    hub.faults = {}
    push(release, "me/faces")
    assert sorted(hub.files("me/faces", "v1.0.1")) == NAMES


def test_an_unknown_token_is_reported_without_showing_it(
    release: Release, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    error = push_error(release)
    assert "run `hf auth login` or set HF_TOKEN" in error
    assert "hf_of_nobody" not in error
    assert TOKEN not in error


def test_without_a_token_no_request_is_sent(release: Release, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "run `hf auth login` or set HF_TOKEN" in push_error(release)
    assert not hub.request_counts


def test_an_unreachable_hub_is_reported(release: Release, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    error = push_error(release)
    assert "no answer from http://127.0.0.1:9 ([Errno 111] Connection refused); check the connection" in error


def test_offline_mode_is_reported(release: Release, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in push_error(release)


@pytest.mark.parametrize("repo", ["faces", "me/faces/more", "./faces", "/me/faces", "me/fa ces", ""])
def test_an_invalid_hub_id_is_rejected(release: Release, hub: Hub, repo: str) -> None:
    with pytest.raises(ConfigError, match="not a hub id"):
        push(release, repo)
