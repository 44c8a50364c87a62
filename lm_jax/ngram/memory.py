"""The memory available, and a check before work that needs much."""

from __future__ import annotations

import os
import pathlib

from lm_jax.errors import UserError


def available() -> int:
    """The bytes available: free on the machine, and within the container's limit."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        group = pathlib.Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    except (OSError, ValueError):  # no control group, or "max": no limit
        pass
    return free


def check(needed: int, work: str) -> None:
    """Raises an error if work needs more memory than is available.

    Raises:
        UserError: `needed` bytes are not available.
    """
    free = available()
    if needed > free:
        raise UserError(
            f"{work} takes about {needed / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB are free",
            "choose a lower order or less text, or a machine with more memory",
        )
