"""A part of a corpus read from its end to its beginning."""

import copy

import numpy as np

from lm_jax.data.store import Split


def mirrored(split: Split) -> Split:
    """The part with its stream of tokens reversed, which again begins with the end token.

    Documents are in reverse order with their tokens reversed; sizes and texts are those of the part.
    """
    made = copy.copy(split)
    num_tokens = len(split.tokens)
    made.tokens = split.tokens[::-1]
    made.document_offsets = num_tokens + 1 - np.asarray(split.document_offsets)[::-1]
    return made
