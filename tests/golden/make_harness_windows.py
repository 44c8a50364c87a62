"""Writes harness_windows.json: the windows that lm-evaluation-harness cuts texts of some lengths into.

python tests/golden/make_harness_windows.py      (needs lm-eval 0.4.13, no torch)

A text's tokens are 1, 2, 3, ... after the prefix 0, so that a token's number is its place.
"""

import json
import pathlib
from typing import Any

CASES = [(n, context) for context in (1, 2, 5, 8) for n in (0, 1, 2, 4, 5, 7, 8, 9, 10, 16, 17, 23, 24, 25)]


def windows(num_tokens: int, context: int) -> list[Any]:
    """What is read as context and what is predicted, in each window."""
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    tokens = list(range(1, num_tokens + 1))
    rolling = get_rolling_token_windows(tokens, prefix_token=0, max_seq_len=context, context_len=1)
    return [list(pair) for pair in map(make_disjoint_window, rolling)]


def main() -> None:
    """Writes the file next to this script."""
    cases = [{"tokens": n, "context": c, "windows": windows(n, c)} for n, c in CASES]
    lines = ",\n".join(json.dumps(case) for case in cases)
    pathlib.Path(__file__).with_name("harness_windows.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
