import json
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset

from data_prep.config import PrepareConfig, SplitFractions
from data_prep.errors import ConfigError, DataError
from data_prep.manifest import Manifest, verify
from data_prep.prepare import prepare
from data_prep.splits import split_of

ConfigFor = Callable[..., PrepareConfig]


def contents(output: Path) -> dict[str, bytes]:
    """Every file's bytes; of sidecars without the time they took."""
    files = {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    for name, data in files.items():
        if "/" in name and name.endswith(".json"):
            files[name] = json.dumps(json.loads(data) | {"seconds": 0}).encode()
    return files


def keys(output: Path, split: str) -> list[str]:
    tars = sorted(str(path) for path in (output / split).glob("*.tar"))
    return [sample["__key__"] for sample in webdataset.WebDataset(tars, shardshuffle=False)]


def test_the_same_pictures_make_the_same_files_for_any_number_of_workers(
    pictures: Path, config_for: ConfigFor, tmp_path: Path
) -> None:
    one = prepare(config_for(output=tmp_path / "one", workers=1, codec="webp"))
    two = prepare(config_for(output=tmp_path / "two", workers=2, codec="webp"))
    assert one == two
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_rerun_makes_only_what_is_missing(pictures: Path, config_for: ConfigFor) -> None:
    config = config_for()
    output = Path(config.output)
    prepare(config)
    before = contents(output)
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*.tar")}
    lost = output / "train" / "train-000001.tar"
    lost.unlink()
    (output / "train" / ".train-000002.tar.partial").write_bytes(b"half a shard")
    (output / "train" / ".train-000001.json.partial").write_bytes(b"{")
    prepare(config)
    assert contents(output) == before
    assert {path for path, time in times.items() if path.stat().st_mtime_ns != time} == {lost}


def test_every_picture_is_kept_once_and_no_identity_is_in_two_splits(pictures: Path, config_for: ConfigFor) -> None:
    config = config_for()
    manifest = prepare(config)
    identities = {split: {key.split("__")[0] for key in keys(Path(config.output), split)} for split in manifest.splits}
    assert manifest.kept == sum(shard.samples for shards in manifest.splits.values() for shard in shards) == 48
    assert manifest.identities == {split: len(names) for split, names in identities.items()}
    assert sum(manifest.identities.values()) == len(set.union(*identities.values())) == 12
    assert all(split_of(name, config.splits) == split for split, names in identities.items() for name in names)


def test_shards_are_cut_from_the_sorted_records_and_rejects_shrink_them(pictures: Path, config_for: ConfigFor) -> None:
    config = config_for(splits=SplitFractions(train=1, val=0, test=0))
    (pictures / "cat00" / "1.png").write_text("no picture")
    shards = prepare(config).splits["train"]
    assert [shard.samples for shard in shards] == [4, 5, 5, 5, 5, 5, 5, 5, 5, 3]


def test_what_is_kept_out_is_counted_by_reason_and_listed(pictures: Path, config_for: ConfigFor) -> None:
    config = config_for()
    (pictures / "cat01" / "text.png").write_text("no picture")
    (pictures / "cat02" / "empty1.jpg").touch()
    (pictures / "cat03" / "empty2.jpg").touch()
    (pictures / "cat04" / "copy.png").write_bytes((pictures / "cat03" / "0.png").read_bytes())
    (pictures / "stray.png").write_bytes((pictures / "cat05" / "0.png").read_bytes())
    manifest = prepare(config)
    assert manifest.kept == 48
    assert manifest.dropped == {
        "empty file": 2,
        "exact duplicate": 1,
        "not a picture": 1,
        "path names no identity": 1,
    }
    lines = [json.loads(line) for line in (Path(config.output) / "rejects.jsonl").read_text().splitlines()]
    assert lines[0] == {"key": "cat01__text", "source": "cat01/text.png", "reason": "not a picture"}
    assert [line["source"] for line in lines] == sorted(line["source"] for line in lines)
    assert len(lines) == 5


def test_an_output_of_another_configuration_is_refused_with_the_difference(
    pictures: Path, config_for: ConfigFor
) -> None:
    config = config_for()
    prepare(config)
    before = contents(Path(config.output))
    with pytest.raises(ConfigError, match=r"quality: 95 there, 90 now; resolution: 16 there, 32 now"):
        prepare(config_for(resolution=32, quality=90))
    assert contents(Path(config.output)) == before


def test_changed_pictures_and_captions_are_noticed_and_shards_of_none_are_removed(
    pictures: Path, config_for: ConfigFor
) -> None:
    config = config_for(splits=SplitFractions(train=1, val=0, test=0))
    before = prepare(config).splits["train"]
    (pictures / "cat00" / "0.txt").write_text("another caption\n")
    for path in [*(pictures / "cat11").iterdir(), *(pictures / "cat10").glob("3.*")]:
        path.unlink()
    after = prepare(config).splits["train"]
    unchanged = [shard.sha256 == old.sha256 for shard, old in zip(after, before, strict=False)]
    assert unchanged == [False, *7 * [True], False]
    assert {path.name for path in (Path(config.output) / "train").glob("*.tar")} == {shard.name for shard in after}
    assert list(verify(config.output)) == []


def test_more_identities_move_none_that_was_there(pictures: Path, config_for: ConfigFor, tmp_path: Path) -> None:
    few, many = config_for(output=tmp_path / "few"), config_for(output=tmp_path / "many")
    prepare(few)
    (pictures / "aaa").mkdir()
    (pictures / "cat00" / "0.png").rename(pictures / "aaa" / "0.png")
    prepare(many)
    for split in ("train", "val", "test"):
        was = {key.split("__")[0] for key in keys(tmp_path / "few", split)}
        assert was <= {key.split("__")[0] for key in keys(tmp_path / "many", split)}


@pytest.mark.parametrize("source", ["missing", "no pictures", "no identities"])
def test_a_source_without_pictures_is_one_error_and_nothing_is_written(
    tmp_path: Path, config_for: ConfigFor, source: str
) -> None:
    folder = tmp_path / "pictures"
    if source != "missing":
        folder.mkdir()
        (folder / ("flat.png" if source == "no identities" else "readme.md")).write_text("hello")
    with pytest.raises(DataError, match=r"^source .*(no such folder|no picture|none of which fits).*data\.source"):
        prepare(config_for())
    assert not (tmp_path / "set").exists()


def test_a_set_of_which_nothing_is_left_has_no_manifest_but_a_list(pictures: Path, config_for: ConfigFor) -> None:
    config = config_for(min_side=100)
    with pytest.raises(DataError, match=r"every picture was kept out \(too small 48\); see .*rejects.jsonl"):
        prepare(config)
    assert not (Path(config.output) / "manifest.json").exists()
    assert len((Path(config.output) / "rejects.jsonl").read_text().splitlines()) == 48


def test_progress_is_told_after_each_shard(pictures: Path, config_for: ConfigFor) -> None:
    told: list[tuple[int, int]] = []
    manifest = prepare(config_for(), lambda done, total: told.append((done, total)))
    shards = sum(len(found) for found in manifest.splits.values())
    assert told == [(done, shards) for done in range(1, shards + 1)]


def test_an_error_in_a_worker_process_is_told_in_its_own_words(pictures: Path, config_for: ConfigFor) -> None:
    config = config_for(workers=2)
    Path(config.output).mkdir()
    (Path(config.output) / "train").write_text("a file where a folder should be")
    with pytest.raises(DataError, match="shard .*train-000000.tar cannot be written"):
        prepare(config)


def test_the_manifest_on_disk_is_the_one_returned(pictures: Path, config_for: ConfigFor) -> None:
    config = config_for()
    manifest = prepare(config)
    assert Manifest.load(config.output) == manifest
    assert (manifest.config_digest, manifest.concept) == (config.digest, "cat")
