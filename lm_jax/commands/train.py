"""Trains a language model by a recipe and evaluates it.

  python train.py                                      a small GPT on Python's own documentation
  python train.py --config=configs/shakespeare_char.py --config.data.corpus=text:PATH
  python train.py --config.model.num_layers=6 --workdir=runs/deeper
  python train.py --config=configs/finetune.py --config.init_from=PATH --config.data.corpus=text:FILE

The same command again resumes a stopped run. On several hosts that share the work directory, run it once on
each: --distributed joins them on a TPU pod slice or under SLURM, and elsewhere --coordinator=HOST:PORT
--num_processes=N --process_id=I does, HOST being that of process 0.
"""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import pathlib
import sys

from lm_jax import config as config_module
from lm_jax import errors, experiment, fields, flags, user_code
from lm_jax.config import Config
from lm_jax.parallel import distributed
from lm_jax.report import table


def main(argv: list[str]) -> None:
    """Parses the flags and runs the experiment."""
    argv, values = flags.split_fields(argv)
    parser = flags.Parser(prog="train.py", description=__doc__, add_help=False)
    parser.add_argument("--config", **flags.recipe())
    parser.add_argument("--workdir", type=flags.path, help="the run directory (default: runs/NAME[-VARIANT])")
    parser.add_argument("-h", "--help", action="store_true", help="this text, with the recipe's fields")
    parser.add_argument("--distributed", action="store_true", help="join the processes that jax finds")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    parser.add_argument("--num_processes", type=flags.whole, help="the number of processes")
    parser.add_argument("--process_id", type=flags.whole, help="the number of this process, from 0")
    arguments = parser.parse_args(argv)
    name, config = config_module.load(arguments.config)
    if arguments.help:
        config = fields.override(config, values)
        print(f"{parser.format_help()}\nfields of {arguments.config}:\n{flags.field_table(config)}")
        return
    processes = (arguments.coordinator, arguments.num_processes, arguments.process_id)
    if arguments.distributed or any(x is not None for x in processes):
        distributed.initialize(*processes)
    workdir = pathlib.Path(arguments.workdir or f"runs/{name}")
    with distributed.together():
        config = experiment.override(config, values, workdir)
    rows = experiment.run(config, workdir)
    if distributed.is_writer():
        parts = [config.model, config.task] if isinstance(config, Config) else [config.model]
        imports = user_code.files_of(*parts)
        table.print_run(workdir, rows, imports)


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
