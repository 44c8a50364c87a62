"""GPT-2 in transformers' form: names of weights, and the fields of its config.json."""

import dataclasses
import math
from typing import Any

from lm_jax.errors import UserError
from lm_jax.files import JsonObject
from lm_jax.models.gpt import GPTConfig
from lm_jax.pretrained import marks
from lm_jax.pretrained.base import Form
from lm_jax.pretrained.values import Values
from lm_jax.tasks.base import Task
from lm_jax.tasks.causal import Causal
from lm_jax.text.base import Tokenizer

PREFIX = "transformer."  # of all names except the head's; not in the files that OpenAI published

# Ours -> theirs, which are (in, out) like ours.
RULES = {
    "token_embedding/embedding": "wte.weight",
    "position_embedding/embedding": "wpe.weight",
    "layer_{}/attention_norm/scale": "h.{}.ln_1.weight",
    "layer_{}/attention_norm/bias": "h.{}.ln_1.bias",
    "layer_{}/attention/qkv/kernel": "h.{}.attn.c_attn.weight",
    "layer_{}/attention/qkv/bias": "h.{}.attn.c_attn.bias",
    "layer_{}/attention/out/kernel": "h.{}.attn.c_proj.weight",
    "layer_{}/attention/out/bias": "h.{}.attn.c_proj.bias",
    "layer_{}/mlp_norm/scale": "h.{}.ln_2.weight",
    "layer_{}/mlp_norm/bias": "h.{}.ln_2.bias",
    "layer_{}/mlp/up/kernel": "h.{}.mlp.c_fc.weight",
    "layer_{}/mlp/up/bias": "h.{}.mlp.c_fc.bias",
    "layer_{}/mlp/down/kernel": "h.{}.mlp.c_proj.weight",
    "layer_{}/mlp/down/bias": "h.{}.mlp.c_proj.bias",
    "final_norm/scale": "ln_f.weight",
    "final_norm/bias": "ln_f.bias",
}
HEAD = {"head/embedding": "lm_head.weight"}
# Causal masks and numbers of positions, in older files.
BUFFERS = ("h.{}.attn.bias", "h.{}.attn.masked_bias", "position_ids", "wpe.position_ids")
# By these fields a config.json of 2019, which has no model_type, is known.
FIELDS = frozenset({"n_embd", "n_layer", "n_head", "vocab_size"})

_TANH_GELUS = dict.fromkeys(("gelu_new", "gelu_pytorch_tanh"), "gelu")
# Fields that change what is computed, with the only supported values, which are their defaults.
_FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "pruned_heads": {},
}
# Other names of sizes, which transformers reads, too.
_ALIASES = {
    "n_positions": "max_position_embeddings",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
}
_UNUSED_NUMBERS = ("embd_pdrop", "attn_pdrop", "initializer_range")
_UNUSED_FLAGS = ("reorder_and_upcast_attn", "use_cache")


def fixed(config: GPTConfig) -> dict[str, Any]:
    """The fields that all GPT-2s have alike."""
    gpt2 = GPTConfig()
    alike = {name: getattr(gpt2, name) for name in ("position", "norm", "mlp", "parallel_block")}
    return alike | {"num_kv_heads": config.num_heads if config.num_kv_heads == config.num_heads else 0}


def rules(config: GPTConfig, task: Task | None = None) -> dict[str, tuple[str, ...]]:
    """The rules of a config: a tied head is not written twice."""
    return {ours: (theirs,) for ours, theirs in (RULES if config.tied_head else RULES | HEAD).items()}


def ignored(config: GPTConfig, task: Task | None = None) -> frozenset[str]:
    """Names that may exist and are not read."""
    return frozenset(name.format(i) for name in BUFFERS for i in range(config.num_layers))


def copies(config: GPTConfig, task: Task | None = None) -> dict[str, str]:
    """Names that may exist -> the name of the same numbers: a tied head."""
    return {HEAD["head/embedding"]: RULES["token_embedding/embedding"]} if config.tied_head else {}


def their_shapes(name: str, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The published shape of our parameter: q, k and v of all heads are columns of c_attn, in our order."""
    kinds = {"kernel": (*shape[:1], math.prod(shape[1:])), "bias": (math.prod(shape),)}
    return [kinds.get(name.partition("/qkv/")[2], shape)]


def read_config(
    values: dict[str, Any], names: frozenset[str] = frozenset(), source: str = "config.json"
) -> tuple[GPTConfig, Task]:
    """The config of a config.json of model_type "gpt2", and its task.

    Raises:
        UserError: a field is missing or malformed, or has a value that is not supported.
    """
    read = Values(values, source)
    for name, wanted in _FIXED.items():
        read.require(name, wanted)
    for name in _UNUSED_NUMBERS:
        if not 0 <= read.number(name, 0.0) < math.inf:
            raise UserError(f"{name}={values[name]} in {source}", "restore the file")
    read.integer("n_ctx", 1)
    read.texts("architectures")
    for name in ("bos_token_id", "eos_token_id"):
        marks.token_ids(JsonObject(values, source), name)
    for name in _UNUSED_FLAGS:
        read.boolean(name, False)
    read.choice("activation_function", _TANH_GELUS, "gelu_new")
    config = GPTConfig(
        vocab_size=_size(read, values, "vocab_size"),
        max_length=_size(read, values, "n_positions"),
        num_layers=_size(read, values, "n_layer"),
        num_heads=_size(read, values, "n_head"),
        d_model=_size(read, values, "n_embd"),
        d_ff=0 if values.get("n_inner") is None else _size(read, values, "n_inner"),
        tied_head=read.boolean("tie_word_embeddings", True),
        dropout=read.number("resid_pdrop", 0.1),  # ours is one rate for all three
        layer_norm_epsilon=read.number("layer_norm_epsilon", 1e-5),
    )
    try:
        config.check()
        config.check_resolved()
    except UserError as error:
        raise UserError(f"{error.cause}, by {source}", "restore the file") from None
    return config, Causal()


def _size(read: Values, values: dict[str, Any], name: str) -> int:
    """A size, under its name or the other one."""
    other = _ALIASES.get(name, name)
    size = read.size(other if values.get(name) is None and values.get(other) is not None else name)
    if read.size(other, size) != size:
        raise UserError(f"{name}={size} in {read.source}", f"restore the file ({other} may differ)")
    return size


def write_config(config: GPTConfig, task: Task | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """The config.json of a GPT that equals a GPT-2."""
    end_ids = [tokenizer.end_id, *tokenizer.other_end_ids]
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": config.vocab_size,
        "n_positions": config.max_length,
        "n_ctx": config.max_length,
        "n_embd": config.d_model,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.d_ff or None,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout),
        "tie_word_embeddings": config.tied_head,
        "bos_token_id": tokenizer.begin_id,
        "eos_token_id": end_ids if len(end_ids) > 1 else tokenizer.end_id,
    }


FORM = Form(
    title="GPT-2",
    fixed=fixed,
    prefix=PREFIX,
    unprefixed=tuple(HEAD.values()),
    read_config=read_config,
    write_config=write_config,
    rules=rules,
    ignored=ignored,
    copies=copies,
    their_shapes=their_shapes,
    join=lambda name, arrays, _: arrays[0],
    split=lambda name, array: [array.reshape(*their_shapes(name, array.shape))],
    template=lambda config, _: dataclasses.replace(config, use_bias=True),
    by_token=frozenset({"token_embedding/embedding", "head/embedding"}),
)
