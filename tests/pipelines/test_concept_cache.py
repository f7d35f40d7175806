"""Concepts that were tuned before: found by key, bounded in bytes, the ones not used for longest go first."""

import os
from pathlib import Path

import pytest

from pipelines.tuning import ConceptCache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "concepts"


@pytest.fixture
def cache(folder: Path) -> ConceptCache:
    """One with room for three concepts of 100 bytes."""
    return ConceptCache(folder, 300)


def concept(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "concept.safetensors").write_text(content * 90)
    (folder / "concept.json").write_text(content * 10)
    return folder


def keep(cache: ConceptCache, folder: Path, key: str, tmp_path: Path, age: float) -> None:
    """Keep a concept that was last used so many seconds ago."""
    cache.put(key, concept(tmp_path / f"made-{key}", key[0]))
    then = (folder / key).stat().st_mtime - age
    os.utime(folder / key, (then, then))


def test_what_was_kept_comes_back_byte_for_byte(cache: ConceptCache, tmp_path: Path) -> None:
    cache.put("abc", concept(tmp_path / "made", "x"))
    assert cache.get("abc", tmp_path / "out" / "me")
    assert {path.name: path.read_text() for path in (tmp_path / "out" / "me").iterdir()} == {
        "concept.safetensors": "x" * 90,
        "concept.json": "x" * 10,
    }


def test_another_key_has_nothing(cache: ConceptCache, tmp_path: Path) -> None:
    cache.put("abc", concept(tmp_path / "made", "x"))
    assert not cache.get("abd", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_not_used_for_longest_makes_room(cache: ConceptCache, folder: Path, tmp_path: Path) -> None:
    for age, key in ((30, "a1"), (20, "b2"), (10, "c3")):
        keep(cache, folder, key, tmp_path, age)
    assert cache.get("a1", tmp_path / "used")
    cache.put("d4", concept(tmp_path / "made", "d"))
    assert sorted(path.name for path in folder.iterdir()) == ["a1", "c3", "d4"]


def test_a_concept_that_was_given_out_outlives_the_cache(cache: ConceptCache, folder: Path, tmp_path: Path) -> None:
    keep(cache, folder, "a1", tmp_path, 30)
    cache.get("a1", tmp_path / "mine")
    ConceptCache(folder, 1).put("b2", concept(tmp_path / "made", "b"))
    assert not (folder / "a1").exists()
    assert (tmp_path / "mine" / "concept.json").read_text() == "a" * 10


def test_no_bytes_keep_nothing(folder: Path, tmp_path: Path) -> None:
    cache = ConceptCache(folder, 0)
    cache.put("abc", concept(tmp_path / "made", "x"))
    assert not cache.get("abc", tmp_path / "out")
    assert not folder.exists()


def test_the_same_concept_kept_by_two_is_kept_once(cache: ConceptCache, folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        cache.put("abc", concept(tmp_path / name, "x"))
    assert [path.name for path in folder.iterdir()] == ["abc"]


def test_what_was_half_kept_is_neither_given_out_nor_in_the_way(
    cache: ConceptCache, folder: Path, tmp_path: Path
) -> None:
    concept(folder / ".abc.0123abcd.partial", "x")
    assert not cache.get("abc", tmp_path / "out")
    cache.put("abc", concept(tmp_path / "made", "x"))
    assert cache.get("abc", tmp_path / "out")
