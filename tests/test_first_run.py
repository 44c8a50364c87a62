"""The commands of docs/first-run.md, in its order, on one text file."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "first-run.md"
# Fields added to a training command so that it takes seconds, and a corpus in place of Python's own.
SMALL = {
    "runs/base": {
        "data.corpus": "text:other.txt",
        "data.vocab_size": 300,
        "model.num_layers": 1,
        "model.d_model": 16,
        "model.num_heads": 2,
        "train.num_steps": 4,
        "train.sample_tokens": 2,
    },
    "runs/mine": {"train.num_steps": 4, "train.sample_tokens": 2},
}


@pytest.mark.slow
def test_six_commands_from_one_text_file_to_an_exported_model(tmp_path):
    sentences = (
        f"Sentence {i} of {i * i % 97} words says little, and says it {i % 7} times.\n" for i in range(900)
    )
    text = "".join(sentences)
    (tmp_path / "mine.txt").write_text(text)
    (tmp_path / "other.txt").write_text(text.upper())
    commands = re.findall(r"^```sh\n(.*?)\n```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(commands) == 6
    install, *lines, export = commands
    assert install == "pip install lm_jax"
    environment = os.environ | {"PYTHONPATH": str(PAGE.parents[1])}
    for line in [*lines, export]:
        program, *arguments = shlex.split(line)
        if program == "python":  # opens the report in a browser
            assert (tmp_path / arguments[-1]).stat().st_size > 10_000
            continue
        workdir = next((a.partition("=")[2] for a in arguments if a.startswith("--workdir=")), "")
        small = [f"--config.{name}={value}" for name, value in SMALL.get(workdir, {}).items()]
        command = [sys.executable, "-m", "lm_jax", *arguments, *small]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if arguments[0] == "eval":
            assert re.search(r"^mine .*\n.*base ", done.stdout, re.MULTILINE)
    assert (tmp_path / "mine-hf" / "model.safetensors").exists()
