"""Says what a recipe's training step needs on accelerators that are not at hand.

python -m lm_jax.plan --config=configs/gpt.py:124m --topology=v5e:16x16
python -m lm_jax.plan --config=configs/gpt.py:350m --topology=v6e:4x4 --config.mesh.fsdp=4
python -m lm_jax.plan --config=configs/gpt.py:124m --topology=cuda:8

The step that train.py runs is compiled for a TPU slice by libtpu, which needs no TPU: pip install
'lm_jax[tpu]'. CHIP:SHAPE names the slice: v5e:16x16, v6e:4x4, v5p:4x4x4, tpu7x:2x2x2. cuda or cuda:N lowers
it for N GPUs and stops there: that much says that it can be expressed, not that it fits.

No corpus is read. The vocabulary is model.vocab_size, else data.vocab_size as if the tokenizer learned as
many tokens as it may, else that of the tokenizer that data.tokenizer names. A batch's parts
(train.accumulation) are as many as the recipe says if every device then has a row in each, else fewer.

Layers written out take minutes to compile; --config.model.scan_layers=true takes one. The exit code is 0 if
the step fits, 3 if it does not (the last lines then say what to change), and 2 for a wrong request.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()
    # Else jax and libtpu look for a TPU, and complain at length where there is none.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no TPU is held: plans may run side by side
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

import jax
from jax.experimental import topologies

from lm_jax import config as config_module
from lm_jax import errors, experiment, fields, flags
from lm_jax.config import AnyConfig, Config
from lm_jax.errors import UserError
from lm_jax.parallel.sharding import MeshConfig, make_mesh
from lm_jax.plan import hlo
from lm_jax.text import load as tokenizers
from lm_jax.text.simple import ByteTokenizer
from lm_jax.training.program import Program

_GIB = 2**30
_EXAMPLES = "give a slice such as v5e:16x16, v6e:4x4 or v5p:4x4x4, or cuda:8"


class Chip(NamedTuple):
    """A device as jax sees it: a chip, or one of its two halves.

    Attributes:
        hbm: bytes that a program may use.
        flops: bfloat16 operations a second at most.
        bandwidth: bytes of HBM a second at most.
    """

    hbm: float
    flops: float
    bandwidth: float


# By `device_kind`. HBM is what libtpu 0.0.42 says is available when a program exceeds it; the rates are those
# of docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}. A TPU7x is two devices, each with half.
CHIPS = {
    "TPU v4": Chip(30.75 * _GIB, 275e12, 1228e9),
    "TPU v5 lite": Chip(15.75 * _GIB, 197e12, 819e9),
    "TPU v5": Chip(95.74 * _GIB, 459e12, 2765e9),
    "TPU v6 lite": Chip(31.25 * _GIB, 918e12, 1638e9),
    "TPU7x": Chip(94.75 * _GIB, 2307e12 / 2, 7380e9 / 2),
}


def main(argv: list[str]) -> None:
    """Parses the flags and prints the plan."""
    argv, values = flags.split_fields(argv)
    parser = flags.Parser(prog="python -m lm_jax.plan", description=__doc__, add_help=False)
    parser.add_argument("--config", default="configs/gpt.py", metavar="PATH.py[:VARIANT]", help="the recipe")
    parser.add_argument("--topology", default="v5e:16x16", help="the devices (default: v5e:16x16)")
    parser.add_argument("-h", "--help", action="store_true", help="this text, with the recipe's fields")
    arguments = parser.parse_args(argv)
    _, recipe = config_module.load(arguments.config)
    if arguments.help:
        recipe = fields.override(recipe, values)
        print(f"{parser.format_help()}\nfields of {arguments.config}:\n{flags.field_table(recipe)}")
        return
    config = resolve(experiment.override(recipe, values))
    platform = "cuda" if arguments.topology.partition(":")[0] == "cuda" else "tpu"
    devices = find_devices(arguments.topology)
    config = fit_accumulation(config, len(devices))
    program = Program(config, make_mesh(config.mesh, devices))
    kind = devices[0].device_kind if platform == "tpu" else "GPU"
    _print_recipe(program, f"of {len(devices):,}, {kind}")
    with _traced_for(platform):
        (_plan_cuda if platform == "cuda" else _plan_tpu)(program)


def resolve(recipe: AnyConfig) -> Config:
    """The recipe with the sizes that a run of it would have at most, found without its corpus.

    Raises:
        UserError: a recipe that trains nothing, or whose vocabulary only the corpus can tell.
    """
    experiment.check(recipe)
    if not isinstance(recipe, Config):
        raise UserError("an n-gram model is counted on the CPU", "plan a recipe that is trained")
    data, vocab_size = recipe.data, recipe.model.vocab_size
    if not vocab_size and data.tokenizer not in tokenizers.KINDS:
        vocab_size = tokenizers.load(tokenizers.named_file(data.tokenizer)).vocab_size
    elif not vocab_size:
        vocab_size = ByteTokenizer().vocab_size if data.tokenizer == "byte" else data.vocab_size
    if not vocab_size:
        raise UserError(
            f"only the corpus tells how many tokens a {data.tokenizer} tokenizer has",
            "set --config.model.vocab_size=N",
        )
    return recipe.resolved(vocab_size)


def find_devices(topology: str) -> Sequence[jax.Device]:
    """Descriptions of a slice's devices; for CUDA this machine's CPU stands in for each.

    Raises:
        UserError: a topology that does not exist, or libtpu is missing.
    """
    name, _, count = topology.partition(":")
    if name == "cuda":
        if count and not (count.isdecimal() and int(count)):
            raise UserError(f"--topology={topology}", "give cuda:N, N being a number of GPUs")
        return _stand_ins(int(count or 1))
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"libtpu, which compiles for {topology}, is not installed", "pip install 'lm_jax[tpu]'"
        )
    try:
        # A v4's chip has two cores, which a mesh takes as one device; later ones say so themselves.
        options = {"chip_config_name": "megacore"} if name == "v4" else {}
        return topologies.get_topology_desc(topology, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).removeprefix("INVALID_ARGUMENT: ").splitlines()[0]
        raise UserError(f"--topology={topology}: {reason}", _EXAMPLES) from None


def _stand_ins(count: int) -> Sequence[jax.Device]:
    with contextlib.suppress(RuntimeError):  # too late: then as many as there are
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"{count} devices, but this process began with {len(devices)}", "ask for them first")
    return devices[:count]


def fit_accumulation(config: Config, num_devices: int) -> Config:
    """The recipe, with fewer parts of a batch where so many would leave devices without a row.

    As few as leave a device no more rows at a time than one alone would have: that computes the same.
    """
    mesh, train = config.mesh, config.train
    shares = max(1, num_devices // mesh.tensor if mesh.data == -1 else mesh.data * mesh.fsdp)
    divide = [n for n in range(1, train.accumulation + 1) if train.batch_size % (n * shares) == 0]
    fewer = [n for n in divide if n * shares >= train.accumulation]
    if train.accumulation in divide or not fewer:
        return config  # if it can be no number, building the program says so
    print(f"note: train.accumulation={fewer[0]}, since {train.accumulation} leave devices without a row")
    return dataclasses.replace(config, train=dataclasses.replace(train, accumulation=fewer[0]))


@contextlib.contextmanager
def _traced_for(platform: str) -> Iterator[None]:
    """While a program is traced, whoever asks for the backend hears of the one that it is for.

    "cuda" is not what jax calls a GPU's, and that is meant: cuDNN's attention asks the GPU for its version.
    """
    with mock.patch.object(jax, "default_backend", return_value=platform):
        yield


def _print_recipe(program: Program, kind: str) -> None:
    mesh, config = program.mesh, program.config
    sizes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    tokens = _tokens(config)
    shares = [
        x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(program.state._replace(step=None))
    ]
    rows = config.train.batch_size // config.train.accumulation
    rows_each = rows // (mesh.shape["data"] * mesh.shape["fsdp"])
    _line("devices", f"{mesh.size:,}", f"{kind}; mesh: {sizes}")
    _line("parameters", f"{_num_parameters(program):,}", f"with the optimizer's {_gib(sum(shares))} a device")
    _line(
        "tokens a step",
        f"{tokens:,}",
        f"{config.train.batch_size} rows of {config.data.sequence_length}; {rows_each} at a time on a device",
    )


def _plan_cuda(program: Program) -> None:
    _print_flops(program)
    traced = program.step.trace(program.state, program.batch, program.key)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    _line("lowers for CUDA", f"{len(text) / 1e6:.2f} MB", f"of StableHLO, {text.count(' = '):,} operations")
    print("Not compiled: memory and messages are known only where there is a GPU.")
    if getattr(program.config.model, "attention", "") == "fused":
        print("On the GPU cuDNN's attention takes the place of XLA's where it applies.")


def _plan_tpu(program: Program) -> None:
    """Prints the plan of a TPU slice.

    Raises:
        SystemExit: with code 3 where it does not fit.
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
        "output": (output, "what does not take the arguments' place"),
        "code": (memory.generated_code_size_in_bytes, ""),
    }
    total = sum(size for size, _ in sizes.values())
    print("memory of a device")
    for name, (size, note) in sizes.items():
        _line(f"  {name}", _gib(size), note)
    of = f"{total / chip.hbm:.0%} of {_gib(chip.hbm)}: it fits" if chip else "it fits, says XLA"
    _line("  total", _gib(total), of)


def _print_misfit(program: Program, message: str) -> None:
    """Says by how much a step does not fit, and which fields would help."""
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
    tokens = _tokens(config)
    print("floating-point operations of a step")
    _line("  6·N·D", f"{6 * _num_parameters(program) * tokens:.4g}", "N parameters, D tokens")
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


def model_flops(config: Config) -> int | None:
    """The model's own count of a step's operations, over all devices; None where it has none."""
    cost = config.model.cost(config.data.sequence_length)
    return None if cost is None else cost.training * _tokens(config)


def unrolled_flops(config: Config) -> float:
    """Operations that XLA counts in a step with all layers, chunks and parts written out.

    Counted for one device, before anything is optimised: nothing is compiled. XLA counts a loop's body once.
    """
    replace = dataclasses.replace
    written_out = replace(
        config,
        model=config.model.for_inference(),
        task=_without_chunks(config.task),
        train=replace(config.train, accumulation=1),
        mesh=MeshConfig(),
    )
    one = make_mesh(written_out.mesh, jax.devices("cpu")[:1])
    cost: Any = Program(written_out, one).lower_step().cost_analysis()
    return cost["flops"]


def _without_chunks(task: Any) -> Any:
    return dataclasses.replace(task, chunk_length=0) if hasattr(task, "chunk_length") else task


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


def _num_parameters(program: Program) -> int:
    return sum(x.size for x in jax.tree.leaves(program.state.params))


def _tokens(config: Config) -> int:
    return config.train.batch_size * config.data.sequence_length


def _gib(size: float) -> str:
    return f"{size / _GIB:.3f} GiB"


def _decimal(size: float) -> str:
    return f"{size / 1e9:,.3f} GB" if size >= 1e9 else f"{size / 1e6:,.3f} MB"


def _line(name: str, value: str, note: str = "") -> None:
    print(f"{name:<20}{value:>16}  {note}".rstrip(), flush=True)


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
