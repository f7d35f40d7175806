"""Fixtures to write source files, whose content does not matter, and to list and read sources."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.config import PrepareConfig, ReadConfig, SourceConfig
from data_prep.records import Ignored, Listed, Record, Reject
from data_prep.sources import open_source


@pytest.fixture
def config_of(tmp_path: Path) -> Callable[..., PrepareConfig]:
    """Build a configuration for a source with the given ``data.source_options`` and ``data.read``."""

    def build(source: Path | str, read: dict[str, Any] | None = None, **options: Any) -> PrepareConfig:
        return PrepareConfig(
            source=str(source),
            output=str(tmp_path / "set"),
            domain="cat",
            source_options=SourceConfig(**options),
            read=ReadConfig(**read or {}),
        )

    return build


@pytest.fixture
def list_items(config_of: Callable[..., PrepareConfig]) -> Callable[..., list[Listed]]:
    """List a source."""
    return lambda source, **options: list(open_source(config_of(source, **options)))


@pytest.fixture
def reject_reasons(list_items: Callable[..., list[Listed]]) -> Callable[..., dict[str, str]]:
    """List the rejects of a source: reason by origin."""

    def list_rejects(source: Path | str, **options: Any) -> dict[str, str]:
        return {item.source: item.reason for item in list_items(source, **options) if isinstance(item, Reject)}

    return list_rejects


@pytest.fixture
def ignored(list_items: Callable[..., list[Listed]]) -> Callable[..., dict[str, str]]:
    """List the ignored entries of a source: reason by origin."""

    def list_ignored(source: Path | str, **options: Any) -> dict[str, str]:
        return {item.source: item.reason for item in list_items(source, **options) if isinstance(item, Ignored)}

    return list_ignored


@pytest.fixture
def read_all(config_of: Callable[..., PrepareConfig]) -> Callable[..., dict[str, bytes]]:
    """List a source and read every image: bytes by key."""

    def read(source: Path | str, **options: Any) -> dict[str, bytes]:
        opened = open_source(config_of(source, **options))
        return {item.key: opened.read(item) for item in opened if isinstance(item, Record)}

    return read


@pytest.fixture
def write_files() -> Callable[..., Path]:
    """Write files of these names; the content of each is its name."""

    def make(root: Path, *names: str) -> Path:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(name.encode())
        return root

    return make
