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
# # A metric of your own
#
# A metric is a ratio of sums over documents. If you keep each document's sums, intervals and paired tests
# come with it: they draw documents, add up and divide once. This one is the share of tokens that a model
# ranks first (top-1 accuracy), for two n-gram models on the same documents.

# %%
import pathlib

import numpy as np

import lm_jax
from lm_jax.evaluation import texts
from lm_jax.metrics import significance

RUNS = pathlib.Path("runs/own-metric")
trigram = lm_jax.train("ngram", RUNS / "trigram", vocab_size=1024, sample_tokens=0, **{"model.order": 3})
bigram = lm_jax.train("ngram", RUNS / "bigram", vocab_size=1024, sample_tokens=0, **{"model.order": 2})
test = texts.read_held_out(RUNS / "trigram", "test")

# %% [markdown]
# ## The sums of each document
# `expect` gives for each token also the log-probability of the most probable one.

# %%
documents = [document.text[:2000] for document in test.documents]


def sums(model):
    """Tokens that the model ranked first, and tokens: two arrays with an entry for each document."""
    right, tokens = [], []
    for text, expected in zip(documents, model.expect(documents)):
        [scored] = model.score([text])
        right.append(np.sum(scored.log_probs >= expected.log_best))
        tokens.append(len(scored.log_probs))
    return np.array(right, float), np.array(tokens, float)


ours, theirs = sums(trigram), sums(bigram)

# %% [markdown]
# ## The value, its interval, and a paired test
# The metric is a jnp function of the sums; `ratio` is the default. One that is no ratio of two sums, such
# as F1, is a function of more of them.

# %%
for name, (right, tokens) in (("trigram", ours), ("bigram", theirs)):
    found = significance.bootstrap_interval(right, tokens)
    print(f"{name}: {right.sum() / tokens.sum():.1%} ranked first ({found.low:.1%} to {found.high:.1%})")
paired = significance.paired_bootstrap(ours, theirs)
print(f"difference {paired.difference:+.1%}, p = {paired.p_value:.4f}")
assert ours[0].sum() / ours[1].sum() > theirs[0].sum() / theirs[1].sum()

# %% [markdown]
# ## In every table
# To see it in `eval.py`'s table and report, register an evaluator: a function that returns a row and these
# statistics (`lm_jax/evaluation/base.py`).
