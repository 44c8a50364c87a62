"""The task of BART: batches of texts with noise, its loss, and the command that shows noises."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import tiny

import lm_jax
from lm_jax import experiment
from lm_jax import noise as command
from lm_jax.config import Config, OptimizerConfig, TrainConfig
from lm_jax.data import pipeline
from lm_jax.data.noising import NOISES
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.evaluation.texts import read_held_out
from lm_jax.models.bart import BARTConfig
from lm_jax.models.bert import BERTConfig
from lm_jax.tasks.base import Process
from lm_jax.tasks.denoising import Denoising

TASK = Denoising(permute=1.0, infill=0.3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    text = tiny.write_text(tmp_path_factory.mktemp("denoising") / "text.txt")
    config = DataConfig(
        f"text:{text}", "line", "hash:0.1,0.1", tokenizer="bpe-bart", vocab_size=300, sequence_length=24
    )
    return config, pipeline.prepare(config)


def rows_of(batch, prepared):
    """The source and the target of each row as lists of ids, checked to be framed."""
    special = prepared.tokenizer.special_ids
    for source, segments, inputs, targets, weights in zip(*map(np.asarray, batch)):
        count, written = (segments >= 0).sum(), int((weights > 0).sum())
        assert (segments == np.where(np.arange(len(segments)) < count, 0, -1)).all()
        assert (source[count:] == special["pad"]).all()
        assert (source[0], source[count - 1]) == (special["bos"], special["eos"])
        assert inputs[0] == special["eos"]
        if written:
            assert (inputs[1:written] == targets[: written - 1]).all()
            assert (targets[0], targets[written - 1]) == (special["bos"], special["eos"])
        yield source[1 : count - 1].tolist(), targets[1 : max(1, written - 1)].tolist()


def test_batches_hold_windows_of_the_text_and_their_noised_form(data):
    config, prepared = data
    split, mask = prepared.splits["train"], prepared.tokenizer.special_ids["mask"]
    stream = split.tokens.tolist()
    text = " ".join(map(str, stream + stream))
    masks = 0
    for step in range(3):
        for source, target in rows_of(TASK.source(split, config, 4, seed=1).batch(step), prepared):
            assert len(target) == 22
            assert " ".join(map(str, target)) in text
            masks += source.count(mask)
            left = list(target)
            for token in source:
                if token != mask:
                    left.remove(token)
    assert masks > 10


def test_batches_are_the_same_on_any_number_of_processes(data):
    config, prepared = data
    for split, read in (("train", "source"), ("valid", "held_out")):
        part = prepared.splits[split]
        for step in (0, 5):
            if read == "source":
                source = TASK.source(part, config, 8, seed=3)
                whole, *parts = [
                    source.batch(step, *share) for share in ((0, 1), (0, 4), (1, 4), (2, 4), (3, 4))
                ]
            else:
                whole, *parts = [
                    list(TASK.held_out(part, config, None, 8, Process(*share)))[step // 5]
                    for share in ((0, 1), (0, 4), (1, 4), (2, 4), (3, 4))
                ]
            for leaf, leaves in zip(whole, zip(*parts)):
                assert np.array_equal(leaf, np.concatenate(leaves))


def test_held_out_batches_hold_each_token_once_with_the_noise_of_the_task(data):
    config, prepared = data
    part, written = prepared.splits["valid"], []
    for batch in TASK.held_out(part, config, None, 8, Process()):
        written += [target for _, target in rows_of(batch, prepared)]
    assert sorted(token for target in written for token in target) == sorted(part.tokens[:-1].tolist())
    again = list(TASK.held_out(part, config, None, 8, Process()))
    other = list(dataclasses.replace(TASK, rotate=1.0).held_out(part, config, None, 8, Process()))
    assert np.array_equal(again[0].source, next(TASK.held_out(part, config, None, 8, Process())).source)
    assert not np.array_equal(again[0].source, other[0].source)


def test_batches_have_the_declared_shapes_and_the_loss_is_that_of_the_targets(data):
    config, prepared = data
    batch = TASK.source(prepared.splits["train"], config, 4, seed=0).batch(0)
    assert [(x.shape, x.dtype) for x in batch] == [(x.shape, x.dtype) for x in TASK.shapes(config, 4)]
    model = BARTConfig(num_layers=1, num_heads=2, d_model=16).resolved(prepared.tokenizer.vocab_size, 24)
    module = TASK.make(model)

    @jax.jit
    def run():
        params = TASK.init(module, jax.random.key(0), 24)
        smoothed = dataclasses.replace(TASK, label_smoothing=0.1)
        sums = [
            t.losses(module, params, batch, rngs=r)[0]
            for t, r in ((TASK, None), (smoothed, None), (smoothed, {}))
        ]
        return sums, TASK.weights(batch)

    (plain, evaluated, smoothed), weights = run()
    assert float(plain["nats"].total) == float(evaluated["nats"].total)
    assert float(plain["nats"].total) != float(smoothed["nats"].total)
    assert abs(float(plain["nats"].mean) - math.log(prepared.tokenizer.vocab_size)) < 0.5
    assert float(weights["nats"]) == float(plain["nats"].weight) == 4 * 24


def test_what_does_not_fit_raises_user_error(data):
    config, _ = data
    model = BARTConfig()
    for task, other, data_config, message in (
        (TASK, BERTConfig(), config, "task=denoising with model=bert"),
        (Denoising(), model, config, "no noise: the text would be copied"),
        (dataclasses.replace(TASK, mask=2.0), model, config, r"task\.mask=2.0"),
        (dataclasses.replace(TASK, label_smoothing=1.0), model, config, r"task\.label_smoothing=1.0"),
        (TASK, BARTConfig(max_length=8), config, "sequence_length=24 exceeds"),
        (TASK, model, dataclasses.replace(config, separate_documents=True), "separate_documents"),
        (TASK, model, dataclasses.replace(config, order="contiguous"), "contiguous"),
    ):
        with pytest.raises(UserError, match=message):
            task.check(other, data_config)


def test_a_tokenizer_without_a_mask_token_raises_user_error(data):
    config = dataclasses.replace(data[0], tokenizer="bpe")
    split = pipeline.prepare(config).splits["train"]
    with pytest.raises(UserError, match="has no 'mask' token"):
        TASK.source(split, config, 4, seed=0)
    [batch] = [Denoising(delete=0.3).source(split, config, 4, seed=0).batch(0)]
    assert (batch.source[:, 0] != split.end_id).all(), "GPT-2's tokens have nothing before a text"


@pytest.fixture
def recipe(data, tmp_path, monkeypatch):
    """A recipe of denoising, as `get_config` gives it."""
    config = Config(data=data[0], model=BARTConfig(), task=TASK)
    monkeypatch.setattr("lm_jax.config.load", lambda spec: ("bart", config))
    path = tmp_path / "text.txt"
    path.write_text("the model reads text. a language writes data. old and new!\n")
    return path


def shown(capsys, *arguments):
    command.main(list(arguments))
    return capsys.readouterr().out


def test_the_command_shows_a_text_before_and_after_each_noise(recipe, capsys):
    first = shown(capsys, f"--text={recipe}", "--config.data.sequence_length=64")
    assert first == shown(capsys, f"--text={recipe}", "--config.data.sequence_length=64")
    assert first != shown(capsys, f"--text={recipe}", "--config.data.sequence_length=64", "--step=1")
    titles = [line for line in first.splitlines() if ": " in line and "tokens" in line]
    assert [title.partition("=")[0] for title in titles[1:-1]] == list(NOISES)
    assert titles[-1].startswith("the recipe: permute=1.0 infill=0.3: ")
    assert "the model reads text. a language writes data. old and new!\n" in first
    assert "<mask>" in first
    marked = shown(capsys, f"--text={recipe}", "--config.data.sequence_length=64", "--marks")
    assert marked.replace("|", "") == first
    assert "|" in marked


def test_noises_that_the_tokenizer_cannot_write_are_left_out(recipe, capsys):
    tokenizer = ("--config.data.tokenizer=char", "--config.task.infill=0")
    assert "mask: the char tokenizer has no mask token" in shown(capsys, f"--text={recipe}", *tokenizer)
    with pytest.raises(UserError, match="has no 'mask' token"):
        command.main([f"--text={recipe}", tokenizer[0]])
    wordpiece = shown(capsys, f"--text={recipe}", "--config.data.tokenizer=wordpiece")
    assert "[MASK]" in wordpiece


def test_wrong_texts_and_rows_raise_user_error(recipe, capsys):
    recipe.with_name("empty").write_text(" \n")
    for arguments, message in (
        ((f"--text={recipe.with_name('empty')}",), "no text in .*empty"),
        ((f"--text={recipe}", "--row=9"), r"--row=9 of a text of \d+ tokens"),
        ((f"--text={recipe}", "--step=-1"), "--step=-1"),
        ((f"--text={recipe}", "--config.task.infill=3"), r"task\.infill=3"),
        ((f"--text={recipe}", "--config.task=causal"), "is no recipe of denoising"),
    ):
        with pytest.raises(UserError, match=message):
            command.main(list(arguments))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A finished run of a tiny BART: its directory, model and rows."""
    train = TrainConfig(num_steps=4, batch_size=4, eval_every=4, checkpoint_every=4, sample_tokens=0)
    model = BARTConfig(num_layers=1, num_heads=2, d_model=16)
    config = Config(
        data=data[0], model=model, task=TASK, optimizer=OptimizerConfig(warmup_steps=1), train=train
    )
    directory = tmp_path_factory.mktemp("denoising_run") / "run"
    rows = experiment.run(config, directory)
    return directory, lm_jax.load(directory), rows


def test_a_run_is_evaluated_by_the_reconstruction_of_the_fixed_noise(run):
    directory, model, rows = run
    assert [row.split for row in rows] == ["valid", "test"]
    for row in rows:
        metrics = row.metrics
        assert next(iter(metrics)) == "reconstruction_perplexity"
        assert "most of the text" in metrics["bits_per_byte"].why
        perplexity = metrics["reconstruction_perplexity"]
        assert perplexity.interval[0] < perplexity.value < perplexity.interval[1]
        text = read_held_out(directory, row.split)
        ids = model.tokenizer.encode_ids([document.text for document in text.documents])
        assert row.counts["tokens"] == sum(map(len, ids))
        found = np.concatenate(model.reconstruct([document.text for document in text.documents]))
        assert math.isclose(math.exp(-found.mean()), perplexity.value, rel_tol=1e-5)


def test_a_text_is_reconstructed_alike_alone_and_among_others(run):
    _, model, _ = run
    texts = ["the model reads text. a language writes data.", "", "old and new " * 30]
    together = model.reconstruct(texts, 5)
    for number, text in enumerate(texts):
        [alone] = model.reconstruct([text], 5 + number)
        assert len(alone) == len(model.tokenizer.encode_ids([text])[0])
        assert np.allclose(alone, together[number], atol=1e-5)
    assert not np.allclose(model.reconstruct(texts[2:], 5)[0], together[2])
