"""A release goes to a hub on this machine by the real client, and comes back as what it was."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from e4t import ConfigError
from encoder.model.sampling import seeded_generators
from encoder.pipeline import E4TPipeline
from encoder.releases.release import INDEX, Release
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
    """A copy of the built-in release, faces 1.0.1."""
    return Release.open(shutil.copytree(FACES, tmp_path / "faces"))


def with_version(release: Release, version: str) -> Release:
    index = json.loads((release.folder / INDEX).read_text())
    (release.folder / INDEX).write_text(json.dumps(index | {"version": version}))
    return Release.open(release.folder)


def refusal(release: Release, **settings: bool) -> str:
    """What a push that fails says, which is one line."""
    with pytest.raises(RunError) as caught:
        push(release, "me/faces", **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_release_is_one_commit_of_exactly_its_files_and_a_tag(release: Release, hub: Hub) -> None:
    assert push(release, "me/faces") == f"{hub.url}/me/faces/tree/v1.0.1"
    model = hub.models["me/faces"]
    assert model.messages == ["initial commit", "faces 1.0.1"]
    assert model.tags == {"v1.0.1": model.main}
    assert hub.files("me/faces") == {name: (release.folder / name).read_bytes() for name in NAMES}


def test_what_was_pushed_paints_the_very_same_picture_after_the_download(release: Release, hub: Hub) -> None:
    push(release, "me/faces")
    local, downloaded = (
        E4TPipeline.from_pretrained(place, base=str(SHIPPED), device="cpu") for place in (FACES, "me/faces@v1.0.1")
    )
    prompt = "a portrait of a person in a red shirt"
    assert (
        local(prompt, 3, generator=seeded_generators(0, 1))[0].tobytes()
        == downloaded(prompt, 3, generator=seeded_generators(0, 1))[0].tobytes()
    )


def test_the_same_bytes_a_second_time_change_nothing_and_are_said_to_be_there(
    release: Release, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    url = push(release, "me/faces")
    caplog.set_level("INFO", "e4t")
    assert push(release, "me/faces") == url
    assert "me/faces has v1.0.1 already, with the same bytes" in caplog.text
    assert len(hub.models["me/faces"].commits) == 2
    assert hub.asked["POST commit"] == hub.asked["POST tag"] == 1


@pytest.mark.parametrize("name", ["README.md", "weight_offsets/model.safetensors"])
def test_a_version_that_is_there_with_other_bytes_is_refused(release: Release, hub: Hub, name: str) -> None:
    push(release, "me/faces")
    before = hub.files("me/faces")
    with (release.folder / name).open("ab") as file:
        file.write(b" ")
    assert f"has a v1.0.1 with another {name}; a version never changes" in refusal(release)
    assert hub.files("me/faces") == before


def test_a_version_that_is_there_with_a_file_less_is_refused(release: Release, hub: Hub) -> None:
    push(release, "me/faces")
    (release.folder / "samples.png").unlink()
    assert "another samples.png" in refusal(release)


def test_a_new_version_leaves_the_old_one_under_its_tag(release: Release, hub: Hub) -> None:
    push(release, "me/faces")
    push(with_version(release, "1.1.0"), "me/faces")
    versions = [json.loads(hub.files("me/faces", tag)[INDEX])["version"] for tag in ("v1.0.1", "v1.1.0", "main")]
    assert versions == ["1.0.1", "1.1.0", "1.1.0"]


def test_what_the_new_version_lacks_goes_and_what_others_put_there_stays(release: Release, hub: Hub) -> None:
    push(release, "me/faces")
    hub.put("me/faces", hub.files("me/faces") | {"LICENSE": b"theirs"})
    (release.folder / "samples.png").unlink()
    push(with_version(release, "1.1.0"), "me/faces")
    assert sorted(hub.files("me/faces")) == ["LICENSE", *(name for name in NAMES if name != "samples.png")]


def test_nothing_hidden_no_tracking_and_no_code_goes_along(release: Release, hub: Hub) -> None:
    for name in (".env", ".cache/huggingface/x.json", "mlruns/.trash/a.json", "model.bin", "train.py", "runs/x.pt"):
        path = release.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    push(release, "me/faces")
    assert sorted(hub.files("me/faces")) == NAMES


def test_a_link_that_leads_out_of_the_release_is_refused_before_anything_is_sent(
    release: Release, hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (release.folder / "extra.json").symlink_to(tmp_path / "secret.json")
    assert "extra.json is a link that leads out of the release" in refusal(release)
    assert not hub.asked


def test_a_folder_that_is_a_link_makes_the_release_not_whole(release: Release, hub: Hub, tmp_path: Path) -> None:
    shutil.move(release.folder / "weight_offsets", tmp_path / "elsewhere")
    (release.folder / "weight_offsets").symlink_to(tmp_path / "elsewhere")
    assert "it lacks weight_offsets/model.safetensors" in refusal(release)
    assert not hub.asked


def test_a_private_release_is_not_pushed_where_all_can_read(release: Release, hub: Hub) -> None:
    push(release, "me/faces")
    assert "is public on the hub" in refusal(with_version(release, "1.1.0"), private=True)
    push(release, "me/secret", private=True)
    assert hub.models["me/secret"].private


def test_a_push_that_was_cut_in_the_middle_is_finished_by_the_next(release: Release, hub: Hub) -> None:
    hub.faults = {"PUT large": "cut"}
    assert "no answer from" in refusal(release)
    assert hub.files("me/faces") == {}, "there is no half commit"
    hub.faults = {"POST tag": 503}
    assert "run this again later" in refusal(release)
    assert hub.models["me/faces"].tags == {}
    hub.faults = {}
    push(release, "me/faces")
    assert hub.models["me/faces"].messages == ["initial commit", "faces 1.0.1"]
    assert sorted(hub.files("me/faces", "v1.0.1")) == NAMES


def test_a_file_that_the_hub_ignores_leaves_the_version_untagged(release: Release, hub: Hub) -> None:
    hub.put("me/faces", {".gitignore": b"samples.png"})
    assert "did not take samples.png" in refusal(release)
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
def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(
    release: Release, hub: Hub, status: int, advice: str
) -> None:
    hub.faults = {"POST commit": status}
    said = refusal(release)
    assert advice in said
    assert "is whole, but not on the hub as me/faces" in said


@pytest.mark.parametrize("fault", [503, "cut"])
@pytest.mark.parametrize(
    "kind",
    ["POST create", "GET model", "GET refs", "GET tree", "POST yaml", "POST preupload", "POST batch", "POST commit"],
)
def test_whatever_fails_is_one_line_and_the_next_push_succeeds(
    release: Release, hub: Hub, kind: str, fault: int | str
) -> None:
    hub.faults = {kind: fault}
    assert "run this again" in refusal(release)
    hub.faults = {}
    push(release, "me/faces")
    assert sorted(hub.files("me/faces", "v1.0.1")) == NAMES


def test_a_token_that_the_hub_does_not_know_is_one_line(
    release: Release, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    said = refusal(release)
    assert "run `hf auth login` or set HF_TOKEN" in said
    assert "hf_of_nobody" not in said
    assert TOKEN not in said


def test_without_a_token_nothing_is_asked(release: Release, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "run `hf auth login` or set HF_TOKEN" in refusal(release)
    assert not hub.asked


def test_a_hub_that_is_not_there_is_one_line(release: Release, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    said = refusal(release)
    assert "no answer from http://127.0.0.1:9 ([Errno 111] Connection refused); check the connection" in said


def test_offline_mode_is_named_as_the_reason(release: Release, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal(release)


@pytest.mark.parametrize("repo", ["faces", "me/faces/more", "./faces", "/me/faces", "me/fa ces", ""])
def test_what_is_no_hub_id_is_refused(release: Release, hub: Hub, repo: str) -> None:
    with pytest.raises(ConfigError, match="not a hub id"):
        push(release, repo)
