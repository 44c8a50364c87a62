"""Code that stops at one of its file operations, as by SIGKILL."""

import contextlib
import os
import pathlib
import shutil
import tempfile


class Killed(BaseException):
    """In place of SIGKILL."""


@contextlib.contextmanager
def killed_at(number, monkeypatch):  # number: from 1
    """Ends the body at the file operation of this number, and lets nothing be tidied afterwards.

    The operations are those that change directories or wait for the disk.
    """
    count = 0

    def stopping(operation):
        def run(*arguments, **named):
            nonlocal count
            count += 1
            if count >= number:  # and each later one: what a killed process would tidy stays
                raise Killed
            return operation(*arguments, **named)

        return run

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        for owner, name in (
            (os, "replace"), (os, "fsync"), (os, "chmod"), (tempfile, "mkdtemp"), (tempfile, "mkstemp"),
            (shutil, "rmtree"), (pathlib.Path, "unlink"),
        ):  # fmt: skip
            patch.setattr(owner, name, stopping(getattr(owner, name)))
        yield
