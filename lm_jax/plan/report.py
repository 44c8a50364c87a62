"""The printed output of a plan."""

import math
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax

from lm_jax.models.base import num_parameters
from lm_jax.plan import hlo
from lm_jax.plan.devices import CHIPS, GIB, Chip
from lm_jax.plan.flops import model_flops, num_tokens, unrolled_flops
from lm_jax.training.program import Program


def print_recipe(program: Program, kind: str) -> None:
    """Prints the devices, the parameters of each device, and the tokens of a step."""
    mesh, config = program.mesh, program.config
    sizes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    tokens = num_tokens(config)
    shares = [
        x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(program.state._replace(step=None))
    ]
    rows = config.train.batch_size // config.train.accumulation
    rows_each = rows // (mesh.shape["data"] * mesh.shape["fsdp"])
    _line("devices", f"{mesh.size:,}", f"{kind}; mesh: {sizes}")
    _line(
        "parameters",
        f"{num_parameters(program.state.params):,}",
        f"with the optimizer's {_gib(sum(shares))} a device",
    )
    _line(
        "tokens a step",
        f"{tokens:,}",
        f"{config.train.batch_size} rows of {config.data.sequence_length}; {rows_each} at a time on a device",
    )


def plan_cuda(program: Program) -> None:
    """Prints the plan for GPUs: operations, and that the step lowers to StableHLO; nothing is compiled."""
    _print_flops(program)
    traced = program.step.trace(program.state, program.batch, program.key)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    _line("lowers for CUDA", f"{len(text) / 1e6:.2f} MB", f"of StableHLO, {text.count(' = '):,} operations")
    print("Not compiled: memory and messages are known only where there is a GPU.")
    if getattr(program.config.model, "attention", "") == "fused":
        print("On the GPU cuDNN's attention takes the place of XLA's where it applies.")


def plan_tpu(program: Program) -> None:
    """Prints the plan of a TPU slice.

    Raises:
        SystemExit: with code 3 if it does not fit.
    """
    start = time.monotonic()
    lowered = program.lower_step()
    print("compiling ...", file=sys.stderr, flush=True)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _print_flops(program)
        _print_misfit(program, str(error))
        raise SystemExit(3) from None
    print(f"compiled in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    chip = CHIPS.get(program.mesh.devices.flat[0].device_kind)
    module = hlo.read(compiled.as_text() or "")
    _print_memory(compiled.memory_analysis(), chip)
    _print_flops(program)
    _print_costs(program, compiled.cost_analysis(), chip, module.loops)
    _print_collectives(module.collectives)


def _print_memory(memory: Any, chip: Chip | None) -> None:
    output = memory.output_size_in_bytes - memory.alias_size_in_bytes
    sizes = {
        "arguments": (memory.argument_size_in_bytes, "parameters, the optimizer's state and the batch"),
        "temporaries": (memory.temp_size_in_bytes, "activations, gradients and what is gathered"),
        "output": (output, "without the buffers that it shares with arguments"),
        "code": (memory.generated_code_size_in_bytes, ""),
    }
    total = sum(size for size, _ in sizes.values())
    print("memory of a device")
    for name, (size, note) in sizes.items():
        _line(f"  {name}", _gib(size), note)
    of = f"{total / chip.hbm:.0%} of {_gib(chip.hbm)}: it fits" if chip else "it fits, according to XLA"
    _line("  total", _gib(total), of)


def _print_misfit(program: Program, message: str) -> None:
    """Prints how much memory the step needs, and which fields would reduce it."""
    used = re.search(r"(?:Used |\()([\d.]+[KMGT])\)? (?:of|exceeds available HBM) \(?([\d.]+[KMGT])", message)
    needs = f"it needs {used[1]} of {used[2]} a device" if used else " ".join(message.split())[:300]
    print(f"It does not fit: {needs}. What would help:")
    model, train, mesh = program.config.model, program.config.train, program.mesh.shape
    rows = train.batch_size // (train.accumulation * mesh["data"] * mesh["fsdp"])
    advice = {
        "model.remat=true": ("keep only the blocks' inputs", not getattr(model, "remat", True)),
        "model.scan_layers=true": ("one layer's memory at a time", not getattr(model, "scan_layers", True)),
        f"mesh.fsdp={mesh['fsdp'] * 4}": ("share parameters and moments", mesh["data"] >= 4),
        f"train.accumulation={2 * train.accumulation}": ("half the rows at a time", rows % 2 == 0),
        f"train.batch_size={train.batch_size // 2}": ("half the rows", rows > 1 and rows % 2 == 0),
        "task.chunk_length=128": (
            "fewer logits at a time",
            not getattr(program.config.task, "chunk_length", 1),
        ),
        "model.dtype=bfloat16": ("half the activations", getattr(model, "dtype", "") == "float32"),
        f"mesh.tensor={mesh['tensor'] * 2}": ("share each layer's widths", rows == 1),
    }
    for field, (why, helps) in advice.items():
        if helps:
            print(f"  --config.{field:<28} {why}")


def _print_flops(program: Program) -> None:
    """The model's own count beside two others, over all devices."""
    config = program.config
    tokens = num_tokens(config)
    print("floating-point operations of a step")
    _line("  6·N·D", f"{6 * num_parameters(program.state.params) * tokens:.4g}", "N parameters, D tokens")
    own = model_flops(config)
    if own is None:
        return
    _line("  the model's own", f"{own:.4g}", f"{own / tokens / 1e6:,.0f} million a token: its products")
    counted = unrolled_flops(config)
    note = f"{counted / own:.3f} times that, every loop written out"
    _line(
        "  XLA's count",
        f"{counted:.4g}",
        note + ("; remat does blocks twice" * getattr(config.model, "remat", False)),
    )


def _print_costs(program: Program, cost: Any, chip: Chip | None, loops: Sequence[int]) -> None:
    """What XLA counts in the compiled program."""
    once = (
        f"; what a loop does {' or '.join(map(str, sorted(set(loops))))} times counts once" if loops else ""
    )
    flops, moved = cost["flops"], cost["bytes accessed"]
    print(f"the compiled program, on each device{once}")
    of, own = "", model_flops(program.config)
    if not loops and own:
        share = own / program.mesh.size
        of = f"{flops / share:.3f} times its share of the model's own"
    _line("  operations", f"{flops:.4g}", of)
    _line("  bytes accessed", f"{moved:.4g}")
    ridge = f"the chip's rates balance at {chip.flops / chip.bandwidth:.0f}" if chip else ""
    _line("  operations a byte", f"{flops / moved:.0f}", ridge)
    if chip and own:
        seconds = own / program.mesh.size / chip.flops
        _line("  a step takes", f"> {seconds * 1e3:.3g} ms", f"at {chip.flops / 1e12:g} TFLOP/s in bfloat16")


def _print_collectives(collectives: Sequence[hlo.Collective], shown: int = 10) -> None:
    print("collectives of a step")
    sizes: dict[tuple[str, int, int], int] = {}
    for c in collectives:
        sizes[c[:3]] = sizes.get(c[:3], 0) + c.times
    ordered = sorted(sizes.items(), key=lambda item: -item[0][2] * item[1])
    for (kind, group, size), times in ordered[:shown]:
        among = f"{_decimal(size)} each, among {group or 'pairs of'} devices"
        _line(f"  {kind}", f"{times:,} x", f"{among}: {_decimal(times * size)}")
    rest = ordered[shown:]
    if rest:
        total = sum(size * times for (_, _, size), times in rest)
        _line("  smaller ones", f"{sum(times for _, times in rest):,} x", _decimal(total))
    total = sum(size * times for (_, _, size), times in ordered)
    _line("  total", f"{sum(sizes.values()):,} x", f"{_decimal(total)} on each device")


def _gib(size: float) -> str:
    return f"{size / GIB:.3f} GiB"


def _decimal(size: float) -> str:
    return f"{size / 1e9:,.3f} GB" if size >= 1e9 else f"{size / 1e6:,.3f} MB"


def _line(name: str, value: str, note: str = "") -> None:
    print(f"{name:<20}{value:>16}  {note}".rstrip(), flush=True)
