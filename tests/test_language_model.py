"""Scores and texts of a run: every token once, with enough before it; and nothing lost on the way."""

import dataclasses
import pathlib
import tomllib

import jax
import numpy as np
import pytest
import tiny
import tokenizers

import lm_jax
from lm_jax import experiment
from lm_jax.config import CountConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.export import main
from lm_jax.language_models import load as load_module
from lm_jax.language_models.causal import _windows
from lm_jax.language_models.trained import shared
from lm_jax.metrics import likelihood
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.text.base import END


@pytest.fixture(scope="module")
def model(tiny_run):
    return lm_jax.load(tiny_run[1])


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """An n-gram model from an ARPA file."""
    path = tmp_path_factory.mktemp("words") / "model.arpa"
    path.write_text("\\data\\\nngram 1=4\n\n\\1-grams:\n-0.5\t</s>\n-99\t<s>\n-0.5\ta\n-0.5\tb\n\n\\end\\\n")
    return lm_jax.load(path)


def test_marks_of_sentences_are_options_of_ngrams(model, monkeypatch):
    monkeypatch.setattr(load_module, "_load", lambda *_: model)
    with pytest.raises(
        UserError, match=r"bos=True, eos=False of a .* model, which always scores both; leave"
    ):
        lm_jax.load("run", eos=False)


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
    end, scored = [model.tokenizer.end_id], model.score(texts)
    streams = [np.concatenate([end, model.tokenizer.encode(text).ids, end]) for text in texts]
    padded = np.array([np.pad(stream, (0, 33 - len(stream))) for stream in streams])
    logits = jax.jit(model.module.apply)(model.params, padded[:, :-1])[0]
    expected = likelihood.token_log_probs(logits, padded[:, 1:])
    for scores, stream, row in zip(scored, streams, expected, strict=True):
        np.testing.assert_allclose(scores.log_probs, row[: len(stream) - 1], atol=1e-5)


def test_few_texts_take_few_rows(model, monkeypatch):
    shapes, scorer = [], model._scorer
    monkeypatch.setattr(model, "_scorer", lambda *a: shapes.append(a[1].shape) or scorer(*a))
    model.score(["a"])
    assert shapes == [(1, 16)]
    rows = [model.trained.num_rows(count, 100) for count in (1, 2, 3, 5, 64, 65, 1000)]
    assert rows == [1, 2, 4, 8, 64, 100, 100]


def test_scores_give_the_byte_span_of_each_token(model):
    text = "the café reads\n" * 9
    [scores] = model.score([text])
    assert scores.complete
    assert b"".join(scores.tokens).decode() == text
    assert scores.tokens[-1] == b"", "the end of the text is paid for too"
    assert scores.spans.tolist() == [[i, i + 1] for i in range(len(text.encode()))] + [
        [len(text.encode())] * 2
    ]
    assert scores.conditioned_on == END
    assert np.isfinite(scores.log_probs).all()


def test_a_score_does_not_depend_on_the_texts_beside_it(model):
    text = "a new model of old data " * 5
    [alone] = model.score([text])
    among = model.score(["it", text, "with " * 40])[1]
    np.testing.assert_allclose(alone.log_probs, among.log_probs, atol=1e-6)


def test_models_of_one_shape_share_compiled_programs(model, tiny_run):
    again = lm_jax.load(tiny_run[1])
    assert again is not model
    assert again._scorer is model._scorer
    assert again._decoder().step is model._decoder().step

    @dataclasses.dataclass
    class NoHash:
        x: int

    made = [shared(lambda module: object(), NoHash(1)) for _ in range(2)]
    assert made[0] is not made[1]


def test_a_smaller_stride_gives_more_context(model):
    text = "a new model of old data " * 20
    means = [np.mean(model.score([text], stride)[0].log_probs) for stride in (1, 32)]
    assert means[0] != means[1]
    for stride in (0, 33, -1, True, "1", 1.5):
        with pytest.raises(UserError, match=r"stride=.* with a context of 32; choose 1\.\.32"):
            model.score([text], stride)
        with pytest.raises(UserError, match=r"stride=.* choose 1\.\.32"):
            model.describe_context(stride)
    np.testing.assert_array_equal(
        model.score([text], np.int64(32))[0].log_probs, model.score([text], 32)[0].log_probs
    )
    with pytest.raises(UserError, match=r"stride=33 .* choose 1\.\.32"):
        model.score([text], 33)


def test_log_probs_of_generated_tokens_equal_their_scores(model):
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


def test_generation_continues_beyond_the_context(model):
    [made] = model.generate(["the "], 100, temperature=0)
    assert len(made.tokens) == 100 or made.tokens[-1] == model.tokenizer.end_id
    assert np.isfinite(made.log_probs).all()


def test_options_reach_the_decoders(model):
    [forced] = model.generate(["the "], 12, forced="new café", banned=["e", " ", 256], seed=1)
    assert forced.text.startswith("new café")
    rest = forced.text.removeprefix("new café")
    assert "e" not in rest
    assert " " not in rest
    assert len(forced.tokens) == 12, "its end was banned"
    [long] = model.generate(["the "], 30, min_tokens=30, seed=5, temperature=3.0)
    assert len(long.tokens) == 30
    [once] = model.generate(["the "], 20, temperature=0, no_repeat_ngram=2, repetition_penalty=1.2)
    pairs = list(zip(once.tokens, once.tokens[1:]))
    assert len(set(pairs)) == len(pairs)


def test_each_prompt_may_have_its_own_seed(model):
    together = model.generate(["the ", "the "], 16, seed=[3, 4])
    assert together[0].text != together[1].text
    for seed, made in zip((3, 4), together, strict=True):
        assert model.generate(["the "], 16, seed=seed)[0].text == made.text


def test_a_text_ends_before_a_stop(model):
    known = {"max_tokens": 40, "seed": 2, "forced": "new data reads it and café"}
    [free] = model.generate(["the "], **known)
    for stop, cut in (("d", "new "), ("s it", "new data read"), ("fé", "new data reads it and ca")):
        [made] = model.generate(["the "], stop=[stop, "never written"], **known)
        assert made.text == "".join(model.stream("the ", stop=[stop, "never written"], **known)) == cut
        np.testing.assert_array_equal(made.tokens, free.tokens[: len(made.tokens)])
        assert model.tokenizer.decode(made.tokens) == cut + stop, "what completes a stop is among the tokens"


def test_beams_are_likelier_than_greedy_text(model):
    best = model.generate(["the "], 8, num_beams=6, num_samples=3, length_penalty=0.0, min_tokens=8)
    [greedy] = model.generate(["the "], 8, temperature=0, min_tokens=8)
    sums = [made.log_probs.sum() for made in best]
    assert sums == sorted(sums, reverse=True)
    assert sums[0] >= greedy.log_probs.sum() - 1e-5
    assert len({made.text for made in best}) == 3


def test_beams_end_before_a_stop(model):
    [free] = model.generate(["the "], 12, num_beams=3)
    stop = free.text[5:7]
    for made in model.generate(["the "], 12, num_beams=3, num_samples=3, stop=[stop]):
        assert stop not in made.text
        whole = model.tokenizer.decode(made.tokens)
        assert whole in (made.text, made.text + stop)
        assert len(made.tokens) <= 12
    with pytest.raises(UserError, match="beams and several samples do not stream"):
        list(model.stream("the ", num_beams=2))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"temperatur": 1.0}, "no option temperatur; did you mean temperature?"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"seed": [1, 2]}, r"seeds=\[1, 2\]"),
        ({"stop": [""]}, "stop holds an empty text"),
        ({"banned": [257]}, r"no tokens \[257\]; the vocabulary has those from 0 to 256"),
        ({"num_beams": 2, "top_k": 5}, "num_beams=2 with top_k; leave out"),
        ({"num_beams": 2, "temperature": 0.5, "draft": 1}, "num_beams=2 with temperature, draft"),
        ({"length_penalty": 2.0}, "length_penalty without num_beams; give num_beams too"),
        ({"num_drafted": 2}, "num_drafted without draft"),
        ({"stop": "x"}, "stop='x' is a text, not a list"),
        ({"num_beams": 2, "max_tokens": 100}, "leave the context of 32; ask for at most 28 tokens"),
        ({"num_beams": 0}, "num_beams=0"),
    ],
)
def test_wrong_options_are_one_line_errors(model, options, line):
    with pytest.raises(UserError, match=line):
        model.generate(["the "], **options)
    with pytest.raises(UserError, match="is a text, not a list"):
        model.generate("the ")


@pytest.fixture(scope="module")
def ngrams(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ngrams")
    data = DataConfig(
        corpus=f"text:{tiny.write_text(directory / 'text.txt')}", documents="line", tokenizer="byte"
    )
    recipe = CountConfig(data=data, model=NGramConfig(order=3, discount_fallback=(0.5, 1.0, 1.5)))
    experiment.run(recipe, directory / "run")
    return lm_jax.load(directory / "run")


def test_ngrams_draft_for_a_transformer(model, ngrams):
    greedy = {"temperature": 0, "min_tokens": 12}
    plain = model.generate(["the ", "a new "], 14, **greedy)
    drafted = model.generate(["the ", "a new "], 14, draft=ngrams, num_drafted=2, **greedy)
    assert [made.text for made in drafted] == [made.text for made in plain]
    for ours, theirs in zip(drafted, plain, strict=True):
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-4)
    with pytest.raises(UserError, match="the model reads one token at a time; leave out the drafting"):
        ngrams.generate(["the "], draft=model)


@pytest.mark.slow
def test_drafted_texts_stop_stream_and_come_in_samples(model, ngrams):
    request = {"temperature": 0, "forced": "new data reads it", "stop": ["ds"]}
    plain = model.generate(["the ", "a "], 20, num_samples=2, **request)
    drafted = model.generate(["the ", "a "], 20, num_samples=2, draft=ngrams, **request)
    assert [made.text for made in drafted] == [made.text for made in plain] == ["new data rea"] * 4
    assert [made.tokens.tolist() for made in drafted] == [made.tokens.tolist() for made in plain]
    pieces = list(model.stream("the ", 20, draft=ngrams, **request))
    assert len(pieces) > 3
    assert "".join(pieces) == "new data rea"
    [one, other] = model.generate(["the "] * 2, 20, seed=[3, 4], draft=ngrams)
    assert one.text != other.text


def test_ngrams_write_by_beams(ngrams):
    best = ngrams.generate(["the "], 6, num_beams=5, num_samples=2, length_penalty=0.0, min_tokens=6)
    [greedy] = ngrams.generate(["the "], 6, temperature=0, min_tokens=6)
    assert best[0].log_probs.sum() >= max(greedy.log_probs.sum(), best[1].log_probs.sum()) - 1e-5
    # The model's own probabilities, of the text as it would be scored.
    for made in best:
        [scores] = ngrams.score(["the " + made.text])
        np.testing.assert_allclose(made.log_probs, scores.log_probs[4 : 4 + len(made.tokens)], atol=1e-4)


def test_ngrams_are_exported_as_arpa(ngrams, tmp_path):
    text = tiny.write_text(tmp_path / "text.txt")
    data = DataConfig(corpus=f"text:{text}", documents="line", tokenizer="word")
    recipe = CountConfig(data=data, model=NGramConfig(order=2, discount_fallback=(0.5, 1.0, 1.5)))
    experiment.run(recipe, tmp_path / "run")
    main([str(tmp_path / "run"), str(tmp_path / "model.arpa")])
    ours, back = lm_jax.load(tmp_path / "run"), lm_jax.load(tmp_path / "model.arpa")
    line = "the new model reads old text"
    np.testing.assert_allclose(ours.score([line])[0].log_probs, back.score([line])[0].log_probs, atol=1e-5)
    with pytest.raises(UserError, match=r"exported is not a file name of an n-gram model; end it with .arpa"):
        main([str(tmp_path / "run"), str(tmp_path / "exported")])


@pytest.mark.parametrize("tokenizer", ["bpe", "char", "byte"])
def test_tokens_with_white_space_are_escaped_in_an_arpa_file(tmp_path, capsys, tokenizer):
    text = tiny.write_text(tmp_path / "text.txt")
    data = DataConfig(corpus=f"text:{text}", documents="line", tokenizer=tokenizer, vocab_size=300)
    recipe = CountConfig(data=data, model=NGramConfig(order=2, discount_fallback=(0.5, 1.0, 1.5)))
    experiment.run(recipe, tmp_path / "run")
    main([str(tmp_path / "run"), str(tmp_path / "model.arpa")])
    assert "all are written in GPT-2's alphabet of bytes" in capsys.readouterr().out
    ours, back = lm_jax.load(tmp_path / "run"), lm_jax.load(tmp_path / "model.arpa")
    line = "the café learns  byte"
    if tokenizer == "bpe":  # as Hugging Face's library names the tokens
        library = tokenizers.Tokenizer.from_file(str(tmp_path / "run" / "tokenizer" / "tokenizer.json"))
        tokens = library.encode(line).tokens
    else:
        units = line.encode() if tokenizer == "byte" else line
        named = {v: k for k, v in gpt2_alphabet().items()}
        tokens = [
            "".join(named[b] for b in (bytes([u]) if isinstance(u, int) else u.encode())) for u in units
        ]
    [scored] = back.score([" ".join(tokens)])
    assert not scored.unknown.any()
    np.testing.assert_allclose(ours.score([line])[0].log_probs, scored.log_probs, atol=1e-5)


def gpt2_alphabet():
    """`bytes_to_unicode` of GPT-2's code: character -> byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in shown]
    return {chr(b): b for b in shown} | {chr(256 + n): b for n, b in enumerate(others)}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ("text", r"texts='text' is a text, not a list of texts; put it in brackets"),
        (b"text", "is bytes"),
        (None, "texts is a NoneType"),
        ({"a": "b"}, "texts is a dict"),
        (3, "texts is a int"),
        (["a", None], r"texts\[1\] is 'None', not a text"),
        ([["a"]], r"texts\[0\] is"),
        ([b"a"], r"texts\[0\] is bytes; give|texts\[0\] is bytes, not a text"),
        (["a\ud800"], r"lone surrogate, U\+D800, at character 1"),
    ],
)
def test_what_is_no_list_of_texts_is_not_scored(model, words, texts, said):
    for lm in (model, words):
        with pytest.raises(UserError, match=said):
            lm.score(texts)


def test_no_texts_have_no_scores(model, words):
    assert model.score([]) == words.score([]) == model.score(()) == []


def test_perplexity_is_that_of_the_mean_token(model, ngrams):
    texts = ["the new model reads", "a", "café with data " * 9]
    for lm in (model, ngrams):
        log_probs = np.concatenate([scored.log_probs for scored in lm.score(texts)])
        assert lm.perplexity(texts) == pytest.approx(np.exp(-log_probs.mean()), rel=1e-12)
    with pytest.raises(UserError, match="give at least one"):
        model.perplexity([])
    with pytest.raises(UserError, match="is a text, not a list"):
        model.perplexity("the new")


def test_an_opened_model_shows_itself_in_a_line(model, ngrams, tiny_run):
    size = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert repr(model) == f"<lm_jax gpt: task causal, step {model.step}, {size:,} parameters>"
    count = sum(map(len, ngrams.model.log10_probs)) + sum(map(len, ngrams.model.log10_backoffs))
    assert repr(ngrams) == f"<lm_jax ngram: task causal, {count:,} parameters>"


def test_the_version_is_the_installed_one():
    project = tomllib.loads((pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert lm_jax.__version__ == project["project"]["version"]


def test_opening_a_run_warns_of_nothing(tiny_run, caplog):
    lm_jax.load(tiny_run[1])
    assert not caplog.records


def test_texts_of_an_iterator_are_scored(model, words):
    for lm in (model, words):
        [listed], [iterated] = lm.score(["a b"]), lm.score(text for text in ["a b"])
        np.testing.assert_array_equal(listed.log_probs, iterated.log_probs)
    for stride in (0, "a"):
        with pytest.raises(UserError, match="stride="):
            words.score(["a b"], stride)


@pytest.mark.parametrize("prompt", [None, b"a", ["a"], 3])
def test_what_is_no_text_is_not_continued(words, prompt):
    with pytest.raises(UserError, match=r"the prompt is a .*, not a text"):
        list(words.stream(prompt))
