"""Classification, regression and tagging: batches, losses, heads on each family, and finished runs."""

import dataclasses
import pathlib
from functools import partial

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import tiny_labels
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

import lm_jax
from lm_jax import config as config_module
from lm_jax import experiment, fields, predict
from lm_jax.config import CountConfig, OptimizerConfig
from lm_jax.data import pipeline
from lm_jax.data.documents import Document, Fields
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.evaluation import base as evaluation
from lm_jax.evaluation.texts import Text, choose
from lm_jax.language_models.base import Generates, Labels, Predicts, require
from lm_jax.language_models.ngram import NGramLanguageModel
from lm_jax.language_models.ngram_classes import ClassModels
from lm_jax.models.bert import BERTConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.models.nnlm import NNLMConfig
from lm_jax.models.rnn import RNNConfig
from lm_jax.ngram.smoothing import NGramConfig
from lm_jax.tasks.base import Process
from lm_jax.tasks.classification import Classification, Regression
from lm_jax.tasks.frames import Frame, fit, windows
from lm_jax.tasks.tagging import Tagging
from lm_jax.training.optimizers import make_optimizer

ROOT = pathlib.Path(__file__).parents[1]
FRAME = Frame(begin=90, end=91, padding=92)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("labels")


@pytest.fixture(scope="module")
def corpus(directory):
    return tiny_labels.write(directory / "r.jsonl", tiny_labels.records(100))


@pytest.fixture(scope="module")
def classifier(directory, corpus):
    rows = experiment.run(tiny_labels.config(corpus, num_steps=30), directory / "classifier")
    return rows, directory / "classifier"


@pytest.fixture(scope="module")
def tagger(directory, corpus):
    rows = experiment.run(tiny_labels.config(corpus, Tagging(), num_steps=30), directory / "tagger")
    return rows, directory / "tagger"


def test_rows_of_texts_and_of_pairs():
    tokens, segments, types = FRAME.rows([np.array([1, 2, 3, 4]), np.array([5])], None, 5)
    assert tokens.tolist() == [[90, 1, 2, 3, 91], [90, 5, 91, 92, 92]]
    assert segments.tolist() == [[0] * 5, [0, 0, 0, -1, -1]]
    assert not types.any()
    pair = [np.array([1, 2, 3, 4]), np.array([5])], [np.array([6]), np.array([7])]
    tokens, _, types = FRAME.rows(*pair, 7)
    assert tokens.tolist() == [[90, 1, 2, 3, 91, 6, 91], [90, 5, 91, 7, 91, 92, 92]]
    assert types.tolist() == [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0, 0]]


@given(st.integers(0, 20), st.integers(0, 20), st.integers(2, 20))
def test_the_longer_text_of_a_pair_is_cut_first(first, second, room):
    oracle = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, "a"))
    oracle.enable_truncation(room)
    made = oracle.encode(["a"] * first, ["b"] * second, is_pretokenized=True)
    assert fit(first, second, room) == (made.ids.count(0), made.ids.count(1))


@given(st.integers(0, 30), st.sets(st.integers(0, 29)), st.integers(1, 9))
def test_windows_hold_each_token_once_and_end_before_words(num_tokens, begins, room):
    places = np.array(sorted(p for p in begins if p < num_tokens), int)
    found = windows(num_tokens, places, room)
    assert [t for a, b in found for t in range(a, b)] == list(range(num_tokens))
    assert all(b - a <= room for a, b in found)
    for a, b in found[:-1]:
        assert b in places or not any(a < p <= a + room for p in places)


def test_a_batch_has_the_labels_and_the_weights_of_its_texts(corpus):
    config = tiny_labels.config(corpus, Classification(second="second", class_weights="balanced"))
    data = pipeline.prepare(config.data, config.task.fields())
    config, split = config.resolved(data.tokenizer.vocab_size, data.classes), data.splits["train"]
    source = config.task.source(split, config.data, 8, seed=0)
    batches = [source.batch(step) for step in range(source.steps_per_epoch)]
    weights, labels = (
        np.concatenate(columns) for columns in ([b.weights for b in batches], [b.labels for b in batches])
    )
    assert (weights > 0).sum() == split.num_documents
    for c in range(2):  # each class weighs as much
        assert weights[labels == c].sum() == pytest.approx(split.num_documents / 2, rel=1e-5)
    cls, sep = (data.tokenizer.special_ids[name] for name in ("cls", "sep"))
    for row in range(8):
        tokens = batches[0].tokens[row][batches[0].segments[row] >= 0].tolist()
        assert (tokens[0], tokens[-1], tokens.count(sep)) == (cls, sep, 2)
        middle = tokens.index(sep)
        text, second = (data.tokenizer.decode(part) for part in (tokens[1:middle], tokens[middle + 1 :]))
        assert text.split()[0] == second
        assert ("bad" if "hates" in text else "good") == split.label_names("label")[batches[0].labels[row]]


def test_the_loss_of_weighted_classes_is_divided_by_their_weights(corpus):
    config = tiny_labels.config(corpus, Classification(class_weights="1,3"))
    data = pipeline.prepare(config.data, config.task.fields())
    config = config.resolved(data.tokenizer.vocab_size, data.classes)
    batch = config.task.source(data.splits["train"], config.data, 8, seed=0).batch(0)
    module = config.task.make(config.model)
    params = jax.jit(lambda: config.task.init(module, jax.random.key(0), 16))()
    logits = np.asarray(jax.jit(module.apply)(params, batch.tokens, batch.segments, batch.types))
    log_probs = scipy.special.log_softmax(logits, axis=1)[np.arange(8), batch.labels]
    sums, _ = jax.jit(partial(config.task.losses, module))(params, batch)
    weights = np.where(batch.labels == 0, 1, 3)
    assert float(sums["nats"].mean) == pytest.approx(
        float(-(weights * log_probs).sum() / weights.sum()), rel=1e-5
    )
    assert float(config.task.weights(batch)["nats"]) == weights.sum() == float(sums["nats"].weight)
    right = (np.argmax(logits, axis=1) == batch.labels) * weights
    assert float(sums["accuracy"].mean) == pytest.approx(right.sum() / weights.sum())


@pytest.mark.parametrize("task", [Classification(num_examples=7), Tagging(num_examples=7)])
def test_a_learning_curve_reads_a_part_of_the_texts_that_the_seed_chooses(corpus, task):
    config = tiny_labels.config(corpus, task)
    data = pipeline.prepare(config.data, task.fields())
    task, split, seen = task.resolved(data.classes), data.splits["train"], []
    texts = [split.stream.document(i).tolist() for i in range(split.num_documents)]
    for seed in (0, 0, 1):
        source, found = task.source(split, config.data, 4, seed), []
        for step in range(source.steps_per_epoch):
            batch = source.batch(step)
            for tokens, segments, weights in zip(batch.tokens, batch.segments, batch.weights):
                if np.any(weights):
                    found.append(tokens[segments >= 0][1:-1].tolist())
        assert len(found) == 7
        assert all(text in texts for text in found)
        seen.append(sorted(found))
    assert seen[0] == seen[1] != seen[2]


def test_tags_are_at_the_first_tokens_of_their_words(corpus):
    config = tiny_labels.config(corpus, Tagging())
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sequence_length=8))
    data = pipeline.prepare(config.data, config.task.fields())
    split, found = data.splits["valid"], {}
    for batch in config.task.held_out(split, config.data, config.model, 4, Process()):
        for tokens, labels, weights in zip(batch.tokens, batch.labels, batch.weights, strict=True):
            for place in np.flatnonzero(weights):
                piece = data.tokenizer.decode([tokens[place]]).strip()
                assert not piece.startswith("##")
                name = split.label_names("tags")[labels[place]]
                found[name] = found.get(name, 0) + 1
                assert (name == "B-PER") == any(name.startswith(piece) for name in tiny_labels.NAMES)
    documents = list(split.documents())
    assert found == {name: len(documents) for name in ("B-PER", "O", "B-OBJ", "I-OBJ")}


@pytest.mark.parametrize(
    "model",
    [
        BERTConfig(num_layers=1, num_heads=2, d_model=8, pooler=True),
        GPTConfig(num_layers=1, num_heads=2, d_model=8, tied_head=False),
        RNNConfig(num_layers=1, d_embedding=8, d_hidden=8),
        NNLMConfig(order=2, d_embedding=8, d_hidden=8),
    ],
)
def test_each_family_has_heads_whose_backbone_is_its_own(model):
    """Also where the pooling leaves a part of the backbone, such as the pooler, without use."""
    model, key = model.resolved(60, 16), jax.random.key(0)
    row = jnp.zeros((1, 16), jnp.int32)
    source = dict(jax.eval_shape(lambda: model.make().init(key, row))["params"])
    source.pop("head", None)
    for task, shape in (
        (Classification(classes=("a", "b", "c")), (2, 3)),
        (Classification(classes=("a", "b", "c"), pooling="mean", hidden_layer=True), (2, 3)),
        (Regression(), (2, 1)),
        (Tagging(classes=("a", "b")), (2, 16, 2)),
    ):
        module = task.make(model)
        params = jax.eval_shape(lambda task=task, module=module: task.init(module, key, 16))
        assert params["params"]["backbone"] == source
        made = jax.eval_shape(module.apply, params, *[jnp.zeros((2, 16), jnp.int32)] * 3)
        assert (made.shape, made.dtype) == (shape, jnp.float32)


def test_a_finished_classifier_has_rows_and_opens(classifier):
    rows, directory = classifier
    assert [row.split for row in rows] == ["valid", "test"]
    assert (rows[0].task, rows[0].headline, rows[0].counts) == (
        "classification",
        "accuracy",
        {"examples": 20, "truncated": 0},
    )
    assert rows[0].metrics["accuracy"].value > 0.9
    lm = lm_jax.load(directory)
    assert require(lm, Labels, "classify") is lm
    assert lm.classes == ("bad", "good")
    labelled = lm.label(["ann hates tea jam", "bob likes jam " + "tea " * 40])
    assert [one.truncated for one in labelled] == [False, True]
    assert all(one.probabilities.sum() == pytest.approx(1) for one in labelled)
    assert [label.name for label in lm.classify(["ann hates tea jam", "bob likes jam jam"])] == [
        "bad",
        "good",
    ]
    alone = lm.label(["ann hates tea jam"])[0]  # neither other texts nor padding change a result
    np.testing.assert_allclose(alone.probabilities, labelled[0].probabilities, rtol=1e-5)
    for capability in (Generates, Predicts):
        with pytest.raises(UserError, match="a bert model does not x; give one that"):
            require(lm, capability, "x")
    for texts, message in (([""], "text 1 is empty"), ([("a", "b")], "this model labels one text")):
        with pytest.raises(UserError, match=message):
            lm.label(texts)


def test_a_run_that_starts_from_a_classifier_keeps_its_head_only_for_the_same_classes(classifier, corpus):
    source = lm_jax.load(classifier[1])
    for classes, keeps in ((("bad", "good"), True), (("no", "yes"), False)):
        config = tiny_labels.config(corpus, Classification(classes=classes))
        config = dataclasses.replace(config, model=source.config, init_from=str(classifier[1]))
        params = experiment._initial_params(config)["params"]
        for part, same in (("backbone", True), ("head", keeps)):
            equal = jax.tree.map(np.array_equal, params[part], source.params["params"][part])
            assert jax.tree.all(equal) == same, part


def test_a_classifier_is_evaluated_on_a_corpus_with_labels(classifier, corpus):
    directory = classifier[1]
    lm = lm_jax.load(directory)
    row = evaluation.evaluate(lm, choose(str(directory), corpus, "file", True), "m").row
    assert (row.documents, row.counts["examples"]) == (100, 100)
    for document, message in (
        (Document("d", "a", {"label": "ugly"}), "document d has the label 'ugly' .* knows bad, good"),
        (Document("d", "a"), "document d has no field 'label'"),
        (Document("d", " ", {"label": "bad"}), "document d has an empty text"),
    ):
        with pytest.raises(UserError, match=message):
            evaluation.evaluate(lm, Text("t", [document]), "m")


def test_a_finished_tagger_has_rows_and_opens(tagger):
    rows, directory = tagger
    assert (rows[0].task, rows[0].headline) == ("tagging", "span_f1")
    assert rows[0].counts == {"tags": 80, "spans": 40}
    assert rows[0].metrics["accuracy"].value > 0.9
    lm = lm_jax.load(directory)
    [tags] = lm.tag(["ann  hates tea jam\n"])
    assert tags == [("ann", "B-PER"), ("hates", "O"), ("tea", "B-OBJ"), ("jam", "I-OBJ")]
    sentence = "ann hates tea jam "
    [long] = lm.label([sentence * 9])  # in several rows, each word in one
    assert long.probabilities.shape == (36, 4)
    assert [sentence.split()[i % 4] for i in range(36)] == [
        (sentence * 9).encode()[a:b].decode() for a, b in long.spans.tolist()
    ]
    [unread] = lm.label(["ann \u0001 tea"])  # BERT's normalization drops the character
    assert unread.probabilities[1].tolist() == [0.25] * 4
    with pytest.raises(UserError, match="text 1 is a pair"):
        lm.label([("a", "b")])


def test_class_conditional_ngrams_follow_bayes_rule(directory, corpus):
    data = DataConfig(corpus=corpus, split="tail:0.2,0.2", tokenizer="word")
    config = CountConfig(data, NGramConfig(order=2, smoothing="witten_bell"), label="label")
    rows = experiment.run(config, directory / "ngrams")
    assert (rows[1].task, rows[1].family, rows[1].context) == ("classification", "ngram", {"order": 2})
    assert rows[1].metrics["accuracy"].value == 1
    lm = require(lm_jax.load(directory / "ngrams"), Labels, "classify")
    split = pipeline.prepare(data, Fields(labels=("label",))).splits["train"]
    priors = np.bincount(split.labels("label")) / split.num_documents
    models = ClassModels.load(directory / "ngrams").models
    scores = [NGramLanguageModel(model, lm.tokenizer).score(["ann hates"])[0] for model in models]
    joint = np.log(priors) + [one.log_probs.sum() for one in scores]
    [labelled] = lm.label(["ann hates"])
    np.testing.assert_allclose(labelled.probabilities, np.exp(joint) / np.exp(joint).sum(), rtol=1e-9)
    assert lm.classify(["ann hates"])[0] == ("bad", labelled.probabilities.max())
    with pytest.raises(UserError, match="text 1 is empty"):
        lm.label([" "])


def with_layers(scan_layers):
    """Parameters of a tagger with two layers, all 1."""
    model = BERTConfig(num_layers=2, num_heads=2, d_model=8, pooler=True, scan_layers=scan_layers)
    task, model = Tagging(classes=("a", "b")), model.resolved(9, 16)
    shapes = jax.eval_shape(lambda: task.init(task.make(model), jax.random.key(0), 16))
    return jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)


def updates(config, params):
    """Each parameter's first update by a gradient of 1, by name; and the optimizer's first state."""
    optimizer = make_optimizer(config, num_steps=4)
    state = jax.jit(optimizer.init)(params)
    made, _ = jax.device_get(jax.jit(optimizer.update)(params, state, params))
    return flax.traverse_util.flatten_dict(made["params"], sep="/"), state


@pytest.mark.parametrize("scan_layers", [False, True])
def test_rates_fall_from_layer_to_layer(scan_layers):
    plain = OptimizerConfig(
        "sgd", learning_rate=1.0, warmup_steps=0, momentum=0.0, weight_decay=0.5, clip_norm=0.0
    )
    params = with_layers(scan_layers)
    whole, _ = updates(plain, params)
    scaled, _ = updates(dataclasses.replace(plain, backbone_rate=0.5, layer_decay=0.1), params)
    seen = set()
    for name, update in scaled.items():
        first = name.partition("backbone/")[2].split("/")[0]
        wanted = {"layer_0": 0.005, "layer_1": 0.05, "pooler": 0.05, "": 1.0}.get(first, 0.0005)
        if first == "layers":
            wanted = np.array([0.005, 0.05]).reshape(-1, *[1] * (update.ndim - 1))
        np.testing.assert_allclose(update, np.broadcast_to(wanted, update.shape) * whole[name], rtol=1e-6)
        seen.add(first)
    layers = {"layers"} if scan_layers else {"layer_0", "layer_1"}
    assert seen == {
        *layers,
        "pooler",
        "",
        "token_embedding",
        "position_embedding",
        "type_embedding",
        "embedding_norm",
    }


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_backbone_of_rate_0_stays_and_has_no_moments(name):
    params = with_layers(False)
    head = jax.tree.leaves(params["params"]["head"])
    found, state = updates(OptimizerConfig(name, backbone_rate=0.0), params)
    for parameter, update in found.items():
        assert (np.abs(update).max() > 0) == parameter.startswith("head/")
    moments = sum(x.size for x in jax.tree.leaves(state))
    assert moments <= 2 * sum(x.size for x in head) + 3
    alone, _ = updates(OptimizerConfig(name), {"params": {"head": params["params"]["head"]}})
    for parameter, update in alone.items():  # the norm that is clipped is that of the head
        np.testing.assert_allclose(update, found[parameter], rtol=1e-6)
    for rates in ({"backbone_rate": 0.0}, {"layer_decay": 0.5}):
        with pytest.raises(UserError, match="has no head of its own; set"):
            updates(OptimizerConfig(name, **rates), {"params": {"head": params["params"]["head"]}})


@pytest.mark.parametrize("recipe", ["classify", "classify:scratch", "classify:ngram", "tag", "tag:scratch"])
def test_the_recipes_are_valid(recipe):
    name, _, variant = recipe.partition(":")
    _, config = config_module.load(f"{ROOT}/configs/{name}.py" + (f":{variant}" if variant else ""))
    experiment.check(config)
    assert (getattr(config, "init_from", "") == "runs/bert") == (not variant)


@pytest.mark.parametrize("recipe", ["classify", "tag"])
def test_a_recipe_starts_from_the_encoder_that_it_names(recipe, monkeypatch):
    there = config_module.load(f"{ROOT}/configs/bert.py")[1].resolved(4096, {}).model
    monkeypatch.setattr(experiment.language_model, "read_model_config", lambda source: there)
    _, config = config_module.load(f"{ROOT}/configs/{recipe}.py")
    made = experiment.override(config, {}).resolved(4096, {})
    made.task.check(made.model, made.data)  # its rows fit, although those of the encoder are shorter
    assert dataclasses.replace(made.model, max_length=128, dropout=0.0) == there


def test_the_recipe_classifies_a_sentence_with_a_loss(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("good Hello, my dog is cute\nbad my dog is a cat\n")
    _, recipe = config_module.load(f"{ROOT}/configs/classify.py:scratch")
    recipe = fields.override(recipe, {
        "data.corpus": f"labelled:{path}", "data.valid": f"{path}", "data.split": "tail:0",
        "data.vocab_size": "60", "model.num_layers": "1",
    })  # fmt: skip
    data = pipeline.prepare(recipe.data, recipe.task.fields(), tmp_path / "cache")
    config = recipe.resolved(data.tokenizer.vocab_size, data.classes)
    task, module = config.task, config.task.make(config.model)
    assert task.classes == ("bad", "good")
    [batch] = list(task.held_out(data.splits["train"], config.data, config.model, 2, Process()))
    one = jax.tree.map(lambda x: x[np.asarray(batch.labels) == 1], batch)
    written = data.tokenizer.decode(one.tokens[0][one.segments[0] >= 0])
    assert "hello , my dog is cute" in written

    @jax.jit
    def classify(batch):
        params = task.init(module, jax.random.key(0), config.data.sequence_length)
        logits = module.apply(params, batch.tokens, batch.segments, batch.types)
        return logits, task.losses(module, params, batch)[0]["nats"].mean

    logits, loss = jax.device_get(classify(one))
    assert logits.shape == (1, 2)
    assert loss == pytest.approx(np.log(np.exp(logits[0]).sum()) - logits[0, 1], rel=1e-5)


def test_predict_writes_a_line_for_each_text(classifier, tagger, directory, capsys):
    (directory / "lines.txt").write_text("ann hates tea jam\nbob likes jam tea\n")
    out = directory / "out" / "labels.tsv"
    predict.main([f"--model={classifier[1]}", f"--text={directory / 'lines.txt'}", f"--out={out}"])
    lines = [line.split("\t") for line in out.read_text().splitlines()]
    assert lines[0] == ["name", "label", "probability", "bad", "good"]
    assert [line[:2] for line in lines[1:]] == [["lines.txt:1", "bad"], ["lines.txt:2", "good"]]
    assert lines[1][2] == lines[1][3]
    assert float(lines[1][3]) + float(lines[1][4]) == pytest.approx(1, abs=2e-6)
    assert "too long" not in capsys.readouterr().err
    (directory / "long.txt").write_text("ann likes " + "tea " * 40)
    predict.main([f"--model={classifier[1]}", f"--text={directory / 'long.txt'}"])
    assert "long.txt:1: too long, only the first tokens were read" in capsys.readouterr().err
    predict.main([f"--model={tagger[1]}", f"--text={directory / 'lines.txt'}"])
    lines = capsys.readouterr().out.split("\n")
    assert [line.split("\t")[:2] for line in lines[:5]] == [
        ["ann", "B-PER"], ["hates", "O"], ["tea", "B-OBJ"], ["jam", "I-OBJ"], [""],
    ]  # fmt: skip


def test_wrong_fields_raise_user_error(corpus):
    for values, message in {
        ("task.pooling", "max"): "task.pooling='max'; choose first, last or mean",
        ("task.dropout", "1"): r"task.dropout=1.0; it must lie in \[0, 1\)",
        ("task.label_smoothing", "-1"): "task.label_smoothing=-1.0",
        ("task.class_weights", "1,x"): "task.class_weights='1,x'; choose none, balanced, or numbers above 0",
        ("data.order", "contiguous"): "data.order=contiguous with task=classification",
        ("data.sequence_length", "2"): "data.sequence_length=2; give 3 or more",
        ("model.max_length", "8"): "data.sequence_length=16 exceeds the model's context",
    }.items():
        with pytest.raises(UserError, match=message):
            experiment.check(fields.override(tiny_labels.config(corpus), dict([values])))
    with pytest.raises(UserError, match=r"task\.classes is empty; name the classes"):
        Classification().make(BERTConfig())
