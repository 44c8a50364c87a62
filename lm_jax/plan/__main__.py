"""Shows memory, communication and FLOPs of a training step on accelerators, without using them.

python -m lm_jax.plan --config=configs/gpt.py:124m --topology=v5e:16x16
python -m lm_jax.plan --config=configs/gpt.py:350m --topology=v6e:4x4 --config.mesh.fsdp=4
python -m lm_jax.plan --config=configs/gpt.py:124m --topology=cuda:8

The step that train.py runs is compiled for a TPU slice by libtpu, which needs no TPU: pip install
'lm_jax[tpu]'. CHIP:SHAPE names the slice: v5e:16x16, v6e:4x4, v5p:4x4x4, tpu7x:2x2x2. cuda or cuda:N only
lowers it for N GPUs: this shows that the program can be built, not that it fits.

No corpus is read. The vocabulary is model.vocab_size, else data.vocab_size (as if the tokenizer learned that
many tokens), else that of the tokenizer that data.tokenizer names. train.accumulation is the recipe's if
every device then has a row in each part, else smaller.

Unrolled layers take minutes to compile; with --config.model.scan_layers=true it is about one minute. The exit
code is 0 if the step fits, 3 if it does not (the last lines then say what to change), and 2 for a wrong
request.
"""

import os
import sys

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()
    # Otherwise jax and libtpu look for a TPU, and print long warnings without one.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault(
        "ALLOW_MULTIPLE_LIBTPU_LOAD", "1"
    )  # no TPU is used, so several plans may run at once
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")

from lm_jax import config as config_module
from lm_jax import errors, experiment, fields, flags
from lm_jax.parallel.sharding import make_mesh
from lm_jax.plan import report
from lm_jax.plan.devices import find_devices
from lm_jax.plan.recipe import fit_accumulation, resolve
from lm_jax.training.program import Program


def main(argv: list[str]) -> None:
    """Parses the flags and prints the plan."""
    argv, values = flags.split_fields(argv)
    parser = flags.Parser(prog="python -m lm_jax.plan", description=__doc__, add_help=False)
    parser.add_argument("--config", **flags.recipe())
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
    report.print_recipe(program, f"of {len(devices):,}, {kind}")
    with runtime.traced_for(platform):
        (report.plan_cuda if platform == "cuda" else report.plan_tpu)(program)


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
