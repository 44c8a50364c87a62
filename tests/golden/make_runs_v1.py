"""Makes runs_v1.zip and runs_v1.json: run directories of format version 1, and how they scored then.

    cd CHECKOUT_OF_4ee7cd9 && PYTHONPATH=. JAX_PLATFORMS=cpu python make_runs_v1.py OUTPUT_DIRECTORY

Ran once, at commit 4ee7cd9, the last one that wrote format version 1; it does not run with later code. The
zip file has the text that all were trained on and a directory for each model: gpt, gpt_variant (grouped
queries, rotary positions, RMS norm, SwiGLU, an untied head, scanned layers, a padded vocabulary), rnn, nnlm
and ngram. The JSON file has three texts, and for each model the log-probability of every token of each text
and the rows of its results.json. What commit 4ee7cd9 scored with a padded vocabulary gave some probability to
rows that stand for no token; "masked_log_probs" are the same without these rows.
"""

import contextlib
import dataclasses
import json
import pathlib
import random
import shutil
import sys
import zipfile

from lm_jax import runtime

runtime.prepare()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from lm_jax.optimizers import OptimizerConfig  # noqa: E402

import lm_jax  # noqa: E402
from lm_jax import experiment  # noqa: E402
from lm_jax.config import Config, CountConfig, TrainConfig  # noqa: E402
from lm_jax.data.pipeline import DataConfig  # noqa: E402
from lm_jax.models.gpt import GPTConfig  # noqa: E402
from lm_jax.models.nnlm import NNLMConfig  # noqa: E402
from lm_jax.models.rnn import RNNConfig  # noqa: E402
from lm_jax.ngram.smoothing import NGramConfig  # noqa: E402

_WORDS = "the a model language data reads learns writes old new text byte café and of with it".split()  # noqa: SIM905
_TEXTS = [
    "the model reads old text.",
    "a café learns",
    "language data and the new byte of it writes the text with a model that it reads.\n",  # over 32 tokens
]
_DATA = DataConfig(
    corpus="text:text.txt", documents="line", split="hash:0.1,0.1", tokenizer="byte", sequence_length=32
)
_NEURAL = Config(
    data=_DATA,
    optimizer=OptimizerConfig(learning_rate=3e-2, warmup_steps=2),
    train=TrainConfig(
        num_steps=6, batch_size=4, eval_every=6, checkpoint_every=6, log_every=1, sample_tokens=8
    ),
)
# Without AdamW's moments a checkpoint is a third as large: only "gpt" has them.
_LIGHT = dataclasses.replace(
    _NEURAL, optimizer=OptimizerConfig("sgd", learning_rate=0.5, warmup_steps=2, momentum=0.0)
)
_RECIPES = {
    "gpt": dataclasses.replace(_NEURAL, model=GPTConfig(num_layers=2, num_heads=2, d_model=16, dropout=0.1)),
    "gpt_variant": dataclasses.replace(
        _LIGHT,
        model=GPTConfig(
            vocab_size=264,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            d_model=16,
            position="rope",
            norm="rms",
            mlp="swiglu",
            tied_head=False,
            scan_layers=True,
        ),
    ),
    "rnn": dataclasses.replace(
        _LIGHT,
        data=dataclasses.replace(_DATA, order="contiguous"),
        model=RNNConfig(cell="lstm", num_layers=1, d_embedding=16, d_hidden=16),
    ),
    "nnlm": dataclasses.replace(_LIGHT, model=NNLMConfig(order=3, d_embedding=16, d_hidden=16)),
    "ngram": CountConfig(
        data=dataclasses.replace(_DATA, tokenizer="word"),
        model=NGramConfig(order=3, discount_fallback=(0.5, 1.0, 1.5)),
        sample_tokens=8,
    ),
}


def _write_text(path: pathlib.Path, num_lines: int = 80) -> None:
    """Lines of words with some order in them, some of them not ASCII."""
    draw, lines = random.Random(0), []
    for _ in range(num_lines):
        start = draw.randrange(len(_WORDS))
        words = [_WORDS[(start + 3 * i) % len(_WORDS)] for i in range(draw.randrange(3, 12))]
        lines.append(" ".join(words) + ".\n")
    path.write_text("".join(lines), encoding="utf-8")


def _masked(model):
    """The model's scorer, where rows that only pad the vocabulary have no probability."""

    @jax.jit
    def scorer(params, inputs_BT, targets_BT, state):
        logits_BTV, state = model.model.apply(params, inputs_BT, state)
        is_token_V = jnp.arange(logits_BTV.shape[-1]) < model.tokenizer.vocab_size
        log_probs_BTV = jax.nn.log_softmax(jnp.where(is_token_V, logits_BTV.astype(jnp.float32), -jnp.inf))
        return jnp.take_along_axis(log_probs_BTV, targets_BT[..., None], axis=-1)[..., 0], state

    return scorer


def _log_probs(model) -> list[list[float]]:
    return [np.asarray(scores.log_probs, np.float64).tolist() for scores in model.score(_TEXTS)]


def main(output: pathlib.Path) -> None:
    """Trains, scores, packs."""
    output.mkdir(parents=True, exist_ok=True)
    runs = output / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir()
    found = {}
    with contextlib.chdir(output):  # so that the recipes name their text without a directory
        _write_text(pathlib.Path("text.txt"))
        for name, config in _RECIPES.items():
            path = pathlib.Path("runs") / name
            experiment.run(config, path)
            model = lm_jax.load(path)
            found[name] = {"log_probs": _log_probs(model)}
            if name == "gpt_variant":
                model._scorer = _masked(model)
                found[name]["masked_log_probs"] = _log_probs(model)
            found[name]["results"] = json.loads((path / "results.json").read_text(encoding="utf-8"))
    record = {"commit": "4ee7cd9", "texts": _TEXTS, "runs": found}
    (output / "runs_v1.json").write_text(
        json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    with zipfile.ZipFile(output / "runs_v1.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        packed.write(output / "text.txt", "text.txt")
        for path in sorted(runs.rglob("*")):
            if path.name == ".lock":
                continue
            if path.is_dir():
                packed.mkdir(str(path.relative_to(runs)))
                continue
            entry = zipfile.ZipInfo(str(path.relative_to(runs)))  # without the time
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            packed.writestr(entry, path.read_bytes())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
