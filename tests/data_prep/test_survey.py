from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_prep.config import PrepareConfig
from data_prep.sources import FolderSource, Record, Reject
from data_prep.survey import survey


def test_of_files_with_the_same_bytes_the_first_is_kept_and_one_that_is_gone_is_rejected(
    pictures: Path, config_for: Callable[..., PrepareConfig]
) -> None:
    config = config_for()
    (pictures / "cat07" / "copy.png").write_bytes((pictures / "cat03" / "2.png").read_bytes())
    for name in ("empty1.png", "empty2.png"):
        (pictures / "cat00" / name).touch()
    (pictures / "cat05" / "gone.png").symlink_to(pictures / "nowhere.png")
    records = [item for item in FolderSource.of(config) if isinstance(item, Record)]
    with ThreadPoolExecutor(2) as pool:
        entries, rejects = survey(records, config, pool)
    assert rejects == [
        Reject(key="cat05__gone", source="cat05/gone.png", reason="unreadable"),
        Reject(key="cat07__copy", source="cat07/copy.png", reason="exact duplicate"),
    ]
    assert len(entries) == len(records) - 2
    assert (entries[0].caption, entries[1].caption) == ("cat number 0 asleep", "a photo of a cat")
