"""Eight devices compute what one computes, however arrays lie on them; checkpoints go from mesh to mesh."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec as P
from test_training import one_batch

from lm_jax.checkpoint import Checkpoints
from lm_jax.config import OptimizerConfig
from lm_jax.errors import UserError
from lm_jax.models.bart import BARTConfig
from lm_jax.models.bert import BERTConfig
from lm_jax.models.gpt import GPTConfig
from lm_jax.parallel import sharding
from lm_jax.parallel.sharding import MeshConfig, by_name, fit_mesh, make_mesh
from lm_jax.plan import hlo
from lm_jax.tasks.causal import Causal
from lm_jax.tasks.frames import PairBatch
from lm_jax.tasks.masked import Masked, MaskedBatch
from lm_jax.tasks.seq2seq import Seq2Seq
from lm_jax.training import loop
from lm_jax.training.loop import Trainer
from lm_jax.training.program import Program

MESHES = {
    "data 8": MeshConfig(data=8),
    "fsdp 8": MeshConfig(fsdp=8),
    "tensor 2 x data 4": MeshConfig(data=4, tensor=2),
    "data 2 x fsdp 2 x tensor 2": MeshConfig(data=2, fsdp=2, tensor=2),
}
GPT2 = GPTConfig(num_layers=1, num_heads=2, d_model=16)
MODERN = GPTConfig(
    num_layers=2, num_heads=4, num_kv_heads=2, d_model=16, position="rope", norm="rms", mlp="swiglu",
    parallel_block=True, tied_head=False, use_bias=False, scan_layers=True, remat=True,
)  # fmt: skip


def recipe(model, mesh=MeshConfig(), optimizer=None, vocab_size=64, **train):  # noqa: B008 (frozen)
    config = tiny.config("unread", **({"batch_size": 8} | train))
    plain = OptimizerConfig(
        name="sgd", momentum=0.0, learning_rate=1.0, schedule="constant", warmup_steps=0, weight_decay=0.0,
        clip_norm=0.0,
    )  # fmt: skip
    config = dataclasses.replace(config, model=model, mesh=mesh, optimizer=optimizer or plain)
    return config.resolved(vocab_size)


def loss_and_gradient(config, batch=None):
    """Of one batch; the step of plain SGD at rate 1 is the gradient."""
    trainer = Trainer(config)
    state = trainer.program.init()
    before = jax.device_get(state.params)
    state, metrics = trainer.step(state, one_batch(config) if batch is None else batch)
    return float(metrics["loss"]), jax.tree.map(np.subtract, before, jax.device_get(state.params))


@pytest.mark.slow
@pytest.mark.parametrize("model", [GPT2, MODERN], ids=["gpt2", "modern"])
def test_the_loss_and_gradient_of_one_device_on_eight(model):
    loss, gradient = loss_and_gradient(recipe(model))
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient))
    print(f"\n{'one device':<28}{loss:.6f}  largest gradient {largest:.4f}")
    for name, mesh in MESHES.items():
        other_loss, other = loss_and_gradient(recipe(model, mesh))
        apart = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), gradient, other)))
        print(f"{name:<28}{other_loss:.6f}  gradients apart by at most {apart:.1e}")
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert apart < 1e-5 * max(1, largest)


@pytest.mark.slow
def test_masked_tokens_and_pairs_on_eight_devices():
    """The rows differ in the number of masked tokens, and some have no pair."""
    random, T = np.random.default_rng(0), 16
    model = BERTConfig(num_layers=1, num_heads=2, d_model=16, pooler=True)
    task = Masked(pairs="next")
    config = dataclasses.replace(recipe(model), task=task)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sequence_length=T))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, max_length=T))
    places = np.sort(random.permuted(np.tile(np.arange(T), (8, 1)), axis=1)[:, :2]).astype(np.int32)
    batch = MaskedBatch(
        random.integers(64, size=(8, T), dtype=np.int32), np.zeros((8, T), np.int32), places,
        random.integers(64, size=(8, 2), dtype=np.int32), random.integers(2, size=(8, 2)).astype(np.float32),
        random.integers(2, size=(8, T), dtype=np.int32), random.integers(2, size=8, dtype=np.int32),
        (np.arange(8) != 3).astype(np.float32),
    )  # fmt: skip
    loss, gradient = loss_and_gradient(config, batch)
    for name in ("data 8", "data 2 x fsdp 2 x tensor 2"):
        other_loss, other = loss_and_gradient(dataclasses.replace(config, mesh=MESHES[name]), batch)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, other)


@pytest.mark.slow
def test_sources_and_targets_on_eight_devices():
    """The rows differ in length on both sides, and one has no weight."""
    random, T = np.random.default_rng(0), 16
    model = BARTConfig(
        num_layers=2, num_encoder_layers=1, num_heads=2, d_model=16, max_length=T, logits_bias=True,
        scan_layers=True, remat=True,
    )  # fmt: skip
    config = dataclasses.replace(recipe(model), task=Seq2Seq())
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, sequence_length=T))
    source, inputs, targets = random.integers(64, size=(3, 8, T), dtype=np.int32)
    lengths, written = random.integers(4, T + 1, size=(2, 8, 1))
    written[3] = 0
    segments = np.where(np.arange(T) < lengths, 0, -1).astype(np.int32)
    batch = PairBatch(source, segments, inputs, targets, (np.arange(T) < written).astype(np.float32))
    loss, gradient = loss_and_gradient(config, batch)
    for name in ("data 8", "data 2 x fsdp 2 x tensor 2"):
        other_loss, other = loss_and_gradient(dataclasses.replace(config, mesh=MESHES[name]), batch)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, other)


@pytest.mark.parametrize("model", [GPT2, MODERN], ids=["gpt2", "modern"])
def test_each_device_holds_its_share_of_the_state(model):
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    state = Program(recipe(model, optimizer=OptimizerConfig(), average="ema"), mesh).state
    for array in jax.tree.leaves((state.params, state.opt_state, state.average)):
        share = np.prod(array.sharding.shard_shape(array.shape)) / np.prod(array.shape)
        # Biases and norms, all with less than 16 x 16 numbers, are whole; positions are shared by fsdp alone.
        assert array.size < 16 * 16 or share in (1 / 8, 1 / 4), array.shape
    [moment] = [
        s for s in jax.tree.leaves(state.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(s, "mu")
    ]
    specs = [
        jax.tree.map(lambda x: x.sharding.spec, tree)
        for tree in (state.params, moment.mu, state.average.params)
    ]
    assert specs[0] == specs[1] == specs[2]


@pytest.mark.parametrize(
    "model",
    [dataclasses.replace(GPT2, num_layers=2, num_heads=4), dataclasses.replace(MODERN, remat=False)],
    ids=["gpt2", "modern"],
)
def test_tensor_parallelism_only_sums_activations(model):
    """Shoeybi et al. 2019, section 3: sums of what blocks return and of the gradients of what they read."""
    config = recipe(model, MeshConfig(tensor=2))
    program = Program(config, make_mesh(config.mesh))
    collectives = hlo.read(program.lower_step().compile().as_text()).collectives
    assert {c.kind for c in collectives} <= {"all-reduce", "all-gather"}
    sums = 2 + (3 if model.mlp == "swiglu" else 2)  # a layer, forward and backward: qkv, up and perhaps gate
    sums = sums * model.num_layers + 2  # the embedding's, and the gradient of what the head reads
    activations = math.prod(program.batch.inputs.shape) * model.d_model * 4  # bytes
    sent = sum(c.times * c.size for c in collectives)
    assert sent <= (sums + 0.5) * activations  # half: sums of the loss, biases


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("layer_0/attention/qkv/kernel", (16, 3, 2, 8), P("fsdp", None, "tensor", None)),
        ("layers/attention/qkv/kernel", (3, 16, 4, 2, 4), P(None, "fsdp", None, "tensor", None)),
        ("layer_0/attention/qkv/kernel", (16, 4, 1, 8), P("fsdp", None, None, None)),  # one head of keys
        ("layer_0/attention/qkv/bias", (3, 2, 8), P()),
        ("layer_0/mlp/up/kernel", (16, 32), P("fsdp", "tensor")),
        ("layers/mlp/down/kernel", (3, 32, 16), P(None, "tensor", "fsdp")),
        ("layers/mlp/down/bias", (3, 16), P()),
        ("token_embedding/embedding", (64, 16), P(("tensor", "fsdp"), None)),
        ("token_embedding/embedding", (62, 16), P("tensor", None)),  # vocabularies that do not divide
        ("token_embedding/embedding", (63, 16), P()),
        ("head/embedding", (64, 16), P(("tensor", "fsdp"), None)),
        ("position_embedding/embedding", (32, 16), P(None, "fsdp")),
        ("final_norm/scale", (16,), P()),
        ("layer_0/recurrent", (16, 64), P()),
        ("layer_0/input", (16, 64), P("fsdp", None)),
        ("1/v_row/layer_0/attention/qkv/kernel", (16,), P()),  # adafactor's
    ],
)
def test_parameters_are_sharded_by_name(name, shape, spec):
    tree = {}
    *parents, last = name.split("/")
    inner = tree
    for part in parents:
        inner = inner.setdefault(part, {})
    inner[last] = jax.ShapeDtypeStruct(shape, np.float32)
    [place] = jax.tree.leaves(by_name(make_mesh(MeshConfig(fsdp=4, tensor=2)), tree))
    assert place.spec == spec


@pytest.mark.slow
def test_a_checkpoint_is_restored_on_another_mesh(tmp_path):
    config = recipe(MODERN, MESHES["fsdp 8"], OptimizerConfig(), average="triggered")
    trainer = Trainer(config)
    state, _ = trainer.step(trainer.program.init(), one_batch(config))
    saved = jax.device_get(state)
    with Checkpoints(tmp_path) as checkpoints:
        loop._save(checkpoints, state)
    for mesh in (MESHES["tensor 2 x data 4"], MeshConfig()):
        like = Program(config, make_mesh(mesh)).state
        with Checkpoints(tmp_path) as checkpoints:
            restored = loop._restore(checkpoints, 1, like)
        jax.tree.map(np.testing.assert_array_equal, restored, saved)
        assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, like)


def test_the_state_is_donated():
    trainer = Trainer(recipe(GPT2, MESHES["data 2 x fsdp 2 x tensor 2"]))
    state = trainer.program.init()
    trainer.step(state, one_batch(trainer.config))
    assert all(array.is_deleted() for array in jax.tree.leaves(state))


def test_rows_are_not_moved_while_parameters_are_gathered():
    """Left to itself XLA gathers the activations of all rows: more memory than data parallelism takes."""
    model = dataclasses.replace(MODERN, num_layers=2, d_model=64, remat=True)
    config = dataclasses.replace(recipe(model, vocab_size=512, batch_size=64), task=Causal(chunk_length=8))
    peaks = {}
    for name in ("data 8", "fsdp 8"):
        compiled = Program(config, make_mesh(MESHES[name])).lower_step().compile()
        peaks[name] = compiled.memory_analysis().temp_size_in_bytes
    print(f"\ntemporary bytes {peaks}")
    assert peaks["fsdp 8"] < 1.3 * peaks["data 8"]


def test_a_step_is_lowered_for_devices_that_are_only_described():
    config = recipe(GPT2, MESHES["fsdp 8"])
    lowered = Program(config, make_mesh(config.mesh, jax.devices()[::-1])).lower_step()
    assert lowered.compile().memory_analysis().argument_size_in_bytes > 0


@pytest.mark.parametrize(
    ("mesh", "batch", "words"),
    [
        (MeshConfig(data=9), 18, "mesh.data=9 .* on 8 devices"),
        (MeshConfig(data=2, tensor=8), 8, "mesh.tensor=8 on 8 devices"),
        (MeshConfig(fsdp=16, data=-1), 8, "mesh.fsdp=16"),
        (MeshConfig(data=2, fsdp=3), 8, "8 rows does not divide among 6 devices"),
    ],
)
def test_an_impossible_mesh_is_refused(mesh, batch, words):
    config = recipe(GPT2, mesh)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=batch))
    with pytest.raises(UserError, match=words):
        Trainer(config)


def test_devices_that_cannot_be_arranged_are_one_line_errors(monkeypatch):
    def refuse(*_, **__):
        raise NotImplementedError("no assignment\nof axes")

    monkeypatch.setattr(sharding, "create_device_mesh", refuse)
    with pytest.raises(UserError, match=r"no mesh of \(4, 2, 1\) on these devices \(no assignment\); choose"):
        make_mesh(MeshConfig(4, 2, 1))


def test_remaining_devices_share_the_rows():
    assert dict(make_mesh(MeshConfig(data=-1, tensor=2)).shape) == {"data": 4, "fsdp": 1, "tensor": 2}
    with pytest.raises(UserError, match=r"mesh.tensor=0"):
        MeshConfig(tensor=0).check()


@pytest.mark.parametrize(
    ("asked", "devices", "shape"),
    [
        (MeshConfig(), 8, (1, 1, 1)),
        (MeshConfig(data=-1), 8, (8, 1, 1)),
        (MeshConfig(data=16), 8, (8, 1, 1)),
        (MeshConfig(fsdp=4, tensor=2), 8, (1, 4, 2)),
        (MeshConfig(data=2, fsdp=16), 8, (1, 8, 1)),
        (MeshConfig(data=2, fsdp=3, tensor=2), 8, (4, 1, 2)),  # 3 does not divide
        (MeshConfig(data=-1, fsdp=4, tensor=4), 2, (1, 1, 2)),
        (MeshConfig(data=64, fsdp=4, tensor=2), 1, (1, 1, 1)),
    ],
)
def test_fit_mesh_reduces_the_recipes_mesh_to_the_devices(asked, devices, shape, monkeypatch):
    local = jax.devices()[:devices]
    monkeypatch.setattr(jax, "local_devices", lambda: local)
    mesh = fit_mesh(asked)
    assert tuple(mesh.shape.values()) == shape
    assert set(mesh.devices.flat) <= set(local)


def test_an_exact_mesh_is_not_reduced():
    assert dict(fit_mesh(MeshConfig(fsdp=2), exact=True).shape) == {"data": 1, "fsdp": 2, "tensor": 1}
    with pytest.raises(UserError, match=r"mesh.fsdp=16 .* on 8 devices"):
        fit_mesh(MeshConfig(fsdp=16), exact=True)
