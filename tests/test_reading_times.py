"""The example on reading times: its regressions, and the whole of it on a few made-up words."""

import pathlib

import numpy as np
import pytest
import scipy.stats
import tiny
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneGroupOut

from lm_jax import experiment, user_code
from lm_jax.config import CountConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.ngram.smoothing import NGramConfig

EXAMPLE = user_code.import_file(pathlib.Path(__file__).parents[1] / "examples" / "reading_times.py")


def made_up(num_words=600, num_stories=3, seed=0):
    """Words of random lengths in stories, and their surprisals; reading times follow both, and spill over."""
    rng = np.random.default_rng(seed)
    words = ["x" * n + ("." if i % 7 == 6 else "") for i, n in enumerate(rng.integers(1, 10, num_words))]
    bits_W, length_W = rng.gamma(2, 3, num_words), np.array([float(len(w)) for w in words])
    story_W = np.repeat(np.arange(num_stories), num_words // num_stories)
    ms_W = 300 + 3 * length_W + 2 * bits_W + np.append(0, 1.5 * bits_W[:-1]) + rng.normal(0, 20, num_words)
    return EXAMPLE.Words(words, story_W, np.arange(num_words) // 7, ms_W), length_W, bits_W


def test_held_out_likelihoods_are_those_of_scikit_learn_and_scipy():
    words, length_W, bits_W = made_up()
    x_WK = EXAMPLE.with_spill_over(length_W, bits_W)
    got = EXAMPLE.held_out_log_likelihood(x_WK, words.ms_W, words.story_W)
    expected = np.empty(len(got))
    for fitted, out in LeaveOneGroupOut().split(x_WK, groups=words.story_W):
        model = LinearRegression().fit(x_WK[fitted, 1:], words.ms_W[fitted])
        error = np.sqrt(np.mean((words.ms_W[fitted] - model.predict(x_WK[fitted, 1:])) ** 2))
        predicted = model.predict(x_WK[out, 1:])
        expected[out] = scipy.stats.norm.logpdf(words.ms_W[out], predicted, error)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_predictors_are_those_of_the_word_and_of_the_word_before():
    made = EXAMPLE.with_spill_over(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]))
    np.testing.assert_array_equal(made, [[1, 1, 4, 0, 0], [1, 2, 5, 1, 4], [1, 3, 6, 2, 5]])


def test_surprisal_that_matters_gains_and_noise_does_not():
    words, length_W, bits_W = made_up()
    kept_W = EXAMPLE.kept_words(words, {"m": bits_W})
    assert np.flatnonzero(~kept_W).tolist() == [0, 200, 400], "the first words of the stories"
    found = EXAMPLE.gain(words, [length_W], bits_W, kept_W)
    assert found.interval.low > 0
    assert found.sums_S.sum() / found.counts_S.sum() == pytest.approx(found.interval.estimate)
    assert found.counts_S.sum() == kept_W.sum()
    np.testing.assert_allclose(found.slopes, [2, 1.5], atol=0.8)
    noise_W = np.random.default_rng(1).gamma(2, 3, len(bits_W))
    assert EXAMPLE.gain(words, [length_W], noise_W, kept_W).interval.estimate < 0.01


def test_words_without_a_surprisal_are_left_out_with_the_next_one():
    words, _, bits_W = made_up()
    bits_W[[10, 50]] = np.nan, np.inf
    kept_W = EXAMPLE.kept_words(words, {"m": bits_W, "other": made_up(seed=1)[2]})
    assert np.flatnonzero(~kept_W).tolist() == [0, 10, 11, 50, 51, 200, 400]


def write_words(path, num_stories=3):
    rng = np.random.default_rng(0)
    lines = ["story\tposition\tword\treaders\tmean_rt_ms"]
    for story in range(1, num_stories + 1):
        drawn = [*rng.choice(["the", "model", "reads", "old", "text", "café,", "'new", "text.'"], 40), "it."]
        lines += [
            f"{story}\t{i}\t{w}\t80\t{300 + 5 * len(w) + rng.normal(0, 9):.3f}" for i, w in enumerate(drawn)
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_words_are_read_with_their_sentences(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("story\tword\tmean_rt_ms\na\tOne\t3\na\ttwo.'\t4\na\tthree\t5\nb\tFour\t6\nb\tfive!\t7\n")
    words = EXAMPLE.read_words(path)
    assert words.words == ["One", "two.'", "three", "Four", "five!"]
    assert words.story_W.tolist() == [0, 0, 0, 1, 1]
    assert words.sentence_W.tolist() == [0, 0, 1, 2, 2]
    assert words.ms_W.tolist() == [3, 4, 5, 6, 7]
    path.write_text("story\tword\na\tOne\n")
    with pytest.raises(UserError, match="lacks a column story, word or mean_rt_ms"):
        EXAMPLE.read_words(path)


def test_frequencies_ignore_case_and_outer_punctuation(tmp_path):
    corpus = tmp_path / "text.txt"
    corpus.write_text('The old, "old" model. It is the model')
    got = np.exp(EXAMPLE.log_frequencies(["the", "'Old", "zebra"], corpus))
    np.testing.assert_allclose(got, np.array([2 + 1, 2 + 1, 0 + 1]) / (8 + 5))


def test_the_example_runs_on_made_up_words(tiny_run, tmp_path, capsys):
    _, gpt, _ = tiny_run
    corpus = tiny.write_text(tmp_path / "text.txt")
    data = DataConfig(corpus=f"text:{corpus}", documents="line", tokenizer="bpe", vocab_size=300)
    counted = CountConfig(data=data, model=NGramConfig(order=2, discount_fallback=(0.5, 1.0, 1.5)))
    experiment.run(counted, tmp_path / "bigram")
    words, out = write_words(tmp_path / "words.tsv"), tmp_path / "out"
    flags = [f"--words={words}", f"--corpus={corpus}", f"--models=bigram={tmp_path / 'bigram'},GPT={gpt}"]
    gains = EXAMPLE.main([*flags, f"--out={out}"])
    assert list(gains) == ["bigram", "GPT"]
    assert all(one.counts_S.sum() == 3 * 40 for one in gains.values())
    printed = capsys.readouterr().out
    assert "120 of 123 words" in printed
    assert f"{1000 * gains['GPT'].interval.estimate:.2f} (" in printed
    assert (out / "reading_times.png").stat().st_size > 10_000
    with pytest.raises(UserError, match="has one story"):
        EXAMPLE.main([f"--words={write_words(words, 1)}", *flags[1:], f"--out={out}"])


def test_the_table_of_natural_stories_is_read_whole(shared):
    words = EXAMPLE.read_words(shared / "data/naturalstories/words.tsv")
    assert len(words.words) == 10_256
    assert len(np.unique(words.story_W)) == 10
    assert 480 < len(np.unique(words.sentence_W)) < 520  # Futrell et al. 2021: 485 sentences
    assert words.ms_W.mean() == pytest.approx(338.5, abs=0.1)
