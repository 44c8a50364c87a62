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
        SystemExit: with code 2 after a `UserError`, an `OSError` about a file, a lack of memory or a missing
            backend of jax, 130 after a `KeyboardInterrupt`.
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
    except KeyboardInterrupt as error:
        _exit(130, str(error) or "stopped")
    except (AssertionError, RuntimeError) as error:
        if _raised_by(error) == "jax._src.xla_bridge":  # jax has no class for a missing backend
            asked = os.environ.get("JAX_PLATFORMS", "")
            cause = " ".join(str(error).splitlines()[:1]) or "jax has no such backend"
            _exit(2, f"error: JAX_PLATFORMS={asked}: {cause}; unset it, or install jax with that backend")
        # jax's error for a full device, whose class this module does not import.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        cause = " ".join(str(error).splitlines()[0].split())
        _exit(2, f"error: {cause}; make the model or the batch smaller, or use more devices")


def _raised_by(error: BaseException) -> str:
    """The name of the module whose code raised an error."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return "" if place is None else str(place.tb_frame.f_globals.get("__name__"))


def _exit(code: int, line: str) -> None:
    print(" ".join(line.split()), file=sys.stderr, flush=True)
    raise SystemExit(code)


def with_article(noun: str) -> str:
    """A noun with "a" or "an", such as the name of a family in an error."""
    spelled = ("ngram", "nnlm", "rnn")  # spoken letter by letter
    return f"{'an' if noun[:1].lower() in 'aeio' or noun in spelled else 'a'} {noun}"
