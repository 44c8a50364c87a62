"""Settings to make before jax is imported: the allocator, the compilation cache, quiet logs."""

import contextlib
import contextvars
import gc
import io
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from lm_jax import stopping

CONSOLE = "lm-jax"  # the command that pip installs, in place of `python -m lm_jax`


def cache_dir() -> pathlib.Path:
    """Where token stores and compiled programs are kept: $LM_JAX_CACHE, else ~/.cache/lm_jax."""
    return pathlib.Path(os.path.expanduser(os.environ.get("LM_JAX_CACHE") or "~/.cache/lm_jax"))


def as_called(text: str) -> str:
    """A text with the commands in it as a user of `lm-jax` types them, if this process is one of those.

    `python train.py` and `python -m lm_jax.NAME` become `lm-jax train` and `lm-jax NAME`, and a recipe's path
    in this repository, where there need not be one, its name.
    """
    if not any(os.path.basename(argument) == CONSOLE for argument in sys.orig_argv[1:2]):
        return text
    text = re.sub(r"(?:python )?\b(train|eval)\.py", rf"{CONSOLE} \1", text)
    text = re.sub(r"python -m lm_jax\.", f"{CONSOLE} ", text)
    return re.sub(r"--config=configs/(\w+)\.py", r"--config=\1", text)


def prepare() -> None:
    """Sets the process up for jax and imports it: signals, the allocator, the cache of programs, quiet logs.

    Commands call it under `if __name__ == "__main__"`, before they import anything else: importing a command
    changes nothing in the importing program. From here on SIGINT and SIGTERM end the process with one line.
    It changes the start time and the memory of a program, never its results; values that the user has set are
    kept. On Linux the process restarts itself once, since glibc reads some settings only then.
    """
    stopping.install()
    _keep_freed_memory()
    stopping.watch()
    # Imports and traces make many objects and little garbage: collect it less often.
    gc.set_threshold(100_000, 50)
    # Keep every program: a second start then compiles nothing.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8, nor terminals show all of it
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    quiet_libraries()
    from lm_jax import compiled  # imports jax, which reads the variables above

    compiled.seal_cache()


def quiet_libraries() -> None:
    """Lets Orbax and TensorStore print nothing.

    Orbax warns about requested behaviour, and logs errors with their traces that it also raises. Where a
    checkpoint cannot be written, TensorStore calls event loops of asyncio that are closed by then, and prints
    their errors.
    """
    from absl import logging  # after the restart

    def report(unraisable: Any) -> None:
        trace = unraisable.exc_traceback
        if trace is None or trace.tb_frame.f_globals.get("__name__") != "asyncio.base_events":
            sys.__unraisablehook__(unraisable)

    logging.set_verbosity(logging.FATAL)
    sys.unraisablehook = report


_traced_platform: contextvars.ContextVar[str] = contextvars.ContextVar("traced_platform", default="")


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Lets `platform` name this one: a program is traced for devices that this machine does not have."""
    token = _traced_platform.set(platform)
    try:
        yield
    finally:
        _traced_platform.reset(token)


def platform() -> str:
    """The platform that a program is traced for: "cpu", "gpu", "tpu", or "cuda" for another machine's GPU."""
    import jax

    return _traced_platform.get() or jax.default_backend()


def _keep_freed_memory() -> None:
    """Lets glibc keep the memory that XLA frees after each step, instead of returning it to the system.

    Otherwise XLA's temporary buffers are mapped and page-faulted again in each step. One arena for all
    threads, since the arenas of XLA's workers are trimmed in any case. No thread caches and no fast bins: the
    remainders of aligned buffers would stay there, would not be merged with their neighbours, and the next
    buffer would not fit.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes
    import threading

    # Not in a notebook, and not where the program is read from standard input, which is consumed.
    program = getattr(sys.modules["__main__"], "__file__", None) or ""
    can_restart = threading.active_count() == 1 and os.path.isfile(program)
    if "GLIBC_TUNABLES" not in os.environ and can_restart:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.tcache_count=0"
        stopping.block()  # a signal waits until the new program has its handlers
        os.execv(sys.executable, sys.orig_argv)
    m_mxfast, m_trim_threshold, m_top_pad, m_mmap_max, m_arena_max = 1, -1, -2, -4, -8  # <malloc.h>
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_arena_max, 1)
        libc.mallopt(m_mxfast, 0)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 256 << 20)
    except (OSError, AttributeError):  # another C library: keep its defaults
        pass
