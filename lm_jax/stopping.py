"""Signals: SIGINT (Ctrl-C) and SIGTERM end a command with one line at any moment, or are noted by a loop.

Imports next to nothing: commands install the handlers before they import anything slow.
"""

import contextlib
import os
import signal
import sys
import time
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE = 0.5  # seconds that the main thread has to answer a signal before the watching thread does


def install() -> None:
    """Lets SIGINT and SIGTERM print "stopped" and end this process with the exit code 130 or 143.

    Commands call it first of all, in the main thread. A signal that the parent process ignores, as a shell
    does for background commands of a script, stays ignored.

    The process ends at once, without unwinding: an exception raised between any two instructions can be
    swallowed or printed by a library, and the interpreter's teardown crashes now and then while threads of
    XLA and Orbax run. Nothing is lost that a power cut would spare: files are replaced atomically.
    """
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def watch() -> None:
    """Starts a thread that ends the process while the main thread is in a long call of C code.

    Python's handlers run in the main thread, between two of its instructions: a compilation would have to
    finish first.
    """
    import threading

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()


def block() -> None:
    """Holds signals back until the next `install`, also that of a program that replaces this one."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


class Noted:
    """Notes SIGINT and SIGTERM inside a `with` block instead of ending the process; a second one ends it.

    A signal that the block did not answer takes its usual effect when the block ends.

    Attributes:
        received: how many signals have arrived.
        answered: set by the block when it stops because of them.
    """

    def __init__(self) -> None:
        self.received, self.answered = 0, False
        self._first = 0
        self._old: dict[int, Any] = {}

    @property
    def interrupted(self) -> bool:
        """Whether the first signal was SIGINT."""
        return self._first == signal.SIGINT

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received += 1
        self._first = self._first or number
        if self.received > 1:
            _deliver(number, self._old[number])

    def __enter__(self) -> Self:
        try:
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    # None: a handler that was not set from Python.
                    self._old[number] = signal.signal(number, self._note) or signal.SIG_DFL
        except ValueError:  # only the main thread can set handlers
            self._old = {}
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        if self._first and not self.answered and kind is None:
            signal.raise_signal(self._first)


def _deliver(number: int, handler: Any) -> None:
    """Does what a signal's earlier handler does."""
    signal.signal(number, handler)
    signal.raise_signal(number)


def _watch(reader: int) -> None:
    """Reads the number of each signal as it arrives, and ends the process where a handler would."""
    noted, count = None, 0
    while data := os.read(reader, 1):
        handler = signal.getsignal(data[0])
        block = getattr(handler, "__self__", None)
        if isinstance(block, Noted):
            noted, count = block, count + 1 if block is noted else 1
            if count < 2:
                continue
        elif handler is not _end:  # not a signal that stops, or a handler of the user's own
            continue
        time.sleep(_GRACE)
        _exit(data[0])


def _end(number: int, frame: FrameType | None) -> None:
    # Standard output may be closed, full, or in the middle of a flush.
    with contextlib.suppress(AttributeError, OSError, RuntimeError, ValueError):
        sys.stdout.flush()
    _exit(number)


def _exit(number: int) -> None:
    # A live line hides the cursor of a terminal, and is not finished.
    clear = b"\r\x1b[K\x1b[?25h" if os.isatty(2) else b""
    try:
        os.write(2, clear + b"stopped\n")
    finally:
        os._exit(128 + number)
