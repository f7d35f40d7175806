"""What a process says: our own lines, not the libraries' notices."""

import logging
import os
import sys
import warnings


def configure_logging() -> None:
    """Our own lines only: the libraries' notices would bury them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stdout)
    logging.getLogger("e4t").setLevel(logging.INFO)


def configure_worker_logging() -> None:
    """The same for a process of a pool, which computes on one thread; before it imports anything that speaks."""
    configure_logging()
    import torch

    torch.set_num_threads(1)
