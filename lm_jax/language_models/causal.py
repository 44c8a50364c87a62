"""Modules that predict each token from those before it, as language models."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_jax.decoding.decoder import Decoder
from lm_jax.language_models.base import ExpectedText, LeftToRight, ScoredText
from lm_jax.language_models.logits import Logits, log_sum_exp, one_text
from lm_jax.language_models.options import as_texts, check_stride
from lm_jax.language_models.rolling import without_end
from lm_jax.language_models.trained import Trained, shared
from lm_jax.metrics.chunked import chunked, chunked_token_log_probs
from lm_jax.metrics.likelihood import token_log_probs
from lm_jax.models.base import Rewinds
from lm_jax.parallel.distributed import share
from lm_jax.tasks.causal import Causal
from lm_jax.text.base import Encoding

_TOKENS_PER_BATCH = 8192  # in scoring: enough to keep a device busy
_CARRIED_WINDOW = 256  # tokens read at a time by a model that carries a state
_NUM_EXPECTED = 4  # numbers that `_expected` gives for a token


class CausalLanguageModel(LeftToRight):
    """A module that predicts each token from those before it, as a language model.

    Args:
        trained: the module with its parameters and tokenizer.
    """

    def __init__(self, trained: Trained):
        self.trained, self.tokenizer = trained, trained.tokenizer
        self.config, self.module, self.params = trained.config, trained.module, trained.params
        self.family, self.step, self.documents = self.config.family, trained.step, trained.documents
        self.speller = trained.speller
        task = Causal if trained.task is None else trained.task
        self.task, self.evaluator = task.name, task.evaluator
        # The same objects at each call: decoders compile a program for each function.
        self._scorer, self._expecter, self._reader, self._prefill, self._step, self._extend = shared(
            _functions, self.module
        )

    @property
    def context(self) -> int | None:
        """The largest number of tokens that the model reads; None: it carries a state over any number."""
        return self.config.context_length

    def describe_context(self, stride: int | None = None) -> dict[str, Any]:
        """What a token's probability depends on; for windows also their stride."""
        check_stride(stride, self.context)
        strides = {}
        if self.context is not None:
            strides["stride"] = _default_stride(self.context) if stride is None else int(stride)
        return {**self.config.describe_context(), **strides}

    def score(self, texts: Sequence[str], stride: int | None = None) -> list[ScoredText]:
        """Log-probabilities of each text after the token that texts begin with, each token scored once.

        A text longer than the context is read in windows that overlap: each starts `stride` tokens after the
        one before and scores the tokens that it did not reach, so that a token has at least context − stride
        tokens before it, or the whole text so far. A model that carries a state has the whole text so far,
        always.

        Args:
            texts: the texts.
            stride: tokens from window to window, 1..context; half the context by default. Without effect if a
                state is carried.

        Where several processes have joined, all must score the same texts: each takes a share of them.

        Raises:
            UserError: a lone text or what is no text, a stride out of range, or a text that the tokenizer
                cannot encode.
        """
        texts = as_texts(texts, "texts")
        encodings = self.tokenizer.encode_batch(texts)
        log_probs = self._per_token(encodings, stride, self._scorer)
        return self._scores(texts, encodings, log_probs)

    def score_rolling(self, texts: Sequence[str]) -> list[ScoredText]:
        """As `score`, in the windows of lm-evaluation-harness and without the end of the text; see `rolling`.

        Errors as of `score`.
        """
        texts = as_texts(texts, "texts")
        if self.context is None:
            return [without_end(scored) for scored in self.score(texts)]
        encodings = self.tokenizer.encode_batch(texts)
        begin = np.array([self.tokenizer.begin_id], np.int32)
        streams = [np.concatenate([begin, e.ids]) for e in encodings]
        read = partial(self._score_windows, self._scorer, shape=(), context=self.context, stride=None)
        found = share(read, streams, [len(stream) - 1 for stream in streams])
        ended = [np.append(log_probs, 0.0) for log_probs in found]  # with a place for the end
        return [without_end(scored) for scored in self._scores(texts, encodings, ended)]

    def expect(
        self,
        texts: Sequence[str],
        among_V: np.ndarray | None = None,
        stride: int | None = None,
        since: Sequence[int] | None = None,
    ) -> list[ExpectedText]:
        """As `score`, with what the model expected at the place of each token; see `Expects`."""
        texts = as_texts(texts, "texts")
        encodings = self.tokenizer.encode_batch(texts)
        among_V = np.zeros(self.tokenizer.vocab_size, bool) if among_V is None else among_V
        values = self._per_token(encodings, stride, partial(self._expecter, among_V), (_NUM_EXPECTED,))
        made, all_scored = [], self._scores(texts, encodings, [values_T4[:, 0] for values_T4 in values])
        for i, (scored, values_T4) in enumerate(zip(all_scored, values, strict=True)):
            asked_T = scored.ends_after(-1 if since is None else since[i])
            best_T, *log_T = np.where(asked_T, values_T4[:, 1:].T, np.nan)
            made.append(ExpectedText(scored, best_T > 0, *log_T))
        return made

    def logits(self, text: str, stride: int | None = None) -> Logits:
        """What the model expects at each place of a text: logits over the tokenizer's tokens.

        Args:
            text: the text, which is read as by `score`.
            stride: as for `score`.

        Raises:
            UserError: no text, a stride out of range, or a text that the tokenizer cannot encode.
        """
        encoding, rows = self.tokenizer.encode(one_text(text)), self.config.vocab_size
        [logits_TV] = self._per_token([encoding], stride, self._reader, (rows,))
        logits_TV = logits_TV[:, : self.tokenizer.vocab_size].astype(np.float32)  # other rows are padding
        ids = np.append(encoding.ids, np.int32(self.tokenizer.end_id))
        return Logits(logits_TV, log_sum_exp(logits_TV), ids, self.tokenizer)

    def _per_token(
        self, encodings: Sequence[Encoding], stride: int | None, scorer: Any, shape: tuple[int, ...] = ()
    ) -> list[np.ndarray]:
        """What a function such as `log_probs` gives for the tokens of each text and its end, [T, *shape]."""
        check_stride(stride, self.context)
        begin, end = (np.array([i], np.int32) for i in (self.tokenizer.begin_id, self.tokenizer.end_id))
        streams = [np.concatenate([begin, e.ids, end]) for e in encodings]
        sizes = [(len(stream) - 1) * math.prod(shape) for stream in streams]
        if self.context is None:
            read = partial(self._score_carried, scorer, shape=shape)
        else:
            read = partial(
                self._score_windows,
                scorer,
                shape=shape,
                context=self.context,
                stride=_default_stride(self.context) if stride is None else int(stride),
            )
        flat = share(lambda some: [x.reshape(-1) for x in read(some)], streams, sizes)
        return [x.reshape(-1, *shape) for x in flat]

    def _score_carried(
        self, scorer: Any, streams: list[np.ndarray], shape: tuple[int, ...] = ()
    ) -> list[np.ndarray]:
        """As `_score_windows`, with a state that is carried from window to window."""
        results = [np.empty((len(stream) - 1, *shape)) for stream in streams]
        order = sorted(range(len(streams)), key=lambda i: len(streams[i]))  # so that rows end together
        most = _TOKENS_PER_BATCH // _CARRIED_WINDOW
        for first in range(0, len(order), most):
            group = order[first : first + most]
            rows = self.trained.num_rows(len(group), most)
            state = self.trained.placed(self.module.init_state(rows, _CARRIED_WINDOW))
            start, end = 0, len(streams[group[-1]]) - 1
            while start < end:
                length = min(_CARRIED_WINDOW, _bucket(end - start))
                windows_BS = np.zeros((rows, length + 1), np.int32)
                for row, i in enumerate(group):
                    window = streams[i][start : start + length + 1]
                    windows_BS[row, : len(window)] = window
                inputs_BT, targets_BT = self.trained.placed((windows_BS[:, :-1], windows_BS[:, 1:]))
                values_BT, state = scorer(self.params, inputs_BT, targets_BT, state)
                for row, i in enumerate(group):
                    fresh = results[i][start : start + length]
                    fresh[:] = np.asarray(values_BT)[row, : len(fresh)]
                start += length
        return results

    def _score_windows(
        self,
        scorer: Any,
        streams: list[np.ndarray],
        shape: tuple[int, ...],
        context: int,
        stride: int | None,
    ) -> list[np.ndarray]:
        """What the scorer gives for every token of each stream except the first, which is only context.

        The scorer is `log_probs` or `_expected`, jitted; `shape` is that of what it gives for a token, and
        `stride` is as for `_windows`.
        """
        results = [np.empty((len(stream) - 1, *shape)) for stream in streams]
        for length, windows in _windows(streams, context, stride).items():
            most = max(1, _TOKENS_PER_BATCH // length)
            for first in range(0, len(windows), most):
                group = windows[first : first + most]
                inputs_BT, targets_BT = np.zeros(
                    (2, self.trained.num_rows(len(group), most), length), np.int32
                )
                for row, (i, start, _, stop) in enumerate(group):
                    inputs_BT[row, : stop - start] = streams[i][start:stop]
                    targets_BT[row, : stop - start] = streams[i][start + 1 : stop + 1]
                rows = self.trained.placed((inputs_BT, targets_BT))
                values_BT = np.asarray(scorer(self.params, *rows, None)[0])
                for row, (i, start, fresh, stop) in enumerate(group):
                    results[i][fresh:stop] = values_BT[row, fresh - start : stop - start]
        return results

    def _decoder(self) -> Decoder:
        decoder = Decoder(self._prefill, self._step, self.params, self.context)
        if isinstance(self.module, Rewinds):
            return decoder._replace(extend=self._extend, rewind=self.module.rewind)
        return decoder


class _Window(NamedTuple):
    stream: int  # which stream
    start: int  # the first token read
    fresh: int  # the first prediction that no earlier window made
    stop: int  # where reading ends


def _windows(streams: list[np.ndarray], context: int, stride: int | None) -> dict[int, list[_Window]]:
    """Windows that make every prediction once, by the padded length that they are read in.

    A window starts `stride` tokens after the one before. Without a stride they are those of
    lm-evaluation-harness: each starts where the one before stops, and the last one reads `context` tokens.
    Lengths are the context and the powers of two below it, so that few shapes are compiled.
    """
    by_length: dict[int, list[_Window]] = {}
    for i, stream in enumerate(streams):
        end, start, fresh = len(stream) - 1, 0, 0
        while fresh < end:
            stop = min(start + context, end)
            if stride is None:
                start = max(0, stop - context)
            length = min(context, _bucket(stop - start))
            by_length.setdefault(length, []).append(_Window(i, start, fresh, stop))
            fresh, start = stop, stop if stride is None else start + stride
    return by_length


def _default_stride(context: int) -> int:
    return max(1, context // 2)


def _bucket(length: int) -> int:
    return max(16, 1 << (length - 1).bit_length())


def _functions(module: nn.Module) -> tuple[Any, Any, Any, Any, Any, Any]:
    prefill, step, extend = (partial(module.apply, method=name) for name in ("prefill", "step", "extend"))
    scorer, expecter, reader = (jax.jit(partial(f, module)) for f in (log_probs, _expected, _logits))
    return scorer, expecter, reader, prefill, step, extend


def log_probs(
    module: nn.Module,
    params: Any,
    inputs_BT: jax.Array,
    targets_BT: jax.Array,
    state: Any,
    method: str = "hidden",
) -> tuple[jax.Array, Any]:
    """Natural-log probabilities of the targets, float32 [B, T], and the state; `method` is of the module."""
    hidden_BTD, state = module.apply(params, inputs_BT, state, method=method)
    return chunked_token_log_probs(partial(_head, module), params, hidden_BTD, targets_BT), state


def _expected(
    module: nn.Module,
    among_V: jax.Array,
    params: Any,
    inputs_BT: jax.Array,
    targets_BT: jax.Array,
    state: Any,
) -> tuple[jax.Array, Any]:
    """What `ExpectedText` says of the targets, float32 [B, T, 4], and the state.

    The last axis: the log-probability, 1 if the target is the most probable token, the log share of the
    tokens `among_V`, and the log-probability of the most probable token.
    """

    def measure(logits_BCV: jax.Array, targets_BC: jax.Array) -> jax.Array:
        padded_V = jnp.pad(jnp.asarray(among_V), (0, logits_BCV.shape[-1] - len(among_V)))
        logits_BCV = logits_BCV.astype(jnp.float32)
        among_BC = jax.nn.logsumexp(jnp.where(padded_V[None, None], logits_BCV, -jnp.inf), axis=-1)
        total_BC = jax.nn.logsumexp(logits_BCV, axis=-1)
        best_BC = logits_BCV.argmax(axis=-1) == targets_BC
        log_shares_BC, log_best_BC = among_BC - total_BC, logits_BCV.max(axis=-1) - total_BC
        scored_BC = token_log_probs(logits_BCV, targets_BC)
        return jnp.stack([scored_BC, best_BC, log_shares_BC, log_best_BC], axis=-1)

    hidden_BTD, state = module.apply(params, inputs_BT, state, method="hidden")
    return chunked(measure, partial(_head, module), params, hidden_BTD, targets_BT), state


def _logits(
    module: nn.Module, params: Any, inputs_BT: jax.Array, targets_BT: jax.Array, state: Any
) -> tuple[jax.Array, Any]:
    """The logits after each token, float32 [B, T, V], and the state."""
    hidden_BTD, state = module.apply(params, inputs_BT, state, method="hidden")
    return _head(module, params, hidden_BTD).astype(jnp.float32), state


def _head(module: nn.Module, params: Any, hidden_BTD: jax.Array) -> Any:
    return module.apply(params, hidden_BTD, method="logits")
