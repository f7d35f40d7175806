"""``e4t lineage``: trace a release back to the sources of its data, and verify every digest that can be reached."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import DataError
from data_prep.shards.manifest import Manifest
from data_prep.shards.verify import verify_shards
from data_prep.storage.atomic import sha256_file
from e4t_errors import ConfigError
from encoder.backbone.backbone import Backbone
from encoder.releases.release import WEIGHTS as WEIGHTS_FILE
from encoder.releases.release import Release
from pipelines.pretraining.checkpoints.format import weights_dir
from pipelines.registry.resolve import get_version, resolve_release
from pipelines.release.provenance import modified_files, read_provenance
from pipelines.release.writer import RELEASE_FILES
from pipelines.tracking.client import EXPERIMENT, connect, first_line, redacted_uri
from pipelines.tracking.stage_runs import MANIFEST_TAG, STAGE_TAG, WEIGHTS_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

VERIFIED, DIFFERS, RECORDED, UNREACHABLE = "verified", "DIFFERS", "recorded", "unreachable"


@dataclass(frozen=True)
class LineageStep:
    """One step of the lineage, such as the checkpoint or the dataset."""

    name: str
    detail: str
    status: str = RECORDED
    """``verified``: it exists with the recorded digest; ``DIFFERS``: it exists with another digest; ``recorded``: there
    is no digest to compare; ``unreachable``: it no longer exists or its server does not respond."""

    def format(self) -> str:
        """Format the step as one line."""
        return f"{self.name:<12} {self.detail}  [{self.status}]"


def lineage_of(location: str, runs: Path, base: str | None = None) -> Iterator[LineageStep]:
    """Yield the steps from the release back to the data sources.

    Raises the errors of opening the release; everything else that cannot be reached becomes an ``unreachable`` step.
    """
    if location.startswith("models:"):
        version = get_version(location, runs)
        release = Release.open(resolve_release(location, runs))
        yield _version(version, release)
    else:
        release = Release.open(resolve_release(location, runs))
    provenance = read_provenance(release.folder)
    yield _release(release, provenance)
    history = _MlflowHistory(runs)
    yield from history.evaluations(release)
    if origin := provenance.get("imported"):
        yield _imported_from(origin)
        yield _base(release, provenance, base)
        return
    yield _checkpoint(release, provenance)
    yield history.pretraining(provenance)
    yield LineageStep("code", f"{provenance['environment']['code']}, torch {provenance['environment']['torch']}")
    yield _base(release, provenance, base)
    yield _data(provenance)
    yield history.preparation(provenance)
    yield LineageStep("sources", str(provenance["recipe"]["data"]["source"]))


def _version(version: "ModelVersion", release: Release) -> LineageStep:
    detail = f"{version.name} {version.version}, aliases {', '.join(version.aliases) or 'none'}, run {version.run_id}"
    recorded = version.tags.get(WEIGHTS_TAG)
    return LineageStep(
        "version", detail, RECORDED if not recorded else VERIFIED if recorded == release.content_digest else DIFFERS
    )


def _imported_from(imported: dict[str, Any]) -> LineageStep:
    """Describe the files that an imported release was converted from."""
    files = ", ".join(f"{name} {file['sha256'][:12]}" for name, file in imported["files"].items())
    return LineageStep("imported", f"{imported['from']}: {files}")


def _release(release: Release, provenance: dict[str, Any]) -> LineageStep:
    detail = f"{release.id}, weights {release.content_digest[:12]}, {release.folder}"
    if modified := list(modified_files(release.folder, provenance)):
        return LineageStep("release", f"{detail}: modified files {', '.join(modified)}", DIFFERS)
    return LineageStep("release", detail, VERIFIED if "files" in provenance else RECORDED)


def _checkpoint(release: Release, provenance: dict[str, Any]) -> LineageStep:
    recipe = provenance["recipe"]
    folder = Path(recipe["runs"]) / recipe["name"] / "checkpoints" / provenance["checkpoint"]
    detail = f"{folder}, step {provenance['steps']}, {provenance['samples_seen']:,} samples"
    if not folder.exists():
        return LineageStep("checkpoint", detail, UNREACHABLE)
    try:
        matches = all(
            sha256_file(weights_dir(folder) / file) == sha256_file(release.folder / part / WEIGHTS_FILE)
            for part, file in RELEASE_FILES.items()
        )
    except OSError as error:
        return LineageStep("checkpoint", f"{detail} ({first_line(error)})", DIFFERS)
    return LineageStep("checkpoint", detail, VERIFIED if matches else DIFFERS)


def _base(release: Release, provenance: dict[str, Any], base: str | None) -> LineageStep:
    recorded, trained_on = provenance["base"].get("weights"), provenance["base"]["model"]
    if base is None and Path(trained_on).exists():  # the recorded path is relative to the working directory
        base = trained_on
    detail = f"{trained_on} at {provenance['base']['revision'] or 'no revision'}"
    if not recorded:
        return LineageStep("base", detail)
    try:
        actual = Backbone.load(release.backbone_config(base)).fingerprint()["weights"]
    except ConfigError as error:
        return LineageStep("base", f"{detail} ({first_line(error)})", UNREACHABLE)
    return LineageStep("base", f"{detail}, weights {recorded[:12]}", VERIFIED if actual == recorded else DIFFERS)


def _data(provenance: dict[str, Any]) -> LineageStep:
    recorded, dataset_path = provenance["data_manifest"], provenance["recipe"]["data"]["output"]
    detail = f"{dataset_path}, manifest {recorded[:12]}"
    try:
        manifest = Manifest.load(dataset_path)
        if manifest.digest != recorded:
            return LineageStep("data", f"{detail}: the dataset now has {manifest.digest[:12]}", DIFFERS)
        problems = list(verify_shards(dataset_path))
    except DataError as error:
        return LineageStep("data", f"{detail} ({first_line(error)})", UNREACHABLE)
    shards = sum(map(len, manifest.splits.values()))
    return LineageStep(
        "data", f"{detail}, {problems[0] if problems else f'{shards} shards'}", DIFFERS if problems else VERIFIED
    )


class _MlflowHistory:
    """Steps that are recorded in MLflow; they become ``unreachable`` if the server does not respond."""

    def __init__(self, runs: Path) -> None:
        self._uri, self._unreachable_reason = redacted_uri(runs), ""
        self._client: MlflowClient | None = None
        self._experiments: list[str] = []
        try:
            self._client = connect(runs)
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
            self._experiments = [experiment.experiment_id] if experiment else []
        except Exception as error:  # noqa: BLE001 - the lineage continues without MLflow
            self._mark_unreachable(error)

    def pretraining(self, provenance: dict[str, Any]) -> LineageStep:
        """Return the pre-training run; verified if it read the recorded dataset."""
        run_id, seconds = provenance.get("mlflow_run_id"), provenance["training_seconds"]
        detail = f"run {run_id}, {seconds / 60:.0f} minutes"
        if not run_id:
            return LineageStep("pretraining", f"{detail}: tracking was off")
        try:
            if self._client is None:
                return LineageStep("pretraining", f"{detail} ({self._unreachable_reason})", UNREACHABLE)
            run = self._client.get_run(run_id)
        except Exception as error:  # noqa: BLE001 - as above
            return LineageStep("pretraining", f"{detail} ({first_line(error)})", UNREACHABLE)
        matches = run.data.tags.get(MANIFEST_TAG) == provenance["data_manifest"]
        return LineageStep("pretraining", f"{detail}, {run.info.status.lower()}", VERIFIED if matches else DIFFERS)

    def evaluations(self, release: Release) -> Iterator[LineageStep]:
        """Yield the evaluations and comparisons of the release's weights."""
        for kind in ("evaluate", "compare"):
            for run in self._search_runs(kind, WEIGHTS_TAG, release.content_digest):
                yield LineageStep(kind, f"run {run.info.run_id}", VERIFIED)

    def preparation(self, provenance: dict[str, Any]) -> LineageStep:
        """Return the run that prepared the dataset."""
        runs = list(self._search_runs("prepare", MANIFEST_TAG, provenance["data_manifest"]))
        if not runs:
            return LineageStep(
                "prepare", self._unreachable_reason or f"no run of this dataset in MLflow at {self._uri}", UNREACHABLE
            )
        return LineageStep(
            "prepare", f"run {runs[0].info.run_id}, source {runs[0].data.params.get('data.source')}", VERIFIED
        )

    def _search_runs(self, stage: str, tag: str, value: str) -> list["Run"]:
        if self._client is None:
            return []
        filter_string = f"tags.`{STAGE_TAG}` = '{stage}' and tags.`{tag}` = '{value}'"
        try:
            return list(self._client.search_runs(self._experiments, filter_string))
        except Exception as error:  # noqa: BLE001 - as above
            self._mark_unreachable(error)
            return []

    def _mark_unreachable(self, error: Exception) -> None:
        self._client = None
        self._unreachable_reason = f"MLflow at {self._uri}: {first_line(error)}"
