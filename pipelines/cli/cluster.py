"""Commands for clusters: submit, status."""

from functools import partial
from pathlib import Path
from typing import get_args

from jsonargparse import Namespace

from pipelines.cli.common import Command, CommandParser, add_recipe_arguments, parse_config, parse_recipe
from pipelines.cli.renamed import check_option_names
from pipelines.runtime.console import console


def add_submit_arguments(parser: CommandParser, scheduler: str) -> None:
    """Add the options of ``e4t submit <scheduler>``."""
    from pipelines.cluster.jobs import Stage
    from pipelines.cluster.schedulers import SCHEDULERS

    parser.add_argument(
        "--stage", choices=get_args(Stage), required=True, help="Stage to run; `all` runs one after the other."
    )
    parser.add_argument("--nodes", type=int, default=1, help="Number of nodes of pre-training.")
    parser.add_argument(
        "--array-size", type=int, default=8, help="Number of tasks that share the work of prepare, cache and compare."
    )
    parser.add_argument("--dry-run", action="store_true", help="Print every file that would be submitted, then exit.")
    parser.add_class_arguments(SCHEDULERS[scheduler].Site, "site")
    add_recipe_arguments(parser)


def submit(arguments: Namespace, raw: list[str], scheduler_name: str) -> None:
    """Submit a stage, or all of them in order, to a cluster. Words after ``--`` go to the command of the last job."""
    from pipelines.cluster.jobs import jobs_for_stage
    from pipelines.cluster.schedulers import SCHEDULERS
    from pipelines.cluster.submission import next_folder, snapshot_files

    scheduler = SCHEDULERS[scheduler_name]
    recipe, site = parse_recipe(arguments), parse_config(scheduler.Site, arguments.site)
    recipe.pretrain.micro_batch_split(arguments.nodes * site.devices_per_node)
    extra_args = raw[raw.index("--") + 1 :] if "--" in raw else []
    jobs = jobs_for_stage(
        arguments.stage,
        nodes=arguments.nodes,
        array_size=arguments.array_size,
        use_feature_cache=recipe.pretrain.use_feature_cache,
        extra_args=extra_args,
    )
    check_option_names(jobs[-1].args[0], extra_args)
    folder = next_folder(recipe, arguments.stage)
    submission = scheduler.build_submission(jobs, site, folder, recipe.name, snapshot_files(recipe))
    if arguments.dry_run:
        for name, text in submission.files.items():
            console.file.write(f"--- {submission.folder / name}\n{text}\n")  # console.print would turn :these: to emoji
        return
    submission.write()
    for name, ids in scheduler.send(submission).items():
        console.print(f"submitted {name}: job {', '.join(ids)}", soft_wrap=True)
    console.print(f"submission: {submission.folder}  status: e4t status {recipe.folder}", soft_wrap=True)


def _submit_to(name: str, summary: str) -> Command:
    run = partial(submit, scheduler_name=name)
    run.__doc__ = submit.__doc__
    return Command(
        name=name,
        summary=summary,
        add_arguments=partial(add_submit_arguments, scheduler=name),
        run=run,
        usual_keys=("name", "runs"),
    )


def add_status_arguments(parser: CommandParser) -> None:
    """Add the options of ``e4t status``."""
    parser.add_argument("run", type=str, help="Run folder, such as runs/faces.")


def status(arguments: Namespace, _: list[str]) -> None:
    """Print the state of a run: its jobs as the scheduler reports them, its shards and training steps."""
    from pipelines.cluster.status import run_status_lines

    for line in run_status_lines(Path(arguments.run)):
        console.print(line, markup=False, soft_wrap=True)


SUBMIT: Command = Command(
    name="submit",
    summary="Submit a stage, or all stages, to a cluster",
    subcommands=(
        _submit_to("slurm", "Submit to SLURM with sbatch (docs/slurm.md)"),
        _submit_to("k8s", "Submit to Kubernetes with kubectl (docs/kubernetes.md)"),
    ),
)
STATUS: Command = Command(
    name="status",
    summary="Show the jobs, shards and steps of a run",
    add_arguments=add_status_arguments,
    run=status,
)
