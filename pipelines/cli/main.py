"""The ``e4t`` command. It handles signals before it imports anything large, because such imports take a second."""

import errno
import sys
from collections.abc import Sequence

from pipelines.cli.interruption import Interruption
from pipelines.errors import EXIT_FAILURE
from pipelines.runtime.standard_streams import flush_stdout, open_missing_streams

EXIT_CLOSED_PIPE = 141
"""Exit code that shells report for a program that SIGPIPE has ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0: done; 1: failed; 75: stopped with everything saved, rerun to resume; 78: configuration error, do not retry; 129,
    130 and 143: ended by SIGHUP, SIGINT and SIGTERM. Signals are handled only if no arguments are given; then they are
    those of the process.
    """
    interruption, code = Interruption(), EXIT_FAILURE
    if arguments is None:
        open_missing_streams()
        interruption.handle_signals()
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments), interruption)
    except KeyboardInterrupt as error:
        code = interruption.report(error)
    finally:
        flush_stdout()
        interruption.exiting(code)
    return code


def _run(arguments: list[str], interruption: Interruption) -> int:
    """Run a command. After a signal this raises KeyboardInterrupt, even if the clean-up raised another exception."""
    from pipelines.cli.command_line import report_error, run_command_line

    try:
        code = run_command_line(arguments, interruption.command_starts)
        sys.stdout.flush()
    except (Exception, SystemExit) as error:
        interruption.reraise()
        if isinstance(error, OSError | SystemExit) and (stdout_error := flush_stdout()):
            return _report_stdout(stdout_error)
        return report_error(error)
    return code


def _report_stdout(error: OSError) -> int:
    if error.errno == errno.EPIPE:
        return EXIT_CLOSED_PIPE
    sys.stderr.write(f"e4t: standard output cannot be written ({error.strerror}); make room or redirect it elsewhere\n")
    return EXIT_FAILURE
