"""Encoders as language models: vectors of texts and of tokens."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm_jax import runtime
from lm_jax.data.examples import pad
from lm_jax.errors import UserError
from lm_jax.language_models.base import EmbeddedText
from lm_jax.language_models.described import Described
from lm_jax.language_models.options import as_texts
from lm_jax.language_models.trained import Trained, shared
from lm_jax.models.heads import pool
from lm_jax.text.base import Encoding

POOLINGS = ("mean", "first", "last", "max")
_TOKENS_PER_BATCH = {"cpu": 512}  # faster than larger batches on a CPU (benchmarks/train_bert.py, "embed")
_TOKENS_PER_BATCH_ELSEWHERE = 1 << 15


class EncoderLanguageModel(Described):
    """A module that reads each token with those on both sides, as a language model.

    A text longer than the context is cut: its first tokens are read.

    Args:
        trained: the module with its parameters and tokenizer.
    """

    evaluator = "none"

    def __init__(self, trained: Trained):
        self.trained, self.tokenizer = trained, trained.tokenizer
        self.config, self.module, self.params = trained.config, trained.module, trained.params
        self.family, self.step, self.documents = self.config.family, trained.step, trained.documents
        self.task = "none" if trained.task is None else trained.task.name
        self._begin, self._end, self._pad = self._special_ids()
        self._pooled, self._layers = shared(_compiled, self.module)

    def _special_ids(self) -> tuple[tuple[int, ...], int, int]:
        """The tokens before a text, the one after it, and the one at padding."""
        cls, sep, padding = map(self.tokenizer.require_special, ("cls", "sep", "pad"))
        return (cls,), sep, padding

    @property
    def _extra(self) -> int:
        """The number of special tokens of a row."""
        return len(self._begin) + 1

    @cached_property
    def _cast(self) -> Any:
        """The parameters for many batches: their kernels are not cast for each of them."""
        config: Any = self.config
        return _with_cast_kernels(self.params, config.dtype)

    @property
    def context(self) -> int:
        """The largest number of tokens that the model reads, with [CLS] and [SEP]."""
        assert self.config.context_length is not None
        return self.config.context_length

    def embed(
        self,
        texts: Sequence[str],
        pooling: str = "mean",
        normalize: bool = False,
        max_tokens: int | None = None,
    ) -> np.ndarray:
        """A vector for each text, float32 [N, D], from the last layer.

        Args:
            texts: the texts. One that is longer than `max_tokens` is cut.
            pooling: "mean", "max", "first" or "last" over its tokens, [CLS] and [SEP] included.
            normalize: whether vectors are divided by their Euclidean norm.
            max_tokens: most tokens of a text, with [CLS] and [SEP]; None: the model's context.

        Raises:
            UserError: an unknown pooling, or a number of tokens out of range.
        """
        if pooling not in POOLINGS:
            raise UserError(f"pooling={pooling!r}", f"choose one of {', '.join(POOLINGS)}")
        encodings = self.tokenizer.encode_batch(as_texts(texts, "texts"))
        rows = self._rows([e.ids for e in encodings], max_tokens)
        vectors: list[np.ndarray] = [np.empty(0, np.float32)] * len(rows)
        for group, tokens_BT, segments_BT in self._batches(rows):
            made_BD = self._pooled(self._cast, tokens_BT, segments_BT, pooling, normalize)
            for i, vector in zip(group, np.asarray(made_BD)):
                vectors[i] = vector
        config: Any = self.config
        return np.array(vectors, np.float32).reshape(len(rows), config.d_model)

    def are_cut(self, texts: Sequence[str], max_tokens: int | None = None) -> list[bool]:
        """Whether each text has more tokens than `max_tokens`, with [CLS] and [SEP]."""
        most = self._most(max_tokens)
        return [len(ids) + self._extra > most for ids in self.tokenizer.encode_ids(as_texts(texts, "texts"))]

    def embed_tokens(self, texts: Sequence[str], max_tokens: int | None = None) -> list[EmbeddedText]:
        """The vectors of each text's tokens, [CLS] and [SEP] included, after each layer.

        The arguments and errors are those of `embed`.
        """
        texts = as_texts(texts, "texts")
        encodings = self.tokenizer.encode_batch(texts)
        rows = self._rows([e.ids for e in encodings], max_tokens)
        made: list[EmbeddedText] = [None] * len(rows)  # type: ignore[list-item]
        for group, tokens_BT, segments_BT in self._batches(rows):
            layers_LBTD = np.asarray(self._layers(self.params, tokens_BT, segments_BT))
            for row, i in enumerate(group):
                length = len(rows[i])
                spans = _spans(texts[i], encodings[i], len(self._begin), length)
                made[i] = EmbeddedText(spans, layers_LBTD[:, row, :length])
        return made

    def _rows(self, texts: Sequence[np.ndarray], max_tokens: int | None = None) -> list[np.ndarray]:
        """The tokens of a text between special ones; the text is cut where it is too long."""
        most = self._most(max_tokens)
        return [
            np.concatenate([self._begin, ids[: most - self._extra], [self._end]]).astype(np.int32)
            for ids in texts
        ]

    def _most(self, max_tokens: int | None) -> int:
        most = self.context if max_tokens is None else max_tokens
        if not self._extra < most <= self.context:
            raise UserError(
                f"max_tokens={most} with a context of {self.context}",
                f"choose {self._extra + 1}..{self.context}",
            )
        return most

    def _batches(self, rows: Sequence[np.ndarray]) -> Iterator[tuple[list[int], Any, Any]]:
        """Numbers of rows of similar length, with their tokens and segments; there are few shapes.

        The shortest rows come first. A batch is as long as its longest row, and full but for the last one.
        """
        most_tokens = _TOKENS_PER_BATCH.get(runtime.platform(), _TOKENS_PER_BATCH_ELSEWHERE)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        lengths, first = [_padded(len(rows[i]), self.context) for i in order], 0
        while first < len(order):
            last = first + 1
            while last < len(order) and (last + 1 - first) * lengths[last] <= most_tokens:
                last += 1
            group, most = order[first:last], max(1, most_tokens // lengths[last - 1])
            num_rows = self.trained.num_rows(len(group), most) if last == len(order) else most
            chosen = [rows[i] for i in np.resize(group, self.trained.num_rows(num_rows, num_rows))]
            yield group, *self.trained.placed(pad(chosen, lengths[last - 1], self._pad))
            first = last


def _spans(text: str, encoding: Encoding, num_before: int, length: int) -> np.ndarray:
    """The spans of a row of `length` tokens: special ones, the first tokens of a text, a special one."""
    size, before = len(text.encode()), np.zeros((num_before, 2), np.int64)
    return np.concatenate([before, encoding.spans[: length - num_before - 1], [[size, size]]])


def _compiled(module: nn.Module) -> tuple[Any, Any]:
    return jax.jit(partial(_pooled, module), static_argnums=(3, 4)), jax.jit(partial(_layers, module))


def _pooled(
    module: nn.Module,
    params: Any,
    tokens_BT: jax.Array,
    segments_BT: jax.Array,
    pooling: str,
    normalize: bool,
) -> Any:
    hidden_BTD: Any = module.apply(params, tokens_BT, segments_BT, method="encode")
    vectors_BD = pool(hidden_BTD, segments_BT, pooling).astype(jnp.float32)
    if not normalize:
        return vectors_BD
    return vectors_BD / jnp.maximum(jnp.linalg.norm(vectors_BD, axis=1, keepdims=True), 1e-12)


def _layers(module: nn.Module, params: Any, tokens_BT: jax.Array, segments_BT: jax.Array) -> Any:
    """The embeddings and the output of each block, [L, B, T, D]; the last as the head reads it."""
    hidden_BTD, sown = module.apply(
        params, tokens_BT, segments_BT, method="encode", mutable=["intermediates"]
    )
    [blocks] = [
        x for path, x in jax.tree_util.tree_flatten_with_path(sown, is_leaf=lambda x: isinstance(x, tuple))[0]
    ]
    return jnp.stack([*blocks[:-1], hidden_BTD]).astype(jnp.float32)


def _padded(length: int, most: int) -> int:
    """The length of a row that holds so many tokens: a multiple of 4, or of a larger power of 2 beyond 64.

    The steps are an eighth of the length at most beyond 32: little is padding, and there are few shapes.
    """
    multiple = max(4, (1 << (length - 1).bit_length()) // 16)
    return min(-(-length // multiple) * multiple, most)


def _with_cast_kernels(params: Any, dtype: str) -> Any:
    """The parameters with the kernels of products in the dtype of computation, to which modules cast them."""

    def cast(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(cast, params)
