"""The concept cache finds concepts by key and evicts the least recently used ones."""

import os
from pathlib import Path

import pytest

from pipelines.tuning import ConceptCache

A1, B2, C3, D4, ABC, ABD = (name * (64 // len(name)) for name in ("a1", "b2", "c3", "d4", "abc0", "abd0"))
"""Keys of cached concepts."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "concepts"


@pytest.fixture
def cache(folder: Path) -> ConceptCache:
    """Cache with room for three concepts of 100 bytes."""
    return ConceptCache(folder, 300)


def concept(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "concept.safetensors").write_text(content * 90)
    (folder / "concept.json").write_text(content * 10)
    return folder


def put(cache: ConceptCache, folder: Path, key: str, tmp_path: Path, age: float) -> None:
    """Add a concept that was last used ``age`` seconds ago."""
    cache.put(key, concept(tmp_path / f"new-{key}", key[0]))
    then = (folder / key).stat().st_mtime - age
    os.utime(folder / key, (then, then))


def test_a_cached_concept_is_returned_byte_for_byte(cache: ConceptCache, tmp_path: Path) -> None:
    cache.put(ABC, concept(tmp_path / "new", "x"))
    assert cache.get(ABC, tmp_path / "out" / "me")
    assert {path.name: path.read_text() for path in (tmp_path / "out" / "me").iterdir()} == {
        "concept.safetensors": "x" * 90,
        "concept.json": "x" * 10,
    }


def test_another_key_is_not_found(cache: ConceptCache, tmp_path: Path) -> None:
    cache.put(ABC, concept(tmp_path / "new", "x"))
    assert not cache.get(ABD, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_least_recently_used_concept_is_evicted(cache: ConceptCache, folder: Path, tmp_path: Path) -> None:
    for age, key in ((30, A1), (20, B2), (10, C3)):
        put(cache, folder, key, tmp_path, age)
    assert cache.get(A1, tmp_path / "used")
    cache.put(D4, concept(tmp_path / "new", "d"))
    assert sorted(path.name for path in folder.iterdir()) == [A1, C3, D4]


def test_a_returned_concept_outlives_its_cache_entry(cache: ConceptCache, folder: Path, tmp_path: Path) -> None:
    put(cache, folder, A1, tmp_path, 30)
    cache.get(A1, tmp_path / "mine")
    ConceptCache(folder, 1).put(B2, concept(tmp_path / "new", "b"))
    assert not (folder / A1).exists()
    assert (tmp_path / "mine" / "concept.json").read_text() == "a" * 10


def test_a_cache_of_0_bytes_keeps_nothing(folder: Path, tmp_path: Path) -> None:
    cache = ConceptCache(folder, 0)
    cache.put(ABC, concept(tmp_path / "new", "x"))
    assert not cache.get(ABC, tmp_path / "out")
    assert not folder.exists()


def test_a_concept_that_two_processes_add_is_kept_once(cache: ConceptCache, folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        cache.put(ABC, concept(tmp_path / name, "x"))
    assert [path.name for path in folder.iterdir()] == [ABC]


def test_an_incomplete_entry_is_neither_returned_nor_blocks_a_new_one(
    cache: ConceptCache, folder: Path, tmp_path: Path
) -> None:
    concept(folder / f".{ABC}.0123abcd.partial", "x")
    assert not cache.get(ABC, tmp_path / "out")
    cache.put(ABC, concept(tmp_path / "new", "x"))
    assert cache.get(ABC, tmp_path / "out")


def test_folders_of_others_are_never_removed(folder: Path, tmp_path: Path) -> None:
    for name in ("beach photos", "deadbeef", f"{A1}-old"):
        (folder / name).mkdir(parents=True)
        (folder / name / "photo.jpg").write_bytes(b"mine" * 1000)
    cache = ConceptCache(folder, 100)
    for key in (A1, B2):
        cache.put(key, concept(tmp_path / key, "x"))
    assert {path.name for path in folder.iterdir()} == {"beach photos", "deadbeef", f"{A1}-old", B2}
