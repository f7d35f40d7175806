"""Share expensive, read-only fixtures: the first pytest worker that needs one builds it, and all workers use it.

They are stored in a folder that the workers of a session share, one subfolder for each, guarded by a file lock.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

MLFLOW_TEMPLATE = "mlflow-template"
_FOLDER = "E4T_TESTS_SHARED"


def use_shared_folder(folder: Path) -> None:
    """Set the folder of this session's shared fixtures. The first fixture of a session calls this."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[_FOLDER] = str(folder)


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder ``name``; the first worker that needs it creates it with ``build(folder)``, the others wait."""
    folder = Path(os.environ[_FOLDER]) / name
    complete = folder.with_name(f".{name}.complete")
    with FileLock(folder.with_name(f".{name}.lock")):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)  # left by a worker that failed
            folder.mkdir()
            build(folder)
            complete.touch()
    return folder


def copy_mlflow_database(runs: Path) -> None:
    """Put an empty MLflow database into a folder of runs; copying is faster than the 2 CPU seconds of creating one."""
    if not (runs / "mlflow.db").exists():
        runs.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(build_once(MLFLOW_TEMPLATE, _create_mlflow_database) / "mlflow.db", runs / "mlflow.db")


def _create_mlflow_database(folder: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts")).engine.dispose()
