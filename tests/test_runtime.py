"""What a command does before jax is imported."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
from lm_jax import runtime
runtime.prepare()
import os, sys
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
@pytest.mark.parametrize("own", ["", "glibc.malloc.tcache_count=7"])
def test_a_command_starts_anew_at_most_once_with_its_arguments(own):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if own:
        environment["GLIBC_TUNABLES"] = own
    command = [sys.executable, "-c", PROGRAM, "--text=two words", ""]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{own or 'glibc.malloc.tcache_count=0'} ['--text=two words', '']\n"
