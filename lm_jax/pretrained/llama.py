"""LLaMA in transformers' form: rotary positions, RMS norms, gated hidden units, grouped heads.

Touvron et al. 2023. `LlamaForCausalLM` of transformers; models with other positions than the plain rotary
ones, such as Llama 3.1's, are not read.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lm_jax.errors import UserError
from lm_jax.models.gpt import GPTConfig
from lm_jax.pretrained import rotary
from lm_jax.pretrained.base import Form, Shape
from lm_jax.pretrained.values import Values
from lm_jax.tasks.base import Task
from lm_jax.tasks.causal import Causal
from lm_jax.text.base import Tokenizer

PREFIX = "model."
HEAD = "lm_head.weight"

_EMBEDDING = "embed_tokens.weight"
_NORMS = {
    "layer_{}/attention_norm": "layers.{}.input_layernorm",
    "layer_{}/mlp_norm": "layers.{}.post_attention_layernorm",
    "final_norm": "norm",
}
_PRODUCTS = {
    "layer_{}/attention/qkv": tuple(f"layers.{{}}.self_attn.{x}_proj" for x in "qkv"),
    "layer_{}/attention/out": ("layers.{}.self_attn.o_proj",),
    "layer_{}/mlp/gate": ("layers.{}.mlp.gate_proj",),
    "layer_{}/mlp/up": ("layers.{}.mlp.up_proj",),
    "layer_{}/mlp/down": ("layers.{}.mlp.down_proj",),
}
_FIXED = {"hidden_act": "silu", "pretraining_tp": 1}


def fixed(config: GPTConfig) -> dict[str, Any]:
    """The fields that all LLaMAs have alike."""
    return {"position": "rope", "norm": "rms", "mlp": "swiglu", "parallel_block": False}


def rules(config: GPTConfig, task: Task | None = None) -> dict[str, tuple[str, ...]]:
    """Our names of parameters -> theirs; a tied head is not written twice."""
    found: dict[str, tuple[str, ...]] = {"token_embedding/embedding": (_EMBEDDING,)}
    found |= {f"{ours}/scale": (f"{theirs}.weight",) for ours, theirs in _NORMS.items()}
    ends = {"kernel": "weight"} | ({"bias": "bias"} if config.use_bias else {})
    for ours, theirs in _PRODUCTS.items():
        found |= {f"{ours}/{end}": tuple(f"{name}.{one}" for name in theirs) for end, one in ends.items()}
    return found if config.tied_head else found | {"head/embedding": (HEAD,)}


def ignored(config: GPTConfig, task: Task | None = None) -> frozenset[str]:
    """Names that may exist and are not read: the rates of rotation, in older files."""
    rates = (f"layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(config.num_layers))
    return frozenset(("rotary_emb.inv_freq", *rates))


def copies(config: GPTConfig, task: Task | None = None) -> dict[str, str]:
    """Names that may exist -> the name of the same numbers: a tied head."""
    return {HEAD: _EMBEDDING} if config.tied_head else {}


def their_shapes(name: str, shape: Shape) -> list[Shape]:
    """The shapes of the weights that make our parameter."""
    if "/qkv/" not in name:
        return [shape[::-1] if name.endswith("/kernel") else shape]
    *inputs, slots, G, K = shape  # in a group the queries of its heads, its key and its value
    return [(G * (slots - 2) * K, *inputs), (G * K, *inputs), (G * K, *inputs)]


def join(name: str, arrays: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    """Our parameter from theirs. Query head h, row block h of theirs, is slot h % R of group h // R."""
    if "/qkv/" not in name:
        return arrays[0].T if name.endswith("/kernel") else arrays[0]
    *inputs, slots, G, K = shape
    q, k, v = arrays
    q = np.moveaxis(q.reshape(G, slots - 2, K, *inputs), 1, 0)
    every = np.concatenate([q, k.reshape(1, G, K, *inputs), v.reshape(1, G, K, *inputs)])
    return np.moveaxis(every, -1, 0) if inputs else every


def split(name: str, array: np.ndarray) -> list[np.ndarray]:
    """The inverse of `join`."""
    if "/qkv/" not in name:
        return [array.T if name.endswith("/kernel") else array]
    *inputs, _, _, _ = array.shape
    by_slot = np.moveaxis(array, 0, -1) if inputs else array
    q = np.moveaxis(by_slot[:-2], 0, 1)
    return [part.reshape(-1, *inputs) for part in (q, by_slot[-2], by_slot[-1])]


def read_config(
    values: dict[str, Any], names: frozenset[str] = frozenset(), source: str = "config.json"
) -> tuple[GPTConfig, Task]:
    """The config of a config.json of model_type "llama", and its task.

    Raises:
        UserError: a field is missing or malformed, or has a value that is not supported.
    """
    read = Values(values, source)
    for name, wanted in _FIXED.items():
        read.require(name, wanted)
    shape = rotary.read_shape(read)
    width = shape["d_model"] // shape["num_heads"]
    if read.size("head_dim", max(1, width)) != width:
        given = f"head_dim={read.size('head_dim')} in {source}"
        raise UserError(given, "only hidden_size / num_attention_heads is supported")
    use_bias = read.boolean("attention_bias", False)
    if read.boolean("mlp_bias", False) != use_bias:
        raise UserError(f"attention_bias and mlp_bias differ in {source}", "only both or none are supported")
    kv_heads = read.size("num_key_value_heads", shape["num_heads"])
    config = GPTConfig(
        **shape,
        num_kv_heads=0 if kv_heads == shape["num_heads"] else kv_heads,
        position="rope",
        norm="rms",
        mlp="swiglu",
        use_bias=use_bias,
        rope_theta=rotary.read_theta(read, values, "rope_theta"),
        layer_norm_epsilon=read.number("rms_norm_eps", 1e-6),
        dropout=read.number("attention_dropout", 0.0),
        tied_head=read.boolean("tie_word_embeddings", False),
    )
    return rotary.check(config, read, values), Causal()


def write_config(config: GPTConfig, task: Task | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """The config.json of a GPT that equals a LLaMA."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **_FIXED,
        **rotary.write_shape(config, tokenizer),
        **rotary.write_theta(config),
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "rms_norm_eps": config.layer_norm_epsilon,
        "attention_bias": config.use_bias,
        "mlp_bias": config.use_bias,
    }


FORM = Form(
    title="LLaMA",
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
    template=lambda config, _: config,
    by_token=frozenset({"token_embedding/embedding", "head/embedding"}),
)
