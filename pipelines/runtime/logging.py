"""Logging of the commands and of their worker processes."""

import logging
import os
import sys
import warnings
from typing import TextIO

from pipelines.runtime.standard_streams import discard_stdout


def configure_logging() -> None:
    """Print the ``e4t`` log at level INFO and silence the notices and progress bars of libraries."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR, format="%(message)s", handlers=[_StdoutHandler(sys.stdout)])
    logging.getLogger("e4t").setLevel(logging.INFO)


class _StdoutHandler(logging.StreamHandler[TextIO]):
    """Prints log records. When the reader of standard output has ended, the command continues without a log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name of the base class
        """Discard standard output if it is closed; otherwise report the error."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            discard_stdout()
        else:
            super().handleError(record)


def configure_worker_logging() -> None:
    """Configure logging in a worker process of a pool, and let it compute on one thread. Call before other imports."""
    configure_logging()
    import torch

    torch.set_num_threads(1)
