"""The exception for users' mistakes, and how commands report it."""

import contextlib
import os
import sys
from collections.abc import Iterator


class UserError(ValueError):
    """A user's mistake, described in one line: the cause and the remedy.

    Commands print the line and exit with code 2. It is a `ValueError`, so that Python callers need not import
    this class.

    Args:
        cause: what is wrong, naming the file, field or value.
        remedy: what to do or type instead.
    """

    def __init__(self, cause: str, remedy: str = ""):
        self.cause = " ".join(cause.split())
        self.remedy = " ".join(remedy.split())
        super().__init__(f"{self.cause}; {self.remedy}" if remedy else self.cause)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Runs a command's body. What a user can mend ends it with one printed line.

    Raises:
        SystemExit: with code 2 after a `UserError`, an `OSError` about a file or a lack of memory, 130 after
            a `KeyboardInterrupt`.
    """
    try:
        yield
        sys.stdout.flush()  # a full disk is reported here, and not by Python at its end
    except UserError as error:
        _exit(2, f"error: {error}")
    except MemoryError as error:
        _exit(
            2, f"error: out of memory ({error or 'in Python'}); make the model, the batch or the text smaller"
        )
    except BrokenPipeError:  # the reader of the output closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _exit(
            2, f"error: {where}{error.strerror or error}; check the path, its permissions and the free space"
        )
    except KeyboardInterrupt:
        _exit(130, "stopped")
    except RuntimeError as error:
        # jax's error for a full device, whose class this module does not import.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        cause = " ".join(str(error).splitlines()[0].split())
        _exit(2, f"error: {cause}; make the model or the batch smaller, or use more devices")


def _exit(code: int, line: str) -> None:
    print(" ".join(line.split()), file=sys.stderr, flush=True)
    raise SystemExit(code)
