"""What a command does before jax is imported."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PROGRAM = """
from lm_jax import runtime
runtime.prepare()
import os, sys
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
@pytest.mark.parametrize("own", ["", "glibc.malloc.tcache_count=7"])
def test_a_command_starts_anew_at_most_once_with_its_arguments(own, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if own:
        environment["GLIBC_TUNABLES"] = own
    command = [sys.executable, str(tmp_path / "program.py"), "--text=two words", ""]
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{own or 'glibc.malloc.tcache_count=0'} ['--text=two words', '']\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_a_program_from_standard_input_is_not_restarted():
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    program = PROGRAM.replace('os.environ["GLIBC_TUNABLES"]', '"GLIBC_TUNABLES" in os.environ')
    done = subprocess.run(
        [sys.executable, "-"],
        input=program,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False []\n"
