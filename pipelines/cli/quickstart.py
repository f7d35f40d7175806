"""``e4t quickstart``: the stages in a row, as a user would run them, each in its own process."""

import subprocess
import sys
import time
from pathlib import Path

from data_prep.synthetic.faces import FacesConfig
from pipelines.config.recipe import Recipe
from pipelines.errors import EXIT_OK
from pipelines.pretraining.run_folder import Run
from pipelines.runtime.console import console

FACES_CONFIG = FacesConfig(num_identities=3200, images_per_identity=4)
"""Of the quickstart; who is held out follows from the person alone, so the base has not seen these either."""


def quickstart(recipe: Recipe, *, nproc: int) -> int:
    """Run every stage; what an earlier run has finished is kept. Returns the first exit code that is not 0."""
    started = time.monotonic()
    resolved = recipe.folder / "recipe.yaml"
    Run.open(recipe)
    faces = [
        "--output",
        recipe.data.source,
        "--num_identities",
        str(FACES_CONFIG.num_identities),
        "--images_per_identity",
        str(FACES_CONFIG.images_per_identity),
    ]
    stages = [
        ("draw the faces", ["faces", *faces]),
        ("faces to shards", ["prepare", "--recipe", str(resolved)]),
        (
            f"pre-train the domain encoder (DeepSpeed, {nproc} ranks)",
            ["pretrain", "--recipe", str(resolved), "--nproc", str(nproc)],
        ),
        ("personalise held-out people", ["evaluate", "--recipe", str(resolved)]),
        ("release", ["release", "--recipe", str(resolved), "--allow-dirty", "true"]),  # to look at, not to hand over
    ]
    for number, (title, command) in enumerate(stages, 1):
        console.rule(f"{number}/{len(stages)} {title}", align="left")
        console.print(f"[dim]e4t {' '.join(command)}[/dim]")
        code = subprocess.run([sys.executable, "-m", "e4t", *command], check=False).returncode  # noqa: S603 - our own command
        if code != EXIT_OK:
            return code
    _print_summary(recipe, time.monotonic() - started)
    return EXIT_OK


def _print_summary(recipe: Recipe, seconds: float) -> None:
    run = recipe.folder
    image = next(iter(sorted(Path(recipe.data.source).glob("*/000.png"))), "picture.png")
    console.rule(f"done in {seconds / 60:.1f} minutes", align="left")
    console.print(f"the picture    {run / 'evaluation' / 'grid.png'}")
    console.print(f"the numbers    {run / 'evaluation' / 'report.json'}")
    console.print(f"the release    {run / 'release'}")
    console.print(f"the run        {run}  (metrics.jsonl, samples/, checkpoints/)")
    console.print(f"its lineage    e4t lineage models:/{recipe.name}@candidate --runs {recipe.runs}")
    console.print("\nnext:")
    console.print(f"  e4t tune --release {run / 'release'} --image {image} --steps 15 --output concept")
    console.print(
        f"  e4t generate --release {run / 'release'} --concept concept --prompt 'a portrait of *s in a red shirt'"
    )
    console.print(f"  mlflow ui --backend-store-uri sqlite:///{Path(recipe.runs).resolve()}/mlflow.db")
