"""What the published forms with rotary positions, LLaMA's and GPT-NeoX's, have in common."""

from typing import Any

from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.models.gpt import GPTConfig
from lm_jax.pretrained import marks
from lm_jax.pretrained.values import Values
from lm_jax.text.base import Tokenizer

_DEFAULT_THETA = 10000.0


def read_theta(read: Values, values: dict[str, Any], older_name: str, older_share: str = "") -> float:
    """The base of the rotary positions of a config.json, of transformers 5 or of an earlier version.

    Args:
        read: the values.
        values: the JSON object that they are from.
        older_name: the field of the base in earlier versions.
        older_share: the field of the share of a head's features that are rotated there; "": it is 1.

    Raises:
        UserError: positions that are scaled, such as for a longer context, or features that are not rotated.
    """
    given = values.get("rope_parameters")
    if given is None:
        read.require("rope_scaling", {})
        share = read.number(older_share, 0.25) if older_share else 1.0
        theta, kind = read.number(older_name, _DEFAULT_THETA), "default"
    else:
        inner = Values(JsonObject(given, f"{read.source}, rope_parameters").values, read.source)
        share = inner.number("partial_rotary_factor", 0.25 if older_share else 1.0)
        theta, kind = inner.number("rope_theta", _DEFAULT_THETA), inner.text("rope_type", "default")
    if kind != "default":
        raise UserError(f"rope_type={kind!r} in {read.source}", "only 'default' is supported")
    if share != 1.0:
        raise UserError(f"{share:g} of a head's features are rotated in {read.source}", "only 1 is supported")
    return theta


def write_theta(config: GPTConfig) -> dict[str, Any]:
    """The fields of the rotary positions, as transformers 5 reads them."""
    return {
        "rope_parameters": {
            "rope_type": "default", "rope_theta": config.rope_theta, "partial_rotary_factor": 1.0,
        }
    }  # fmt: skip


def read_shape(read: Values) -> dict[str, Any]:
    """The sizes that both forms name alike."""
    return {
        "vocab_size": read.size("vocab_size"),
        "max_length": read.size("max_position_embeddings"),
        "num_layers": read.size("num_hidden_layers"),
        "num_heads": read.size("num_attention_heads"),
        "d_model": read.size("hidden_size"),
        "d_ff": read.size("intermediate_size"),
    }


def write_shape(config: GPTConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The sizes and the tokens that texts begin and end with."""
    ends = [tokenizer.end_id, *tokenizer.other_end_ids]
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_length,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp_width,
        "attention_dropout": config.dropout,
        "tie_word_embeddings": config.tied_head,
        "bos_token_id": tokenizer.begin_id,
        "eos_token_id": ends if len(ends) > 1 else tokenizer.end_id,
    }


def check(config: GPTConfig, read: Values, values: dict[str, Any]) -> GPTConfig:
    """The config, if a model can have it; checks also the fields that are not used.

    Raises:
        UserError: a value out of range.
    """
    read.texts("architectures")
    for name in ("bos_token_id", "eos_token_id"):
        marks.token_ids(JsonObject(values, read.source), name)
    try:
        config.check()
        config.check_resolved()
    except UserError as error:
        raise UserError(f"{error.cause}, by {read.source}", "restore the file") from None
    return config
