"""Scores and texts of a run: every token once, with enough before it; and nothing lost on the way."""

import numpy as np
import pytest
import tiny

import lm_jax
from lm_jax import experiment, tokenizers
from lm_jax.errors import UserError
from lm_jax.families.neural import _windows
from lm_jax.metrics import likelihood


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    experiment.run(tiny.config(tiny.write_text(directory / "text.txt")), directory / "run")
    return lm_jax.load(directory / "run")


@pytest.mark.parametrize("stride", [1, 3, 5, 8])
def test_windows_make_every_prediction_once_with_enough_before_it(stride):
    streams = [np.arange(n) for n in (2, 3, 8, 9, 10, 17, 40)]
    made = [[] for _ in streams]
    for length, windows in _windows(streams, 8, stride).items():
        for i, start, fresh, stop in windows:
            assert 0 < stop - start <= length
            for position in range(fresh, stop):
                assert position - start >= min(position, 8 - stride), "what precedes it"
            made[i].extend(range(fresh, stop))
    assert made == [list(range(len(s) - 1)) for s in streams]


def test_scores_equal_a_full_pass_where_the_text_fits_the_context(model):
    texts = ["", "a model", "café", "the new data of it"]
    for text, scores in zip(texts, model.score(texts), strict=True):
        ids = model.tokenizer.encode(text).ids
        end = [model.tokenizer.end_id]
        stream = np.concatenate([end, ids, end]).astype(np.int32)
        logits, _ = model.model.apply(model.params, stream[None, :-1])
        expected = likelihood.token_log_probs(logits, stream[None, 1:])[0]
        np.testing.assert_allclose(scores.log_probs, expected, atol=1e-5)


def test_scores_say_which_bytes_each_token_paid_for(model):
    text = "the café reads\n" * 9
    [scores] = model.score([text])
    assert scores.complete
    assert b"".join(scores.tokens).decode() == text
    assert scores.tokens[-1] == b"", "the end of the text is paid for too"
    assert scores.spans.tolist() == [[i, i + 1] for i in range(len(text.encode()))] + [
        [len(text.encode())] * 2
    ]
    assert scores.conditioned_on == tokenizers.END
    assert np.isfinite(scores.log_probs).all()


def test_a_score_does_not_depend_on_the_texts_beside_it(model):
    text = "a new model of old data " * 5
    [alone] = model.score([text])
    among = model.score(["it", text, "with " * 40])[1]
    np.testing.assert_allclose(alone.log_probs, among.log_probs, atol=1e-6)


def test_a_smaller_stride_gives_more_context(model):
    text = "a new model of old data " * 20
    means = [np.mean(model.score([text], stride)[0].log_probs) for stride in (1, 32)]
    assert means[0] != means[1]
    with pytest.raises(UserError, match=r"stride=33 .* choose 1\.\.32"):
        model.score([text], 33)


def test_generation_is_what_its_log_probabilities_say(model):
    [made] = model.generate(["the new "], 12, seed=3)
    text = "the new " + made.text
    [scores] = model.score([text])
    n = len(made.tokens)
    start = len(model.tokenizer.encode("the new ").ids)
    if made.text.encode().decode() == made.text and len(text.encode()) + 1 <= 32 and "\ufffd" not in text:
        np.testing.assert_allclose(made.log_probs, scores.log_probs[start : start + n], atol=1e-4)


def test_streaming_and_batches_give_the_same_text(model):
    prompts = ["the ", "", "café "]
    together = model.generate(prompts, 20, seed=5, top_k=20)
    for prompt, made in zip(prompts, together, strict=True):
        assert "".join(model.stream(prompt, 20, seed=5, top_k=20)) == made.text


def test_samples_differ_and_seeds_repeat(model):
    texts = [g.text for g in model.generate(["the "], 20, num_samples=3, seed=1)]
    assert len(set(texts)) == 3
    assert texts == [g.text for g in model.generate(["the "], 20, num_samples=3, seed=1)]
    assert texts != [g.text for g in model.generate(["the "], 20, num_samples=3, seed=2)]


def test_a_text_longer_than_the_context_goes_on(model):
    [made] = model.generate(["the "], 100, temperature=0)
    assert len(made.tokens) == 100 or made.tokens[-1] == model.tokenizer.end_id
    assert np.isfinite(made.log_probs).all()
