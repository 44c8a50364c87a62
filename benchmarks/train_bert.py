"""BERT compared with transformers' in PyTorch: `python benchmarks/train_bert.py`, ten minutes.

Cases: a training step of masked language modelling (forward, backward, clipping, AdamW) with 20 predictions
in each row of 128 tokens; one of classification with dropout 0.1; and vectors of 256 sentences by a model of
MiniLM's size. transformers computes the logits of all positions; beside it stands the same model with its
head on the predicted positions only, as here. Vectors are made from strings. See race.py for the timing.

    --cases=small,wide,classify,embed
    --dtypes=float32,bfloat16
    --cores=1                             how many to run on
    --rounds=7
"""

import argparse
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import race


class Case(NamedTuple):
    """A model and its batch."""

    layers: int
    heads: int
    width: int
    batch: int
    length: int = 128
    predictions: int = 20
    vocabulary: int = 30522
    times: int = 1  # runs in one turn


CASES = {
    "small": Case(4, 4, 256, 16),
    "wide": Case(2, 12, 768, 8),
    "classify": Case(4, 4, 256, 16),
    "embed": Case(6, 12, 384, 256),
}
SUBJECTS = {
    "small": ("transformers", "transformers, gathered", "lm_jax"),
    "wide": ("transformers", "transformers, gathered", "lm_jax"),
    "classify": ("transformers", "lm_jax"),
    "embed": ("transformers", "lm_jax"),
}


class Rows(NamedTuple):
    """Random rows, whose tokens are all text."""

    tokens: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    labels: np.ndarray


def rows(case: Case) -> Rows:
    """The batch of a training step."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, case.vocabulary, (case.batch, case.length), np.int32)
    positions = np.sort([random.permutation(case.length)[: case.predictions] for _ in range(case.batch)])
    targets = np.take_along_axis(tokens, positions, axis=1)
    return Rows(tokens, positions.astype(np.int32), targets, random.integers(0, 2, case.batch, np.int32))


def sentences(case: Case) -> list[np.ndarray]:
    """Token ids of sentences of 6 to 40 tokens, without [CLS] and [SEP]."""
    random = np.random.default_rng(0)
    return [
        random.integers(1000, case.vocabulary, random.integers(6, 41), np.int32) for _ in range(case.batch)
    ]


def theirs(name: str, case: Case, dtype: str, gathered: bool) -> Callable[[], Any]:
    """A step of transformers' model, or its vectors of sentences."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    dropout = 0.1 if name == "classify" else 0.0
    config = transformers.BertConfig(
        vocab_size=case.vocabulary, hidden_size=case.width, num_hidden_layers=case.layers,
        num_attention_heads=case.heads, intermediate_size=4 * case.width, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    kind = {"classify": "BertForSequenceClassification", "embed": "BertModel"}.get(name, "BertForMaskedLM")
    model = getattr(transformers, kind)(config)
    cast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    if name == "embed":
        model.eval()
        return _their_vectors(torch, transformers, model, sentences(case), cast)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    batch = [torch.from_numpy(x.astype(np.int64)) for x in rows(case)]
    tokens, positions, targets, labels = batch
    everywhere = torch.full_like(tokens, -100).scatter(1, positions, targets)
    where = (torch.arange(case.batch)[:, None], positions)

    def loss() -> Any:
        if name == "classify":
            return model(tokens, labels=labels).loss
        if not gathered:
            return model(tokens, labels=everywhere).loss
        logits = model.cls.predictions(model.bert(tokens)[0][where])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def step() -> float:
        optimizer.zero_grad()
        with cast:
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(value)

    return step


def _their_vectors(
    torch: Any, transformers: Any, model: Any, texts: list[np.ndarray], cast: Any
) -> Callable[[], Any]:
    """Mean vectors, in batches of 32 sentences sorted by length, as sentence-transformers makes them."""
    with tempfile.TemporaryDirectory() as directory:
        tokenizer = transformers.BertTokenizerFast(str(_vocabulary(directory, model.config.vocab_size)))
    written = sorted((tokenizer.decode(ids) for ids in texts), key=lambda text: -len(text))

    def run() -> Any:
        made = []
        with torch.inference_mode(), cast:
            for first in range(0, len(written), 32):
                inputs = tokenizer(written[first : first + 32], padding=True, return_tensors="pt")
                mask = inputs["attention_mask"]
                hidden = model(**inputs).last_hidden_state.float()
                made.append((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        return torch.cat(made)

    return run


def _vocabulary(directory: str, size: int) -> pathlib.Path:
    """A WordPiece vocabulary of special tokens and made words, each of which is one token."""
    path = pathlib.Path(directory, "vocab.txt")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    path.write_text("\n".join([*special, *(f"w{i}" for i in range(len(special), size))]))
    return path


def ours(name: str, case: Case, dtype: str) -> Callable[[], Any]:
    """This project's, with the settings of its recipes."""
    from lm_jax import runtime

    runtime.prepare()
    import jax

    from lm_jax.config import Config, OptimizerConfig, TrainConfig
    from lm_jax.data.pipeline import DataConfig
    from lm_jax.models.bert import BERTConfig
    from lm_jax.parallel.sharding import MeshConfig, make_mesh
    from lm_jax.tasks.classification import Classification
    from lm_jax.tasks.frames import LabelBatch
    from lm_jax.tasks.masked import Masked, MaskedBatch
    from lm_jax.training.program import Program

    dropout = 0.1 if name == "classify" else 0.0
    model = BERTConfig(
        vocab_size=case.vocabulary, num_tokens=case.vocabulary, max_length=512, num_layers=case.layers,
        num_heads=case.heads, d_model=case.width, pooler=name == "classify", dtype=dtype, dropout=dropout,
        attention_dropout=dropout,
    )  # fmt: skip
    if name == "embed":
        return _our_vectors(model, sentences(case))
    tokens, positions, targets, labels = rows(case)
    weights = np.ones(positions.shape, np.float32)
    task: Any = Masked(max_predictions=case.predictions, rate=0.2)
    batch: Any = MaskedBatch(tokens, None, positions, targets, weights)
    if name == "classify":
        task = Classification(classes=("0", "1"))
        nothing = np.zeros_like(tokens)
        batch = LabelBatch(tokens, nothing, nothing, labels, np.ones(case.batch, np.float32))
    config = Config(
        data=DataConfig(sequence_length=case.length),
        model=model,
        task=task,
        optimizer=OptimizerConfig(learning_rate=1e-4),
        train=TrainConfig(num_steps=1000, batch_size=case.batch),
        mesh=MeshConfig(),
    )
    program = Program(config, make_mesh(config.mesh))
    state, key = program.init(), jax.random.key(0)

    def run() -> float:
        nonlocal state
        state, metrics = program.step(state, batch, key)
        return float(metrics["loss"])

    return run


def _our_vectors(model: Any, texts: list[np.ndarray]) -> Callable[[], Any]:
    """Vectors of sentences by `embed`."""
    import jax
    import jax.numpy as jnp

    from lm_jax.language_models.encoder import EncoderLanguageModel
    from lm_jax.language_models.trained import Trained
    from lm_jax.text.wordpiece import WordPiece

    with tempfile.TemporaryDirectory() as directory:
        tokenizer = WordPiece.load(_vocabulary(directory, model.vocab_size))
    module = model.make()
    params = jax.jit(lambda: module.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32)))()
    lm = EncoderLanguageModel(Trained(model, module, params, tokenizer))
    written = [tokenizer.decode(ids) for ids in texts]
    return lambda: lm.embed(written)


def main() -> None:
    """Reads the flags and runs the races."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        subject, name, dtype = flags.serve
        case = CASES[name]
        make = (
            ours(name, case, dtype)
            if subject == "lm_jax"
            else theirs(name, case, dtype, "gathered" in subject)
        )
        race.serve(make, case.times)
        return
    race.pin(flags.cores)
    for name in flags.cases.split(","):
        for dtype in flags.dtypes.split(","):
            subjects = {subject: (subject, name, dtype) for subject in SUBJECTS[name]}
            case, turns = CASES[name], race.race(__file__, subjects, flags.rounds)
            work = sum(map(len, sentences(case))) if name == "embed" else case.batch * case.length
            shape = " ".join(f"{k}={v}" for k, v in case._asdict().items() if k != "times")
            race.print_table(f"{name} {dtype}: {shape}", turns, work)


if __name__ == "__main__":
    main()
