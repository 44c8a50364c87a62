"""Recurrent recipes from training to text: streams, resume, scores, and error messages."""

import dataclasses
import itertools
import pathlib

import jax
import numpy as np
import pytest
import tiny
from interrupt import stopped_after

from lm_jax import config as config_module
from lm_jax import experiment, fields
from lm_jax.config import OptimizerConfig
from lm_jax.data import pipeline
from lm_jax.data.batches import varied_lengths
from lm_jax.errors import UserError
from lm_jax.language_models import causal as neural
from lm_jax.language_models import load as language_model
from lm_jax.models.gpt import GPTConfig
from lm_jax.models.nnlm import NNLMConfig
from lm_jax.models.rnn import RNNConfig
from lm_jax.progress import read_metrics
from lm_jax.tasks.causal import Causal

RECIPES = pathlib.Path(__file__).parents[1] / "configs"


def awd_lstm(text, **train):
    """Every regularisation of AWD-LSTM at once, tiny."""
    config = tiny.config(text, **train)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, order="contiguous", vary_length=True, sequence_length=14),
        model=RNNConfig(
            num_layers=2,
            d_embedding=12,
            d_hidden=16,
            tied_head=True,
            embedding_dropout=0.1,
            input_dropout=0.1,
            hidden_dropout=0.1,
            output_dropout=0.1,
            locked_dropout=True,
            weight_dropout=0.2,
        ),
        task=Causal(activation_penalty=0.1, temporal_penalty=0.1),
        optimizer=OptimizerConfig(
            name="sgd", learning_rate=0.5, momentum=0.0, schedule="constant", warmup_steps=0
        ),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run twice: at once, and stopped in the middle of an epoch and resumed."""
    path = tmp_path_factory.mktemp("runs")
    config = awd_lstm(tiny.write_text(path / "text.txt"), average="triggered", average_patience=1)
    split = pipeline.prepare(config.data).splits["train"]
    assert pipeline.make_source(split, config.data, 4, 0).steps_per_epoch > 12
    rows = experiment.run(config, path / "whole")
    with stopped_after(7):
        assert experiment.run(config, path / "parts") == []
    resumed = experiment.run(config, path / "parts")
    return path, config, rows, resumed


@pytest.mark.slow
def test_resume_is_bit_for_bit(runs):
    path, _, rows, resumed = runs
    assert [row.sums for row in rows] == [row.sums for row in resumed]
    whole, parts = (language_model.load(path / name, "latest").params for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    losses = [
        {m["step"]: m["loss"] for m in read_metrics(path / name / "metrics.jsonl") if "loss" in m}
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


@pytest.mark.slow
def test_scores_do_not_depend_on_windows_or_on_the_texts_beside(runs, monkeypatch):
    path, *_ = runs
    model = language_model.load(path / "whole")
    texts = ["a model reads text " * 5, "", "the data", "x" * 70]
    whole = model.score(texts)
    monkeypatch.setattr(neural, "_CARRIED_WINDOW", 16)
    for text, expected, windowed in zip(texts, whole, model.score(texts), strict=True):
        [alone] = model.score([text])
        for scores in (windowed, alone):
            np.testing.assert_allclose(scores.log_probs, expected.log_probs, atol=1e-5)
        assert len(expected.log_probs) == len(text.encode()) + 1
    assert model.context is None
    assert model.describe_context() == {"state": "carried through each document"}
    [generation] = model.generate(["a model"], 300, temperature=0)
    if len(generation.tokens) < 300:
        assert generation.tokens[-1] == model.tokenizer.end_id
    ids = model.tokenizer.encode_batch(["a model"])[0].ids
    read = np.concatenate([[model.tokenizer.end_id], ids, generation.tokens])[None]
    logits_TV = model.module.apply(model.params, read)[0][0]
    log_probs = jax.nn.log_softmax(logits_TV)[len(ids) : -1][
        np.arange(len(generation.tokens)), generation.tokens
    ]
    np.testing.assert_allclose(generation.log_probs, log_probs, atol=1e-4)


@pytest.mark.slow
def test_a_checkpoint_of_another_width_is_refused(runs):
    path, config, *_ = runs
    for name, value, message in (
        ("model.d_hidden", "20", r"model.d_hidden \(16 there, 20 here\)"),
        ("model.cell", "gru", "model.cell"),
    ):
        with pytest.raises(UserError, match=message):
            experiment.run(fields.override(config, {name: value}), path / "whole")
    text = (path / "whole/config.json").read_text()
    (path / "parts/config.json").write_text(text.replace('"d_hidden": 16', '"d_hidden": 20'))
    with pytest.raises(UserError, match=r"config\.json is not what was written"):
        language_model.load(path / "parts")
    (path / "parts/seal.json").rename(path / "parts/seal.away")  # as of a run of an earlier version
    with pytest.raises(UserError, match=r"does not fit the config: .*layer_0.*64.* there and .*80"):
        language_model.load(path / "parts")
    (path / "parts/seal.away").rename(path / "parts/seal.json")
    (path / "parts/config.json").write_text(text)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = awd_lstm(tiny.write_text(tmp_path / "text.txt"))
    wild = dataclasses.replace(config.optimizer, learning_rate=1e38, clip_norm=0.0)
    with pytest.raises(UserError, match=r"at step \d+ is (inf|nan).*lower optimizer.learning_rate"):
        experiment.run(dataclasses.replace(config, optimizer=wild), tmp_path / "run")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"data.sequence_length": "5000"},
            "4 streams of a text of .* shorter than data.sequence_length=5000",
        ),
        ({"train.batch_size": "90000"}, "90000 streams of a text of"),
        ({"data.order": "shuffled"}, "data.vary_length with data.order=shuffled"),
    ],
)
def test_a_text_too_short_for_its_streams_is_a_one_line_error(tmp_path, values, message):
    config = fields.override(awd_lstm(tiny.write_text(tmp_path / "text.txt")), values)
    with pytest.raises(UserError, match=message):
        experiment.run(config, tmp_path / "run")


def test_penalties_are_for_recurrent_networks(tmp_path):
    config = awd_lstm(tmp_path / "text.txt")
    for model in (GPTConfig(), NNLMConfig()):
        with pytest.raises(UserError, match="activation_penalty"):
            experiment.check(dataclasses.replace(config, model=model))


@pytest.mark.parametrize("model", [RNNConfig(), NNLMConfig()], ids=["rnn", "nnlm"])
def test_fields_of_each_family_are_named_documented_and_kept(model):
    config = config_module.Config(model=model)
    assert all(comment for _, _, comment in fields.describe(config))
    changed = fields.override(config, {"model.d_hidden": "7"})
    assert changed.model.d_hidden == 7
    assert config_module.from_json(config_module.to_json(changed)) == changed
    with pytest.raises(UserError, match=r"did you mean model\.d_hidden"):
        fields.override(config, {"model.d_hiden": "7"})


def test_varied_lengths_are_a_function_of_seed_and_step_and_few(tmp_path):
    lengths = np.concatenate([varied_lengths(70, 0, block) for block in range(40)])
    assert set(lengths) == {25, 30, 35, 40, 45, 60, 65, 70, 75, 80}
    assert abs((lengths < 50).mean() - 0.05) < 0.01
    assert abs(lengths[lengths > 50].std() - 5) < 0.3
    assert (varied_lengths(70, 0, 3) == varied_lengths(70, 0, 3)).all()
    assert (varied_lengths(70, 0, 3) != varied_lengths(70, 1, 3)).any()

    config = awd_lstm(tiny.write_text(tmp_path / "text.txt"))
    split = pipeline.prepare(config.data).splits["train"]
    source, late = (pipeline.make_source(split, config.data, 4, 0) for _ in range(2))
    batches = [source.batch(step) for step in range(600)]
    for before, after in itertools.pairwise(batches):
        np.testing.assert_array_equal(before.targets[:, -1], after.inputs[:, 0])
    np.testing.assert_array_equal(late.batch(599).inputs, batches[599].inputs)
    np.testing.assert_array_equal(source.batch(2).inputs, batches[2].inputs)


@pytest.mark.parametrize("variant", ["", "awd_lstm", "elman", "gru", "lstm", "shakespeare", "tutorial"])
def test_every_variant_is_a_recipe(variant):
    _, config = config_module.load(f"{RECIPES / 'rnn.py'}:{variant}")
    experiment.check(config)
    assert config_module.from_json(config_module.to_json(config)) == config


@pytest.mark.slow
def test_the_tutorials_simple_nnlm_predicts_its_sentence(tmp_path):
    _, config = config_module.load(f"{RECIPES / 'nnlm.py'}:simple_nnlm")
    experiment.run(config, tmp_path / "run")
    model = language_model.load(tmp_path / "run", "latest")
    words = ["I", "love", "coding"]
    ids = model.tokenizer.encode_batch([" ".join(words)])[0].ids
    read = np.concatenate([[model.tokenizer.end_id], ids])
    predicted = model.module.apply(model.params, read[None])[0][0].argmax(axis=-1)
    # After I and after love: as the tutorial's ids [0, 1, 2] have it, [1, 2].
    assert [words.index(model.tokenizer.token_bytes(int(i)).decode()) for i in predicted[1:3]] == [1, 2]


@pytest.mark.slow
def test_the_tutorials_first_loss_is_that_of_a_thousand_words(tmp_path):
    _, config = config_module.load(f"{RECIPES / 'rnn.py'}:tutorial")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"w{i % 1200} w{i * 7 % 1200}\n" for i in range(4000)))
    data = dataclasses.replace(config.data, corpus=f"text:{text}", documents="line")
    prepared = pipeline.prepare(data)
    assert prepared.tokenizer.vocab_size == 1000
    batch = pipeline.make_source(prepared.splits["train"], data, 32, 0).batch(0)
    assert batch.inputs.shape == (32, 5)
    module = dataclasses.replace(config.model, vocab_size=1000).make()
    params = jax.jit(module.init)(jax.random.key(0), batch.inputs)
    loss = config.task.losses(module, params, batch)[0]["nats"].mean
    assert float(loss) == pytest.approx(np.log(1000), abs=0.05)
