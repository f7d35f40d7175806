"""A shard: a plain webdataset tar, written whole or not at all, the same bytes every time."""

import hashlib
import io
import json
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BufferedRandom
from pathlib import Path

from data_prep.config import PrepareConfig, digest_of
from data_prep.errors import DataError
from data_prep.files import whole_file
from data_prep.pictures import Picture, Rejected, encode, load_picture
from data_prep.sidecar import Members, Sidecar, path_of
from data_prep.sources import Reject
from data_prep.survey import Entry


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One unit of work; any worker may do it."""

    path: Path
    """Of the tar."""
    entries: tuple[Entry, ...]
    """What goes into it, in this order."""

    @property
    def digest(self) -> str:
        """Sha256 over what goes into it."""
        return digest_of([asdict(entry) for entry in self.entries])


def write_shard(plan: ShardPlan, config: PrepareConfig) -> Sidecar:
    """Make the shard if it is not there yet, and return its sidecar. Both appear by rename, the sidecar last.

    Raises DataError if it cannot be written, or if a picture changes meanwhile.
    """
    done = finished(plan, config)
    if done is not None:
        return done
    started = time.monotonic()
    rejects: list[Reject] = []
    try:
        plan.path.parent.mkdir(parents=True, exist_ok=True)
        # A shard and a sidecar that do not belong together must never lie side by side.
        path_of(plan.path).unlink(missing_ok=True)
        with whole_file(plan.path) as file:
            _write_tar(file, plan, config, rejects)
            members, sha256, size = _check(file, plan, len(plan.entries) - len(rejects))
        sidecar = Sidecar(
            shard=plan.path.name,
            config_digest=config.digest,
            plan_digest=plan.digest,
            samples=len(members),
            dropped=dict(sorted(Counter(reject.reason for reject in rejects).items())),
            rejects=[asdict(reject) for reject in rejects],
            bytes=size,
            sha256=sha256,
            seconds=round(time.monotonic() - started, 3),
            members=members,
        )
        sidecar.save(plan.path)
    except OSError as error:
        raise DataError(
            f"shard {plan.path} cannot be written ({error.strerror}); make room, or give another data.output, and rerun"
        ) from error
    return sidecar


def finished(plan: ShardPlan, config: PrepareConfig) -> Sidecar | None:
    """The sidecar of a shard that an earlier run has finished from the same pictures and configuration."""
    if not plan.path.exists() or not path_of(plan.path).exists():
        return None
    try:
        sidecar = Sidecar.load(plan.path)
    except DataError:
        return None
    same = (sidecar.config_digest, sidecar.plan_digest) == (config.digest, plan.digest)
    return sidecar if same and plan.path.stat().st_size == sidecar.bytes else None


def _write_tar(file: BufferedRandom, plan: ShardPlan, config: PrepareConfig, rejects: list[Reject]) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in _members(plan, config, rejects):
            # A fresh TarInfo has no time, no owner and a fixed mode: the bytes follow from the content alone.
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def _members(plan: ShardPlan, config: PrepareConfig, rejects: list[Reject]) -> Iterator[tuple[str, bytes]]:
    for entry in plan.entries:
        try:
            picture = load_picture(Path(config.source) / entry.source, config)
        except Rejected as reason:
            rejects.append(Reject(key=entry.key, source=entry.source, reason=str(reason)))
            continue
        if picture.sha256 != entry.sha256:
            raise DataError(f"{entry.source} in {config.source} changed while shards were written; rerun `e4t prepare`")
        yield f"{entry.key}.{config.codec}", encode(picture.image, config)
        yield f"{entry.key}.json", json.dumps(_about(entry, picture, config), ensure_ascii=False).encode()


def _about(entry: Entry, picture: Picture, config: PrepareConfig) -> dict[str, object]:
    return {
        "concept": config.concept,
        "identity": entry.identity,
        "caption": entry.caption,
        "source": entry.source,
        "original_size": picture.original_size,
        "sha256": entry.sha256,
        "crop_box": picture.crop_box,
    }


def _check(file: BufferedRandom, plan: ShardPlan, samples: int) -> tuple[Members, str, int]:
    """Read the written tar back: where each member lies, the sha256 and the size."""
    file.flush()
    file.seek(0)
    members: Members = {}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            key, _, extension = info.name.rpartition(".")
            members.setdefault(key, {})[extension] = (info.offset_data, info.size)
    if len(members) != samples or any(len(parts) != 2 for parts in members.values()):
        raise DataError(
            f"shard {plan.path}: {len(members)} samples read back, {samples} written; check the disk and rerun"
        )
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")
    return members, digest.hexdigest(), file.tell()
