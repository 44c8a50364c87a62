"""`python -m lm_jax.metrics`: see `lm_jax.measure`."""

from lm_jax import runtime

if __name__ == "__main__":
    runtime.prepare()  # first: handles signals, and sets up jax before its import

import sys

from lm_jax import errors, measure

if __name__ == "__main__":
    with errors.reported():
        measure.main(sys.argv[1:])
