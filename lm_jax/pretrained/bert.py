"""BERT in transformers' form: names of weights, and the fields of its config.json.

BertModel, BertForPreTraining, BertForMaskedLM, BertForSequenceClassification and BertForTokenClassification;
which one it is, the weights tell.
"""

from typing import Any

from lm_jax.errors import UserError
from lm_jax.models.bert import BERTConfig
from lm_jax.pretrained import products
from lm_jax.pretrained.base import Form
from lm_jax.pretrained.products import weight_and_bias
from lm_jax.pretrained.values import Values
from lm_jax.tasks.base import TASKS, Task
from lm_jax.tasks.masked import Masked
from lm_jax.text.base import Tokenizer

PREFIX = "bert."

_TABLES = {
    "token_embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "type_embedding": "embeddings.token_type_embeddings",
}
_NORMS = {
    "embedding_norm": "embeddings.LayerNorm",
    "layer_{}/attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "layer_{}/mlp_norm": "encoder.layer.{}.output.LayerNorm",
}
_PRODUCTS = {
    "layer_{}/attention/out": "encoder.layer.{}.attention.output.dense",
    "layer_{}/mlp/up": "encoder.layer.{}.intermediate.dense",
    "layer_{}/mlp/down": "encoder.layer.{}.output.dense",
}
_ATTENDS = tuple(f"encoder.layer.{{}}.attention.self.{name}" for name in ("query", "key", "value"))
_POOLER = {"pooler": "pooler.dense"}
_MASKED_PRODUCT = {"head/dense": "cls.predictions.transform.dense"}
_MASKED_NORM = {"head/norm": "cls.predictions.transform.LayerNorm"}
_MASKED_BIAS = "cls.predictions.bias"
_PAIRS = {"head/pairs": "cls.seq_relationship"}
_LABELS = {"head/out": "classifier"}
_ACTIVATIONS = {"gelu": "gelu_exact", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu"}
_ARCHITECTURES = {
    "classification": "BertForSequenceClassification",
    "regression": "BertForSequenceClassification",
    "tagging": "BertForTokenClassification",
}
# Fields of config.json that change what is computed, with the only supported values.
_REQUIRED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
# Fields of BERTConfig that a published BERT fixes.
_FIXED = {"position": "learned", "norm_first": False, "norm": "layer", "use_bias": True, "num_types": 2}


def rules(config: BERTConfig, task: Task | None) -> dict[str, tuple[str, ...]]:
    """Our names of parameters -> theirs."""
    found: dict[str, tuple[str, ...]]
    found = {f"{ours}/embedding": (f"{theirs}.weight",) for ours, theirs in _TABLES.items()}
    found |= weight_and_bias(_NORMS, "scale") | weight_and_bias(
        _PRODUCTS | (_POOLER if config.pooler else {}), "kernel"
    )
    for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
        found[f"layer_{{}}/attention/qkv/{ours}"] = tuple(f"{name}.{theirs}" for name in _ATTENDS)
    if task is None:
        return found
    found = {f"backbone/{ours}": theirs for ours, theirs in found.items()}
    if not isinstance(task, Masked):
        return found | weight_and_bias(_LABELS, "kernel")
    kernels = _MASKED_PRODUCT | (_PAIRS if task.pairs != "none" else {})
    found |= weight_and_bias(kernels, "kernel") | weight_and_bias(_MASKED_NORM, "scale")
    return found | {"head/bias": (_MASKED_BIAS,)}


def ignored(config: BERTConfig, task: Task | None) -> frozenset[str]:
    """Names that may exist and are not read."""
    return frozenset({"embeddings.position_ids"})


def copies(config: BERTConfig, task: Task | None) -> dict[str, str]:
    """Names that may exist -> the name of the same numbers."""
    if not isinstance(task, Masked):
        return {}
    return {
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": _MASKED_BIAS,
    }


def current_name(name: str) -> str:
    """A weight's name of today: norms had gamma and beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def read_config(values: dict[str, Any], names: frozenset[str], source: str) -> tuple[BERTConfig, Task | None]:
    """The config of a config.json of model_type "bert", and its task.

    Raises:
        UserError: a field is missing or malformed, or has a value that is not supported.
    """
    read = Values(values, source)
    for name, wanted in _REQUIRED.items():
        read.require(name, wanted)
    config = BERTConfig(
        vocab_size=read.size("vocab_size"),
        max_length=read.size("max_position_embeddings"),
        num_layers=read.size("num_hidden_layers"),
        num_heads=read.size("num_attention_heads"),
        d_model=read.size("hidden_size"),
        d_ff=read.size("intermediate_size"),
        num_types=read.size("type_vocab_size", 2),
        mlp=read.choice("hidden_act", _ACTIVATIONS, "gelu"),
        pooler="pooler.dense.weight" in names,
        dropout=read.number("hidden_dropout_prob", 0.1),
        attention_dropout=read.number("attention_probs_dropout_prob", 0.1),
        layer_norm_epsilon=read.number("layer_norm_eps", 1e-12),
    )
    config.check()
    config.check_resolved()
    return config, _task(read, values, config, names)


def _task(read: Values, values: dict[str, Any], config: BERTConfig, names: frozenset[str]) -> Task | None:
    if _MASKED_BIAS in names:
        return Masked(pairs="next" if "cls.seq_relationship.weight" in names else "none")
    if "classifier.weight" not in names:
        return None
    classes = class_names(values, read.source)
    dropout = read.number("classifier_dropout", config.dropout)

    def make(name: str, **fields: Any) -> Task:
        task: Any = TASKS.get(name)
        return task(dropout=dropout, **fields)

    architectures = read.texts("architectures")
    # The published class of token classification has no pooler, that of sequence classification has one.
    if any("TokenClassification" in name for name in architectures) or not (architectures or config.pooler):
        return make("tagging", classes=classes)
    if values.get("problem_type") == "regression" or len(classes) == 1:
        return make("regression")
    if values.get("problem_type") == "multi_label_classification":
        raise UserError(
            f"{read.source} describes a model of several labels a text", "give one of a single label"
        )
    return make("classification", classes=classes)


def class_names(values: dict[str, Any], source: str) -> tuple[str, ...]:
    """The names of the classes by their number, of the values of a config.json."""
    named = values.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    keys = [str(i) for i in range(len(named))] if isinstance(named, dict) else []
    if not keys or set(named) != set(keys) or not all(isinstance(name, str) for name in named.values()):
        raise UserError(f"id2label in {source} does not name classes 0, 1, ...", "restore the file")
    return tuple(named[key] for key in keys)


def write_config(config: BERTConfig, task: Task | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """The config.json of a BERT that has the published architecture.

    Raises:
        UserError: a field that published BERTs do not have.
    """
    activation = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}.get(config.mlp)
    if activation is None:
        raise UserError(
            f"a BERT with model.mlp={config.mlp} has no published form",
            "only gelu_exact and gelu can be exported",
        )
    return {
        "architectures": [_architecture(config, task)],
        "model_type": "bert",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_length,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp_width,
        "type_vocab_size": config.num_types,
        "hidden_act": activation,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "layer_norm_eps": config.layer_norm_epsilon,
        "position_embedding_type": "absolute",
        "pad_token_id": tokenizer.special_ids.get("pad", 0),
        **label_config(task),
    }


def _architecture(config: BERTConfig, task: Task | None) -> str:
    """The name of transformers' class."""
    if isinstance(task, Masked):
        return "BertForMaskedLM" if task.pairs == "none" else "BertForPreTraining"
    if task is None:
        return "BertModel"
    name = _ARCHITECTURES.get(task.name)
    has_own_head = getattr(task, "hidden_layer", False) or getattr(task, "pooling", "") not in ("", "first")
    needs_pooler = name == "BertForSequenceClassification" and not config.pooler
    if name is None or has_own_head or needs_pooler:
        raise UserError(
            f"a BERT with this head of task={task.name} has no published form",
            "only a head that is one dense layer on BERT's pooler, or on each token, can be exported",
        )
    return name


def label_config(task: Task | None) -> dict[str, Any]:
    """The values of config.json that describe a head of labels."""
    if task is None or task.name not in _ARCHITECTURES:
        return {}
    labelled: Any = task
    if task.name == "regression":
        return {"num_labels": 1, "problem_type": "regression", "classifier_dropout": labelled.dropout}
    named = {str(i): name for i, name in enumerate(labelled.classes)}
    numbers = {name: i for i, name in enumerate(labelled.classes)}
    return {"id2label": named, "label2id": numbers, "classifier_dropout": labelled.dropout}


FORM = Form(
    title="BERT",
    fixed=lambda _: _FIXED,
    prefix=PREFIX,
    unprefixed=("cls.", "classifier."),
    read_config=read_config,
    write_config=write_config,
    rules=rules,
    ignored=ignored,
    copies=copies,
    their_shapes=products.their_shapes,
    join=products.join,
    split=products.split,
    template=lambda config, _: config,
    by_token=frozenset({"token_embedding/embedding", "head/bias"}),
    current_name=current_name,
)
