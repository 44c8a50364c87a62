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
# # An ablation with error bars
#
# Which positions does a GPT need: learned vectors, or rotations (RoPE)? One field of the recipe varies,
# everything else is the same, and every setting is trained with several seeds, since two runs that differ by
# their seed alone differ, too. The sizes are tiny, so that the notebook takes about a minute.
#
# The same from the command line:
#
#     python -m lm_jax.sweep --config=gpt --grid model.position=learned,rope --seeds=3

# %%
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from lm_jax import config, sweep
from lm_jax.metrics import significance
from lm_jax.report.sweep import print_cells

GRID = {"model.position": ["learned", "rope"]}
SMALL = {
    "data.vocab_size": "1024",
    "data.sequence_length": "64",
    "model.num_layers": "2",
    "model.num_heads": "2",
    "model.d_model": "64",
    "train.num_steps": "100",
}

# %% [markdown]
# ## Train
# A sweep is a directory with a run directory for each setting and seed. Run again, it trains only what is
# missing.

# %%
_, recipe = config.load("gpt")
cells = sweep.run(recipe, GRID, 3, pathlib.Path("runs/ablation"), SMALL)
assert cells is not None
print_cells(cells)

# %% [markdown]
# ## Draw the test's bits per byte
# The bars are Student's 95 % intervals of the mean over seeds. They say how far another seed may go, not
# how far another text may.

# %%
names = [cell.values["model.position"] for cell in cells]
by_seed = np.array([list(cell.scores("test", "bits_per_byte").values()) for cell in cells])
means = [significance.mean_interval(values) for values in by_seed]
figure, axes = plt.subplots(figsize=(5, 2.4), layout="constrained")
axes.errorbar([m.value for m in means], names, xerr=[m.half_width for m in means], fmt="o", capsize=4)
axes.plot(by_seed, names, ".", color="grey")
axes.set(xlabel="bits per byte of the test part", ylabel="positions")
plt.show()

# %% [markdown]
# ## Test
# Runs with the same seed read the same batches in the same order, so seeds are compared in pairs, by
# Student's test. It takes differences to be normally distributed, which three seeds cannot show: look at the
# interval first, and at the points above.

# %%
for name, values in zip(names[1:], by_seed[1:]):
    difference = significance.mean_interval(values - by_seed[0])
    p_value = significance.mean_p_value(values - by_seed[0])
    print(f"{name} less {names[0]}: {difference.value:+.4f} ± {difference.half_width:.4f}, p = {p_value:.4f}")
