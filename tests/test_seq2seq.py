"""The task of sources and targets: its batches, its loss for both kinds of models, and what it refuses."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

import lm_jax
from lm_jax import config as config_module
from lm_jax import experiment
from lm_jax.config import Config, OptimizerConfig, TrainConfig
from lm_jax.data import pipeline
from lm_jax.data.noising import NOISES
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.models.bart import BARTConfig
from lm_jax.models.bert import BERTConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.tasks.base import Process
from lm_jax.tasks.seq2seq import Seq2Seq

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
TASK = Seq2Seq()
BART = BARTConfig(num_layers=1, num_heads=2, d_model=16)
GPT = GPTConfig(num_layers=1, num_heads=2, d_model=16, max_length=48)


def config_of(corpus, **fields):
    shape = {"split": "tail:0.2", "tokenizer": "bpe-bart", "vocab_size": 300, "sequence_length": 24}
    return DataConfig(corpus, **shape | fields)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Targets are the words of the source in reverse; sources have 1 to 8 words, some too many for a row."""
    draw, lines = np.random.default_rng(0), ["source\ttarget"]
    for _ in range(60):
        words = [str(word) for word in draw.integers(10, 99, draw.integers(1, 9))]
        lines.append(f"{' '.join(words)}\t{' '.join(words[:3][::-1])}")
    path = tmp_path_factory.mktemp("seq2seq") / "pairs.tsv"
    path.write_text("\n".join(lines) + "\n")
    config = config_of(f"tsv:{path}#source", sequence_length=16)
    return config, pipeline.prepare(config, TASK.fields())


def pairs_of(batch, tokenizer):
    """The text of the source and of the target of each row."""
    special = tokenizer.special_ids
    for source, segments, inputs, targets, weights in zip(*map(np.asarray, batch)):
        count, written = (segments >= 0).sum(), int((weights > 0).sum())
        if not written:
            continue
        assert (source[0], source[count - 1]) == (special["bos"], special["eos"])
        assert (targets[0], targets[written - 1]) == (special["bos"], special["eos"])
        assert (inputs[:written] == [special["eos"], *targets[: written - 1]]).all()
        yield tokenizer.decode(source[:count]), tokenizer.decode(targets[:written])


def test_an_epoch_holds_each_pair_once_on_any_number_of_processes(data):
    config, prepared = data
    train, tokenizer = prepared.splits["train"], prepared.tokenizer
    expected = []
    for document in train.documents():
        ids = tokenizer.encode_ids([document.text])[0][: config.sequence_length - 2]
        expected.append((tokenizer.decode(ids), document.fields["target"]))
    source = TASK.source(train, config, 8, seed=1)
    found = []
    for step in range(source.steps_per_epoch):
        whole = source.batch(step)
        found += pairs_of(whole, tokenizer)
        for leaf, leaves in zip(whole, zip(*(source.batch(step, i, 2) for i in range(2)))):
            assert np.array_equal(leaf, np.concatenate(leaves))
    assert sorted(found) == sorted(expected)
    valid = prepared.splits["valid"]
    held_out = [p for b in TASK.held_out(valid, config, BART, 4, Process()) for p in pairs_of(b, tokenizer)]
    assert sorted(t for _, t in held_out) == sorted(d.fields["target"] for d in valid.documents())


def test_few_pairs_are_the_same_in_each_epoch(data):
    config, prepared = data
    few = dataclasses.replace(TASK, num_examples=5)
    source = few.source(prepared.splits["train"], config, 5, seed=1)
    assert source.steps_per_epoch == 1
    first, second = (sorted(pairs_of(source.batch(step), prepared.tokenizer)) for step in range(2))
    assert first == second


@pytest.mark.parametrize("model", [BART, GPT])
def test_the_loss_is_that_of_each_pair_alone(data, model):
    config, prepared = data
    batch = TASK.source(prepared.splits["train"], config, 8, seed=0).batch(0)
    model = model.resolved(prepared.tokenizer.vocab_size, config.sequence_length)
    module = TASK.make(model)
    params = jax.jit(lambda: TASK.init(module, jax.random.key(0), 16))()
    params = jax.tree.map(
        lambda x: np.random.default_rng(1).normal(0, 0.3, x.shape).astype(np.float32), params
    )

    @jax.jit
    def losses(params, batch):
        return TASK.losses(module, params, batch)[0], TASK.weights(batch)

    @jax.jit
    def log_probs_of_row(params, source, target):
        if model.family == "bart":
            memory = module.apply(params, source, method="encode")
            logits = module.apply(
                params, module.apply(params, target, memory, method="decode"), method="logits"
            )
        else:
            row = jax.numpy.concatenate([source, target[:, 1:]], axis=1)
            hidden = module.apply(params, row, method="hidden")[0][:, source.shape[1] - 1 :]
            logits = module.apply(params, hidden, method="logits")
        return jax.nn.log_softmax(logits)

    sums, weights = losses(params, batch)
    assert float(weights["nats"]) == float(sums["nats"].weight) == batch.weights.sum()
    # Two rows alone, without padding.
    rows = np.argsort(batch.weights.sum(axis=1))[[0, -1]]
    part = type(batch)(*(leaf[rows] for leaf in batch))
    total = 0.0
    for source, segments, inputs, targets, row_weights in zip(*part):
        count, written = (segments >= 0).sum(), int(row_weights.sum())
        found = log_probs_of_row(params, source[None, :count], inputs[None, :written])
        total -= np.asarray(found)[0, np.arange(written), targets[:written]].sum()
    few = type(batch)(*(np.concatenate([leaf] * 4) for leaf in part))
    assert np.isclose(float(losses(params, few)[0]["nats"].total), 4 * total, rtol=1e-4)


def test_labels_are_smoothed_in_training_alone(data):
    config, prepared = data
    batch = TASK.source(prepared.splits["train"], config, 8, seed=0).batch(0)
    model = BART.resolved(prepared.tokenizer.vocab_size, config.sequence_length)
    smoothed = dataclasses.replace(TASK, label_smoothing=0.2)
    module = TASK.make(model)

    @jax.jit
    def run():
        params = TASK.init(module, jax.random.key(0), 16)
        cases = ((TASK, None), (TASK, {}), (smoothed, None), (smoothed, {}))
        return [task.losses(module, params, batch, rngs=rngs)[0]["nats"].total for task, rngs in cases]

    plain, trained, evaluated, of_smoothed = map(float, run())
    assert plain == trained == evaluated != of_smoothed


def test_what_does_not_fit_raises_user_error(data):
    config = data[0]
    for task, model, data_config, message in (
        (TASK, BERTConfig(), config, "task=seq2seq with model=bert, which reads both sides"),
        (TASK, dataclasses.replace(BART, max_length=8), config, r"data\.sequence_length=16 exceeds"),
        (
            TASK,
            dataclasses.replace(GPT, max_length=24),
            config,
            r"model\.max_length=24 .* set model\.max_length=32",
        ),
        (TASK, GPTConfig(), config, r"model\.max_length=0"),
        (Seq2Seq(target=""), BART, config, r"task\.target is empty"),
        (Seq2Seq(label_smoothing=1.0), BART, config, r"task\.label_smoothing"),
        (Seq2Seq(num_examples=-1), BART, config, r"task\.num_examples"),
        (TASK, BART, dataclasses.replace(config, order="contiguous"), "contiguous"),
        (TASK, BART, dataclasses.replace(config, sequence_length=3), "sequence_length=3"),
    ):
        with pytest.raises(UserError, match=message):
            task.check(model, data_config)
    TASK.check(GPT, config)


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("tsv:{}#a", ["a\ttarget", "x\ty", "\ty"], "document pairs:3 has an empty text;"),
        (
            "tsv:{}#a",
            ["a\ttarget", "x\t ", "x\ty"],
            "document pairs:2 has an empty text in the field 'target'",
        ),
        ("tsv:{}#a", ["a\ttarget", "x\ty", "a\ttab\ty"], "line 3, has 3 columns where the first line has 2"),
        ("csv:{}#a", ["a,other", "x,y"], "document pairs:2 has no field 'target'"),
        ("jsonl:{}", [{"text": "x"}], "document pairs:1 has no field 'target'"),
        ("jsonl:{}", [{"text": "x", "target": ["y"]}], "has no text in the field 'target'"),
        ("jsonl:{}", [{"text": "x", "target": None}], "has no field 'target'"),
    ],
)
def test_pairs_without_one_side_raise_user_error(name, lines, message, tmp_path):
    path = tmp_path / "pairs"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    with pytest.raises(UserError, match=message):
        pipeline.prepare(config_of(name.format(path), split="hash:0.1"), TASK.fields())


def test_a_side_without_tokens_raises_user_error(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("a\ttarget\n" + "x y\tz\n" * 4 + "x\t\x01\n" * 4)
    config = config_of(f"tsv:{path}#a", tokenizer="wordpiece", vocab_size=40, split="hash:0.3")
    split = pipeline.prepare(config, TASK.fields()).splits["train"]
    with pytest.raises(
        UserError, match=r"a side without tokens; the first is document .*, in its field 'target'"
    ):
        TASK.source(split, config, 2, seed=0)


@pytest.mark.parametrize(
    "spec",
    [
        *("bart.py", "bart.py:base", "bart.py:mask+rotate", *(f"bart.py:{name}" for name in NOISES)),
        *("seq2seq.py", *(f"seq2seq.py:{name}" for name in ("docstring", "scratch", "gpt", "multi30k"))),
    ],
)
def test_recipes_are_valid(spec):
    _, config = config_module.load(f"{CONFIGS}/{spec}")
    experiment.check(config)
    assert config.task.name == ("denoising" if spec.startswith("bart") else "seq2seq")


@pytest.mark.parametrize("recipe", ["bart", "seq2seq"])
def test_unknown_variants_are_refused(recipe):
    with pytest.raises(UserError, match="no variant 'x' of this recipe; choose one of '', "):
        config_module.load(f"{CONFIGS}/{recipe}.py:x")


@pytest.fixture(scope="module", params=["bart", pytest.param("gpt", marks=pytest.mark.slow)])
def run(request, tmp_path_factory):
    """A run of few steps on rows that are shorter than some targets."""
    directory = tmp_path_factory.mktemp("seq2seq_run")
    lines = [f"{i}\t{'12 ' * (9 if i % 3 == 0 else 1)}{i % 5}" for i in range(40)]
    (directory / "pairs.tsv").write_text("source\ttarget\n" + "\n".join(lines) + "\n")
    model = BART if request.param == "bart" else dataclasses.replace(GPT, max_length=18)
    train = TrainConfig(num_steps=2, batch_size=8, eval_every=2, checkpoint_every=2, sample_tokens=0)
    data = config_of(f"tsv:{directory}/pairs.tsv#source", sequence_length=9)
    config = Config(data, model, TASK, OptimizerConfig(warmup_steps=1), train)
    with pytest.warns(
        UserWarning, match=r"targets have more than data\.sequence_length=9 tokens and are cut"
    ):
        rows = experiment.run(config, directory / "run")
    return lm_jax.load(directory / "run"), rows


def test_long_targets_are_cut_and_counted_in_results(run):
    _, [valid] = run
    assert 0 < valid.counts["cut_targets"] < valid.counts["pairs"]
    assert valid.metrics["target_perplexity"].value > 1


def test_long_sources_are_cut_with_a_warning(run):
    model, _ = run
    with pytest.warns(UserWarning, match="sources of more than 9 tokens, special ones included, are cut"):
        [one] = model.generate(["1 2 3 4 5 6 7 8 9 1 2 3"], 2)
    fits = model.tokenizer.decode(model.tokenizer.encode_ids(["1 2 3 4 5 6 7 8 9"])[0][:7])
    assert model.generate([fits], 2)[0].text == one.text


def test_a_long_target_is_scored_as_far_as_it_fits_if_asked(run):
    model, _ = run
    source, short, long = "7", "12 3", "12 " * 9
    with pytest.raises(UserError, match=r"a target of \d+ tokens for a model that writes"):
        model.score_targets([source] * 2, [short, long])
    scored = model.score_targets([source] * 2, [short, long], cut=True)
    assert [one.complete for one in scored] == [True, False]
    assert scored[1].spans[-1, 1] < len(long)
    assert len(scored[1].log_probs) == model.most_tokens
    # Targets that agree so far have equal probabilities so far.
    fits = model.tokenizer.decode(model.tokenizer.encode_ids([long])[0][: model.most_tokens - 2])
    [whole] = model.score_targets([source], [fits])
    assert np.allclose(whole.log_probs[:-1], scored[1].log_probs[: len(whole.log_probs) - 1], atol=1e-5)
