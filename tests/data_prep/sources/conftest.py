"""Sources of files whose content does not matter, and what is listed of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.config import PrepareConfig, SourceConfig
from data_prep.records import Record, Reject
from data_prep.sources import open_source


@pytest.fixture
def config_of(tmp_path: Path) -> Callable[..., PrepareConfig]:
    """A configuration for a source, with settings of ``read``."""

    def build(source: Path | str, **read: Any) -> PrepareConfig:
        output = str(tmp_path / "set")
        return PrepareConfig(source=str(source), output=output, domain="cat", source_options=SourceConfig(**read))

    return build


@pytest.fixture
def listed(config_of: Callable[..., PrepareConfig]) -> Callable[..., list[Record | Reject]]:
    """Everything that a source lists."""
    return lambda source, **read: list(open_source(config_of(source, **read)))


@pytest.fixture
def reasons(listed: Callable[..., list[Record | Reject]]) -> Callable[..., dict[str, str]]:
    """What a source keeps out: reason by source."""

    def found(source: Path | str, **read: Any) -> dict[str, str]:
        return {item.source: item.reason for item in listed(source, **read) if isinstance(item, Reject)}

    return found


@pytest.fixture
def fetched(config_of: Callable[..., PrepareConfig]) -> Callable[..., dict[str, bytes]]:
    """What a source lists and reads: bytes by key."""

    def read(source: Path | str, **settings: Any) -> dict[str, bytes]:
        opened = open_source(config_of(source, **settings))
        return {item.key: opened.read(item) for item in opened if isinstance(item, Record)}

    return read


@pytest.fixture
def put() -> Callable[..., Path]:
    """Files of these names, each with its name in it."""

    def make(root: Path, *names: str) -> Path:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(name.encode())
        return root

    return make
