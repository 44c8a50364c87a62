"""The command `lm-jax`, which pip installs; `python -m lm_jax` is the same one.

  lm-jax train           trains a model by a recipe and evaluates it
  lm-jax eval            evaluates models on a text
  lm-jax audit           proves on samples that a model's scores are honest
  lm-jax generate        continues prompts
  lm-jax surprisal       writes the surprisal of each word of texts
  lm-jax embed           writes vectors of texts, or of their words
  lm-jax predict         writes the labels that a model gives to texts
  lm-jax metrics         computes metrics of generated texts or predictions
  lm-jax sweep           trains a recipe over a grid of settings and seeds
  lm-jax plan            shows memory and messages of a training step on accelerators
  lm-jax noise           shows a text before and after each noise
  lm-jax export          writes a model for other programs

lm-jax COMMAND --help shows a command's flags.
"""

import runpy
import sys

# What follows lm-jax -> the module that is run, as by `python -m`. Nothing is imported here: a command sets
# up its process before it imports jax.
COMMANDS = {
    "train": "lm_jax.commands.train",
    "eval": "lm_jax.commands.evaluate",
    "audit": "lm_jax.audit",
    **{name: f"lm_jax.{name}" for name in ("generate", "surprisal", "embed", "predict", "metrics")},
    **{name: f"lm_jax.{name}" for name in ("sweep", "plan", "noise", "export")},
}


def main() -> None:
    """Runs the command that the first argument names with the arguments after it."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(__doc__.strip())
        return
    if name == "--version":
        import lm_jax

        print(f"lm_jax {lm_jax.__version__}")
        return
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, n=1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"error: no command {name!r}; {known}", file=sys.stderr)
        raise SystemExit(2)
    sys.argv = [sys.argv[0], *rest]
    runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
