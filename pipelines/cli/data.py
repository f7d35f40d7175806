"""Commands that make training data: prepare, cache."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from pipelines.cli.common import (
    Command,
    CommandParser,
    add_launch_arguments,
    add_rank_arguments,
    parse_config,
    parse_recipe,
)
from pipelines.errors import EXIT_FAILURE, EXIT_OK, RunError
from pipelines.runtime.array_task import rank_and_world_size
from pipelines.runtime.console import ProgressBar, print_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from data_prep.prepare.executors import Executor
    from data_prep.shards.manifest import Manifest


def add_prepare_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t prepare``."""
    from data_prep.config import PrepareConfig

    parser.add_argument(
        "--recipe", action="config", help="YAML file, or the name of a recipe that comes with e4t; only `data` is read."
    )
    parser.add_argument("--executor", choices=["local", "ray"], default="local", help="Where the workers run.")
    parser.add_argument("--workers", type=int, default=0, help="Number of worker processes; 0 for one per CPU core.")
    parser.add_argument("--address", type=str, default=None, help="Address of the Ray cluster, with --executor ray.")
    parser.add_argument(
        "--stage",
        choices=["all", "plan", "work", "merge"],
        default="all",
        help="Run a single stage, for a scheduler: plan once, work on every rank, merge once.",
    )
    add_rank_arguments(parser)
    parser.add_argument(
        "--runs", type=str, default=None, help="Folder of runs whose MLflow records the dataset; the recipe's `runs`."
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="Print what would be read: images by suffix, rejected and ignored entries, first samples. Write nothing.",
    )
    parser.add_argument(
        "--retry-rejects",
        type=str,
        default="",
        metavar="REASONS",
        help="Also read images again that were rejected for reasons that begin with one of these words, separated by "
        "commas, such as `http`. Images whose reads failed for reasons that may be temporary are always read again.",
    )
    parser.add_argument("--verify", action="store_true", help="Check every shard, index and sample, then exit.")
    parser.add_argument("--status", action="store_true", help="Print the progress of a run of this command, then exit.")
    parser.add_keys(PrepareConfig, "data")


def prepare(arguments: Namespace, _: list[str]) -> int:
    """Turn images into training shards. A rerun builds only what is missing."""
    from data_prep.config import PrepareConfig
    from data_prep.prepare.pipeline import merge_dataset, plan_dataset, work_on_dataset
    from data_prep.prepare.pipeline import prepare as run
    from data_prep.prepare.preview import preview
    from data_prep.prepare.shard_writer import RetryPolicy
    from data_prep.prepare.status import status
    from data_prep.shards.verify import verify_shards
    from pipelines.cli.tables import preview_lines, status_lines

    config = parse_config(PrepareConfig, arguments.data)
    if arguments.verify:
        return _print_problems(config.output, _num_files(config.output), verify_shards(config.output))
    if arguments.status:
        print_lines(*status_lines(config.output, status(config)))
        return EXIT_OK
    if arguments.dry_run:
        print_lines(*preview_lines(config.source, preview(config)))
        return EXIT_OK
    retry = RetryPolicy(tuple(reason.strip() for reason in arguments.retry_rejects.split(",") if reason.strip()))
    if arguments.stage == "plan":
        plan_dataset(config)
        return EXIT_OK
    if arguments.stage == "work":
        work_on_dataset(config, *rank_and_world_size(arguments.rank, arguments.world_size), retry=retry)
        return EXIT_OK
    with ProgressBar("preparing shards") as bar:
        if arguments.stage == "merge":
            manifest = merge_dataset(config, bar)
        else:
            manifest = run(config, _executor(arguments), bar, retry=retry)
    if arguments.runs:
        from pipelines.tracking.stage_runs import log_dataset

        log_dataset(config, manifest, Path(arguments.runs))
    print_lines(_summary(config.output, manifest))
    return EXIT_OK


def _summary(output: str, manifest: "Manifest") -> str:
    """Return the line that accounts for every entry of the source."""
    from data_prep.prepare.plan import describe_counts

    def total(counts: dict[str, int]) -> str:
        return f"{sum(counts.values())} ({describe_counts(counts)})" if counts else "none"

    retry = f"  to retry {total(manifest.retryable_counts)}" if manifest.retryable_counts else ""
    captions = f"  captions not found {manifest.captions_missing}" if manifest.captions_missing else ""
    return (
        f"shards: {output}  kept {manifest.kept} of {manifest.listed}  rejected {total(manifest.reject_counts)}{retry}"
        f"  ignored {total(manifest.ignored_counts)}{captions}  digest {manifest.digest[:12]}"
    )


def _print_problems(location: str, num_files: int, problems: "Iterable[str]") -> int:
    """Print a line for each problem, and the result."""
    lines = list(problems)
    result = f"damaged, problems: {len(lines)}" if lines else f"all {num_files} files match their digests"
    print_lines(*lines, f"{location}: {result}")
    return EXIT_FAILURE if lines else EXIT_OK


def _num_files(dataset: str) -> int:
    """Return the number of shards with samples."""
    from data_prep.shards.manifest import Manifest

    return sum(bool(shard.samples) for shards in Manifest.load(dataset).splits.values() for shard in shards)


def _executor(arguments: Namespace) -> "Executor":
    from data_prep.prepare.executors import LocalExecutor, RayExecutor

    if arguments.executor == "ray":
        return RayExecutor(workers=arguments.workers, address=arguments.address)
    return LocalExecutor(workers=arguments.workers)


def add_cache_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t cache``."""
    parser.add_argument(
        "--stage", choices=["all", "work"], default="all", help="Run a single rank with `work`, for a scheduler."
    )
    add_rank_arguments(parser)
    parser.add_argument("--verify", action="store_true", help="Check every cached file against its digest, then exit.")
    add_launch_arguments(parser)


def cache(arguments: Namespace, raw: list[str]) -> int:
    """Compute the features of the frozen models once for every image. A rerun computes only what is missing."""
    from pipelines.runtime.launch import is_distributed_worker, launch

    recipe = parse_recipe(arguments)
    if arguments.verify:
        return max(
            _verify_cache(dataset, recipe.cache.folder) for dataset in (recipe.data.output, *recipe.stream.mixture)
        )
    if arguments.stage == "work":
        rank, world_size = rank_and_world_size(arguments.rank, arguments.world_size)
    elif is_distributed_worker():
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    else:
        return launch(raw, arguments.nproc)
    from pipelines.pretraining.feature_cache import cache as run

    with ProgressBar("encoding images") as bar:
        run(recipe, rank, world_size, bar if rank == 0 else None)
    return EXIT_OK


def _verify_cache(dataset: str, folder: str) -> int:
    from data_prep.shards.feature_files import INDEX_NAME, verify_features
    from data_prep.storage.store import Store

    num_files, location = _num_files(dataset), f"{dataset.rstrip('/')}/{folder}"
    if not Store(location).exists(INDEX_NAME):
        raise RunError(f"{location}: no features are cached here; run `e4t cache` with the same recipe")
    return _print_problems(location, num_files, verify_features(dataset, folder))


PREPARE = Command(
    name="prepare",
    summary="Turn images into training shards",
    add_arguments=add_prepare_arguments,
    run=prepare,
    kept_when_interrupted="finished shards",
    usual_keys=(
        "data.source",
        "data.output",
        "data.domain",
        "data.resolution",
        "data.crop",
        "data.format",
        "data.quality",
        "data.caption_template",
        "data.source_options.type",
        "data.source_options.pattern",
        "data.filters.min_side",
        "data.filters.max_hash_distance",
    ),
)
CACHE = Command(
    name="cache",
    summary="Precompute VAE and CLIP features of the dataset",
    add_arguments=add_cache_arguments,
    run=cache,
    kept_when_interrupted="finished features",
    usual_keys=("base.model", "data.output", "cache.folder", "cache.dtype", "cache.batch_size"),
)
