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
# # Surprisal of words
#
# The surprisal of a word is -log2 of its probability after the words before it: how many bits it carries.
# It predicts how long people read a word (Hale 2001; Levy 2008). `examples/reading_times.py` fits that on
# the Natural Stories, which are not part of this repository; here we look at the quantity itself.
#
# The models are tiny, so that the notebook takes half a minute.

# %%
import collections
import pathlib
import re

import matplotlib.pyplot as plt
import numpy as np

import lm_jax
from lm_jax.evaluation import texts

RUNS = pathlib.Path("runs/surprisal")

# %%
model = lm_jax.train("ngram", RUNS / "ngram", vocab_size=2048, sample_tokens=0)
test = texts.read_held_out(RUNS / "ngram", "test")

# %% [markdown]
# ## From tokens to words
# A model scores tokens, and each score says which bytes it paid for. The surprisal of a word is the sum
# over its bytes, so words are words whatever the tokens are. A token that spans the end of a word is
# divided evenly over its bytes.


# %%
def words_of(text):
    """The words of a text and the bits that each costs, with the white space before it."""
    [scored] = model.score([text])
    token_ends = [0, *scored.spans[:-1, 1]]  # the last token is the end of the text, which has no bytes
    bits_there = [0, *np.cumsum(-scored.byte_log_probs[:-1] / np.log(2))]
    words = list(re.finditer(r"\S+", text))
    word_ends = [len(text[: word.end()].encode()) for word in words]
    bits = np.diff(np.interp(word_ends, token_ends, bits_there), prepend=0)
    return [(word.group(), cost) for word, cost in zip(words, bits)]


for word, cost in words_of("Return the number of items in the list of elephants."):
    print(f"{cost:6.2f} bits  {word}")

# %% [markdown]
# ## Frequent words carry less
# A word of frequency f would cost -log2 f bits to a model that knows frequencies only. Context makes most
# words cheaper than that.

# %%
pairs = [pair for document in test.documents for pair in words_of(document.text)]
counts = collections.Counter(word for word, _ in pairs)
total = sum(counts.values())
costs = collections.defaultdict(list)
for word, cost in pairs:
    costs[word].append(cost)
frequent = [word for word, count in counts.items() if count >= 20]
alone = np.array([-np.log2(counts[word] / total) for word in frequent])
in_context = np.array([np.mean(costs[word]) for word in frequent])
figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
axes.plot(alone, in_context, ".")
axes.axline((6, 6), slope=1, color="grey")
axes.set(xlabel="bits by frequency alone", ylabel="mean bits in context")
plt.show()
correlation = np.corrcoef(alone, in_context)[0, 1]
print(
    f"correlation {correlation:.2f}; mean in context {in_context.mean():.2f}, alone {alone.mean():.2f} bits"
)
assert correlation > 0.3

# %% [markdown]
# The command `python -m lm_jax.surprisal --model=RUN --text=FILE --out=FILE.tsv` writes the same for a
# whole text, with the correction for leading spaces of Oh and Schuler (2024).
