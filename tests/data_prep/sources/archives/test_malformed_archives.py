"""Malformed archives yield images and counted rejects, and have no other effect."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.config import PrepareConfig
from data_prep.errors import DataError, SampleRejected, SourceChangedError
from data_prep.records import Ignored, Record, Reject
from data_prep.sources import open_source
from tests.data_prep.sources.archive_corpus import BODY, READ, Case, cases, patched, tar_of, zip_of

ConfigOf = Callable[..., PrepareConfig]

FLIPS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=3)), min_size=1, max_size=4
)
bounded = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcomes(path: Path, config_of: ConfigOf, source_type: str) -> list[str]:
    """Return the outcome of each image, in order."""
    source, results = open_source(config_of(path, type=source_type)), list[str]()
    for item in source:
        if isinstance(item, Reject):
            results.append(item.reason)
            item.source.encode()
            continue
        item.source.encode()
        if isinstance(item, Ignored):
            continue
        try:
            results.append(READ if source.read(item) == BODY else "other bytes")
            source.caption(item)
        except SampleRejected as error:
            results.append(error.reason)
    return results


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_every_archive_of_the_corpus_has_the_expected_outcome(case: Case, tmp_path: Path, config_of: ConfigOf) -> None:
    path = tmp_path / case.file
    path.write_bytes(case.data)
    assert outcomes(path, config_of, "archive") == case.outcomes
    assert [file.name for file in tmp_path.rglob("*")] == [case.file]
    assert path.read_bytes() == case.data


@pytest.mark.parametrize("make", [zip_of, tar_of])
@bounded
@given(flips=FLIPS)
def test_flipped_bytes_cause_only_rejects(
    make: Callable[..., bytes], flips: list[tuple[float, bytes]], tmp_path: Path, config_of: ConfigOf
) -> None:
    data = make("a/0.png", "a/0.txt", "b/1.jpg")
    path = tmp_path / ("set.zip" if make is zip_of else "set.tar")
    path.write_bytes(patched(data, *((int(at * len(data)), new) for at, new in flips))[: len(data)])
    try:
        results = outcomes(path, config_of, "archive")
    except DataError:
        return
    assert len(results) <= 4


@bounded
@given(flips=FLIPS)
def test_flipped_bytes_in_shards_cause_only_rejects(
    flips: list[tuple[float, bytes]], tmp_path: Path, config_of: ConfigOf
) -> None:
    data = tar_of("0.png", "0.json", "1.png", "1.txt")
    path = tmp_path / "set.tar"
    path.write_bytes(patched(data, *((int(at * len(data)), new) for at, new in flips))[: len(data)])
    assert len(outcomes(path, config_of, "shards")) <= 5


def test_an_unreadable_archive_is_an_error_and_not_a_corrupt_one(tmp_path: Path, config_of: ConfigOf) -> None:
    (tmp_path / "set.tar").write_bytes(tar_of("a/0.png"))
    source = open_source(config_of(tmp_path / "set.tar"))
    (tmp_path / "set.tar").unlink()
    with pytest.raises(DataError, match=r"set.tar does not exist \(No such file or directory\); check data.source"):
        list(source)


def test_a_zip_that_changed_after_it_was_listed_is_one_clear_error(tmp_path: Path, config_of: ConfigOf) -> None:
    (tmp_path / "set.zip").write_bytes(zip_of("a/0.png"))
    source = open_source(config_of(tmp_path / "set.zip"))
    (record,) = source
    assert isinstance(record, Record)
    (tmp_path / "set.zip").write_bytes(zip_of("a/0.png", method=zipfile.ZIP_STORED))
    with pytest.raises(SourceChangedError, match="set.zip was changed since it was listed .*rerun `e4t prepare`"):
        source.read(record)
