"""No password reaches recipes, run folders, shards, reports, logs or MLflow."""

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.prepare.pipeline import prepare
from pipelines.cli.main import main
from pipelines.config.recipe import Recipe
from pipelines.errors import RunError
from pipelines.registry.resolve import resolve_release
from pipelines.release.build import make_release
from pipelines.release.registration import promote, register
from pipelines.tracking import tracker as tracking
from pipelines.tracking.tracker import Tracker
from tests.pipelines.made_run import Trained, made_run, recipe_in
from tests.pipelines.mlflow_server import wait_for

SECRET = "s3cr3t"  # noqa: S105 - must not appear anywhere
E4T = Callable[..., tuple[int, str, str]]
RECIPE: dict[str, Any] = {
    "name": "faces",
    "base": {"model": "models/base"},
    "data": {"source": "in", "output": "out", "domain": "face"},
    "conditioning": {"domain_word": "face"},
}


@pytest.fixture
def e4t(capfd: pytest.CaptureFixture[str]) -> E4T:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.mark.parametrize("stage", ["prepare", "pretrain", "release"])
@pytest.mark.parametrize(
    "key", ["data.source", "data.output", "data.source_options.attributes", "base.model", "runs", "stream.mixture"]
)
def test_a_recipe_with_a_password_is_refused_by_every_stage_and_leaves_nothing(
    e4t: E4T, stage: str, key: str, tmp_path: Path
) -> None:
    if stage == "prepare" and not key.startswith("data."):
        pytest.skip("prepare reads only the data section of a recipe")
    recipe: dict[str, Any] = yaml.safe_load(yaml.safe_dump(RECIPE | {"runs": str(tmp_path / "runs")}))
    section, url = recipe, f"https://me:{SECRET}@127.0.0.1:9/a"
    *parts, last = key.split(".")
    for part in parts:
        section = section.setdefault(part, {})
    section[last] = {url: 1.0} if last == "mixture" else url
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, out, err = e4t(stage, "--recipe", tmp_path / "recipe.yaml")
    assert code == 78
    assert key in err
    assert "environment" in err
    assert SECRET not in out + err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_password_on_the_command_line_is_refused(e4t: E4T, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    code, out, err = e4t("prepare", "--recipe", tmp_path / "recipe.yaml", "--data.source", f"s3://k:{SECRET}@b/a")
    assert code == 78
    assert SECRET not in out + err


def test_a_recipe_without_secrets_is_written_as_it_is() -> None:
    url = "s3://bucket/set"
    recipe = Recipe.to_dict(_recipe(source=url))
    assert recipe["data"]["source"] == url


def _recipe(**data: str) -> Recipe:
    from encoder.config import BackboneConfig, ConditioningConfig

    settings = {"source": "in", "output": "out", "domain": "face"} | data
    return Recipe(
        name="faces",
        base=BackboneConfig(model="models/base"),
        data=PrepareConfig(**settings),
        conditioning=ConditioningConfig(domain_word="face"),
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve an image and ignore the query."""
    (tmp_path / "web").mkdir()
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "web" / "cat.png")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_signatures_of_signed_urls_in_a_table_are_not_stored(server: str, tmp_path: Path) -> None:
    lines = [f"{server}/cat.png?sig={SECRET}", f"{server}/missing.png?sig={SECRET}"]
    (tmp_path / "set.csv").write_text("\n".join(["image", *lines]) + "\n")
    manifest = prepare(
        PrepareConfig(
            source=str(tmp_path / "set.csv"), output=str(tmp_path / "set"), domain="cat", resolution=32,
            source_options=SourceConfig(type="table"),
        )
    )  # fmt: skip
    assert (manifest.kept, sum(manifest.reject_counts.values())) == (1, 1)
    files = [path for path in (tmp_path / "set").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_an_unreachable_tracking_server_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "e4t")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "CLOSE_TIMEOUT", 0.0)
    tracker = Tracker(tmp_path, tmp_path / "run", "run")
    tracker.start()
    wait_for(lambda: "unreachable" in caplog.text)
    tracker.close("FINISHED")
    assert [message for message in caplog.messages if "unreachable" in message and "***@127.0.0.1:9" in message]
    assert SECRET not in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_an_unreachable_registry_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "e4t")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    recipe = recipe_in(tmp_path)
    made_run(recipe, Trained.of_shipped_base(), 300)
    release = make_release(recipe, tmp_path / "release", "1.0.0", allow_dirty=True)
    requests = [
        lambda: register(recipe, release),
        lambda: promote("faces", "1", "champion", Path(recipe.runs)),
        lambda: resolve_release("models:/faces@champion", recipe.runs),
    ]
    for send_request in requests:
        with pytest.raises(RunError) as caught:
            send_request()
        assert SECRET not in str(caught.value)
        assert "***@127.0.0.1:9" in str(caught.value)
    assert SECRET not in caplog.text
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_control_characters_in_names_are_not_printed(e4t: E4T, tmp_path: Path) -> None:
    _, _, err = e4t("generate", "--release", tmp_path / "\x1b]0;renamed\x07", "--prompt", "a cat")
    assert "renamed" in err
    assert err.rstrip("\n").isprintable()
