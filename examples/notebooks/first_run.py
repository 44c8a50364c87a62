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
# # The first run
#
# Two models of one text, an n-gram and a small GPT: train them, evaluate them on the same held-out
# documents, look at what they expect, and let them write. The sizes are tiny, so that the notebook takes
# about a minute; `python train.py` trains the full recipe.
#
# A run directory holds everything: this notebook, run again, opens the finished runs.

# %%
import pathlib

import matplotlib.pyplot as plt
import numpy as np

import lm_jax
from lm_jax.evaluation import base, compare, texts
from lm_jax.report import table

RUNS = pathlib.Path("runs/first-run")

# %% [markdown]
# ## Train
# A recipe is named by its file in `configs/`. Its fields are changed by name.

# %%
ngram = lm_jax.train("ngram", RUNS / "ngram", vocab_size=1024, sample_tokens=0, **{"model.order": 3})
gpt = lm_jax.train(
    "gpt",
    RUNS / "gpt",
    num_layers=2,
    num_heads=2,
    d_model=64,
    num_steps=120,
    sample_tokens=0,
    **{"data.vocab_size": 1024},
)
print(ngram)
print(gpt)

# %% [markdown]
# ## Evaluate
# Each run keeps the documents that it held out. Both recipes hold out the same ones, so the paired test
# compares the models document by document.

# %%
test = texts.read_held_out(RUNS / "gpt", "test")
evaluations = [base.evaluate(model, test, name) for name, model in (("n-gram", ngram), ("GPT", gpt))]
compare.compare(evaluations)
rows = [evaluation.row for evaluation in evaluations]
table.print_rows(rows)

# %%
for row in rows:
    assert 1 < row.metrics["bits_per_byte"].value < 8, "a model that knows nothing needs 8 bits per byte"
assert rows[0].text_sha256 == rows[1].text_sha256

# %% [markdown]
# ## Look
# A score is a log-probability for each token. Divided over the bytes that a token spans, both models are
# drawn over the same bytes, whatever their tokens are.

# %%
sentence = "Return the number of items in the list, or zero if the list is empty."
figure, axes = plt.subplots(figsize=(9, 2.6), layout="constrained")
for name, model in (("n-gram", ngram), ("GPT", gpt)):
    [scored] = model.score([sentence])
    bits = -scored.log_probs / np.log(2)
    starts = [start for start, _ in scored.spans]
    axes.step(starts, np.cumsum(bits), where="post", label=name)
axes.set(xlabel="byte of the text", ylabel="bits so far")
axes.legend()
plt.show()

# %% [markdown]
# ## Write

# %%
for name, model in (("n-gram", ngram), ("GPT", gpt)):
    [made] = model.generate(["Return the"], max_tokens=30, temperature=0.8, seed=1)
    print(f"{name}: {made.text!r}")
