"""A tar is written with the bytes of tarfile, and its index is what a scan of the file finds."""

import io
import tarfile

import pytest

from data_prep.shards.tar_scan import TarScan
from data_prep.shards.tar_writer import write_tar

MEMBERS = [
    ("a.jpg", b"x" * 700),
    ("a.json", b"{}"),
    (f"{'long' * 60}.jpg", b"y" * 512),
    (f"{'long' * 60}.json", b""),
    ("naïve\udcff.jpg", b"z" * 20_000),
    ("naïve\udcff.json", b"1"),
]


@pytest.mark.parametrize("count", range(len(MEMBERS) + 1))
def test_the_bytes_are_those_of_tarfile(count: int) -> None:
    ours, theirs = io.BytesIO(), io.BytesIO()
    write_tar(ours, MEMBERS[:count])
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in MEMBERS[:count]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert ours.getvalue() == theirs.getvalue()


def test_the_index_is_what_a_scan_of_the_file_finds() -> None:
    file = io.BytesIO()
    written = write_tar(file, MEMBERS)
    file.seek(0)
    scan = TarScan(file)
    found = {name: member for name, member, _ in scan}
    assert found == {
        f"{key}.{suffix}": part for key, parts in written.members.items() for suffix, part in parts.items()
    }
    assert (written.bytes, written.sha256) == (scan.size, scan.sha256)
