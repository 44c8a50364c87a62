"""Reads the loops and the communication of a compiled program from its text (XLA's HLO)."""

import math
import re
from collections import defaultdict
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLED = re.compile(r"\b(?:calls|to_apply|branch_computations|called_computations)=\{?([^}\s]*)")
_WHILE = re.compile(r" while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)")
_COLLECTIVE = re.compile(
    r" = (?P<shape>.+?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all"
    r"|collective-permute|collective-broadcast)(?P<start>-start)?\("
)


class Collective(NamedTuple):
    """One collective operation of a group of devices.

    Attributes:
        kind: such as "all-reduce".
        group: the number of devices that take part; 0: pairs, or unknown.
        size: bytes on each device, before or after, whichever is more.
        times: how often in one run of the program.
    """

    kind: str
    group: int
    size: int
    times: int


class Module(NamedTuple):
    """A compiled program.

    Attributes:
        collectives: its collective operations.
        loops: how often each loop's body runs in one run of the program.
    """

    collectives: list[Collective]
    loops: list[int]


def read(text: str) -> Module:
    """Reads `compiled.as_text()`. A loop of unknown length counts as run once."""
    computations = _computations(text)
    times: defaultdict[str, int] = defaultdict(int)
    times[next(reversed(computations))] = 1  # the entry is last, and computations precede their callers
    loops, collectives = [], {}
    for name, lines in reversed(computations.items()):
        if not times[name]:
            continue
        for line in lines:
            if loop := _WHILE.search(line):
                trips = _trips(line, computations[loop[1]])
                times[loop[2]] += times[name] * trips
                loops.append(times[name] * trips)
            for called in _CALLED.findall(line):
                for callee in called.split(","):
                    times[callee.lstrip("%")] += times[name]
            if found := _COLLECTIVE.search(line):
                # A TPU overlaps communication and computation: such a collective is a chain of fusions, each
                # naming the whole. Channels do not help: jax.shard_map has one for all.
                chain = re.search(r'chain_id="(\d+)"', line)
                collectives[chain[1] if chain else line] = _collective(line, found, times[name])
    return Module(list(collectives.values()), loops)


def _computations(text: str) -> dict[str, list[str]]:
    """Name -> lines."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            lines = found.setdefault(header[1], [])
        else:
            lines.append(line)
    return found


def _trips(line: str, condition: list[str]) -> int:
    """XLA's own trip count if the text has it, else the constant that the counter from 0 is compared with."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', line):
        return int(known[1])
    limits = re.findall(r" = s32\[\]\S* constant\((\d+)\)", "\n".join(condition))
    return int(limits[0]) if len(limits) == 1 and "direction=LT" in "\n".join(condition) else 1


def _collective(line: str, found: re.Match[str], times: int) -> Collective:
    arrays = re.findall(r"\b([a-z]+\d*\w*)\[([\d,]*)\]", found["shape"])
    if found["start"] and found["kind"] != "all-reduce":  # what is sent, what is received, and counters
        arrays = [a for a in arrays if a != ("u32", "")]
        arrays = arrays[len(arrays) // 2 :]
    size = sum(_bytes(dtype) * math.prod(map(int, filter(None, n.split(",")))) for dtype, n in arrays)
    group = _group(line)
    if found["kind"] == "reduce-scatter":
        size *= max(group, 1)
    return Collective(found["kind"], group, math.ceil(size), times)


def _bytes(dtype: str) -> float:
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8 if bits else 1  # pred


def _group(line: str) -> int:
    """Devices in a group, of {{0,1},{2,3}}, of [2,4]<=[8] (2 groups of 4), or of a mesh's axes."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(listed[1].split(","))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(iota[1])
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    return 0
