"""``e4t release``: a run's newest checkpoint becomes a folder to hand over, and a version in MLflow's registry."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from data_prep.credentials import masked
from data_prep.files import whole_folder
from data_prep.manifest import Manifest
from encoder.backbone import Backbone
from encoder.config import PLACEHOLDER
from encoder.domain_encoder import DomainEncoderConfig
from encoder.errors import ConfigError
from encoder.release_format import (
    CONFIG,
    ENCODER,
    FORMAT_VERSION,
    INDEX,
    KIND,
    OFFSETS,
    PROVENANCE,
    WEIGHTS,
    Release,
    relative_to,
)
from pipelines import saved_state
from pipelines.checkpoints import Checkpoints
from pipelines.config import Recipe
from pipelines.errors import RunError
from pipelines.run import environment
from pipelines.saved_state import best_weights, read_facts
from pipelines.tracking import connect, first_line, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

SEMANTIC_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?")
SAMPLES = "samples.png"


def make_release(recipe: Recipe, output: Path, version: str) -> Release:
    """Write the release folder of a run; it appears by rename, when whole.

    Raises ConfigError for a bad version or an output that exists, RunError if the run has no complete checkpoint.
    """
    if not SEMANTIC_VERSION.fullmatch(version):
        raise ConfigError(f"version {version!r} is not semantic; give one like 1.0.0")
    if output.exists():
        raise ConfigError(f"{output} exists; a release is never overwritten: give another output or version")
    checkpoint = Checkpoints(recipe.folder / "checkpoints", recipe.pretrain.keep).newest()
    if checkpoint is None:
        raise RunError(f"{recipe.folder} has no complete checkpoint; run `e4t pretrain` first")
    width, sees = recipe.pretrain.hidden_width, recipe.pretrain.encoder_sees
    encoder_config = DomainEncoderConfig.for_backbone(Backbone.load(recipe.base), width, sees)
    provenance = _provenance(recipe, checkpoint)
    grids = sorted((recipe.folder / "samples").glob("*.png"))
    with whole_folder(output) as folder:
        _weights(best_weights(checkpoint), folder)
        _json(folder / ENCODER / CONFIG, asdict(encoder_config))
        _json(folder / OFFSETS / CONFIG, {"form": "collapsed", "rank": 3, "applied_to": ["to_q", "to_k", "to_v"]})
        _json(folder / INDEX, _index(recipe, output, version))
        _json(folder / PROVENANCE, provenance)
        if grids:
            shutil.copy(grids[-1], folder / SAMPLES)
        (folder / "README.md").write_text(_card(recipe, output, version, provenance, pictured=bool(grids)))
    return Release.open(output)


def _weights(trained: Path, folder: Path) -> None:
    for part, file in ((ENCODER, saved_state.ENCODER), (OFFSETS, saved_state.OFFSETS)):
        (folder / part).mkdir()
        shutil.copyfile(trained / file, folder / part / WEIGHTS)


def _index(recipe: Recipe, output: Path, version: str) -> dict[str, Any]:
    clip = recipe.base.clip
    return {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "name": recipe.name,
        "version": version,
        "base": {
            "model": relative_to(recipe.base.model, output),
            "revision": recipe.base.revision,
            "clip": clip and relative_to(clip, output),
            "dtype": recipe.base.dtype,
        },
        "resolution": recipe.data.resolution,
        "conditioning": asdict(recipe.conditioning),
        "tuning": asdict(recipe.tune),
        "sampling": asdict(recipe.sample),
    }


def _provenance(recipe: Recipe, checkpoint: Path) -> dict[str, Any]:
    marker = recipe.folder / "mlflow_run_id"
    state = read_facts(checkpoint)
    return {
        "recipe": recipe.plain(),
        "checkpoint": checkpoint.name,
        "steps": state["step"],
        "samples_seen": state["samples_seen"],
        "training_seconds": round(state["seconds"], 1),
        "data_manifest": state["data"]["set"],
        "data_identities": Manifest.load(recipe.data.output).identities,
        "base": {"model": recipe.base.model, "revision": recipe.base.revision},
        "mlflow_run_id": marker.read_text().strip() if marker.exists() else None,
        "environment": environment(),
    }


def _card(recipe: Recipe, output: Path, version: str, provenance: dict[str, Any], *, pictured: bool) -> str:
    head: dict[str, Any] = {
        "license": "apache-2.0",
        "library_name": "e4t",
        "tags": ["text-to-image", "personalization", "e4t", "domain-encoder"],
    }
    if not Path(recipe.base.model).exists():  # the hub takes its own ids only
        head["base_model"] = recipe.base.model
    grid = f"\n![held-out pictures, and what the encoder makes of them]({SAMPLES})\n" if pictured else ""
    word, identities = recipe.conditioning.domain_word, provenance["data_identities"]["train"]
    minutes = provenance["training_seconds"] / 60
    return f"""---
{yaml.safe_dump(head, sort_keys=False)}---

# {recipe.name} {version}: a domain encoder for "{word}"

One picture and {recipe.tune.steps} tuning steps teach the base model a new {word} (E4T, arXiv 2302.12228).
The base model, `{recipe.base.model}`, is not inside.
{grid}
## Use

    e4t tune --release {output} --image picture.png --output concept
    e4t generate --release {output} --concept concept --prompt "{recipe.conditioning.templates[0]}" --output pictures

In Python:

    from e4t import E4TPipeline
    from PIL import Image

    pipe = E4TPipeline.from_pretrained("{output}")
    pipe.tune(Image.open("picture.png"))
    pipe("{recipe.conditioning.templates[0].replace(PLACEHOLDER, PLACEHOLDER + " smiling")}")[0].save("smiling.png")

## Training

{provenance["steps"]} steps of {recipe.pretrain.batch_size} pictures ({provenance["samples_seen"]:,} seen,
{identities:,} identities), {minutes:.0f} minutes on {provenance["environment"]["cores"]} cores.
Recipe, data digest, code revision and versions: `{PROVENANCE}`.

## Limits

It knows its domain only; pictures of anything else give poor results.
Tune on pictures of people only with their consent.

## Licence

These weights: Apache-2.0. The base model and the training pictures have licences of their own.
"""


def _json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n")


def register(release: Release, runs: str) -> int:
    """Log the folder as a version in MLflow's model registry, alias ``candidate``; returns the version's number.

    Raises RunError if the release comes from a run that MLflow has not seen, or if MLflow cannot be reached.
    """
    run_id = json.loads((release.folder / PROVENANCE).read_text())["mlflow_run_id"]
    if run_id is None:
        raise RunError(f"{release.folder} names no MLflow run (tracking was off); it can be used, but not registered")
    try:
        return _register(connect(runs), release, run_id)
    except Exception as error:
        reason = f"MLflow at {masked(tracking_uri(runs))} did not take it ({first_line(error)})"
        raise RunError(f"{release.folder} is whole and can be used, but {reason}") from error


def _register(client: "MlflowClient", release: Release, run_id: str) -> int:
    client.log_artifacts(run_id, str(release.folder), f"release-{release.version}")
    if not client.search_registered_models(f"name = '{release.name}'"):
        client.create_registered_model(release.name)
    source = f"{client.get_run(run_id).info.artifact_uri}/release-{release.version}"
    made = client.create_model_version(release.name, source, run_id, tags={"semantic_version": release.version})
    client.set_registered_model_alias(release.name, "candidate", made.version)
    return int(made.version)
