import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.config import DataLoaderConfig
from data_prep.storage.retrying_store import RetryingStore

CONFIG = DataLoaderConfig(retries=2, backoff_seconds=0.001, timeout_seconds=0.5)


@pytest.fixture
def remote(tmp_path: Path) -> RetryingStore:
    return RetryingStore(f"memory://{tmp_path.name}", CONFIG)


@pytest.fixture
def local(tmp_path: Path) -> RetryingStore:
    return RetryingStore(str(tmp_path), CONFIG)


def failing(num_failures: int, error: type[Exception] = OSError) -> Callable[[], str]:
    """Return an attempt that fails ``num_failures`` times and then succeeds."""
    attempts = iter(range(num_failures + 1))

    def attempt() -> str:
        number = next(attempts)
        if number < num_failures:
            raise error(f"failure\n{number}")
        return f"attempt {number}"

    return attempt


def test_a_read_succeeds_after_retries_which_are_logged(
    remote: RetryingStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert remote.with_retries("a.tar", failing(2, ValueError)) == "attempt 2"
    assert [record.getMessage() for record in caplog.records] == [
        f"{remote.url}/a.tar: failure 0; retrying in 0.0 s",
        f"{remote.url}/a.tar: failure 1; retrying in 0.0 s",
    ]


@pytest.mark.parametrize(
    ("error", "raised"), [(ValueError, OSError), (TimeoutError, OSError), (FileNotFoundError, FileNotFoundError)]
)
def test_after_the_last_attempt_a_remote_read_raises_an_os_error(
    remote: RetryingStore, error: type[Exception], raised: type[OSError]
) -> None:
    with pytest.raises(OSError, match="^failure 2; tried 3 times$") as caught:
        remote.with_retries("a.tar", failing(3, error))
    assert type(caught.value) is raised
    assert type(caught.value.__cause__) is error


def test_os_errors_of_a_local_disk_are_retried(local: RetryingStore) -> None:
    assert local.with_retries("a.tar", failing(2)) == "attempt 2"


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError, ValueError])
def test_errors_of_a_local_disk_that_retrying_cannot_fix_are_raised_at_once(
    local: RetryingStore, error: type[Exception]
) -> None:
    with pytest.raises(error, match="failure\n0"):
        local.with_retries("a.tar", failing(1, error))


def test_an_interrupt_is_never_retried(local: RetryingStore) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.with_retries("a.tar", interrupt)
