"""GPT-NeoX in transformers' form: GPT-2 with rotary positions, which the recipe configs/gpt.py trains.

Black et al. 2022. `GPTNeoXForCausalLM` of transformers, with attention and MLP one after the other; GPT-NeoX
20B and the Pythias compute both from the same input, rotate a quarter of the features, and are not read.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lm_jax.models.gpt import GPTConfig
from lm_jax.pretrained import rotary
from lm_jax.pretrained.base import Form, Shape
from lm_jax.pretrained.products import weight_and_bias
from lm_jax.pretrained.values import Values
from lm_jax.tasks.base import Task
from lm_jax.tasks.causal import Causal
from lm_jax.text.base import Tokenizer

PREFIX = "gpt_neox."
HEAD = "embed_out.weight"

_EMBEDDING = "embed_in.weight"
_NORMS = {
    "layer_{}/attention_norm": "layers.{}.input_layernorm",
    "layer_{}/mlp_norm": "layers.{}.post_attention_layernorm",
    "final_norm": "final_layer_norm",
}
_PRODUCTS = {
    "layer_{}/attention/qkv": "layers.{}.attention.query_key_value",
    "layer_{}/attention/out": "layers.{}.attention.dense",
    "layer_{}/mlp/up": "layers.{}.mlp.dense_h_to_4h",
    "layer_{}/mlp/down": "layers.{}.mlp.dense_4h_to_h",
}
_BUFFERS = ("bias", "masked_bias", "rotary_emb.inv_freq")  # of attention, in older files
_ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "gelu": "gelu_exact"}
_FIXED = {"use_parallel_residual": False, "attention_bias": True}


def fixed(config: GPTConfig) -> dict[str, Any]:
    """The fields that all models of this form have alike."""
    return {
        "position": "rope",
        "norm": "layer",
        "mlp": "gelu_exact" if config.mlp == "gelu_exact" else "gelu",
        "parallel_block": False,
        "num_kv_heads": config.num_heads if config.num_kv_heads == config.num_heads else 0,
    }


def rules(config: GPTConfig, task: Task | None = None) -> dict[str, tuple[str, ...]]:
    """Our names of parameters -> theirs; a tied head is not written twice."""
    found: dict[str, tuple[str, ...]] = {"token_embedding/embedding": (_EMBEDDING,)}
    found |= weight_and_bias(_NORMS, "scale") | weight_and_bias(_PRODUCTS, "kernel")
    return found if config.tied_head else found | {"head/embedding": (HEAD,)}


def ignored(config: GPTConfig, task: Task | None = None) -> frozenset[str]:
    """Names that may exist and are not read."""
    return frozenset(f"layers.{i}.attention.{name}" for name in _BUFFERS for i in range(config.num_layers))


def copies(config: GPTConfig, task: Task | None = None) -> dict[str, str]:
    """Names that may exist -> the name of the same numbers: a tied head."""
    return {HEAD: _EMBEDDING} if config.tied_head else {}


def current_name(name: str) -> str:
    """The head's name in files; transformers 5 also calls it as other models' heads."""
    return HEAD if name == "lm_head.weight" else name


def their_shapes(name: str, shape: Shape) -> list[Shape]:
    """The shape of the weight that is our parameter."""
    if "/qkv/" not in name:
        return [shape[::-1] if name.endswith("/kernel") else shape]
    *inputs, slots, H, K = shape
    return [(H * slots * K, *inputs)]


def join(name: str, arrays: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    """Our parameter from theirs, whose rows are the query, key and value of one head after another."""
    [array] = arrays
    if "/qkv/" not in name:
        return array.T if name.endswith("/kernel") else array
    *inputs, slots, H, K = shape
    by_slot = np.moveaxis(array.reshape(H, slots, K, *inputs), 0, 1)
    return np.moveaxis(by_slot, -1, 0) if inputs else by_slot


def split(name: str, array: np.ndarray) -> list[np.ndarray]:
    """The inverse of `join`."""
    if "/qkv/" not in name:
        return [array.T if name.endswith("/kernel") else array]
    *inputs, _, _, _ = array.shape
    by_slot = np.moveaxis(array, 0, -1) if inputs else array
    return [np.moveaxis(by_slot, 1, 0).reshape(-1, *inputs)]


def read_config(
    values: dict[str, Any], names: frozenset[str] = frozenset(), source: str = "config.json"
) -> tuple[GPTConfig, Task]:
    """The config of a config.json of model_type "gpt_neox", and its task.

    Raises:
        UserError: a field is missing or malformed, or has a value that is not supported.
    """
    read = Values(values, source)
    read.require("use_parallel_residual", False, default=True)
    read.require("attention_bias", True)
    config = GPTConfig(
        **rotary.read_shape(read),
        position="rope",
        mlp=read.choice("hidden_act", _ACTIVATIONS, "gelu"),
        rope_theta=rotary.read_theta(read, values, "rotary_emb_base", "rotary_pct"),
        layer_norm_epsilon=read.number("layer_norm_eps", 1e-5),
        dropout=read.number("hidden_dropout", 0.0),
        tied_head=read.boolean("tie_word_embeddings", False),
    )
    return rotary.check(config, read, values), Causal()


def write_config(config: GPTConfig, task: Task | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """The config.json of a GPT that equals a GPT-NeoX."""
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        **_FIXED,
        **rotary.write_shape(config, tokenizer),
        **rotary.write_theta(config),
        "hidden_act": "gelu" if config.mlp == "gelu_exact" else "gelu_new",
        "hidden_dropout": config.dropout,
        "layer_norm_eps": config.layer_norm_epsilon,
    }


FORM = Form(
    title="GPT-NeoX",
    fixed=fixed,
    prefix=PREFIX,
    unprefixed=(HEAD,),
    read_config=read_config,
    write_config=write_config,
    rules=rules,
    ignored=ignored,
    copies=copies,
    their_shapes=their_shapes,
    join=join,
    split=split,
    template=lambda config, _: replace(config, use_bias=True),
    by_token=frozenset({"token_embedding/embedding", "head/embedding"}),
    current_name=current_name,
)
