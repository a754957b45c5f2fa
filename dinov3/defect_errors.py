"""Mistakes that a user can fix, and how scripts report them."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable

from dinov3.defect_display import safe_terminal
from dinov3.defect_interrupts import TerminatedError, terminable

_DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.ENAMETOOLONG,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.ENOENT,
}
# What inspection of exported models does without, and the extra of setup.py that brings it.
_EXTRAS = {"matplotlib": "evaluate", "usearch": "evaluate", "torch": "train", "torchvision": "train", "timm": "train"}
_EXTRAS |= {"sqlalchemy": "station", "psycopg": "postgresql", "ray": "ray", "pyarrow": "ray"}
_EXTRAS |= dict.fromkeys(("fastapi", "uvicorn", "python_multipart", "prometheus_client", "paho"), "server")


class DefectError(Exception):
    """A problem with the user's input: its text names what was found, what was expected and what to do.

    The scripts in ``examples/`` print the text without a stack trace and exit with status 1.
    """


class NotFiniteError(DefectError):
    """The network answers with NaN or infinity."""


class StoppedError(Exception):
    """A signal ended the work after its state was saved; its text says how to go on, and is empty where another
    process says it. Scripts exit with 128 plus the number of the signal, as shells do."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.status = 128 + signal_number


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's ``main`` and exit with what it returns (None is 0); 1 after a user's mistake, 130 on Ctrl-C, 143
    on SIGTERM, and 128 plus the signal's number if it saved its work first (:class:`StoppedError`)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a Windows console may lack the characters of a file name
    with safe_terminal():
        status = _status_of(main)
    sys.exit(status)


def _status_of(main: Callable[[], int | None]) -> int | None:
    try:
        with terminable():
            return main()
    except DefectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        print(
            f"error: this needs {error.name}, which is not installed here: pip install "
            f"'dinov3-defect-detection[{_EXTRAS[error.name]}]'",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        place = error.filename or "the output"
        print(
            f"error: {place}: cannot be written or read ({error.strerror}); free space, or fix its permissions, or "
            "choose another folder",
            file=sys.stderr,
        )
        return 1
    except StoppedError as interruption:
        if str(interruption):
            print(interruption, file=sys.stderr)
        return interruption.status
    except TerminatedError:
        print("terminated", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
