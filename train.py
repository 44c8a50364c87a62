"""Trains a language model by a recipe and evaluates it: `lm_jax/commands/train.py`."""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import sys

from lm_jax import errors
from lm_jax.commands.train import main

if __name__ == "__main__":
    with errors.reported():
        main(sys.argv[1:])
