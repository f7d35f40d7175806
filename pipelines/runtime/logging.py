"""Logging of the commands and of their worker processes."""

import logging
import os
import sys
import warnings


def configure_logging() -> None:
    """Print the ``e4t`` log at level INFO and silence the notices and progress bars of libraries."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stdout)
    logging.getLogger("e4t").setLevel(logging.INFO)


def configure_worker_logging() -> None:
    """Configure logging in a worker process of a pool, and let it compute on one thread. Call before other imports."""
    configure_logging()
    import torch

    torch.set_num_threads(1)
