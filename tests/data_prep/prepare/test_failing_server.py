"""`e4t prepare` from a server that fails at random, repeated until it succeeds, loses nothing and changes nothing."""

import io
import os
import random
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_prep.config import PrepareConfig, ReadConfig
from data_prep.errors import DataError
from data_prep.shards.manifest import Manifest
from tests.data_prep.fault_server import FaultServer, fault_server

FAULTS = (
    ["503", "500", "502", "429 Retry-After: 0", "408", "403", "202", "close", "cut", "stall", "trickle", "hang"]
    + ["whole", "wrong", "short", "chunked", "cut chunked"]
)  # fmt: skip
SOURCES = ["list.csv", "list.parquet", "set.zip", "set.tar", "set.tar.gz", "shard-{0..1}.tar"]
MAX_RUNS = 200
READ = ReadConfig(retries=2, backoff_seconds=0.001, timeout_seconds=2, idle_timeout_seconds=0.5)


@pytest.fixture
def server(images: Path) -> Iterator[FaultServer]:
    """Serve 48 images and 12 captions in every form."""
    files = {path.relative_to(images).as_posix(): path.read_bytes() for path in sorted(images.rglob("*.*"))}
    paths = [name for name in files if name.endswith(".png")]
    with fault_server() as running:
        running.files = dict(files)
        rows = "".join(f"{name},{name.partition('/')[0]}\n" for name in paths)
        running.files["list.csv"] = f"image,who\n{rows}".encode()
        running.files["list.parquet"] = _parquet(paths)
        running.files["set.zip"] = _zip(files)
        running.files["set.tar"], running.files["set.tar.gz"] = _tar(files, "w"), _tar(files, "w:gz")
        flat = {name.replace("/", "-"): data for name, data in files.items()}
        for number in range(2):
            half = dict(sorted(flat.items())[number * 30 : number * 30 + 30])
            running.files[f"shard-{number}.tar"] = _tar(half, "w")
        for name in running.files:
            running.headers[name] = [("ETag", '"one"')]
        yield running


def _parquet(paths: list[str]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    columns = {"image": paths, "who": [name.partition("/")[0] for name in paths]}
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _tar(files: dict[str, bytes], mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class _Faults:
    """Faults of a share of the requests, and outages of all of them for a while; seeded."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._share = self._random.choice([0.05, 0.2, 0.4])
        self._outage = 0

    def __call__(self, _name: str) -> str:
        if self._outage:
            self._outage -= 1
            return "503"
        if self._random.random() < 0.01:
            self._outage = self._random.randrange(40)
        return self._random.choice(FAULTS) if self._random.random() < self._share else ""


def _prepare_until_done(config: PrepareConfig, prepare_dataset: Callable[[PrepareConfig], Manifest]) -> int:
    """Repeat the command until it succeeds. Returns the number of runs."""
    for run in range(1, MAX_RUNS):
        try:
            prepare_dataset(config)
        except DataError as error:
            assert "changed" not in str(error), error
            continue
        return run
    raise AssertionError(f"not finished after {MAX_RUNS} runs")


def _config(make: Callable[..., PrepareConfig], server: FaultServer, name: str, output: Path) -> PrepareConfig:
    options = {"identity_column": "who"} if name.startswith("list") else {}
    defaults = make()
    return make(
        f"{server.url}/{name}",
        output,
        read=READ,
        source_options=type(defaults.source_options)(**options),
    )


@pytest.mark.long
@pytest.mark.parametrize("name", SOURCES)
def test_a_server_that_fails_at_random_loses_nothing(
    name: str,
    tmp_path: Path,
    server: FaultServer,
    config_for: Callable[..., PrepareConfig],
    prepare_dataset: Callable[[PrepareConfig], Manifest],
    read_files: Callable[[Path], dict[str, bytes]],
) -> None:
    seconds = float(os.environ.get("E4T_CAMPAIGN_SECONDS", "20")) / len(SOURCES)
    prepare_dataset(_config(config_for, server, name, tmp_path / "undisturbed"))
    expected = read_files(tmp_path / "undisturbed")
    started, seed, runs = time.monotonic(), int(os.environ.get("E4T_CAMPAIGN_SEED", "0")), 0
    while runs == 0 or time.monotonic() - started < seconds:
        server.choose = _Faults(seed)
        output = tmp_path / f"set-{seed}"
        runs += _prepare_until_done(_config(config_for, server, name, output), prepare_dataset)
        server.choose = lambda _: ""
        found = read_files(output)
        assert found.keys() == expected.keys()
        assert [key for key in expected if found[key] != expected[key]] == [], f"seed {seed}"
        seed += 1
    print(f"{name}: {seed} datasets in {runs} runs, {len(server.log)} requests")
