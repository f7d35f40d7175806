"""The note in a set's folder that says what the set is made with: one folder never holds shards of two recipes."""

import json
from typing import Any

from data_prep.config import PrepareConfig
from data_prep.errors import ConfigError
from data_prep.store import Store

FILE = "prepare.json"


def check_claim(config: PrepareConfig, store: Store) -> None:
    """Raise ConfigError, with the difference, if the folder's set is made with another configuration."""
    try:
        before: dict[str, Any] = flat(json.loads(store.read(FILE)))
    except FileNotFoundError:
        return
    now = flat(_plain(config))
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        shown = "; ".join(f"{name}: {before.get(name)!r} there, {now.get(name)!r} now" for name in changed)
        raise ConfigError(
            f"output {config.output} was made with another configuration ({shown}); give another data.output or "
            "delete it"
        )


def claim(config: PrepareConfig, store: Store) -> None:
    """Write the note."""
    store.write(FILE, json.dumps(_plain(config), indent=1) + "\n")


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _plain(config: PrepareConfig) -> dict[str, Any]:
    """As it comes back from JSON: tuples are lists."""
    plain: dict[str, Any] = json.loads(json.dumps(config.what_is_made()))
    return plain
