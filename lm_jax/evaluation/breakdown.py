"""Where models differ: a metric of parts of a text, such as of its rare and its frequent words."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Breakdown(NamedTuple):
    """A metric of several models on each part of one text.

    Attributes:
        title: what the parts differ in, such as "word frequency in the training text".
        about: how the parts were made and what is measured, in one or two sentences.
        unit: of the values, such as "bits per word".
        parts: the P names of the parts, in their order.
        counts: int64 [P], words (or what `unit` counts) in each part.
        values: by model, float64 [P]; NaN where a part is empty.
        intervals: by model, float64 [P, 2], 95 % confidence intervals over documents; NaN without one.
        ordered: whether the parts are ranges of a quantity, which a curve may connect.
    """

    title: str
    about: str
    unit: str
    parts: tuple[str, ...]
    counts: np.ndarray
    values: Mapping[str, np.ndarray]
    intervals: Mapping[str, np.ndarray]
    ordered: bool = True
