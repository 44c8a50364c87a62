"""Labels that are texts, as class ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lm_jax.errors import UserError
from lm_jax.metrics.host import array, is_traced


def are_names(x: Any) -> bool:
    """Whether an array-like holds texts."""
    if is_traced(x):
        return False
    x = array(x)
    return x.dtype.kind == "U" or (
        x.dtype == object and x.size > 0 and all(isinstance(v, str) for v in x.flat)
    )


def numbered(arrays: Sequence[Any], classes: Sequence[str] | None = None) -> list[Any]:
    """Texts as the places of their names among `classes`; other arrays as they are.

    Args:
        arrays: labels, or labels and predictions.
        classes: the names in the order of their ids; None: all that occur, sorted, as in scikit-learn.

    Raises:
        UserError: texts beside numbers, names that are not among the classes or twice there, or classes of
            labels that are numbers.
    """
    named = [are_names(x) for x in arrays]
    if not any(named):
        if classes is not None:
            raise UserError("classes of labels that are no texts", "leave classes out; ids are their places")
        return list(arrays)
    if not all(named):
        raise UserError("labels and predictions are not both texts", "give names for both, or ids for both")
    texts = [array(x).astype(str) for x in arrays]
    every = np.unique(np.concatenate([x.ravel() for x in texts]))
    known = every if classes is None else np.array(checked(classes))
    if unknown := sorted(set(every.tolist()) - set(known.tolist())):
        raise UserError(
            f"{unknown[0]!r} is none of the classes {', '.join(map(repr, known.tolist()))}", "add it"
        )
    order = np.argsort(known, kind="stable")
    return [order[np.searchsorted(known, x, sorter=order)] for x in texts]


def checked(classes: Sequence[str]) -> list[str]:
    """Names of classes. Raises UserError for no names, one that is no text, or one that is there twice."""
    names = [classes] if isinstance(classes, str) else list(classes)
    if isinstance(classes, str) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"classes={classes!r}", "give a list of names")
    if len(set(names)) < len(names):
        raise UserError(f"classes={names} has a name twice", "give each once")
    return names


def place_of(name: str, labels: Any, predictions: Any, classes: Sequence[str] | None) -> int:
    """The id of a name, as `numbered` gives it to the labels and predictions.

    Raises:
        UserError: labels that are no texts, or no such name.
    """
    if not are_names(labels) or not are_names(predictions):
        raise UserError(f"positive={name!r} of labels that are no texts", "give class 0 or 1")
    every = sorted({*array(labels).ravel().tolist(), *array(predictions).ravel().tolist()})
    known = every if classes is None else checked(classes)
    if name not in known:
        raise UserError(
            f"positive={name!r} is none of the classes {', '.join(map(repr, known))}", "choose one"
        )
    return known.index(name)
