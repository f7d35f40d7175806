"""``e4t quickstart``: the stages in a row, as a user would run them, each in its own process."""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from data_prep.faces import FacesConfig
from pipelines.checkpoints import Checkpoints
from pipelines.config import Recipe
from pipelines.errors import DONE

console = Console(highlight=False)
FACES = FacesConfig(identities=3200, pictures=4)
"""People and pictures of the quickstart; who is held out follows from each person alone, so the base has never seen them."""


def quickstart(recipe: Recipe, overrides: Sequence[str], *, nproc: int) -> int:
    """Run every stage; what an earlier run has finished is not made again. Returns the first exit code that is not 0."""
    started = time.monotonic()
    options = list(overrides) if "--recipe" in overrides else ["--recipe", "quickstart", *overrides]
    faces = ["--output", recipe.data.source, "--identities", str(FACES.identities), "--pictures", str(FACES.pictures)]
    stages = [
        ("draw the faces", ["faces", *faces]),
        ("faces to shards", ["prepare", *options]),
        (f"pre-train the domain encoder (DeepSpeed, {nproc} ranks)", ["pretrain", *options, "--nproc", str(nproc)]),
        ("release", ["release", *options]),
        ("personalise held-out people", ["evaluate", *options]),
    ]
    if Checkpoints(recipe.folder / "checkpoints", recipe.pretrain.keep).newest() and (recipe.folder / "release").exists():
        shutil.rmtree(recipe.folder / "release")
    for number, (title, command) in enumerate(stages, 1):
        console.rule(f"{number}/{len(stages)} {title}", align="left")
        console.print(f"[dim]e4t {' '.join(command)}[/dim]")
        code = subprocess.run([sys.executable, "-m", "e4t", *command], check=False).returncode  # noqa: S603 - our own command
        if code != DONE:
            return code
    _farewell(recipe, time.monotonic() - started)
    return DONE


def _farewell(recipe: Recipe, seconds: float) -> None:
    run = recipe.folder
    picture = next(iter(sorted(Path(recipe.data.source).glob("*/000.png"))), "picture.png")
    console.rule(f"done in {seconds / 60:.1f} minutes", align="left")
    console.print(f"the picture    {run / 'evaluation' / 'grid.png'}")
    console.print(f"the numbers    {run / 'evaluation' / 'report.json'}")
    console.print(f"the release    {run / 'release'}")
    console.print(f"the run        {run}  (metrics.jsonl, samples/, checkpoints/)")
    console.print("\nnext:")
    console.print(f"  e4t tune --release {run / 'release'} --image {picture} --steps 15 --output concept")
    console.print(f"  e4t generate --release {run / 'release'} --concept concept --prompt 'a portrait of *s laughing in a red shirt'")
    console.print(f"  mlflow ui --backend-store-uri sqlite:///{Path(recipe.runs).resolve()}/mlflow.db")
