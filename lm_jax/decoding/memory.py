"""The memory that a request needs, estimated before it starts."""

from functools import partial
from typing import Any

import jax
import numpy as np

from lm_jax import memory
from lm_jax.decoding.decoder import Decoder, Limits, Prompts
from lm_jax.decoding.text import room
from lm_jax.errors import UserError

_SMALL = 1 << 26  # bytes of text that are not looked at closely
_FEW_ROWS = 64
_TEXT_BYTES = 24  # of a token: ids and log-probabilities on the host and the device, and a copy
_LOGIT_COPIES = 6  # of a row's logits while a token is chosen


def check(decoder: Decoder, prompts: Prompts, limits: Limits, rows: int) -> None:
    """Refuses what does not fit into memory; only large requests are looked at.

    Args:
        decoder: the model.
        prompts: checked prompts.
        limits: checked limits.
        rows: how many rows continue each prompt: samples or beams.

    Raises:
        UserError: the texts, the model's state and the logits need more memory than is free, or the beams
            of a prompt have more continuations than 32 bits can number.
    """
    num_prompts, longest = len(prompts.tokens), int(prompts.lengths.max())
    prefill: Any = decoder.prefill
    text = num_prompts * rows * (longest + limits.num_tokens) * _TEXT_BYTES
    needed = text
    free = _free()
    if needed <= free and (num_prompts * rows > _FEW_ROWS or text > _SMALL):
        capacity = room(longest + limits.num_tokens)
        if decoder.context_length is not None:
            capacity = min(capacity, decoder.context_length)
        logits, state = jax.eval_shape(
            partial(prefill, capacity=capacity), decoder.params, prompts.tokens, prompts.lengths
        )
        needed += rows * (_LOGIT_COPIES * _size(logits) + _size(state))
        if rows * logits.shape[-1] >= 2**31:
            raise UserError(
                f"{rows} rows of {logits.shape[-1]} tokens are more than 32 bits can number", "ask for fewer"
            )
    memory.check(
        needed,
        f"generating {rows} rows of {limits.num_tokens} tokens for each of {num_prompts} prompts",
        "ask for fewer samples, beams or tokens, or for fewer prompts at a time",
        free=free,
    )


def _size(tree: object) -> int:
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _free() -> int:
    """The bytes free on the device; on a CPU those of the machine."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    return memory.available()
