"""Models that write a target, given a source, as language models."""

import abc
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Unpack

import jax
import numpy as np
from flax import linen as nn

from lm_jax import runtime
from lm_jax.data.examples import pad
from lm_jax.data.noising import HELD_OUT, Vocabulary, add_noise
from lm_jax.decoding.decoder import Decoder
from lm_jax.decoding.text import bucket
from lm_jax.errors import UserError
from lm_jax.language_models.base import Generation, ScoredText, run
from lm_jax.language_models.encoder import EncoderLanguageModel
from lm_jax.language_models.options import Options, Request, as_texts, lists_options
from lm_jax.language_models.trained import Trained, shared
from lm_jax.metrics.likelihood import token_log_probs
from lm_jax.models.base import EncodesDecodes
from lm_jax.tasks.frames import PairBatch, PairFrame
from lm_jax.tasks.seq2seq import target_logits
from lm_jax.text.base import Encoding

_TOKENS_PER_BATCH = {"cpu": 2048}  # of sources or targets, in scores and in generation
_TOKENS_PER_BATCH_ELSEWHERE = 1 << 15
_ROWS_PER_BATCH = 64
_LONGEST = 1 << 14  # tokens of a source of a model that reads texts of any length
_SOURCE = "a source"
_SEED = 0  # of the noise in texts to reconstruct
# Options that draw, and so exclude the beams that a published model asks for.
_DRAWS = ("temperature", "top_k", "top_p", "min_p", "draft")
_GREEDY = {"temperature": 0.0}
_OF_BEAMS = ("num_beams", "length_penalty", "early_stopping")


def open_model(trained: Trained) -> Any:
    """The language model of a module that a task of sources and targets has trained."""
    kind = EncoderDecoder if isinstance(trained.module, EncodesDecodes) else Continuation
    return kind(trained)


class _WritesTargets(abc.ABC):
    """What both kinds share: targets of sources in batches of few shapes.

    Attributes:
        target_field: the field of documents that holds the target.
    """

    trained: Trained
    evaluator = "seq2seq"

    def _open(self, trained: Trained) -> None:
        self.trained, self.tokenizer, self.config = trained, trained.tokenizer, trained.config
        self.module, self.params = trained.module, trained.params
        self.family, self.step, self.documents = self.config.family, trained.step, trained.documents
        task: Any = trained.task
        self.task = "none" if task is None else task.name
        self.target_field: str = getattr(task, "target", "target")
        self.frame = PairFrame.of(self.tokenizer)
        self._length: int = trained.length or self.config.context_length or _LONGEST
        self._log_probs, *self._functions = shared(compiled, self.module)

    def describe_context(self, stride: int | None = None) -> dict[str, Any]:
        """How many tokens are read of a source and of a target, special ones included."""
        if stride is not None:
            raise UserError("stride with a model of sources and targets", "leave it out")
        return {"window": self._length}

    @property
    @abc.abstractmethod
    def most_tokens(self) -> int:
        """The largest number of tokens of a target."""

    @abc.abstractmethod
    def _decode(self, sources: list[np.ndarray], request: Request) -> list[Generation]:
        """The targets of framed sources."""

    @abc.abstractmethod
    def _beginnings(self, sources: list[np.ndarray]) -> list[np.ndarray]:
        """The tokens that each target follows."""

    @lists_options
    def generate(
        self, prompts: Sequence[str], max_tokens: int | None = None, **options: Unpack[Options]
    ) -> list[Generation]:
        """Writes the target of each source until the model ends it or `max_tokens` are generated.

        A source that is too long is cut at its end, as in training, with a warning. Targets do not influence
        each other.

        Args:
            prompts: the sources.
            max_tokens: the maximum number of tokens; None: as the published model asks for, or what fits.
            options: those listed below, as in `Options`; those left out are the published model's. Without
                any, the most probable token is taken (temperature 0).

        Raises:
            UserError: an option that is unknown or out of range, or more tokens than the model reads.
        """
        sources = as_texts(prompts, "prompts")
        given = self._with_defaults(options)
        most = given.pop("max_tokens", self.most_tokens) if max_tokens is None else max_tokens
        if isinstance(most, int) and most > self.most_tokens:
            raise UserError(f"max_tokens={most} for a model that writes {self.most_tokens}", "ask for fewer")
        seeds = given.pop("seed", 0)
        seeds = list(seeds) if isinstance(seeds, Sequence | np.ndarray) else [seeds] * len(sources)
        ids = self.tokenizer.encode_ids(sources)
        rows = [self.frame.source(one, self._length) for one in ids]
        if any(len(one) + self.frame.source_extra > self._length for one in ids):
            # Without numbers, so that it is shown once however many groups there are.
            warnings.warn(
                f"sources of more than {self._length} tokens, special ones included, are cut at their end",
                stacklevel=2,
            )
        if not rows or len(seeds) != len(rows):
            Request(self.tokenizer, sources, most, {**given, "seed": seeds})  # raises what is wrong
        made: list[list[Generation]] = [[] for _ in rows]
        for group in self._groups([len(row) for row in rows]):
            filled = np.resize(group, self.trained.num_rows(len(group), _ROWS_PER_BATCH))
            chosen = [rows[i] for i in filled]
            texts, group_seeds = [sources[i] for i in filled], [seeds[i] for i in filled]
            request = Request(
                self.tokenizer, texts, most, {**given, "seed": group_seeds}, self._beginnings(chosen)
            )
            written, each = self._decode(chosen, request), request.limits.num_samples
            for number, i in enumerate(group):
                made[i] = written[number * each : (number + 1) * each]
        return [one for several in made for one in several]

    def _with_defaults(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options, with the published model's where none are given."""
        defaults = dict(self.trained.generation or _GREEDY)
        draws, one_beam = any(name in options for name in _DRAWS), options.get("num_beams") == 1
        if draws or one_beam:
            defaults = {name: value for name, value in defaults.items() if name not in _OF_BEAMS}
        if one_beam and not draws:
            defaults = _GREEDY | defaults
        if "max_tokens" in options:
            raise UserError("max_tokens twice", "give it once")
        return defaults | dict(options)

    @lists_options
    def stream(self, prompt: str, max_tokens: int | None = None, **options: Unpack[Options]) -> Iterator[str]:
        """The text of `generate([prompt], ...)`, in one piece.

        Raises:
            UserError: as `generate` does.
        """
        if not isinstance(prompt, str):
            raise UserError(f"the prompt is a {type(prompt).__name__}, not a text", "give one string")
        yield self.generate([prompt], max_tokens, **options)[0].text

    def score_targets(
        self, sources: Sequence[str], targets: Sequence[str], cut: bool = False
    ) -> list[ScoredText]:
        """Log-probabilities of each target, given its source and the tokens before; its end is scored.

        A source that is too long is cut at its end.

        Args:
            sources: the sources.
            targets: the target of each.
            cut: a target that is too long is scored without what does not fit, and is not complete.

        Raises:
            UserError: not as many targets as sources, a lone text, or a target too long without `cut`.
        """
        sources, targets = as_texts(sources, "sources"), as_texts(targets, "targets")
        if len(sources) != len(targets):
            raise UserError(f"{len(sources)} sources and {len(targets)} targets", "give one for each")
        source_rows = [self.frame.source(ids, self._length) for ids in self.tokenizer.encode_ids(sources)]
        encodings = self.tokenizer.encode_batch(targets)
        longest = max((len(e.ids) for e in encodings), default=0) + self.frame.target_extra
        if longest > self.most_tokens and not cut:
            raise UserError(
                f"a target of {longest} tokens for a model that writes {self.most_tokens}",
                "give shorter ones",
            )
        target_rows = [self.frame.target(e.ids, longest)[: self.most_tokens] for e in encodings]
        made = self._score(source_rows, target_rows)
        return [self._scored(*parts) for parts in zip(targets, encodings, made, strict=True)]

    def _score(
        self, source_rows: Sequence[np.ndarray], target_rows: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """The log-probabilities of the tokens of framed targets, given framed sources: float64 [T] each."""
        made: list[np.ndarray] = [np.empty(0)] * len(source_rows)
        for group in self._groups([len(a) + len(b) for a, b in zip(source_rows, target_rows)]):
            chosen = list(np.resize(group, self.trained.num_rows(len(group), _ROWS_PER_BATCH)))
            S, T = (max(len(rows[i]) for i in group) for rows in (source_rows, target_rows))
            S, T = max(S, min(bucket(S), self._length)), max(T, min(bucket(T), self.most_tokens))
            batch = self.frame.batch(
                [source_rows[i] for i in chosen], [target_rows[i] for i in chosen], (S, T)
            )
            log_probs_BT = np.asarray(self._log_probs(self.params, self.trained.placed(batch)), np.float64)
            for row, i in enumerate(group):
                made[i] = log_probs_BT[row, : len(target_rows[i])]
        return made

    def _scored(self, text: str, encoding: Encoding, log_probs: np.ndarray) -> ScoredText:
        data, before = text.encode(), np.zeros((len(self.frame.target_begin), 2), np.int64)
        spans = np.concatenate([before, encoding.spans, [[len(data), len(data)]]])
        unknown_id = -1 if self.tokenizer.unknown_id is None else self.tokenizer.unknown_id
        unknown = np.concatenate([before[:, 0] > 0, encoding.ids == unknown_id, [False]])
        count = len(log_probs)  # fewer than the target has if it was cut
        complete = self.tokenizer.lossless and count == len(spans) and not unknown.any()
        return ScoredText(data, spans[:count], log_probs, unknown[:count], _SOURCE, complete)

    def _groups(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of rows of similar length, for batches of few shapes: powers of two but for the last."""
        most_tokens = _TOKENS_PER_BATCH.get(runtime.platform(), _TOKENS_PER_BATCH_ELSEWHERE)
        order, first = sorted(range(len(lengths)), key=lambda i: lengths[i]), 0
        while first < len(order):
            last = first + 1
            while (
                last < len(order)
                and last - first < _ROWS_PER_BATCH
                and (last + 1 - first) * bucket(lengths[order[last]]) <= most_tokens
            ):
                last += 1
            if last < len(order):
                last = first + (1 << (last - first).bit_length() - 1)
            yield order[first:last]
            first = last


class EncoderDecoder(_WritesTargets, EncoderLanguageModel):
    """A module that encodes a source and writes a target. Its vectors of texts are the encoder's.

    Args:
        trained: the module with its parameters and tokenizer.
    """

    evaluator = "seq2seq"

    def __init__(self, trained: Trained):
        self._open(trained)
        EncoderLanguageModel.__init__(self, trained)
        self.evaluator = "seq2seq" if trained.task is None else trained.task.evaluator

    def _special_ids(self) -> tuple[tuple[int, ...], int, int]:
        return self.frame.begin, self.frame.end, self.frame.padding

    def reconstruct(self, texts: Sequence[str], first: int = 0) -> list[np.ndarray]:
        """The probabilities of texts, given the texts with the noise `HELD_OUT`, whatever training's was.

        A text longer than the context is read in pieces that do not overlap. The noise depends on the number
        of the text, the context and the tokens alone, so that models with one tokenizer read the same.

        Args:
            texts: the texts.
            first: the number of the first one.

        Returns:
            For each text the natural-log probabilities of its tokens, float64 [T].

        Raises:
            UserError: the tokenizer has no mask token.
        """
        vocabulary, size = Vocabulary.of(self.tokenizer, HELD_OUT), self._length - self.frame.source_extra
        size = min(size, self._length - self.frame.target_extra)
        ids = self.tokenizer.encode_ids(as_texts(texts, "texts"))
        pieces = [(i, start) for i, x in enumerate(ids) for start in range(0, len(x), size)]
        sources, targets = [], []
        for i, start in pieces:
            tokens_1T, target = np.zeros((1, size), np.int32), ids[i][start : start + size]
            tokens_1T[0, : len(target)] = target
            seed, count = [_SEED, first + i], np.array([len(target)])
            noised = add_noise(HELD_OUT, vocabulary, tokens_1T, count, seed, start // size)
            sources.append(self.frame.source(noised.tokens_BT[0, : noised.lengths_B[0]], self._length))
            targets.append(self.frame.target(target, self._length))
        made: list[list[np.ndarray]] = [[np.empty(0)] for _ in ids]
        for (i, _), log_probs in zip(pieces, self._score(sources, targets), strict=True):
            made[i].append(log_probs[len(self.frame.target_begin) : -1])
        return [np.concatenate(parts) for parts in made]

    @property
    def most_tokens(self) -> int:
        """The largest number of tokens of a target."""
        return self.context - 1  # one more is read before the first

    def _beginnings(self, sources: list[np.ndarray]) -> list[np.ndarray]:
        return [np.array([self.frame.start], np.int32)] * len(sources)

    def _decode(self, sources: list[np.ndarray], request: Request) -> list[Generation]:
        read_memory, prefill, step = self._functions
        length = min(bucket(max(map(len, sources))), self.context)
        tokens_BS, segments_BS = self.trained.placed(pad(sources, length, self.frame.padding))
        memory = read_memory(self.params, tokens_BS, segments_BS)
        decoder = Decoder(prefill, step, (self.params, memory), self.context)
        return run(decoder, request, (*self.frame.target_begin, self.frame.end))


class Continuation(_WritesTargets):
    """A left-to-right module that writes the target after the source.

    Args:
        trained: the module with its parameters and tokenizer.
    """

    def __init__(self, trained: Trained):
        self._open(trained)
        if trained.length == 0 and self.config.context_length is not None:
            self._length = self.config.context_length // 2

    @property
    def most_tokens(self) -> int:
        """The largest number of tokens of a target."""
        context = self.config.context_length
        return 2 * self._length if context is None else context - self._length

    def _beginnings(self, sources: list[np.ndarray]) -> list[np.ndarray]:
        return sources

    def _decode(self, sources: list[np.ndarray], request: Request) -> list[Generation]:
        prefill, step = self._functions[1:]
        return run(Decoder(prefill, step, self.params, self.config.context_length), request)


def compiled(module: nn.Module) -> tuple[Any, Any, Any, Any]:
    """The functions of a module: log-probabilities of targets, its memory of sources, prefill and step."""
    log_probs = jax.jit(partial(_log_probs, module))
    if not isinstance(module, EncodesDecodes):
        prefill, step = (partial(module.apply, method=name) for name in ("prefill", "step"))
        return log_probs, None, prefill, step
    return (
        log_probs,
        jax.jit(partial(_read_memory, module)),
        partial(_prefill, module),
        partial(_step, module),
    )


def _log_probs(module: nn.Module, params: Any, batch: PairBatch) -> jax.Array:
    """Natural-log probabilities of the targets' tokens, float32 [B, T]."""
    return token_log_probs(target_logits(module, params, batch), batch.targets)


def _read_memory(module: nn.Module, params: Any, tokens_BS: jax.Array, segments_BS: jax.Array) -> Any:
    memory_BSD = module.apply(params, tokens_BS, segments_BS, method="encode")
    return module.apply(params, memory_BSD, segments_BS, method="read_memory")


def _prefill(module: nn.Module, params: Any, tokens_BT: Any, length_B: Any, capacity: int) -> Any:
    variables, memory = params
    return module.apply(variables, memory, tokens_BT, length_B, capacity, method="prefill")


def _step(module: nn.Module, params: Any, state: Any, token_R: jax.Array) -> Any:
    variables, memory = params
    return module.apply(variables, memory, state, token_R, method="step")
