"""Trains a language model by a recipe and says how good it is.

  python train.py                                      a small GPT on Python's own documentation
  python train.py --config=configs/shakespeare_char.py --config.data.corpus=text:PATH
  python train.py --config.model.num_layers=6 --workdir=runs/deeper
  python train.py --config=configs/finetune.py --config.init_from=PATH --config.data.corpus=text:FILE

The same command again goes on where a stopped run left off.
"""

import pathlib
import sys

from lm_jax import runtime

runtime.prepare()

from lm_jax import config as config_module  # noqa: E402 (jax comes with it, and must find the runtime prepared)
from lm_jax import errors, experiment, flags  # noqa: E402
from lm_jax.report import table  # noqa: E402


def main(argv: list[str]) -> None:
    """Parses the flags and runs the experiment."""
    argv, values = flags.split_fields(argv)
    parser = flags.Parser(prog="train.py", description=__doc__, add_help=False)
    parser.add_argument("--config", default="configs/gpt.py", metavar="PATH.py[:VARIANT]", help="the recipe")
    parser.add_argument("--workdir", help="the run directory (default: runs/NAME[-VARIANT])")
    parser.add_argument("-h", "--help", action="store_true", help="this text, with the recipe's fields")
    arguments = parser.parse_args(argv)
    name, config = config_module.load(arguments.config)
    if arguments.help:
        config = config_module.override(config, values)
        print(f"{parser.format_help()}\nfields of {arguments.config}:\n{flags.field_table(config)}")
        return
    config = experiment.override(config, values)
    workdir = pathlib.Path(arguments.workdir or f"runs/{name}")
    table.print_run(workdir, experiment.run(config, workdir))


if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
