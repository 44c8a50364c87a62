"""Where models differ, on a terminal."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console

from lm_jax.evaluation.breakdown import Breakdown
from lm_jax.evaluation.differing import DifferingWords, Occurrence, WordDifference
from lm_jax.report.table import Column, make_console, print_line, print_table

_SHOWN = 20  # words, and occurrences
_CONTEXT = 30  # characters before a word


def print_breakdowns(
    breakdowns: Sequence[Breakdown], differing: Sequence[DifferingWords], console: Console | None = None
) -> None:
    """Prints a table for each breakdown, and the words on which models differ most.

    On a terminal that is too narrow, intervals are left out first, from those of the last model on.
    """
    console = console or make_console()
    for one in breakdowns:
        print_line(f"\n{one.title}: {one.unit}", console, style="bold")
        print_table(_columns(one), console)
        print_line(one.about, console, style="dim")
    for pair in differing:
        if pair.words:
            first, second = pair.models
            print_line(f"\nwords on which {first} and {second} differ most: bits", console, style="bold")
            words, occurrences = pair.words[:_SHOWN], pair.occurrences[:_SHOWN]
            times = Column("times", [f"{one.times:,}" for one in words])
            word = Column("word", [one.word for one in words], is_text=True)
            print_table([word, times, *_bits(pair.models, words)], console)
            print_line("single occurrences", console, style="bold")
            shown = [_shown(one) for one in occurrences]
            where = [f"{one.document}, byte {one.start:,}" for one in occurrences]
            print_table(
                [
                    Column("before, and the word", shown, is_text=True),
                    *_bits(pair.models, occurrences),
                    Column("where", where, leaves=1, is_text=True),
                ],
                console,
            )


def _columns(one: Breakdown) -> list[Column]:
    columns = [
        Column("part", one.parts, is_text=True),
        Column(one.unit.rpartition(" ")[2] + "s", [f"{number:,}" for number in one.counts.tolist()]),
    ]
    for place, name in enumerate(one.values):
        ends = [_interval(pair) for pair in one.intervals[name].tolist()]
        columns.append(Column(name, [_number(x) for x in one.values[name].tolist()]))
        columns.append(Column("95 % interval", ends, leaves=len(one.values) - place))
    return columns


def _bits(models: Sequence[str], items: Sequence[WordDifference] | Sequence[Occurrence]) -> list[Column]:
    """The bits of each model, and the difference."""
    columns = [Column(name, [f"{one.bits[i]:.1f}" for one in items]) for i, name in enumerate(models)]
    return [*columns, Column("difference", [f"{one.difference:+.1f}" for one in items])]


def _shown(one: Occurrence) -> str:
    """What precedes a word, and the word, in one line."""
    before = " ".join(one.before.split())[-_CONTEXT:]
    return f"{before} [{one.word}]" if before else f"[{one.word}]"


def _number(x: float) -> str:
    return "–" if np.isnan(x) else f"{x:.3f}"


def _interval(ends: Sequence[float]) -> str:
    return "–" if np.isnan(ends).any() else "–".join(f"{end:.3f}" for end in ends)
