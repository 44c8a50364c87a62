"""A custom model: a GPT with ALiBi, which lets attention fade with distance instead of embedding positions.

    python train.py --config=examples/alibi.py
    python eval.py --model=runs/alibi --import=examples/alibi.py
    python -m lm_jax.generate --model=runs/alibi --import=examples/alibi.py --prompt="Return the"

Press et al. 2022, "Train Short, Test Long", section 3. The model is all of this file: training, resume,
scores, generation with a cache and reports work without any change in lm_jax.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm_jax import config as config_module
from lm_jax.config import Config
from lm_jax.models.attention import AttentionCore, Drop, full_attention
from lm_jax.models.base import MODELS
from lm_jax.models.gpt import GPTConfig


def alibi_attention(
    q_BTHK: jax.Array,
    k_BGSK: jax.Array,
    v_BGSK: jax.Array,
    mask_BHTS: jax.Array | None = None,
    *,
    is_causal: bool = False,
    position_BT: jax.Array | None = None,
    drop: Drop | None = None,
) -> jax.Array:
    """Full attention with a penalty on scores in proportion to the distance, steeper in the first heads."""
    assert position_BT is not None
    H, S = q_BTHK.shape[2], k_BGSK.shape[2]
    slope_H = 2.0 ** (-8 * jnp.arange(1, H + 1) / H)
    distance_BTS = position_BT[:, :, None] - jnp.arange(S)[None, None]
    bias_BHTS = -slope_H[None, :, None, None] * distance_BTS[:, None]
    return full_attention(
        q_BTHK, k_BGSK, v_BGSK, mask_BHTS, is_causal=is_causal, drop=drop, bias_BHTS=bias_BHTS
    )


@MODELS.register("alibi_gpt")
@dataclass(frozen=True)
class AlibiGPTConfig(GPTConfig):
    """The shape of a GPT with ALiBi: that of a GPT without position embeddings."""

    family: ClassVar[str] = "alibi_gpt"
    published_as: ClassVar[tuple[str, ...]] = ()  # no published form has a place for it

    position: str = "none"  # none, since the distance is in the attention scores

    def attention_core(self) -> AttentionCore:
        """How queries meet keys, with and without a cache."""
        return alibi_attention


def get_config(variant: str = "") -> Config:
    """The recipe of configs/gpt.py with ALiBi."""
    _, gpt = config_module.load(f"gpt:{variant}")
    fields = {field.name: getattr(gpt.model, field.name) for field in dataclasses.fields(gpt.model)}
    return dataclasses.replace(gpt, model=AlibiGPTConfig(**(fields | {"position": "none"})))
