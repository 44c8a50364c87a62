"""What a user may have meant by the name of a field: its last part alone, a usual alias, or a misspelling."""

import difflib
from collections.abc import Sequence

# Names that other libraries use -> the last part of ours.
ALIASES = {
    "lr": "learning_rate", "max_lr": "learning_rate", "wd": "weight_decay", "beta1": "b1", "beta2": "b2",
    "grad_clip": "clip_norm", "max_grad_norm": "clip_norm", "warmup": "warmup_steps",
    "steps": "num_steps", "max_steps": "num_steps", "max_iters": "num_steps", "iterations": "num_steps",
    "bs": "batch_size", "batch": "batch_size", "gradient_accumulation_steps": "accumulation",
    "eval_interval": "eval_every", "log_interval": "log_every", "save_every": "checkpoint_every",
    "layers": "num_layers", "n_layer": "num_layers", "n_layers": "num_layers", "depth": "num_layers",
    "heads": "num_heads", "n_head": "num_heads", "n_heads": "num_heads", "kv_heads": "num_kv_heads",
    "n_embd": "d_model", "hidden_size": "d_model", "width": "d_model", "dim": "d_model",
    "intermediate_size": "d_ff", "seq_len": "sequence_length", "block_size": "sequence_length",
    "context": "sequence_length", "context_length": "sequence_length", "max_seq_len": "sequence_length",
    "vocab": "vocab_size", "dataset": "corpus", "text": "corpus", "precision": "dtype",
}  # fmt: skip


def with_last_part(name: str, names: Sequence[str]) -> list[str]:
    """The dotted names whose last part is that of a name, or the one that it is an alias of."""
    last = name.rpartition(".")[2].replace("-", "_")
    last = ALIASES.get(last, last)
    return [known for known in names if known.rpartition(".")[2] == last]


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """The dotted names that a name may mean, the most similar first; none if nothing is similar."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if found := with_last_part(name, names):
        return sorted(found, key=lambda known: known not in near)
    last = name.rpartition(".")[2].replace("-", "_")
    by_last = difflib.get_close_matches(last, [known.rpartition(".")[2] for known in names], n=1, cutoff=0.8)
    if by_last and "." not in name:
        return with_last_part(by_last[0], names)
    return near


def did_you_mean(found: Sequence[str]) -> str:
    """The question, as the remedy of an error."""
    return f"did you mean {' or '.join(found)}?"
