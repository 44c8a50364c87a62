"""Time from the command to the first loss: `python benchmarks/start.py`, half a minute on two idle cores.

Starts train.py repeatedly, with warm caches after the first time, and waits until the loss of its first step
is written, which happens during the second step. Python's start and all imports are included. Printed are the
median seconds and the range.

    --rounds=7
    --config=configs/gpt.py
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

TRAIN = pathlib.Path(__file__).parents[1] / "train.py"


def seconds_to_first_loss(config: str) -> float:
    """Seconds of a run in a new directory, which is then killed."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = pathlib.Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, TRAIN, f"--config={config}", f"--workdir={metrics.parent}"]
        start = time.monotonic()
        with subprocess.Popen([*command, "--config.train.log_every=1"], stderr=subprocess.DEVNULL) as run:
            try:
                while not (metrics.exists() and metrics.stat().st_size):
                    if run.poll() is not None:
                        sys.exit(f"{' '.join(map(str, command))} failed")
                    time.sleep(0.005)
                return time.monotonic() - start
            finally:
                run.kill()


def main() -> None:
    """Reads the flags and prints a line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--config", default=str(TRAIN.with_name("configs") / "gpt.py"))
    flags = parser.parse_args()
    seconds_to_first_loss(flags.config)  # fills the caches
    seconds = [seconds_to_first_loss(flags.config) for _ in range(flags.rounds)]
    print(f"first loss after {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
