"""lm-evaluation-harness's numbers and transformers' strided perplexity, from one random GPT."""

import importlib.util
import json
import math
import pathlib
import re

import numpy as np
import pytest
import tiny
import tiny_gpt

import eval as eval_command
from lm_jax import experiment
from lm_jax.config import CountConfig
from lm_jax.data.documents import Document
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation.row import read_rows
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.causal import CausalLanguageModel, _windows
from lm_jax.language_models.rolling import score_rolling
from lm_jax.language_models.trained import Trained
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.text.simple import ByteTokenizer

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "harness_windows.json").read_text())
CONTEXT = 16
TEXTS = ["one two  three\n", "", " x", "\u00a0café\u2003au lait ", "y" * 16, "z " * 40, "w" * 33]
has_harness = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not has_harness, reason="lm-eval 0.4.13 is not installed")


@pytest.fixture(scope="module")
def model():
    tokenizer = ByteTokenizer()
    module, params = tiny_gpt.tiny(vocab_size=tokenizer.vocab_size, max_length=CONTEXT)
    return CausalLanguageModel(Trained(module.config, module, params, tokenizer))


def read_in(windows, num_tokens):
    """What a window reads before each token that it predicts, by the token's number: (first, last)."""
    seen = {}
    for context, predicted in windows:
        for token in predicted:
            assert token not in seen
            seen[token] = (context[0], token - 1)
    assert list(seen) == list(range(1, num_tokens + 1))
    return seen


def ours(num_tokens, context):
    found = _windows([np.arange(num_tokens + 1)], context, None)
    windows = sorted(window for some in found.values() for window in some)
    return [
        (list(range(w.start, w.fresh + 1)), list(range(w.fresh + 1, w.stop + 1)))
        for w in windows
    ]  # fmt: skip


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['tokens']}-of-{c['context']}")
def test_windows_are_the_harnesss(case):
    n, context = case["tokens"], case["context"]
    assert [list(pair) for pair in ours(n, context)] == case["windows"]
    read_in(case["windows"], n)


@needs_harness
def test_windows_are_those_of_the_real_package():
    import sys

    sys.path.append(str(pathlib.Path(__file__).parent / "golden"))
    from make_harness_windows import CASES, windows

    assert [case["windows"] for case in GOLDEN] == [windows(*case) for case in CASES]
    for n in range(1, 70):
        for context in (1, 3, 7, 32):
            assert [list(pair) for pair in ours(n, context)] == windows(n, context)


def log_likelihood(model, text):
    """As `loglikelihood_rolling`, one window and one token at a time from the module's logits."""
    tokens = [model.tokenizer.begin_id, *model.tokenizer.encode(text).ids.tolist()]
    total = 0.0
    for context, predicted in ours(len(tokens) - 1, CONTEXT):
        inputs = [tokens[i] for i in [*context, *predicted[:-1]]]
        assert len(inputs) <= CONTEXT
        padded = np.array([inputs + [0] * (CONTEXT - len(inputs))], np.int32)
        logits_TV = np.asarray(tiny_gpt.apply(model.module, model.params, padded)[0][0], np.float64)
        for place, token in enumerate(predicted, len(context) - 1):
            row = logits_TV[place][: model.tokenizer.vocab_size]
            total += row[tokens[token]] - np.log(np.exp(row - row.max()).sum()) - row.max()
    return total


def evaluate(model, texts=TEXTS):
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    return evaluation.evaluate(model, Text("test", documents), "m", task="harness")


def test_scores_and_metrics_are_the_harnesss(model):
    made = evaluate(model)
    expected = [log_likelihood(model, text) for text in TEXTS]
    for scored, value, text in zip(made.scored, expected, TEXTS, strict=True):
        assert len(scored.log_probs) == len(text.encode()), "the end is not scored"
        assert scored.log_probs.sum() == pytest.approx(value, rel=1e-5, abs=1e-5)
    nats, num_bytes = -sum(expected), sum(len(text.encode()) for text in TEXTS)
    words = sum(len(re.split(r"\s+", text)) for text in TEXTS)
    assert {name: metric.value for name, metric in made.row.metrics.items()} == pytest.approx(
        {
            "bits_per_byte": nats / num_bytes / math.log(2),
            "byte_perplexity": math.exp(nats / num_bytes),
            "word_perplexity": math.exp(nats / words),
        },
        rel=1e-5,
    )
    assert made.row.counts == {"tokens": num_bytes, "words": words, "bytes": num_bytes, "oov": 0}
    assert made.row.protocol == {
        "windows": "rolling, as of lm-evaluation-harness 0.4.13", "context": CONTEXT, "stride": CONTEXT,
        "beginning": "<|endoftext|>", "reset": "each document", "end": False, "dtype": "float32",
    }  # fmt: skip


@needs_harness
def test_metrics_are_those_of_the_real_package(model):
    metrics = pytest.importorskip("lm_eval.api.metrics")
    task = pytest.importorskip("lm_eval.api.task").Task
    made = evaluate(model)
    sums = [float(scored.log_probs.sum()) for scored in made.scored]
    by_word = [(s, task.count_words(text)) for s, text in zip(sums, TEXTS)]
    by_byte = [(s, task.count_bytes(text)) for s, text in zip(sums, TEXTS)]
    assert {name: metric.value for name, metric in made.row.metrics.items()} == pytest.approx(
        {
            "bits_per_byte": metrics.bits_per_byte(by_byte),
            "byte_perplexity": metrics.weighted_perplexity(by_byte),
            "word_perplexity": metrics.weighted_perplexity(by_word),
        }
    )


def test_models_without_windows_read_a_document_as_one(tmp_path):
    data = tiny.config(tiny.write_text(tmp_path / "text.txt")).data
    config = CountConfig(data=data, model=NGramConfig(order=3, smoothing="witten_bell"), sample_tokens=0)
    experiment.run(config, tmp_path / "run")
    out = tmp_path / "out"
    eval_command.main([f"--model={tmp_path / 'run'}", "--protocol=harness", f"--out={out}"])
    [row] = read_rows(out / "results.json")
    assert (row.protocol["windows"], row.protocol["context"], row.protocol["end"]) == ("none", 2, False)
    [usual] = [r for r in read_rows(tmp_path / "run" / "results.json") if r.split == "test"]
    assert usual.counts["tokens"] - row.counts["tokens"] == usual.documents, "without the ends"
    assert (row.text_sha256, row.documents_sha256) == (usual.text_sha256, usual.documents_sha256)
    for flag in ("--stride=8", "--task=continuation"):
        with pytest.raises(UserError, match="--protocol=harness with --"):
            eval_command.main([f"--model={tmp_path / 'run'}", "--protocol=harness", flag, f"--out={out}"])


def test_a_model_with_windows_of_its_own_is_refused():
    class Windowed:
        family = "windowed"

        def score(self, texts, stride=None):
            return []

        def describe_context(self, stride=None):
            return {"window": 8}

    with pytest.raises(UserError, match="a windowed model does not score texts in the harness's windows"):
        score_rolling(Windowed(), ["a"])


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.parametrize("stride", [3, 8, 15])
def test_strided_perplexity_is_transformers(stride, tmp_path):
    """The loop of transformers' page "Perplexity of fixed-length models".

    A window there holds its targets, so that one of `max_length` tokens is read as one of a token less here.
    Each window's mean loss is weighted by the number of tokens that it is a mean over.
    """
    torch = pytest.importorskip("torch")
    from test_pretrained import make_theirs

    tokenizer = ByteTokenizer()
    theirs = make_theirs(
        tmp_path / "theirs", tokenizer.vocab_size, n_positions=CONTEXT, n_embd=24, n_layer=2, n_head=2
    )
    text = "Once upon a time, there was a model that was not café."
    tokens = [tokenizer.begin_id, *tokenizer.encode(text).ids.tolist(), tokenizer.end_id]
    ids = torch.tensor([tokens])
    nats = count = before = 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + CONTEXT, ids.shape[1])
        targets = ids[:, begin:end].clone()
        targets[:, : -(end - before)] = -100
        valid = int((targets[:, 1:] != -100).sum())
        with torch.no_grad():
            loss = float(theirs(ids[:, begin:end], labels=targets).loss)
        nats, count, before = nats + loss * valid, count + valid, end
        if end == ids.shape[1]:
            break
    mine = load_gpt2(theirs, tokenizer)
    assert mine.perplexity([text], stride) == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert count == len(tokens) - 1


def load_gpt2(theirs, tokenizer):
    """transformers' GPT-2 as a model here, which reads a token less at once."""
    from test_gpt import from_transformers

    from lm_jax.models.gpt import GPT, GPTConfig

    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, max_length=CONTEXT, num_layers=2, num_heads=2, d_model=24
    )
    params = from_transformers(theirs.transformer.state_dict(), num_layers=2, num_heads=2)

    class Shorter(CausalLanguageModel):
        context = CONTEXT - 1

    return Shorter(Trained(config, GPT(config), params, tokenizer))
