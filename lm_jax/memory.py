"""The memory of this machine, and checks before work that needs much."""

from __future__ import annotations

import contextlib
import os
import pathlib

from lm_jax.errors import UserError

_GROUP = pathlib.Path("/sys/fs/cgroup")


def available() -> int:
    """The bytes available now: free on the machine, and within the container's limit."""
    free = _meminfo().get("MemAvailable", _installed())
    try:
        limit, used = (int((_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    except (OSError, ValueError):  # no control group, or "max": no limit
        pass
    return free


def total() -> int:
    """The bytes that this machine or its container has in all, swap included."""
    info = _meminfo()
    whole = info.get("MemTotal", _installed()) + info.get("SwapTotal", 0)
    with contextlib.suppress(OSError, ValueError):
        whole = min(whole, int((_GROUP / "memory.max").read_text()))
    return whole


def check(needed: int, work: str, remedy: str, *, free: int | None = None, total: int | None = None) -> None:
    """Raises an error if work needs more memory than there is.

    Args:
        needed: bytes.
        work: what needs them.
        remedy: what to do where they are too many.
        free: bytes that are free where the work is done; None: those available on this machine.
        total: bytes that there are in all, to be compared instead of those that are free now.

    Raises:
        UserError: `needed` bytes are not there.
    """
    has, what = (available() if free is None else free, "are free")
    if total is not None:
        has, what = total, "are all there is"
    if needed > has:
        raise UserError(
            f"{work} takes about {in_words(needed)} of memory, and {in_words(has)} {what}", remedy
        )


def in_words(size: int) -> str:
    """Bytes as GiB; sizes that no machine has as a power of ten."""
    return f"{size / 2**30:,.1f} GiB" if size < 2**80 else f"10^{len(str(size >> 30)) - 1} GiB"


def _installed() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _meminfo() -> dict[str, int]:
    """The lines of /proc/meminfo in bytes; empty where there is none."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    except (OSError, ValueError, IndexError):  # not Linux
        return {}
