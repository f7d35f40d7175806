"""``e4t lineage``: a release's chain back to the sources of its data, every digest that can be reached verified."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import DataError
from data_prep.shards.manifest import Manifest, verify_shards
from data_prep.storage.atomic import sha256_file
from encoder.backbone.backbone import Backbone
from encoder.errors import ConfigError
from encoder.releases.release import WEIGHTS as WEIGHTS_FILE
from encoder.releases.release import Release
from pipelines.pretraining.checkpoints.format import best_weights
from pipelines.registry.resolve import registered, release_at
from pipelines.release.provenance import altered, read_provenance
from pipelines.release.writer import TAKEN
from pipelines.tracking.client import EXPERIMENT, connect, first_line, shown_uri
from pipelines.tracking.stage_runs import MANIFEST, STAGE, WEIGHTS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

VERIFIED, DIFFERS, RECORDED, NOT_REACHED = "verified", "DIFFERS", "recorded", "not reached"


@dataclass(frozen=True)
class Link:
    """A link of the chain."""

    what: str
    said: str
    state: str = RECORDED
    """``verified``: it is there, and its digest is the one written down; ``DIFFERS``: it is there, and is another;
    ``recorded``: there is nothing to compare; ``not reached``."""

    def shown(self) -> str:
        """As a line."""
        return f"{self.what:<12} {self.said}  [{self.state}]"


def lineage_of(place: str, runs: Path, base: str | None = None) -> Iterator[Link]:
    """Links from the release on. Raises what opening it raises; what else cannot be reached is a link that says so."""
    if place.startswith("models:"):
        version = registered(place, runs)
        release = Release.open(release_at(place, runs))
        yield _version(version, release)
    else:
        release = Release.open(release_at(place, runs))
    provenance = read_provenance(release.folder)
    yield _release(release, provenance)
    history = _History(runs)
    yield from history.evaluations(release)
    if origin := provenance.get("imported"):
        yield _origin(origin)
        yield _base(release, provenance, base)
        return
    yield _checkpoint(release, provenance)
    yield history.pretraining(provenance)
    yield Link("code", f"{provenance['environment']['code']}, torch {provenance['environment']['torch']}")
    yield _base(release, provenance, base)
    yield _data(provenance)
    yield history.preparation(provenance)
    yield Link("sources", str(provenance["recipe"]["data"]["source"]))


def _version(version: "ModelVersion", release: Release) -> Link:
    said = f"{version.name} {version.version}, aliases {', '.join(version.aliases) or 'none'}, run {version.run_id}"
    written = version.tags.get(WEIGHTS)
    return Link("version", said, RECORDED if not written else VERIFIED if written == release.content_digest else DIFFERS)


def _origin(imported: dict[str, Any]) -> Link:
    """Of weights that somebody else has trained."""
    files = ", ".join(f"{name} {file['sha256'][:12]}" for name, file in imported["files"].items())
    return Link("imported", f"{imported['from']}: {files}")


def _release(release: Release, provenance: dict[str, Any]) -> Link:
    said = f"{release.id}, weights {release.content_digest[:12]}, {release.folder}"
    if changed := list(altered(release.folder, provenance)):
        return Link("release", f"{said}: {', '.join(changed)} are not as released", DIFFERS)
    return Link("release", said, VERIFIED if "files" in provenance else RECORDED)


def _checkpoint(release: Release, provenance: dict[str, Any]) -> Link:
    recipe = provenance["recipe"]
    folder = Path(recipe["runs"]) / recipe["name"] / "checkpoints" / provenance["checkpoint"]
    said = f"{folder}, step {provenance['steps']}, {provenance['samples_seen']:,} samples"
    if not folder.exists():
        return Link("checkpoint", said, NOT_REACHED)
    try:
        same = all(
            sha256_file(best_weights(folder) / file) == sha256_file(release.folder / part / WEIGHTS_FILE)
            for part, file in TAKEN.items()
        )
    except OSError as error:
        return Link("checkpoint", f"{said} ({first_line(error)})", DIFFERS)
    return Link("checkpoint", said, VERIFIED if same else DIFFERS)


def _base(release: Release, provenance: dict[str, Any], base: str | None) -> Link:
    written, trained_on = provenance["base"].get("weights"), provenance["base"]["model"]
    if base is None and Path(trained_on).exists():  # whatever the release's own folder is relative to
        base = trained_on
    said = f"{trained_on} at {provenance['base']['revision'] or 'no revision'}"
    if not written:
        return Link("base", said)
    try:
        found = Backbone.load(release.backbone_config(base)).fingerprint()["weights"]
    except ConfigError as error:
        return Link("base", f"{said} ({first_line(error)})", NOT_REACHED)
    return Link("base", f"{said}, weights {written[:12]}", VERIFIED if found == written else DIFFERS)


def _data(provenance: dict[str, Any]) -> Link:
    written, place = provenance["data_manifest"], provenance["recipe"]["data"]["output"]
    said = f"{place}, manifest {written[:12]}"
    try:
        manifest = Manifest.load(place)
        if manifest.digest != written:
            return Link("data", f"{said}: there is {manifest.digest[:12]} now", DIFFERS)
        faults = list(verify_shards(place))
    except DataError as error:
        return Link("data", f"{said} ({first_line(error)})", NOT_REACHED)
    shards = sum(map(len, manifest.splits.values()))
    return Link("data", f"{said}, {faults[0] if faults else f'{shards} shards'}", DIFFERS if faults else VERIFIED)


class _History:
    """What MLflow knows; a server that is away is said once for each link, and stops nothing."""

    def __init__(self, runs: Path) -> None:
        self._uri, self._away = shown_uri(runs), ""
        self._client: MlflowClient | None = None
        self._experiments: list[str] = []
        try:
            self._client = connect(runs)
            found = self._client.get_experiment_by_name(EXPERIMENT)
            self._experiments = [found.experiment_id] if found else []
        except Exception as error:  # noqa: BLE001 - whatever it is, the chain goes on without
            self._went_away(error)

    def pretraining(self, provenance: dict[str, Any]) -> Link:
        """Its run, and whether it read the set that is written down."""
        run_id, seconds = provenance.get("mlflow_run_id"), provenance["training_seconds"]
        said = f"run {run_id}, {seconds / 60:.0f} minutes"
        if not run_id:
            return Link("pretraining", f"{said}: tracking was off")
        try:
            if self._client is None:
                return Link("pretraining", f"{said} ({self._away})", NOT_REACHED)
            run = self._client.get_run(run_id)
        except Exception as error:  # noqa: BLE001 - as above
            return Link("pretraining", f"{said} ({first_line(error)})", NOT_REACHED)
        same = run.data.tags.get(MANIFEST) == provenance["data_manifest"]
        return Link("pretraining", f"{said}, {run.info.status.lower()}", VERIFIED if same else DIFFERS)

    def evaluations(self, release: Release) -> Iterator[Link]:
        """Runs that looked at these very weights."""
        for kind in ("evaluate", "compare"):
            for run in self._runs(kind, WEIGHTS, release.content_digest):
                yield Link(kind, f"run {run.info.run_id}", VERIFIED)

    def preparation(self, provenance: dict[str, Any]) -> Link:
        """The run that made the set."""
        found = list(self._runs("prepare", MANIFEST, provenance["data_manifest"]))
        if not found:
            return Link("prepare", self._away or f"no run of this set in MLflow at {self._uri}", NOT_REACHED)
        return Link(
            "prepare", f"run {found[0].info.run_id}, source {found[0].data.params.get('data.source')}", VERIFIED
        )

    def _runs(self, stage: str, tag: str, value: str) -> list["Run"]:
        if self._client is None:
            return []
        asked = f"tags.`{STAGE}` = '{stage}' and tags.`{tag}` = '{value}'"
        try:
            return list(self._client.search_runs(self._experiments, asked))
        except Exception as error:  # noqa: BLE001 - as above
            self._went_away(error)
            return []

    def _went_away(self, error: Exception) -> None:
        self._client = None
        self._away = f"MLflow at {self._uri}: {first_line(error)}"
