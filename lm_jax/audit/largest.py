"""The largest error among many, where it is, and what makes of it a passed or a failed check."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lm_jax.evaluation.audited import FAILED, NOT_APPLICABLE, PASSED, Check


class Largest:
    """The largest of the errors seen so far.

    Attributes:
        compared: how many there were.
        error: the largest; infinite for a value that is no number.
        where: its place.
    """

    def __init__(self) -> None:
        self.compared, self.error, self.where = 0, 0.0, ""

    def add(self, errors: np.ndarray, place: Callable[[int], str]) -> None:
        """Takes errors, all 0 or more, [N]; `place` says where the one with a number is."""
        self.compared += len(errors)
        if not len(errors):
            return
        worst = int(errors.argmax())
        if float(errors[worst]) > self.error:
            self.error, self.where = float(errors[worst]), place(worst)

    def add_one(self, error: float, where: str) -> None:
        """Takes one error with its place."""
        self.add(np.array([error], np.float64), lambda _: where)

    def check(self, name: str, tolerance: float, what: str) -> Check:
        """The outcome of a check; not applicable where nothing was compared."""
        if not self.compared:
            return Check(name, NOT_APPLICABLE, f"nothing to compare: {what}")
        status = PASSED if self.error <= tolerance else FAILED
        return Check(name, status, what, self.compared, self.error, tolerance, self.where)


def gaps(a: Any, b: Any) -> np.ndarray:
    """|a − b|, float64: 0 for equal infinities, and infinite where either is no number."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(invalid="ignore"):
        found = np.where(a == b, 0.0, np.abs(a - b))
    return np.where(np.isnan(found), math.inf, found)
