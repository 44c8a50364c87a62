"""ELMo's training task: batches, losses, the softmaxes, runs, scores in both directions, heads above it."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import tiny
import tiny_labels
from numpy.testing import assert_allclose, assert_array_equal

import lm_jax
from lm_jax import config as config_module
from lm_jax import experiment, export, fast, fields
from lm_jax.config import Config, OptimizerConfig
from lm_jax.data import pipeline
from lm_jax.data.documents import Document
from lm_jax.data.mirror import mirrored
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.evaluation.base import evaluate
from lm_jax.evaluation.texts import Text
from lm_jax.language_models.base import Generates, Scores, require
from lm_jax.language_models.bilm import BiLM
from lm_jax.metrics import sampled
from lm_jax.models import characters, distinct
from lm_jax.models.base import num_parameters
from lm_jax.models.elmo import ELMoConfig, init
from lm_jax.parallel.sharding import MeshConfig
from lm_jax.pretrained import allennlp
from lm_jax.progress import read_metrics
from lm_jax.tasks.base import Process
from lm_jax.tasks.bidirectional import Bidirectional
from lm_jax.tasks.tagging import Tagging
from lm_jax.text.characters import spell, spell_marks
from lm_jax.text.simple import WordTokenizer
from lm_jax.training import loop
from lm_jax.training.optimizers import make_optimizer
from lm_jax.training.step import first_state

MODEL = ELMoConfig(d_model=6, hidden=8, character_dim=3, filters=((1, 4), (3, 5)), num_highways=1)
END = "</s>"
RECIPE = pathlib.Path(__file__).parents[1] / "configs" / "elmo.py"


def recipe(path, model=MODEL, **task):
    data = DataConfig(
        corpus=f"text:{path}",
        documents="line",
        split="hash:0.1,0.1",
        tokenizer="word",
        vocab_size=14,
        sequence_length=5,
        order="contiguous",
    )
    base = tiny.config(path, num_steps=6, eval_every=3)
    return dataclasses.replace(base, data=data, model=model, task=Bidirectional(**task))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny.write_text(tmp_path_factory.mktemp("elmo") / "text.txt")


@pytest.fixture(scope="module")
def run(text):
    """A finished run's directory, and its rows."""
    config = recipe(text)
    return text.parent / "run", experiment.run(config, text.parent / "run")


@pytest.fixture(scope="module")
def lm(run):
    return lm_jax.load(run[0])


@pytest.fixture(scope="module")
def data(text):
    return pipeline.prepare(recipe(text).data)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def characters_of(words):
    """The rows of characters of words; the end is the mark behind a sentence."""
    return [spell_marks()[1] if w == END else spell([w.encode()])[0] for w in words]


def word_vectors(p, words):
    """The own vectors of words by numpy."""
    encoder, x_NCE = p["encoder"], p["encoder"]["characters"]["embedding"][np.array(characters_of(words))]
    found = []
    for i, (width, _) in enumerate(MODEL.filters):
        kernel, bias = encoder[f"filters_{i}"]["kernel"], encoder[f"filters_{i}"]["bias"]
        places = [np.einsum("nwe,wef->nf", x_NCE[:, c : c + width], kernel) for c in range(51 - width)]
        found.append(np.max(places, axis=0) + bias)
    x = np.maximum(np.concatenate(found, axis=-1), 0)
    gate, transform = (encoder["highway_0"][name] for name in ("gate", "transform"))
    g = sigmoid(x @ gate["kernel"] + gate["bias"])
    x = g * np.maximum(x @ transform["kernel"] + transform["bias"], 0) + (1 - g) * x
    return x @ encoder["projection"]["kernel"] + encoder["projection"]["bias"]


def read(p, direction, x_TP):
    """The last layer of a direction, one word at a time, by numpy."""
    for i in range(MODEL.num_layers):
        layer = p[f"{direction}_{i}"]
        h, c, outputs = np.zeros(MODEL.d_model), np.zeros(MODEL.hidden), []
        for x in x_TP:
            gates = x @ layer["input"] + h @ layer["recurrent"] + layer["bias"]
            in_gate, forget, new, out = np.split(gates, 4)
            c = np.clip(sigmoid(forget) * c + sigmoid(in_gate) * np.tanh(new), -3, 3)
            h = np.clip((sigmoid(out) * np.tanh(c)) @ layer["projection"], -3, 3)
            outputs.append(h)
        x_TP = np.array(outputs) + (x_TP if i else 0)
    return x_TP


def expected_log_probs(lm, text, direction):
    """The log-probability of each word behind the first mark, in the order of reading, by numpy."""
    p = jax.tree.map(lambda x: np.asarray(x, float), lm.params["params"])
    known = {lm.tokenizer.token_bytes(i).decode(): i for i in range(2, lm.tokenizer.vocab_size)}
    words = [END, *(w if w in known else "<unk>" for w in text.split()), END]
    ids = [0 if w == END else known.get(w, 1) for w in words]
    if direction == "backward":
        words, ids = words[::-1], ids[::-1]
    hidden = read(p, direction, word_vectors(p, words[:-1]))
    logits = hidden @ p["head"]["embedding"].T + p["head"]["bias"]
    return (logits - scipy.special.logsumexp(logits, axis=-1, keepdims=True))[range(len(ids) - 1), ids[1:]]


def test_scores_of_both_directions_equal_an_independent_computation(lm):
    text = "the model unheard data café."
    [ahead], [back] = lm.score([text]), lm.score_back([text])
    assert_allclose(ahead.log_probs, expected_log_probs(lm, text, "forward"), atol=1e-5)
    assert_allclose(back.log_probs[::-1], expected_log_probs(lm, text, "backward"), atol=1e-5)
    assert [ahead.text[a:b].strip() for a, b in ahead.spans] == [*(w.encode() for w in text.split()), b""]
    assert [back.text[a:b] for a, b in back.spans] == [b"", *(w.encode() for w in text.split())]
    unknown = [w not in lm.tokenizer.words for w in text.split()]
    assert unknown[2]
    assert not all(unknown)
    assert ahead.unknown.tolist() == [*unknown, False]
    assert back.unknown.tolist() == [False, *unknown]
    [both] = lm.pseudo_score([text])
    assert_allclose(both.log_probs, ahead.log_probs[:-1] + back.log_probs[1:])
    assert [both.text[a:b] for a, b in both.spans] == [w.encode() for w in text.split()]
    assert "compares with no left-to-right probability" in both.method


def test_held_out_losses_equal_the_scores_of_the_documents(run, lm, data):
    """Windows of five tokens, carried states, the mirrored text, and rows that end early."""
    task, split = lm.trained.task, data.splits["valid"]
    config = config_module.read(run[0])
    carry, sums = task.init_carry(lm.module, lm.config, config.data, 4), {"forward": 0.0, "backward": 0.0}
    losses = jax.jit(lambda params, batch, carry: task.losses(lm.module, params, batch, carry))
    for batch in task.held_out(split, config.data, lm.config, 4, Process()):
        found, carry = losses(lm.params, batch, carry)
        sums = {name: sums[name] + float(found[name].total) for name in sums}
        assert float(found["nats"].total) == pytest.approx(
            float(found["forward"].total + found["backward"].total) / 2, rel=1e-5
        )
    texts = [document.text for document in split.documents()]
    for name, scored in (("forward", lm.score(texts)), ("backward", lm.score_back(texts))):
        assert sums[name] == pytest.approx(-sum(one.log_probs.sum() for one in scored), rel=1e-5)


def test_a_mirrored_part_holds_the_documents_reversed(data):
    split = data.splits["valid"]
    made = mirrored(split)
    last = split.num_documents - 1
    for i in range(split.num_documents):
        assert_array_equal(made.stream.document(i), split.stream.document(last - i)[::-1])
    assert made.tokens[0] == split.end_id
    assert len(made.tokens) == len(split.tokens)


def test_training_streams_go_on_from_both_ends(data, text):
    task, config = Bidirectional(), recipe(text)
    source = task.source(data.splits["train"], config.data, 4, seed=0)
    first, second = source.batch(0), source.batch(1)
    for a, b in zip(first, second, strict=True):
        assert_array_equal(a.inputs[:, 1:], a.targets[:, :-1])
        assert_array_equal(a.targets[:, -1], b.inputs[:, 0])
    tokens = np.asarray(data.splits["train"].tokens)
    assert_array_equal(first.back.inputs[0], tokens[::-1][:5])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), first) == jax.tree.map(
        lambda x: (x.shape, x.dtype), task.shapes(config.data, 4)
    )


def test_shuffled_windows_are_the_same_for_both_directions(data, text):
    config = dataclasses.replace(recipe(text).data, order="shuffled", separate_documents=True)
    batch = Bidirectional().source(data.splits["train"], config, 4, seed=0).batch(3)
    assert_array_equal(batch.back.inputs, batch.ahead.targets[:, ::-1])
    assert_array_equal(batch.back.targets, batch.ahead.inputs[:, ::-1])
    assert_array_equal(batch.back.segments, batch.ahead.segments[:, ::-1])


@pytest.mark.parametrize("direction", ["hidden", "hidden_back"])
def test_no_direction_sees_a_token_that_it_has_not_read(lm, direction):
    tokens = jnp.arange(6)[None] + 1
    made = [
        lm.module.apply(lm.params, tokens.at[0, place].set(9), method=direction)[0][0] for place in range(6)
    ]
    unchanged = lm.module.apply(lm.params, tokens, method=direction)[0][0]
    for place, hidden_TP in enumerate(made):
        assert_allclose(hidden_TP[:place], unchanged[:place], atol=1e-7)
        assert np.abs(hidden_TP[place:] - unchanged[place:]).max(axis=-1).min() > 0


def test_padding_changes_nothing(lm):
    tokens, segments = jnp.array([[3, 4, 5, 0, 0]]), jnp.array([[0, 0, 0, -1, -1]])
    layers, state = lm.module.apply(lm.params, tokens, None, segments, method="layers")
    alone, state_alone = lm.module.apply(lm.params, tokens[:, :3], method="layers")
    assert_allclose(layers[:, :, :3], alone, atol=1e-6)
    assert not layers[:, :, 3:].any()
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-6), state, state_alone)


def test_segments_are_texts_of_their_own(lm):
    tokens, segments = jnp.array([[3, 4, 5, 6]]), jnp.array([[0, 0, 1, 1]])
    layers, _ = lm.module.apply(lm.params, tokens, None, segments, method="layers")
    for first in (0, 2):
        alone, _ = lm.module.apply(lm.params, tokens[:, first : first + 2], method="layers")
        assert_allclose(layers[:, :, first : first + 2], alone, atol=1e-6)


def test_distinct_words_are_encoded_as_all_words(lm, monkeypatch):
    """Over several blocks, of which the last is not full; values and gradients."""
    monkeypatch.setattr(distinct, "BLOCK", 4)
    ids = jnp.array([[3, 3, 9, 1], [5, 6, 7, 9], [8, 2, 3, 0]])
    table = lm.params["constants"]["characters"]
    params, encode = lm.params["params"]["encoder"], characters.encoder(*lm.config.character_fields)

    def loss(params):
        made = distinct.encode_distinct(encode, {"params": params}, table, ids)
        return jnp.sum(jnp.sin(made) * jnp.arange(12.0).reshape(3, 4, 1)), made

    def gradient():
        return jax.jit(jax.grad(loss, has_aux=True))(params)

    grads, made = gradient()
    with fast.plain():
        plain_grads, plain = gradient()
    assert_allclose(made, plain, atol=1e-6)
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-4), grads, plain_grads)


def test_a_step_leaves_the_characters_and_keeps_no_moments_of_them(lm, data, text):
    task, module = Bidirectional(), lm.module
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.1), 5)
    train = dataclasses.replace(recipe(text).train, average="ema")
    batch = task.source(data.splits["train"], recipe(text).data, 4, seed=0).batch(0)
    params = jax.tree.map(jnp.array, lm.params)
    state = first_state(params, optimizer, task.init_carry(module, lm.config, recipe(text).data, 4), train)
    assert not [x for x in jax.tree.leaves(state.opt_state) if x.dtype == jnp.int16]
    after, metrics = jax.jit(tiny.train_step(task, module, optimizer, train))(state, batch, jax.random.key(0))
    for variables in (after.params, after.average.params):
        assert_array_equal(variables["constants"]["characters"], lm.params["constants"]["characters"])
        assert np.abs(variables["params"]["head"]["bias"] - lm.params["params"]["head"]["bias"]).max() > 0
    assert np.isfinite(float(metrics["loss"]))


def test_the_characters_of_the_vocabulary_are_in_the_checkpoint(lm):
    table = lm.params["constants"]["characters"]
    assert table.dtype == jnp.int16
    names = [END, *(lm.tokenizer.token_bytes(i).decode() for i in range(1, lm.tokenizer.vocab_size))]
    assert_array_equal(table, characters_of(names))


def test_sampled_cross_entropy_equals_its_definition():
    generator, vocab_size, draws = np.random.default_rng(0), 12, 20
    logits, targets = generator.normal(size=(2, 3, vocab_size)), generator.integers(0, vocab_size, (2, 3))
    weights = np.array([[1.0, 1, 0], [1, 2, 1]])
    sample = np.asarray(sampled.draw(jax.random.key(1), draws, vocab_size))
    p = np.log((np.arange(vocab_size) + 2) / (np.arange(vocab_size) + 1)) / np.log(vocab_size + 1)
    assert p.sum() == pytest.approx(1)
    log_q = np.log(1 - (1 - p) ** draws)
    total = 0.0
    for place in np.ndindex(2, 3):
        chosen = sorted({*sample.tolist(), int(targets[place])})
        scores = (logits[place] - log_q)[chosen]
        total += weights[place] * (scipy.special.logsumexp(scores) - (logits[place] - log_q)[targets[place]])
    made = sampled.sampled_cross_entropy(
        jnp.asarray(np.take_along_axis(logits, targets[..., None], -1)[..., 0]),
        jnp.asarray(logits[..., sample]),
        jnp.asarray(targets),
        jnp.asarray(sample),
        jnp.asarray(weights),
        vocab_size,
    )
    assert float(made.total) == pytest.approx(total, rel=1e-5)
    assert float(made.weight) == weights.sum()


def test_draws_have_the_distribution_that_the_loss_assumes():
    vocab_size, draws = 6, 5
    found = np.zeros(vocab_size)
    samples = np.asarray(
        jax.vmap(lambda key: sampled.draw(key, draws, vocab_size))(
            jax.random.split(jax.random.key(0), 20_000)
        )
    )
    for token in range(vocab_size):
        found[token] = (samples == token).any(axis=1).mean()
    expected = np.exp(np.asarray(sampled.log_expected(jnp.arange(vocab_size), draws, vocab_size)))
    assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / 20_000))


def test_a_large_sample_is_the_full_softmax(lm, data, text):
    """With so many draws every token is in the sample."""
    batch = Bidirectional().source(data.splits["train"], recipe(text).data, 4, seed=0).batch(0)

    def loss(task):
        return task.losses(lm.module, lm.params, batch, None, {"dropout": jax.random.key(0)})[0]["nats"].total

    assert float(loss(Bidirectional(num_sampled=2000))) == pytest.approx(
        float(loss(Bidirectional())), rel=1e-5
    )
    assert float(loss(Bidirectional(chunk_length=2))) == pytest.approx(float(loss(Bidirectional())), rel=1e-5)
    assert float(loss(Bidirectional(num_sampled=3))) < 0.9 * float(loss(Bidirectional()))


def test_rows_of_a_run_tell_both_directions(run, lm):
    directory, rows = run
    for row in rows:
        values = {name: metric.value for name, metric in row.metrics.items()}
        assert values["perplexity"] == values["forward_perplexity"]
        assert row.task == "bidirectional"
    documents = (directory / "test.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in documents]
    nats = -sum(one.log_probs.sum() for one in lm.score_back(texts))
    tokens = sum(len(one.log_probs) for one in lm.score_back(texts))
    assert values["backward_perplexity"] == pytest.approx(np.exp(nats / tokens), rel=1e-6)
    assert values["backward_perplexity_by_line"] == pytest.approx(values["backward_perplexity"], rel=1e-6)
    assert require(lm, Scores, "score") is require(lm, Generates, "write")
    assert len(lm.generate(["the"], max_tokens=3, seed=0)[0].tokens) <= 3


def test_lines_are_scored_on_their_own_beside_documents(lm):
    text = "the model data\nreads the model\n"
    row = evaluate(lm, Text("t", [Document("a", text, {})]), "elmo").row
    for direction, score in (("forward", lm.score), ("backward", lm.score_back)):
        whole, lines = score([text]), score(text.splitlines())
        for name, scored in (("", whole), ("_by_line", lines)):
            log_probs = np.concatenate([one.log_probs for one in scored])
            assert len(log_probs) == 8
            expected = np.exp(-log_probs.mean())
            assert row.metrics[f"{direction}_perplexity{name}"].value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "fields_of_model",
    [
        {"encoder": "words"},
        {"encoder": "words", "tied_head": True},
        {"adaptive_cutoffs": (4, 8), "dropout": 0.2, "dtype": "bfloat16"},
    ],
)
def test_variants_train_score_and_embed(text, tmp_path, fields_of_model):
    config = recipe(text, dataclasses.replace(MODEL, **fields_of_model), chunk_length=3)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=2, eval_every=2))
    experiment.run(config, tmp_path / "run")
    lm = lm_jax.load(tmp_path / "run")
    for score in (lm.score, lm.score_back):
        [scored] = score(["the model data"])
        assert np.isfinite(scored.log_probs).all()
    known = lm.tokenizer.words[:2]
    made = lm.embed([known, ["unheard"]])
    assert made.layers_LBTD.shape == (3, 2, 2, 12)
    assert np.isfinite(made.layers_LBTD).all()
    [(_, first)] = lm.each([known])
    assert first.dtype == np.float32
    if config.model.spells:
        vectors = lm.word_vectors(known)
        assert vectors.dtype == np.float32
        assert_allclose(vectors, first[0, :, :6], atol=1e-2)
    tokens = lm.tokenizer.encode_ids([" ".join(known)])[0]
    framed = jnp.asarray(np.concatenate([[0], tokens, [0]]))[None]
    layers, _ = lm.module.apply(lm.params, framed, method="layers")
    tolerance = 0.05 if config.model.dtype == "bfloat16" else 1e-5
    assert_allclose(made.layers_LBTD[:, 0], np.asarray(layers, np.float32)[:, 0, 1:-1], atol=tolerance)


def test_vectors_of_a_vocabulary_are_computed_once(run, lm):
    sentences = [["the", "model", "unheard"], ["data"]]
    before = lm.embed(sentences).layers_LBTD
    vectors = lm.word_vectors(["model", "data", "<S>", "</S>", "of"])
    assert_allclose(vectors[0], before[0, 0, 1, :6], atol=1e-6)
    assert_array_equal(vectors[2], vectors[3])  # both marks of a run are its end token
    fresh = lm_jax.load(run[0])
    fresh.precompute(["model", "data"], vectors[:2])
    assert_allclose(fresh.embed(sentences).layers_LBTD, before, atol=1e-6)
    fresh.precompute(["model"], vectors[1:2])  # of another word, to see that it is used
    assert np.abs(fresh.embed(sentences).layers_LBTD - before).max() > 1e-3
    with pytest.raises(UserError, match=r"vectors of shape \(2, 6\) for 1 words"):
        fresh.precompute(["model"], vectors[:2])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_labels.write(tmp_path_factory.mktemp("labels") / "r.jsonl", tiny_labels.records(60))


def tagger(corpus, source, workdir, rate=0.0, num_steps=10, **fields_of_model):
    base = tiny_labels.config(corpus, Tagging(dropout=0.0), num_steps=num_steps, log_every=1)
    optimizer = dataclasses.replace(base.optimizer, backbone_rate=rate, learning_rate=0.1)
    config = dataclasses.replace(base, init_from=str(source), optimizer=optimizer)
    config = experiment.override(config, {f"model.{n}": v for n, v in fields_of_model.items()}, workdir)
    experiment.run(config, workdir)
    return lm_jax.load(workdir)


def published(path):
    config = dataclasses.replace(MODEL, num_highways=2)
    allennlp.write(path, config, init(config, jax.random.key(0)))
    return path


@pytest.mark.parametrize("source", ["run", "published"])
def test_a_head_reads_the_mix_of_a_frozen_elmo(source, run, corpus, tmp_path):
    path = run[0] if source == "run" else published(tmp_path / "published")
    tags = tagger(corpus, path, tmp_path / "tagger")
    params, before = jax.device_get(tags.params["params"]), lm_jax.load(path).params["params"]
    jax.tree.map(assert_array_equal, params["backbone"], {k: before[k] for k in params["backbone"]})
    assert np.abs(params["head"]["mix"]["weights"]).max() > 0
    assert params["head"]["mix"]["gamma"] != 1
    [one] = tags.label(["ann likes tea zzz"])
    mixed = BiLM(tags.config, {"params": params["backbone"]})
    shares = np.asarray(params["head"]["mix"]["weights"])
    framed = [spell_marks()[1], *spell([b"ann", b"likes", b"tea", b"zzz"]), spell_marks()[1]]
    layers, _ = mixed._apply(mixed.params, np.array(framed), np.arange(6)[None], None)
    vectors = params["head"]["mix"]["gamma"] * np.tensordot(scipy.special.softmax(shares), layers[:, 0], 1)
    logits = vectors[1:-1] @ params["head"]["out"]["kernel"] + params["head"]["out"]["bias"]
    assert_allclose(one.probabilities, scipy.special.softmax(logits, axis=-1), atol=1e-5)


def test_a_frozen_backbone_has_no_gradient(run, corpus, tmp_path):
    """Its backward pass is left out: the norm is that of the head's gradient alone."""
    norms = []
    for rate in (0.0, 1.0):
        tagger(corpus, run[0], tmp_path / str(rate), rate, num_steps=1)
        lines = read_metrics(tmp_path / str(rate) / "metrics.jsonl")
        norms.append(next(line["grad_norm"] for line in lines if "grad_norm" in line))
    assert 0 < norms[0] < 0.999 * norms[1]


def test_a_run_is_exported_as_published(lm, tmp_path):
    note = export.export(lm, tmp_path / "published")
    assert "before a sentence stands <S>" in note
    again = lm_jax.load(tmp_path / "published")
    words = [["the", "unheard", "model"]]
    # The marks are others: with those of the run the vectors are equal.
    again.__class__ = type("WithMarks", (BiLM,), {"_marks": type(lm)._marks})
    assert_allclose(again.embed(words).layers_LBTD, lm.embed(words).layers_LBTD, atol=1e-6)
    with pytest.raises(UserError, match="exists; give a new directory"):
        export.export(lm, tmp_path / "published")


def test_words_that_no_training_text_has_are_read_by_their_characters(run, corpus, tmp_path):
    tags = tagger(corpus, run[0], tmp_path / "tagger", mix="top")
    assert "mix" not in tags.params["params"]["head"]
    first, second, again = tags.label(["ann likes zzz", "ann likes qqqq", "ann likes zzz"])
    assert np.abs(first.probabilities[2] - second.probabilities[2]).max() > 1e-6
    assert_allclose(first.probabilities, again.probabilities, atol=1e-6)


def test_a_tokenizer_learns_the_words_of_a_text():
    tokenizer = WordTokenizer(["a", "b"])
    made = tokenizer.extended(["b <unk> c\nd a", "c"])
    assert made.words == ["a", "b", "c", "d"]
    assert tokenizer.extended(["a b\na"]) is tokenizer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.tokenizer": "bpe"}, "reads the characters of words, and data.tokenizer=bpe"),
        ({"task.num_sampled": "-1"}, r"task.num_sampled=-1; it must be 0 or more"),
        ({"model.dropout": "1"}, r"dropout=1.0 of an ELMo"),
        ({"model.filters": "1:4,99:2"}, r"filters=\(\(1, 4\), \(99, 2\)\) of an ELMo with words of 50"),
        ({"model.filters": "1,2"}, "give one or more pairs of a width"),
        ({"model.encoder": "bytes"}, "encoder='bytes' of an ELMo; choose characters or words"),
        ({"model.tied_head": "true"}, "tied_head with encoder=characters"),
        (
            {"model.adaptive_cutoffs": "4,8", "task.num_sampled": "5"},
            "num_sampled with model.adaptive_cutoffs",
        ),
        ({"task": "causal"}, "task=causal with model=elmo, which reads each side"),
        ({"task": "masked"}, "choose another model, or task=bidirectional"),
    ],
)
def test_bad_recipes_are_refused(text, change, message):
    with pytest.raises(UserError, match=message):
        experiment.check(fields.override(recipe(text), change))


def test_filters_are_read_from_the_command_line(text):
    made = fields.override(recipe(text), {"model.filters": "1:4,3:5"})
    assert isinstance(made, Config)
    assert made.model.filters == ((1, 4), (3, 5))


def test_the_original_has_its_published_size():
    _, config = config_module.load(f"{RECIPE}:original")
    experiment.check(config)
    variables = jax.eval_shape(lambda: init(config.model, jax.random.key(0)))
    assert num_parameters(variables) == 93_600_864
    assert config.model.size(20).parameters == pytest.approx(num_parameters(variables), rel=1e-3)


def test_a_mesh_gives_the_losses_of_one_device(text, data):
    losses = []
    for mesh in (MeshConfig(), MeshConfig(data=2, fsdp=2)):
        config = dataclasses.replace(recipe(text), mesh=mesh).resolved(data.tokenizer.vocab_size)
        trainer = loop.Trainer(config)
        state, _ = loop._start(trainer, _NoCheckpoints(), None, data.tokenizer)
        source = config.task.source(data.splits["train"], config.data, 4, seed=0)
        found = []
        for step in range(2):
            state, metrics = trainer.step(state, source.batch(step))
            found.append(float(metrics["loss"]))
        losses.append(found)
    assert_allclose(losses[1], losses[0], rtol=1e-5)


class _NoCheckpoints:
    def latest_step(self):
        return None
