"""BLEU and ROUGE of strings against sacrebleu, NLTK, rouge_score and `rouge`, and the tutorial's rows."""

import pickle
import random
import re
import warnings

import jax
import numpy as np
import pytest

from lm_jax.errors import UserError
from lm_jax.metrics import overlap, text
from lm_jax.metrics.profiles import PROFILES
from lm_jax.metrics.significance import approximate_randomization, bootstrap_interval, paired_bootstrap

WORDS = re.split(
    " ",
    "the cat sat on mat , . .5 5. 7, was running runs 3.5 1,000 don't U.S. e-mail 5-3 &amp; &quot;so&quot; "
    "(a) [b] Relational national — ’s $5 100% 我爱 中文。 naïve STRASSE straße \u00a0x <skipped>y",
)


def _sentence(rng, most):
    return " ".join(rng.choices(WORDS, k=rng.randint(0, most)))


def _corrupt(rng, sentence):
    words = [w for w in sentence.split(" ") if rng.random() > 0.15]
    return " ".join(rng.choice(WORDS) if rng.random() < 0.15 else w for w in words)


@pytest.fixture(scope="module")
def corpus():
    """2,000 hypotheses, and references of which half have a second."""
    rng = random.Random(0)
    first = [_sentence(rng, 24) for _ in range(2000)]
    hypotheses = [_corrupt(rng, sentence) for sentence in first]
    second = [_corrupt(rng, sentence) for sentence in first]
    edges = [
        ("", "a b"),
        ("a", "a"),
        ("a b", ""),
        ("", ""),
        ("x y z", "a b c"),
        ("a a a a", "a a"),
        (". .", ". ."),
    ]
    hypotheses[: len(edges)], first[: len(edges)] = zip(*edges)
    return hypotheses, first, [a if i % 2 else None for i, a in enumerate(second)]


def _lists(first, second):
    return [[a] if b is None else [a, b] for a, b in zip(first, second)]


SACREBLEU = {"sacrebleu-13a": "13a", "sacrebleu-zh": "zh", "sacrebleu-char": "char"}


@pytest.mark.parametrize("profile", SACREBLEU)
def test_sacrebleu(corpus, profile):
    bleu = pytest.importorskip("sacrebleu.metrics").BLEU
    hypotheses, first, second = corpus
    if profile != "sacrebleu-13a":
        hypotheses, first, second = ([s and s[:60] for s in x[:300]] for x in corpus)
    metric = bleu(tokenize=SACREBLEU[profile])
    sentence_metric = bleu(tokenize=SACREBLEU[profile], effective_order=True)
    score = text.corpus_bleu(hypotheses, _lists(first, second), profile)
    np.testing.assert_allclose(100 * score, metric.corpus_score(hypotheses, [first, second]).score, rtol=1e-9)
    score = text.corpus_bleu(hypotheses, first, profile)
    np.testing.assert_allclose(100 * score, metric.corpus_score(hypotheses, [first]).score, rtol=1e-9)
    assert str(metric.get_signature()).rsplit("|", 1)[0] in str(score)
    sentences = text.sentence_bleu(hypotheses, _lists(first, second), profile)
    expected = [sentence_metric.sentence_score(h, r).score for h, r in zip(hypotheses, _lists(first, second))]
    np.testing.assert_allclose(100 * sentences, expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(("max_order", "effective_order"), [(1, True), (4, False), (6, True), (6, False)])
@pytest.mark.parametrize("smoothing", ["none", "floor", "add-k", "exp"])
def test_sacrebleu_smoothings_and_orders(corpus, smoothing, max_order, effective_order):
    bleu = pytest.importorskip("sacrebleu.metrics").BLEU
    hypotheses, first, _ = (x[:150] for x in corpus)
    metric = bleu(smooth_method=smoothing, max_ngram_order=max_order, effective_order=effective_order)
    options = {"smoothing": smoothing, "max_order": max_order, "effective_order": effective_order}
    expected = [metric.sentence_score(h, [r]).score for h, r in zip(hypotheses, first)]
    np.testing.assert_allclose(
        100 * text.sentence_bleu(hypotheses, first, **options), expected, rtol=1e-9, atol=1e-12
    )
    expected = metric.corpus_score(hypotheses, [first]).score
    assert 100 * text.corpus_bleu(hypotheses, first, **options) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("smoothing", "method"), [("method0", 0), ("floor", 1), ("add-k", 2), ("exp", 3)])
def test_nltk(corpus, smoothing, method):
    bleu_score = pytest.importorskip("nltk.translate.bleu_score")
    hypotheses, first, second = (x[:300] for x in corpus)
    smooth = getattr(bleu_score.SmoothingFunction(), f"method{method}")
    references = _lists(first, second)
    split = [[r.split() for r in of_example] for of_example in references]
    options = {"profile": "nltk", "smoothing": smoothing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = text.sentence_bleu(hypotheses, references, **options)
        for score, hypothesis, of_example in zip(scores, hypotheses, split):
            expected = bleu_score.sentence_bleu(of_example, hypothesis.split(), smoothing_function=smooth)
            assert score == pytest.approx(expected, rel=1e-9, abs=1e-300)
        score = text.corpus_bleu(hypotheses, references, **options)
        tokens = [h.split() for h in hypotheses]
        assert score == pytest.approx(
            bleu_score.corpus_bleu(split, tokens, smoothing_function=smooth), rel=1e-9
        )


def test_nltk_weights(corpus):
    bleu_score = pytest.importorskip("nltk.translate.bleu_score")
    hypotheses, first, _ = (x[:200] for x in corpus)
    weights = (0.5, 0.3, 0.2)
    score = text.corpus_bleu(hypotheses, first, "nltk", max_order=3, weights=weights)
    expected = bleu_score.corpus_bleu([[r.split()] for r in first], [h.split() for h in hypotheses], weights)
    assert score == pytest.approx(expected, rel=1e-9)


def test_nltk_gives_orders_without_matches_the_smallest_float64():
    bleu_score = pytest.importorskip("nltk.translate.bleu_score")
    hypothesis, reference = "the cat sat on mat", "the cat sat in the house"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = bleu_score.sentence_bleu([reference.split()], hypothesis.split())
    assert 0 < expected < 1e-77
    assert text.sentence_bleu(hypothesis, reference, "nltk") == pytest.approx(expected, rel=1e-9, abs=0)
    assert text.corpus_bleu([hypothesis], [reference], "nltk") == pytest.approx(expected, rel=1e-9, abs=0)
    # The same counts in float32, whose smallest number is 1e-45.
    statistics = text.bleu_statistics(hypothesis, reference, "nltk")
    assert jax.jit(lambda *x: overlap.bleu(*x, smoothing="method0"))(*statistics) == 0
    # 0.1 ** 60 is 0 in float32, and its logarithm is not.
    floor = jax.jit(lambda *x: overlap.bleu(*x, smoothing="floor", smoothing_value=1e-60))(*statistics)
    exact = overlap.bleu(*statistics, smoothing="floor", smoothing_value=1e-60)
    np.testing.assert_allclose(floor, exact, rtol=1e-5)


@pytest.mark.parametrize("stem", [False, True])
def test_rouge_score(corpus, stem):
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    types = ("rouge1", "rouge2", "rouge4", "rougeL", "rougeLsum")
    hypotheses, first, second = (x[:400] for x in corpus)
    rng = random.Random(1)
    with_lines = [[s.replace(" ", "\n", rng.randrange(4)) for s in x] for x in (hypotheses, first)]
    scorer = rouge_scorer.RougeScorer(types, use_stemmer=stem)
    expected = [scorer.score(r, h) for h, r in zip(*with_lines)]
    with pytest.warns(UserWarning, match="drops every character"):
        scores = text.rouge(*with_lines, types=types, stem=stem)
    for t in types:
        np.testing.assert_allclose(np.stack(scores[t], 1), [e[t] for e in expected], rtol=1e-12)

    expected = [scorer.score_multi(r, h) for h, r in zip(hypotheses, _lists(first, second))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = text.rouge(hypotheses, _lists(first, second), types=types, stem=stem)
    for t in types:
        np.testing.assert_allclose(scores[t].f, [e[t].fmeasure for e in expected], rtol=1e-12)


def test_rouge_1_0_1(corpus):
    rouge = pytest.importorskip("rouge")
    hypotheses, first, _ = (x[:600] for x in corpus)
    # That package raises on a text without a sentence.
    pairs = [p for p in zip(hypotheses, first) if all(any(part for part in s.split(".")) for s in p)]
    hypotheses, references = map(list, zip(*pairs))
    names = {"rouge1": "rouge-1", "rouge2": "rouge-2", "rouge3": "rouge-3", "rougeL": "rouge-l"}
    expected = rouge.Rouge(metrics=list(names.values())).get_scores(hypotheses, references)
    scores = text.rouge(hypotheses, references, "rouge", types=tuple(names))
    for ours, theirs in names.items():
        np.testing.assert_allclose(
            np.stack(scores[ours], 1), [[e[theirs][k] for k in "prf"] for e in expected], rtol=1e-12
        )
    assert text.rouge("", "a b", "rouge")["rougeL"].f == 0


def test_tutorial_bleu():
    assert text.sentence_bleu("this is a test", "this is a test", "nltk") == 1


def test_tutorial_rouge():
    # Erratum: the tutorial prints r1 f .47 p .8 r .35 for this pair.
    hypothesis = (
        "the #### transcript is a written version of each day 's cnn student news program use this "
        "transcript to he lp students with reading comprehension and vocabulary use the weekly newsquiz to "
        "test your knowledge of storie s you saw on cnn student news"
    )
    reference = (
        "this page includes the show transcript use the transcript to help students with reading "
        "comprehension and vocabulary at the bottom of the page , comment for a chance to be mentioned on "
        "cnn student news . you must be a teacher or a student age # # or older to request a mention"
    )
    scores = text.rouge(hypothesis, reference, "rouge")
    assert scores["rouge1"] == pytest.approx((0.5, 0.473684, 0.486486), abs=1e-6)
    assert scores["rouge2"] == pytest.approx((0.243902, 0.196078, 0.217391), abs=1e-6)
    assert scores["rougeL"] == pytest.approx((0.416667, 0.394737, 0.405405), abs=1e-6)


def test_chinese_scores_one_against_itself():
    chinese = "我爱自然语言处理，它很有趣。"
    for profile in ("sacrebleu-zh", "sacrebleu-char", "zh-char"):
        assert text.corpus_bleu([chinese], [chinese], profile) == 1
        assert text.rouge(chinese, chinese, profile)["rouge2"].f == 1
    with pytest.warns(UserWarning, match="'rouge_score' drops every character of 2 of 2"):
        assert text.rouge(chinese, chinese)["rouge1"].f == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text.rouge(["", chinese], [" ", chinese], "zh-char")


def test_zh_char_tokens():
    profile = PROFILES["zh-char"]
    tokens = [token for word in profile.words("用GPT-4生成。𠀀ひ") for token in profile.tokens(word)]
    assert tokens == ["用", "gpt", "4", "生", "成", "𠀀", "ひ"]


def test_paired_tests_are_sacrebleus(corpus):
    significance = pytest.importorskip("sacrebleu.significance")
    bleu = pytest.importorskip("sacrebleu.metrics").BLEU
    hypotheses, first, _ = (x[:60] for x in corpus)
    rng = random.Random(3)
    other = [_corrupt(rng, h) for h in hypotheses]
    systems = [("a", hypotheses), ("b", other)]
    a, b = (text.bleu_statistics(h, first) for _, h in systems)

    metrics = {"BLEU": bleu(references=[first])}
    _, scores = significance.PairedTest(systems, metrics, None, test_type="bs", n_samples=300)()
    resamples = np.random.default_rng(12345).choice(60, size=(300, 60), replace=True)
    ours = paired_bootstrap(a, b, metric=overlap.bleu, resamples=resamples, method="sacrebleu")
    assert ours.p_value == pytest.approx(scores["BLEU"][1].p_value, abs=1e-12)
    assert 100 * ours.difference == pytest.approx(scores["BLEU"][0].score - scores["BLEU"][1].score, rel=1e-9)

    _, scores = significance.PairedTest(systems, metrics, None, test_type="ar", n_samples=300)()
    swaps = ~np.random.default_rng(12345).integers(2, size=(300, 60), dtype=bool)
    ours = approximate_randomization(a, b, metric=overlap.bleu, swaps=swaps)
    assert ours.p_value == pytest.approx(scores["BLEU"][1].p_value, abs=1e-12)

    interval = bootstrap_interval(*a, metric=overlap.bleu, resamples=resamples)
    assert 100 * interval.estimate == pytest.approx(scores["BLEU"][0].score, rel=1e-9)


def test_score_is_a_number_with_a_signature():
    score = text.sentence_bleu("a b", ["a b", "a c"])
    assert score == 1
    assert "nrefs:2|case:mixed|eff:yes|tok:13a|smooth:exp" in str(pickle.loads(pickle.dumps(score)))


def test_sentences_of_one_length_do_not_recompile():
    text.sentence_bleu("a b c", "a c b")
    compiled = text._bleu_statistics._cache_size()
    for words in ("x", "x y z w", "q " * 20):
        text.sentence_bleu(words, words + " a")
    assert text._bleu_statistics._cache_size() == compiled


@pytest.mark.parametrize(
    ("hypotheses", "references"),
    [(["a"], ["a", "b"]), (["a"], "a"), ([], []), (["a", "b"], [["a"], []])],
)
def test_unpaired_texts_raise_errors(hypotheses, references):
    for function in (text.corpus_bleu, text.sentence_bleu, text.rouge):
        with pytest.raises(UserError):
            function(hypotheses, references)


def test_token_ids():
    ids = text.token_ids(["b a b", "", "a"])
    assert ids.shape == (3, 3)
    assert ids[0, 0] == ids[0, 2] != ids[0, 1] == ids[2, 0]
    assert (ids[1] == -1).all()


@pytest.mark.parametrize("wrong", [None, b"a", 3, [None], [b"a"]])
def test_what_is_no_text_raises_an_error(wrong):
    for function in (text.corpus_bleu, text.sentence_bleu, text.rouge):
        for pair in ((wrong, ["a"]), (["a"], wrong)):
            with pytest.raises(UserError):
                function(*pair)


@pytest.mark.parametrize(
    "options",
    [
        {"weights": [1.0]},
        {"weights": [0.5] * 5},
        {"smoothing": "floor", "smoothing_value": -1},
        {"max_order": 0},
    ],
)
def test_wrong_settings_of_bleu_raise_errors(options):
    with pytest.raises(UserError):
        text.corpus_bleu(["a b c d e"], ["a b c d f"], **options)


def test_unknown_names_raise_errors():
    with pytest.raises(UserError, match="sacrebleu-13a"):
        text.corpus_bleu(["a"], ["a"], "moses")
    with pytest.raises(UserError, match="rougeLsum"):
        text.rouge("a", "a", types=("rougeW",))
