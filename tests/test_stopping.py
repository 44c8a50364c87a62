"""SIGINT and SIGTERM: one line and the usual exit code, at any moment."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import faults
import pytest

ROOT = pathlib.Path(__file__).parents[1]

_PROGRAM = """
import os, signal, sys, time
from lm_jax import stopping
{before}
stopping.install()
{body}
"""
_READY = "print('ready', flush=True)\n"


def run(body, *signals, before=""):
    """The exit code and standard error of a program that gets signals once it has printed a line."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _PROGRAM.format(before=before, body=body if _READY in body else _READY + body),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    process.stdout.readline()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)
    _, printed = process.communicate(timeout=60)
    return process.returncode, printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_one_line(number):
    # What an exception could not end: it would be swallowed.
    swallows = "while True:\n    try:\n        time.sleep(60)\n    except BaseException:\n        pass"
    assert run(swallows, number) == (128 + number, "stopped\n")


def test_a_signal_ends_a_long_call_of_c_code():
    body = "stopping.watch()\nimport hashlib\nhashlib.pbkdf2_hmac('sha256', b'a', b'b', 1 << 30)"
    assert run(body, signal.SIGINT) == (130, "stopped\n")


def test_a_signal_before_the_handlers_waits_for_them():
    before = "stopping.block(); os.kill(os.getpid(), signal.SIGTERM)"
    assert run("time.sleep(60)", before=before) == (143, "stopped\n")


def test_an_ignored_signal_stays_ignored():
    before = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    assert run("time.sleep(1)", signal.SIGINT, before=before) == (0, "")


def test_a_noted_signal_waits_for_the_end_of_the_block_and_a_second_one_does_not():
    body = """
stopping.watch()
with stopping.Noted() as noted:
    print('ready', flush=True)
    while not noted.received:
        time.sleep(0.01)
    noted.answered = {answered}
    {rest}
print("behind", file=sys.stderr)
"""
    assert run(body.format(answered=True, rest="pass"), signal.SIGINT) == (0, "behind\n")
    assert run(body.format(answered=False, rest="pass"), signal.SIGTERM) == (143, "stopped\n")
    slow = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'a', b'b', 1 << 30)"
    assert run(body.format(answered=True, rest="time.sleep(60)"), signal.SIGINT, signal.SIGINT)[0] == 130
    assert run(body.format(answered=True, rest=slow), signal.SIGTERM, signal.SIGTERM) == (143, "stopped\n")


@pytest.mark.slow
def test_signals_at_random_moments_lose_nothing():
    outcomes = list(faults.signals(tries=4, seed=time.time_ns()))
    assert not [outcome for outcome in outcomes if outcome.fault]
