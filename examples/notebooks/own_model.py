# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A model of your own
#
# A model is a frozen dataclass, its config, and a Flax module. Registered under a name it trains, resumes,
# is evaluated and generates as the models of the package do. This one is a GPT whose attention fades with
# distance (ALiBi, Press et al. 2022), in a few lines: the config of GPT answers for everything else. For a
# whole model of another kind read `lm_jax/models/nnlm.py`.

# %%
import pathlib
from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

import lm_jax
from lm_jax import config
from lm_jax.models.attention import full_attention
from lm_jax.models.base import MODELS
from lm_jax.models.gpt import GPTConfig

# %% [markdown]
# ## The model
# Letters are axes: B rows, T queries, S keys, H heads.


# %%
def fading_attention(q_BTHK, k_BGSK, v_BGSK, mask_BHTS=None, *, is_causal=False, position_BT=None, drop=None):
    """Attention whose scores fall with distance, in the first heads faster."""
    H, S = q_BTHK.shape[2], k_BGSK.shape[2]
    slope_H = 2.0 ** (-8 * jnp.arange(1, H + 1) / H)
    distance_BTS = position_BT[:, :, None] - jnp.arange(S)
    bias_BHTS = -slope_H[:, None, None] * distance_BTS[:, None]
    return full_attention(
        q_BTHK, k_BGSK, v_BGSK, mask_BHTS, is_causal=is_causal, drop=drop, bias_BHTS=bias_BHTS
    )


@MODELS.register("fading_gpt")
@dataclass(frozen=True)
class FadingGPTConfig(GPTConfig):
    """A GPT without position embeddings whose attention fades with distance."""

    family: ClassVar[str] = "fading_gpt"
    published_as: ClassVar[tuple[str, ...]] = ()
    position: str = "none"

    def attention_core(self):
        """How queries meet keys, with and without a cache."""
        return fading_attention


# %% [markdown]
# ## Train it as any other
# The recipe is that of the default GPT with another model in it.

# %%
_, recipe = config.load("gpt")
recipe = replace(recipe, model=FadingGPTConfig(num_layers=2, num_heads=2, d_model=64))
small = {"data.vocab_size": 1024, "num_steps": 120, "sample_tokens": 0}
lm = lm_jax.train(recipe, pathlib.Path("runs/own-model"), **small)
print(lm)

# %% [markdown]
# ## It can do what GPT can
# Scores, text, and next-token probabilities that sum to one. A score never depends on what comes later.

# %%
[short, long] = lm.score(["Return the length", "Return the length of the list."])
num_tokens = len(short.log_probs) - 1  # without the end of the text
np.testing.assert_allclose(short.log_probs[:num_tokens], long.log_probs[:num_tokens], rtol=1e-5)
print(lm.generate(["Return the"], max_tokens=20, seed=1)[0].text)
for token in lm.logits("Return the").top(3)[-1]:
    print(token)
