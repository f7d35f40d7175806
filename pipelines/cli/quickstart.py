"""``e4t quickstart``: run the stages one after the other, each in a process of its own, as a user would."""

import os
import time
from pathlib import Path

from data_prep.synthetic.faces import FacesConfig
from pipelines.config.recipe import Recipe
from pipelines.errors import EXIT_OK
from pipelines.pretraining.run_folder import Run
from pipelines.runtime.console import console
from pipelines.runtime.launch import run_commands

FACES_CONFIG = FacesConfig(num_identities=3200, images_per_identity=4)
"""Faces of the quickstart. The split depends on the identity only, so the base model has not seen held-out people."""


def stage_commands(recipe: Recipe, nproc: int) -> list[tuple[str, list[str]]]:
    """Return the title and the arguments of ``e4t`` of each stage."""
    faces = ["--output", recipe.data.source]
    faces += ["--num-identities", str(FACES_CONFIG.num_identities)]
    faces += ["--images-per-identity", str(FACES_CONFIG.images_per_identity)]
    from_recipe = ["--recipe", str(recipe.folder / "recipe.yaml")]
    return [
        ("generate faces", ["demo", "faces", *faces]),
        ("prepare shards", ["prepare", *from_recipe]),
        (f"pre-train the domain encoder (DeepSpeed, {nproc} ranks)", ["pretrain", *from_recipe, "--nproc", str(nproc)]),
        ("evaluate on held-out people", ["evaluate", *from_recipe]),
        ("release", ["release", *from_recipe, "--allow-dirty"]),  # a demo: the code need not be committed
    ]


def quickstart(recipe: Recipe, *, nproc: int) -> int:
    """Run every stage, skipping what an earlier run has finished. Return the first exit code that is not 0."""
    started = time.monotonic()
    Run.open(recipe)
    stages = stage_commands(recipe, nproc)
    for number, (title, command) in enumerate(stages, 1):
        console.rule(f"{number}/{len(stages)} {title}", align="left")
        console.print(f"[dim]e4t {' '.join(command)}[/dim]")
        code = run_commands(command, [os.environ])
        if code != EXIT_OK:
            return code
    _print_summary(recipe, time.monotonic() - started)
    return EXIT_OK


def _print_summary(recipe: Recipe, seconds: float) -> None:
    run = recipe.folder
    image = next(iter(sorted(Path(recipe.data.source).glob("*/000.png"))), "image.png")
    console.rule(f"done in {seconds / 60:.1f} minutes", align="left")
    console.print(f"sample grid    {run / 'evaluation' / 'grid.png'}")
    console.print(f"report         {run / 'evaluation' / 'report.json'}")
    console.print(f"release        {run / 'release'}")
    console.print(f"run folder     {run}  (metrics.jsonl, samples/, checkpoints/)")
    console.print(f"lineage        e4t lineage models:/{recipe.name}@candidate --runs {recipe.runs}")
    console.print("\nnext:")
    console.print(f"  e4t tune --release {run / 'release'} --image {image} --steps 15 --output concept")
    console.print(
        f"  e4t generate --release {run / 'release'} --concept concept --prompt 'a portrait of *s in a red shirt'"
    )
    console.print(f"  mlflow ui --backend-store-uri sqlite:///{Path(recipe.runs).resolve()}/mlflow.db")
