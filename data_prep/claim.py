"""The note in a set's folder that says what the set is made with: one folder never holds shards of two recipes."""

import json
from typing import Any

from data_prep.config import PrepareConfig
from data_prep.errors import ConfigError
from data_prep.settings import differences, flatten
from data_prep.store import Store

FILE = "prepare.json"


def check_claim(config: PrepareConfig, store: Store) -> None:
    """Raise ConfigError, with the difference, if the folder's set is made with another configuration."""
    try:
        before = flatten(json.loads(store.read(FILE)))
    except FileNotFoundError:
        return
    changed = differences(before, flatten(_plain(config)))
    if changed:
        shown = "; ".join(f"{name}: {then!r} there, {now!r} now" for name, then, now in changed)
        raise ConfigError(
            f"output {config.output} was made with another configuration ({shown}); give another data.output or "
            "delete it"
        )


def claim(config: PrepareConfig, store: Store) -> None:
    """Write the note."""
    store.write(FILE, json.dumps(_plain(config), indent=1) + "\n")


def _plain(config: PrepareConfig) -> dict[str, Any]:
    """As it comes back from JSON: tuples are lists."""
    plain: dict[str, Any] = json.loads(json.dumps(config.what_is_made()))
    return plain
