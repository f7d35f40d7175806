"""A signal is an exception in the main thread, or the end of the process."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.data_prep.processes import end, start

SCRIPT = """
import ctypes, sys, threading, weakref
from data_prep import interrupts
from data_prep.interrupts import Interrupted, SignalHandler

interrupts.CLEANUP_SECONDS = float(sys.argv[1])
handler = SignalHandler()
handler.install()

def wait(tell="ready"):
    print(tell, flush=True)
    threading.Event().wait()

try:
    {body}
except Interrupted as error:
    print("cleaned up after", error)
    handler.exiting(128 + error.number)
    sys.exit(128 + error.number)
"""
HANGS_IN_C = """
    lock, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    library.pthread_mutex_lock(lock)
    print("ready", flush=True)
    library.pthread_mutex_lock(lock)  # never returns, and no signal interrupts it
"""
DISCARDED = """
    class Item: pass
    item = Item()
    reference = weakref.ref(item, lambda _: wait())
    del item
    wait("discarded")
"""
DISCARDED_BY_LIBRARY = """
    try:
        wait()
    except BaseException:
        pass
    wait("discarded")
"""
SLOW_CLEANUP = """
    try:
        wait()
    finally:
        wait("cleaning up")
"""
IMPORTING = """
    from pathlib import Path
    Path(__file__).with_name("module.py").write_text("import sys, time; print('ready', flush=True); time.sleep(0.5)")
    import module
    print("imported", flush=True)
    wait("not interrupted")
"""
WAITING_THREAD = """
    threading.Thread(target=wait).start()
    threading.Event().wait()
"""


def run(folder: Path, body: str, cleanup_seconds: float = 60.0) -> "subprocess.Popen[str]":
    """Start a script, and wait until it is ready for a signal."""
    (folder / "script.py").write_text(SCRIPT.format(body=body.strip()))
    process = start(folder / "script.py", str(cleanup_seconds))
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_raises_an_exception(tmp_path: Path, name: str) -> None:
    process = run(tmp_path, "wait()")
    process.send_signal(signal.Signals[name])
    assert process.stdout and process.stdout.readline() == f"cleaned up after {name}\n"
    assert end(process) == (128 + signal.Signals[name], "")


def test_a_second_signal_does_not_disturb_the_clean_up(tmp_path: Path) -> None:
    process = run(tmp_path, SLOW_CLEANUP, cleanup_seconds=1.0)
    process.send_signal(signal.SIGINT)
    assert process.stdout and process.stdout.readline() == "cleaning up\n"
    process.send_signal(signal.SIGTERM)
    assert end(process) == (130, "")  # ended by the thread, because this clean-up does not end


@pytest.mark.parametrize("body", [HANGS_IN_C, DISCARDED_BY_LIBRARY])
def test_a_process_without_the_exception_ends_nevertheless(tmp_path: Path, body: str) -> None:
    process = run(tmp_path, body, cleanup_seconds=1.0)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (143, "")


def test_an_exception_that_python_discards_is_raised_again(tmp_path: Path) -> None:
    process = run(tmp_path, DISCARDED)
    process.send_signal(signal.SIGTERM)
    assert process.stdout and process.stdout.readline() == "discarded\n"
    assert process.stdout.readline() == "cleaned up after SIGTERM\n"
    assert end(process) == (143, "")


def test_an_import_is_completed_first(tmp_path: Path) -> None:
    process = run(tmp_path, IMPORTING)
    process.send_signal(signal.SIGTERM)
    assert process.stdout and process.stdout.readline() == "imported\n"
    assert end(process) == (143, "")


def test_a_thread_that_waits_does_not_hold_the_process(tmp_path: Path) -> None:
    process = run(tmp_path, WAITING_THREAD)
    process.send_signal(signal.SIGTERM)
    assert end(process) == (143, "")


def test_a_signal_that_is_ignored_at_the_start_stays_ignored(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(body="wait()"))
    process = start("-c", f"import os, signal, sys; signal.signal(1, 1); os.execv(sys.executable, ['python', {str(tmp_path / 'script.py')!r}, '60'])")  # fmt: skip  # noqa: E501
    assert process.stdout and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "cleaned up after SIGTERM\n"
    assert end(process)[0] == 143
