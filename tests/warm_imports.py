"""Import once, in the fork server, the modules that all commands and ranks need; see ``tests.warm_process``.

A process with threads must not be forked, so libraries that start threads when they are imported are configured not to.
"""

import os
import sys

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # Arrow's jemalloc starts a thread

from pipelines.runtime.launch import set_deepspeed_accelerator
from pipelines.runtime.logging import configure_logging

configure_logging()
set_deepspeed_accelerator()

import deepspeed  # noqa: E402, F401
import diffusers  # noqa: E402, F401
import mlflow  # noqa: E402, F401
import sqlalchemy  # noqa: E402, F401
import transformers  # noqa: E402, F401

import pipelines.cli.commands  # noqa: E402, F401
import pipelines.pretraining.trainer  # noqa: E402, F401

for _stream in (sys.stdout, sys.stderr):
    _stream.flush()
