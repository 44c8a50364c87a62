"""What a step needs elsewhere: messages and loops read from XLA's text, and operations counted."""

import dataclasses
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from lm_jax import fields, runtime
from lm_jax.config import Config, TrainConfig
from lm_jax.data.pipeline import DataConfig
from lm_jax.errors import UserError
from lm_jax.models.gpt import GPTConfig
from lm_jax.parallel.sharding import MeshConfig, make_mesh
from lm_jax.plan import __main__ as plan
from lm_jax.plan import hlo, report
from lm_jax.plan.devices import find_devices
from lm_jax.plan.flops import model_flops, unrolled_flops
from lm_jax.plan.hlo import Collective
from lm_jax.plan.recipe import fit_accumulation, resolve
from lm_jax.tasks.causal import Causal
from lm_jax.training.program import Program

ROOT = pathlib.Path(__file__).parents[1]
RECIPE = f"--config={ROOT}/configs/gpt.py"
TINY = [
    f"--config.{field}"
    for field in (
        "model.num_layers=2", "model.d_model=64", "model.vocab_size=512", "model.scan_layers=true",
        "data.sequence_length=64", "train.batch_size=16", "mesh.data=-1",
    )
]  # fmt: skip


def test_collectives_and_loops_of_a_known_program():
    def program(x_N):
        def body(x_N, _):
            return jax.lax.psum(x_N, "data") / 8 + 1, None

        x_N, _ = jax.lax.scan(body, x_N, length=5)
        x_DN = jax.lax.all_gather(x_N, "data")
        shifted_DN = jax.lax.ppermute(x_DN.astype(jnp.bfloat16), "data", [(i, (i + 1) % 8) for i in range(8)])
        return jax.lax.psum_scatter(x_DN + shifted_DN, "data").reshape(x_N.shape)

    mesh = make_mesh(MeshConfig(data=8))
    mapped = jax.shard_map(program, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    compiled = jax.jit(mapped).lower(jax.ShapeDtypeStruct((8 * 64,), jnp.float32)).compile()
    module = hlo.read(compiled.as_text())
    assert module.loops == [5]
    found = {c.kind: c for c in module.collectives}
    assert len(found) == len(module.collectives) == 4
    assert found["all-reduce"] == Collective("all-reduce", 8, 64 * 4, 5)
    assert found["all-gather"] == Collective("all-gather", 8, 8 * 64 * 4, 1)
    assert found["reduce-scatter"] == Collective("reduce-scatter", 8, 8 * 64 * 4, 1)
    # XLA's CPU backend may send bfloat16 as float32.
    assert found["collective-permute"].size in (8 * 64 * 2, 8 * 64 * 4)


# The forms that libtpu writes, shortened: a loop's length only in its condition, nested; one message in parts
# of a chain; groups named by a mesh's axes, listed, or as iota; tuples; starts with their sources.
TPU = """\
HloModule step, is_scheduled=true

%part (p.0: bf16[1,16,8]) -> bf16[1,16,128] {
  ROOT %all-gather.1 = bf16[1,16,128]{2,1,0:T(8,128)(2,1)} all-gather(%p.0), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=16] {'axis_1'}, dimensions={2}, frontend_attributes={chain_id="5"}
}

%end (p.1: bf16[1,16,8]) -> bf16[1,16,128] {
  ROOT %all-gather.2 = bf16[1,16,128]{2,1,0:T(8,128)(2,1)} all-gather(%p.1), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=16] {'axis_1'}, dimensions={2}, frontend_attributes={chain_id="5"}
}

%condition.1 (c: (s32[], f32[4])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(4)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %constant.1), direction=LT
}

%body.1 (b: (s32[], f32[4])) -> (s32[], f32[4]) {
  %fusion.1 = bf16[1,16,128]{2,1,0} fusion(%b), kind=kCustom, calls=%part
  %fusion.2 = bf16[1,16,128]{2,1,0} fusion(%fusion.1), kind=kCustom, calls=%end
  ROOT %all-reduce.1 = (s32[]{:T(128)}, /*index=1*/f32[4]{0:T(256)S(1)}) all-reduce(%i.1, %fusion.2), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}

%condition.2 (c: (s32[], f32[4])) -> pred[] {
  %constant.2 = s32[] constant(3)
  ROOT %lt.2 = pred[] compare(%i.2, %constant.2), direction=LT
}

%body.2 (b: (s32[], f32[4])) -> (s32[], f32[4]) {
  ROOT %while.1 = (s32[], f32[4]) while(%b), condition=%condition.1, body=%body.1
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %start = (f32[16]{0}, f32[64]{0:T(128)}) all-gather-start(%x), channel_id=4, replica_groups=[2,4]<=[8], dimensions={0}
  %done = f32[64]{0} all-gather-done(%start)
  %send = (bf16[6]{0}, bf16[6]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), channel_id=5, source_target_pairs={{0,1},{1,0}}
  %whole = pred[10]{0} all-to-all(%x), replica_groups=mesh['axis_0'=2,'axis_1'=16] {'axis_0','axis_1'}
  %again = pred[10]{0} all-to-all(%whole), replica_groups=mesh['axis_0'=2,'axis_1'=16] {'axis_0','axis_1'}
  ROOT %while.2 = (s32[], f32[4]) while(%t), condition=%condition.2, body=%body.2
}
"""  # noqa: E501


def test_collectives_and_loops_of_a_tpu_program():
    module = hlo.read(TPU)
    assert sorted(module.loops) == [3, 12]
    assert set(module.collectives) == {
        Collective("all-gather", 16, 16 * 128 * 2, 12),
        Collective("all-reduce", 4, 4 + 4 * 4, 12),
        Collective("all-gather", 4, 64 * 4, 1),
        Collective("collective-permute", 0, 6 * 2, 1),
        Collective("all-to-all", 32, 10, 1),
    }
    assert len(module.collectives) == 6


def small(**model):
    shape = {"num_layers": 2, "num_heads": 4, "d_model": 128, "vocab_size": 512, "max_length": 64}
    return Config(
        data=DataConfig(sequence_length=64),
        model=GPTConfig(**(shape | model)),
        train=TrainConfig(batch_size=8),
    )


def test_operations_are_counted_in_every_round_of_every_loop():
    plain = small()
    looped = dataclasses.replace(
        small(scan_layers=True),
        task=Causal(chunk_length=16),
        train=dataclasses.replace(plain.train, accumulation=4),
    )
    counted = unrolled_flops(looped)
    assert counted == unrolled_flops(plain)
    assert counted == pytest.approx(model_flops(plain), rel=0.1)
    assert model_flops(looped) == model_flops(plain)


def test_the_vocabulary_is_known_without_a_corpus():
    data = {"corpus": "text:/no/such/file"}
    for given, tokens in (({"tokenizer": "bpe", "vocab_size": 300}, 300), ({"tokenizer": "byte"}, 257)):
        resolved = resolve(Config(data=DataConfig(**data, **given)))
        assert (resolved.model.vocab_size, resolved.model.max_length) == (
            tokens,
            resolved.data.sequence_length,
        )
    with pytest.raises(UserError, match=r"only the corpus tells .*set --config.model.vocab_size"):
        resolve(Config(data=DataConfig(**data, tokenizer="word", vocab_size=0)))


@pytest.mark.parametrize(
    ("mesh", "devices", "rows", "parts"),
    [
        (MeshConfig(data=-1), 32, 512, 16),
        (MeshConfig(data=-1), 256, 512, 1),
        (MeshConfig(data=-1, tensor=2), 24, 48, 2),  # 12 shares of 4 rows: one device alone would read 3
        (MeshConfig(data=3), 3, 512, 16),
    ],
)
def test_accumulation_leaves_each_device_a_row(mesh, devices, rows, parts, capsys):
    config = Config(mesh=mesh, train=TrainConfig(batch_size=rows, accumulation=16))
    assert fit_accumulation(config, devices).train.accumulation == parts
    assert ("note:" in capsys.readouterr().out) == (parts != 16)


def test_a_step_lowers_for_cuda(capsys):
    plan.main([RECIPE, "--topology=cuda:8", *TINY])
    out = capsys.readouterr().out
    assert re.search(r"devices +8  of 8, GPU; mesh: data 8, fsdp 1, tensor 1", out)
    size = re.search(r"lowers for CUDA +([\d.]+) MB", out)
    assert float(size[1]) > 0.01


def test_a_program_is_traced_for_the_devices_that_it_is_for():
    with runtime.traced_for("tpu"):
        assert runtime.platform() == "tpu"
    assert runtime.platform() == jax.default_backend()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topology=v5e:2x2"], r"libtpu, .* not installed; pip install 'lm_jax\[tpu\]'"),
        (["--topology=cuda:many"], "give cuda:N"),
        (["--topology=cuda:8", "--config.mesh.data=3"], "16 rows does not divide"),
        (["--topology=cuda:8", "--config.mesh.fsdp=16"], "on 8 devices"),
        ([f"--config={ROOT}/configs/ngram.py"], "counted on the CPU"),
        (["--topologie=v5e:2x2"], "did you mean --topology"),
    ],
)
def test_mistakes_are_one_line_errors(arguments, words, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    recipe = [] if arguments[0].startswith("--config=") else [RECIPE, *TINY]
    with pytest.raises(UserError, match=words) as caught:
        plan.main([*recipe, *arguments])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "message",
    [
        "Ran out of memory in memory space hbm. Used 20.1G of 15.75G hbm. Exceeded hbm capacity by 4.35G.",
        "the total memory required for HLO temporaries (20.1G) exceeds available HBM (15.75G).",
    ],
)
def test_a_misfit_names_fields_that_reduce_memory(message, capsys):
    config = fields.override(small(), {"train.batch_size": "64", "mesh.data": "8"})
    program = Program(config, make_mesh(config.mesh))
    report._print_misfit(program, message)
    out = capsys.readouterr().out
    assert "does not fit: it needs 20.1G of 15.75G a device." in out
    for field in ("model.remat=true", "model.scan_layers=true", "mesh.fsdp=4", "train.batch_size=32"):
        assert f"--config.{field}" in out
    config = fields.override(config, {"model.remat": "true"})
    report._print_misfit(Program(config, make_mesh(config.mesh)), "no numbers")
    assert "model.remat" not in capsys.readouterr().out


def command(*arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_NUM")}
    line = [sys.executable, "-m", "lm_jax.plan", RECIPE, *arguments]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.parametrize(
    ("topology", "mesh"),
    [("v6e:4x4", MeshConfig(8, 2, 1)), ("v5p:4x4x4", MeshConfig(4, 8, 2)), ("v4:2x2x4", MeshConfig(4, 4, 1))],
)
def test_a_mesh_axis_may_use_part_of_a_slices_axis(topology, mesh):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install 'lm_jax[tpu]'")
    devices = find_devices(topology)
    assert sorted(d.id for d in make_mesh(mesh, devices).devices.flat) == sorted(d.id for d in devices)


@pytest.mark.slow
def test_a_step_is_compiled_for_a_tpu_slice():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: pip install 'lm_jax[tpu]'")
    written_out = [a.replace("scan_layers=true", "scan_layers=false") for a in TINY]
    done = command("--topology=v5e:2x2", *written_out)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    print(done.stdout)
    parameters = int(re.search(r"parameters +([\d,]+)", done.stdout)[1].replace(",", ""))
    ratio = float(re.search(r"operations .* ([\d.]+) times its share", done.stdout)[1])
    assert 0.9 < ratio < 1.1
    sent = float(re.search(r"total .* ([\d.]+) MB on each device", done.stdout)[1]) * 1e6
    assert 2 * parameters < sent < 6 * parameters  # gradients, between bfloat16 and float32
    assert "it fits" in done.stdout

    unknown = command("--topology=v5e:3x3", *TINY)
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("error: --topology=v5e:3x3: ")
    cut = command("--topology=v5e:2x2", *TINY, "--config.mesh.data=3", "--config.train.batch_size=15")
    assert cut.returncode == 2
    assert "no mesh of (3, 1, 1) on these devices" in cut.stderr
    large = ["model.d_model=8192", "train.batch_size=64", "model.num_layers=32", "model.num_heads=64"]
    misfit = command("--topology=v5e:2x2", *TINY, *(f"--config.{field}" for field in large))
    assert misfit.returncode == 3, misfit.stderr
    assert re.search(r"does not fit: it needs [\d.]+G of 15.75G", misfit.stdout)
