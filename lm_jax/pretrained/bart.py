"""BART in transformers' form: names of weights, the fields of its config.json, and how it generates.

BartModel, BartForConditionalGeneration and BartForSequenceClassification; which one it is, the weights tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lm_jax.errors import UserError
from lm_jax.models.bart import BARTConfig
from lm_jax.pretrained import products
from lm_jax.pretrained.base import Form, Shape
from lm_jax.pretrained.bert import class_names, label_config
from lm_jax.pretrained.products import weight_and_bias
from lm_jax.pretrained.values import Values
from lm_jax.tasks.base import Task
from lm_jax.tasks.classification import Classification, Regression
from lm_jax.tasks.seq2seq import Seq2Seq
from lm_jax.text.base import Tokenizer

PREFIX = "model."

_SHARED, _BIAS, _LM_HEAD = "shared.weight", "final_logits_bias", "lm_head.weight"
_TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_NORMS = {"attention_norm": "self_attn_layer_norm", "mlp_norm": "final_layer_norm"}
_CROSS_NORM = {"cross_attention_norm": "encoder_attn_layer_norm"}
_PRODUCTS = {"attention/out": "self_attn.out_proj", "mlp/up": "fc1", "mlp/down": "fc2"}
_CROSS_PRODUCT = {"cross_attention/out": "encoder_attn.out_proj"}
_BY_HEADS: dict[str, tuple[str, ...]] = {
    "attention/qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
}
_CROSS_BY_HEADS: dict[str, tuple[str, ...]] = {
    "cross_attention/query": ("encoder_attn.q_proj",),
    "cross_attention/key_value": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
}
_LABELS = {"head/dense": "classification_head.dense", "head/out": "classification_head.out_proj"}
_ACTIVATIONS = {"gelu": "gelu_exact", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu"}
_REQUIRED = {"is_encoder_decoder": True, "is_decoder": False, "add_cross_attention": False}
# Fields of BARTConfig that a published BART fixes.
_FIXED = {"position": "learned", "norm_first": False, "norm": "layer", "use_bias": True}


def rules(config: BARTConfig, task: Task | None) -> dict[str, tuple[str, ...]]:
    """Our names of parameters -> theirs."""
    found: dict[str, tuple[str, ...]] = {"token_embedding/embedding": (_SHARED,)}
    for half, num_layers in (("encoder", config.encoder_layers), ("decoder", config.num_layers)):
        found[f"{half}/position_embedding/embedding"] = (f"{half}.embed_positions.weight",)
        found |= weight_and_bias({f"{half}/embedding_norm": f"{half}.layernorm_embedding"}, "scale")
        for i in range(num_layers):
            found |= _layer(f"{half}/layer_{i}/", f"{half}.layers.{i}.", half == "decoder")
    if not config.tied_head:
        found["head/embedding"] = (_LM_HEAD,)
    if config.logits_bias:
        found["logits_bias"] = (_BIAS,)
    if not _has_labels(task):
        return found
    return {f"backbone/{ours}": theirs for ours, theirs in found.items()} | weight_and_bias(_LABELS, "kernel")


def _layer(ours: str, theirs: str, attends_to_source: bool) -> dict[str, tuple[str, ...]]:
    norms, kernels, by_heads = _NORMS, _PRODUCTS, _BY_HEADS
    if attends_to_source:
        norms, kernels, by_heads = norms | _CROSS_NORM, kernels | _CROSS_PRODUCT, by_heads | _CROSS_BY_HEADS

    def under(names: Mapping[str, str]) -> dict[str, str]:
        return {ours + name: theirs + their_name for name, their_name in names.items()}

    found = weight_and_bias(under(norms), "scale") | weight_and_bias(under(kernels), "kernel")
    for name, parts in by_heads.items():
        for end, their_end in (("kernel", "weight"), ("bias", "bias")):
            found[f"{ours}{name}/{end}"] = tuple(f"{theirs}{part}.{their_end}" for part in parts)
    return found


def _has_labels(task: Task | None) -> bool:
    return isinstance(task, Classification | Regression)


def ignored(config: BARTConfig, task: Task | None) -> frozenset[str]:
    """Names that may exist and are not read."""
    return frozenset(("encoder.version", "decoder.version"))


def copies(config: BARTConfig, task: Task | None) -> dict[str, str]:
    """Names that may exist -> the name of the same numbers: the token embedding has up to four."""
    head = (_LM_HEAD,) if config.tied_head and not _has_labels(task) else ()
    return dict.fromkeys((*_TIED, *head), _SHARED)


def their_shapes(name: str, shape: Shape) -> list[Shape]:
    """The shapes of the weights that make our parameter."""
    return [(1, *shape)] if name == "logits_bias" else products.their_shapes(name, shape)


def split(name: str, array: np.ndarray) -> Sequence[np.ndarray]:
    """Their arrays from our parameter."""
    return [array[None]] if name == "logits_bias" else products.split(name, array)


def read_config(values: dict[str, Any], names: frozenset[str], source: str) -> tuple[BARTConfig, Task | None]:
    """The config of a config.json of model_type "bart", and its task.

    Raises:
        UserError: a field is missing or malformed, or has a value that is not supported.
    """
    read = Values(values, source)
    for name, wanted in _REQUIRED.items():
        read.require(name, wanted)
    heads, width = read.size("decoder_attention_heads"), read.size("decoder_ffn_dim")
    for name, size in (("encoder_attention_heads", heads), ("encoder_ffn_dim", width)):
        if read.size(name) != size:
            raise UserError(
                f"{name}={read.size(name)} and {size} of the decoder in {source}",
                "only halves of equal shape are supported",
            )
    end = read.integer("eos_token_id", 2)
    if read.integer("decoder_start_token_id", end) != end:
        raise UserError(
            f"decoder_start_token_id={values['decoder_start_token_id']} in {source}",
            f"only the end token, {end}, is supported",
        )
    is_head = "classification_head.dense.weight" in names
    is_tied = read.boolean("tie_word_embeddings", True)
    config = BARTConfig(
        vocab_size=read.size("vocab_size"),
        max_length=read.size("max_position_embeddings"),
        num_layers=read.size("decoder_layers"),
        num_encoder_layers=read.size("encoder_layers"),
        num_heads=heads,
        d_model=read.size("d_model"),
        d_ff=width,
        mlp=read.choice("activation_function", _ACTIVATIONS, "gelu"),
        scale_embedding=read.boolean("scale_embedding", False),
        dropout=read.number("dropout", 0.1),
        attention_dropout=read.number("attention_dropout", 0.0),
        tied_head=is_tied or _LM_HEAD not in names,
        logits_bias=_BIAS in names,
    )
    config.check()
    config.check_resolved()
    if not is_head:
        return config, Seq2Seq() if config.logits_bias or _LM_HEAD in names else None
    head: dict[str, Any] = {"hidden_layer": True, "dropout": read.number("classifier_dropout", 0.0)}
    classes = class_names(values, source)
    if values.get("problem_type") == "regression" or len(classes) == 1:
        return config, Regression(**head)
    return config, Classification(**head, classes=classes)


def write_config(config: BARTConfig, task: Task | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """The config.json of a BART that has the published architecture.

    Raises:
        UserError: a field that published BARTs do not have, or a vocabulary without a token for padding.
    """
    activation = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}.get(config.mlp)
    if activation is None:
        raise UserError(
            f"a BART with model.mlp={config.mlp} has no published form",
            "only gelu_exact and gelu can be exported",
        )
    special = tokenizer.special_ids
    end = special.get("eos", special.get("sep", tokenizer.end_id))
    head: Any = task
    if _has_labels(task) and not (head.hidden_layer and head.pooling in ("", "last")):
        raise UserError(
            "a BART with this head has no published form",
            "only one with task.hidden_layer=true on the last token can be exported",
        )
    return {
        "architectures": [_architecture(task)],
        "model_type": "bart",
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_length,
        "d_model": config.d_model,
        **{f"{half}_attention_heads": config.num_heads for half in ("encoder", "decoder")},
        **{f"{half}_ffn_dim": config.mlp_width for half in ("encoder", "decoder")},
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.num_layers,
        "activation_function": activation,
        "scale_embedding": config.scale_embedding,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "tie_word_embeddings": config.tied_head,
        "bos_token_id": special.get("bos", special.get("cls", end)),
        "eos_token_id": end,
        "pad_token_id": special.get("pad", end),
        "decoder_start_token_id": end,
        "forced_eos_token_id": end,
        **label_config(task),
    }


def _architecture(task: Task | None) -> str:
    """The name of transformers' class."""
    if _has_labels(task):
        return "BartForSequenceClassification"
    return "BartModel" if task is None else "BartForConditionalGeneration"


def template(config: BARTConfig, task: Task | None) -> BARTConfig:
    """A model that generates has a bias of the logits."""
    generates = task is not None and not _has_labels(task)
    return replace(config, logits_bias=config.logits_bias or generates)


FORM = Form(
    title="BART",
    fixed=lambda _: _FIXED,
    prefix=PREFIX,
    unprefixed=("final_logits_bias", "lm_head.", "classification_head."),
    read_config=read_config,
    write_config=write_config,
    rules=rules,
    ignored=ignored,
    copies=copies,
    their_shapes=their_shapes,
    join=products.join,
    split=split,
    template=template,
    by_token=frozenset({"token_embedding/embedding", "head/embedding", "logits_bias"}),
)
