"""The masked task: its batches, its losses, a run of it, and what an opened run does."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

import lm_jax
from lm_jax import experiment
from lm_jax.config import Config
from lm_jax.data import pipeline
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.evaluation import texts
from lm_jax.evaluation.base import evaluate
from lm_jax.metrics import likelihood
from lm_jax.models.bert import BERTConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.tasks.base import Process
from lm_jax.tasks.causal import Causal
from lm_jax.tasks.masked import Masked
from lm_jax.training.graft import graft

MODEL = BERTConfig(num_layers=1, num_heads=2, d_model=16, pooler=True)


def recipe(path, **task):
    data = DataConfig(
        corpus=f"text:{tiny.write_text(path / 'text.txt')}",
        documents="paragraph",
        split="tail:0.1,0.1",
        tokenizer="wordpiece",
        vocab_size=64,
        sequence_length=32,
    )
    whole = (path / "text.txt").read_text().splitlines(keepends=True)  # paragraphs of eight lines
    (path / "text.txt").write_text("".join(line + "\n" * (i % 8 == 7) for i, line in enumerate(whole)))
    base = tiny.config(path / "text.txt", num_steps=6, eval_every=3, sample_tokens=0)
    return dataclasses.replace(base, data=data, model=MODEL, task=Masked(**task))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return recipe(tmp_path_factory.mktemp("masked"), pairs="next")


@pytest.fixture(scope="module")
def data(config):
    return pipeline.prepare(config.data)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("masked_run") / "run"
    return workdir, experiment.run(config, workdir)


@pytest.mark.parametrize("pairs", ["none", "next", "order"])
@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_a_batch_hides_and_tells_the_same_tokens(data, config, pairs, unit):
    task = Masked(pairs=pairs, unit=unit)
    source = task.source(data.splits["train"], config.data, 4, seed=3)
    batch = source.batch(5)
    shapes = task.shapes(config.data, 4)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
    special = data.tokenizer.special_ids
    clean = batch.inputs.copy()
    rows, places = np.nonzero(batch.weights)
    clean[rows, batch.positions[rows, places]] = batch.targets[rows, places]
    assert (clean[:, 0] == special["cls"]).all()
    assert not (clean == special["mask"]).any()
    assert not np.isin(batch.targets[rows, places], [special["cls"], special["sep"], special["pad"]]).any()
    if pairs == "none":
        assert (clean[:, -1] == special["sep"]).all()
        text = np.asarray(data.splits["train"].tokens)
        circle = np.concatenate([text[:-1], text])
        windows = np.lib.stride_tricks.sliding_window_view(circle, 30)
        assert all((windows == row[1:-1]).all(axis=1).any() for row in clean)
    else:
        is_padding = batch.segments < 0
        assert (clean[is_padding] == special["pad"]).all()
        assert ((clean == special["sep"]) & ~is_padding).sum(axis=1).tolist() == [2] * 4
        assert (batch.types[is_padding] == 0).all()


@pytest.mark.parametrize("pairs", ["none", "next"])
def test_processes_share_a_batch_and_steps_differ(data, config, pairs):
    source = Masked(pairs=pairs).source(data.splits["train"], config.data, 4, seed=3)
    whole, parts = source.batch(7), [source.batch(7, process, 2) for process in range(2)]
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    jax.tree.map(np.testing.assert_array_equal, joined, whole)
    assert (source.batch(7 + source.steps_per_epoch).inputs != whole.inputs).any()


@pytest.mark.parametrize("separate", [False, True])
def test_held_out_rows_hold_each_token_once(data, config, separate):
    settings = dataclasses.replace(config.data, separate_documents=separate)
    split, special = data.splits["valid"], data.tokenizer.special_ids
    batches = list(Masked().held_out(split, settings, MODEL, 4, Process()))
    again = list(Masked().held_out(split, settings, MODEL, 4, Process()))
    jax.tree.map(np.testing.assert_array_equal, batches, again)
    found = []
    for batch in batches:
        clean = batch.inputs.copy()
        rows, places = np.nonzero(batch.weights)
        clean[rows, batch.positions[rows, places]] = batch.targets[rows, places]
        for row, segments in zip(clean, batch.segments, strict=True):
            length = int((segments >= 0).sum())
            if length:
                assert row[0] == special["cls"]
                assert row[length - 1] == special["sep"]
                found.append(row[1 : length - 1])
    assert sorted(np.concatenate(found).tolist()) == sorted(split.tokens[:-1].tolist())


def test_all_models_are_asked_for_the_same_held_out_tokens(data, config):
    tasks = [Masked(), Masked(rate=0.4, unit="word", mask_share=1.0, random_share=0.0)]
    asked = [list(task.held_out(data.splits["valid"], config.data, MODEL, 4, Process())) for task in tasks]
    jax.tree.map(np.testing.assert_array_equal, *asked)


def test_losses_are_those_of_all_positions(data, config):
    resolved = config.resolved(data.tokenizer.vocab_size)
    task = resolved.task
    module = task.make(resolved.model)
    params = jax.jit(lambda: task.init(module, jax.random.key(0), 32))()
    batch = task.source(data.splits["train"], config.data, 4, seed=3).batch(0)
    sums, _ = jax.jit(lambda p, b: task.losses(module, p, b))(params, batch)

    @jax.jit
    def everywhere(params):
        hidden = module.apply(params, batch.inputs, batch.segments, batch.types, method="encode")
        return module.apply(params, hidden, method="logits"), module.apply(
            params, hidden, method="pair_logits"
        )

    logits_BTV, pairs_B2 = (np.asarray(x, np.float64) for x in everywhere(params))
    rows, places = np.nonzero(batch.weights)
    at = logits_BTV[rows, batch.positions[rows, places]]
    log_probs = at - np.log(np.exp(at).sum(axis=1, keepdims=True))
    nats = -log_probs[np.arange(len(rows)), batch.targets[rows, places]].sum()
    assert float(sums["masked_nats"].total) == pytest.approx(nats, rel=1e-5)
    pair_nats = likelihood.cross_entropy(pairs_B2.astype(np.float32), batch.pair_labels).total
    assert float(sums["pair_nats"].total) == pytest.approx(float(pair_nats), rel=1e-5)
    weights = task.weights(batch)
    assert float(weights["masked_nats"]) == len(rows) == float(sums["masked_accuracy"].weight)
    assert float(weights["pair_nats"]) == 4


def test_a_run_gives_rows_and_opens(run, config):
    workdir, rows = run
    assert [row.split for row in rows] == ["valid", "test"]
    row = rows[0]
    assert (row.headline, row.task, row.family) == ("masked_accuracy", "masked", "bert")
    assert 0 <= row.metrics["masked_accuracy"].value <= 1
    assert row.metrics["masked_perplexity"].interval is not None
    assert (row.context["window"], row.context["unit"], row.context["rate"]) == (32, "token", 0.15)
    assert row.metrics["bits_per_byte"].value is None
    assert "gives whole texts no probability" in row.metrics["bits_per_byte"].why
    assert row.counts["pairs"] > 0
    lm = lm_jax.load(workdir)
    [[candidates]] = lm.fill(["the [MASK] reads"], top_k=2)
    assert len(candidates) == 2
    text = texts.read_held_out(workdir, "valid")
    assert evaluate(lm, text, str(workdir)).row.metrics == row.metrics, "the noise is fixed"
    assert experiment.run(config, workdir)[0].metrics == row.metrics, "a finished run prints its results"


def test_the_head_of_masked_tokens_is_kept_with_and_without_pairs(run, config):
    """As where a published BERT, which tells pairs, is trained on without them."""
    source = lm_jax.load(run[0])
    there = source.params["params"]
    for pairs in ("none", "next", "order"):
        tuned = dataclasses.replace(
            config, model=source.config, task=Masked(pairs=pairs), init_from=str(run[0])
        )
        params = experiment._initial_params(tuned)["params"]
        wanted = {name: x for name, x in there["head"].items() if name != "pairs" or pairs != "none"}
        jax.tree.map(np.testing.assert_array_equal, params, {**there, "head": wanted})
    without = {**there, "head": {name: x for name, x in there["head"].items() if name != "pairs"}}
    made = graft(tuned, {"params": without}, "x")["params"]
    assert made["head"]["pairs"]["kernel"].shape == (16, 2)
    del made["head"]["pairs"]
    jax.tree.map(np.testing.assert_array_equal, made, without)


def test_an_encoder_run_is_exported(run, tmp_path):
    from lm_jax.export import export

    lm = lm_jax.load(run[0])
    export(lm, tmp_path / "out")
    back = lm_jax.load(tmp_path / "out")
    text = ["the model reads"]
    np.testing.assert_allclose(back.embed(text), lm.embed(text), atol=1e-6)
    assert back.fill(["the [MASK]"]) == lm.fill(["the [MASK]"])


def check(config, **changes):
    dataclasses.replace(config, **changes).check()


def test_what_does_not_fit_is_refused(config):
    for changes, message in [
        ({"task": Masked(rate=1.0)}, r"task.rate=1.0; it must lie between"),
        ({"task": Masked(unit="letter")}, "choose one of token, word, span"),
        ({"task": Masked(mask_share=0.9, random_share=0.2)}, "exceed 1"),
        ({"task": Causal()}, "with model=bert, which reads both sides; .*task=masked"),
        ({"model": GPTConfig()}, "with model=gpt, which reads left to right; .*task=causal"),
        ({"model": dataclasses.replace(MODEL, pooler=False)}, "no pooler or no types; set model.pooler=true"),
        ({"model": dataclasses.replace(MODEL, max_length=16)}, "exceeds the model's context"),
    ]:
        with pytest.raises(UserError, match=message):
            check(config, **changes)


def test_a_vocabulary_without_a_mask_is_refused(config, tmp_path):
    wrong = dataclasses.replace(config, data=dataclasses.replace(config.data, tokenizer="byte"))
    with pytest.raises(UserError, match=r"the byte tokenizer has no '(mask|cls)' token"):
        experiment.run(wrong, tmp_path / "run")


def test_a_part_that_gives_no_pairs_is_noticed_before_training(config, tmp_path):
    wrong = dataclasses.replace(config, data=dataclasses.replace(config.data, split="tail:3words"))
    with pytest.raises(UserError, match=r"the valid part has 1 document, and pairs of sentences need two"):
        experiment.run(wrong, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_recipes_are_valid():
    from lm_jax import config as config_module

    for variant in ("", ":published", ":base"):
        _, recipe_ = config_module.load(f"configs/bert.py{variant}")
        assert isinstance(recipe_, Config)
        experiment.check(recipe_)
