"""The options of `generate`, and their translation into the decoders' arguments."""

import copy
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Literal, TypedDict, TypeVar

import numpy as np

from lm_jax.decoding.beam import BeamSettings
from lm_jax.decoding.decoder import LARGEST, Limits, Prompts, check_counts, is_whole, plain
from lm_jax.decoding.settings import Sampling, check_number
from lm_jax.errors import UserError
from lm_jax.text.base import Tokenizer, utf8

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Options(TypedDict, total=False):
    """The options of `generate`; defaults in brackets. NumPy and JAX numbers are accepted.

    Attributes:
        temperature: divides the logits; 0 takes the most probable token [1].
        top_k: sample among the k most probable tokens; 0: all [0].
        top_p: sample among the fewest tokens whose total probability reaches p [1].
        min_p: sample among tokens with at least this share of the best one's probability [0].
        repetition_penalty: above 1: tokens of the prompt and the text so far become less likely [1].
        frequency_penalty: subtracted from a token's logit for each time that it was generated [0].
        presence_penalty: subtracted once from the logits of generated tokens [0].
        no_repeat_ngram: no sequence of this many tokens occurs twice; 0: off [0].
        banned: never generated: a list of texts, as the tokens that each has by itself, or of token ids [()].
        forced: the continuation begins with this text or these token ids [""].
        stop: the text ends before the first occurrence of one of these [()].
        min_tokens: the model does not end the text before this many tokens [0].
        forced_end: the last of `max_tokens` tokens is the end token [False].
        seed: of the random draws: one for all prompts, or one for each [0].
        num_samples: continuations of each prompt, which are adjacent in the result [1].
        num_beams: above 1: beam search with this many beams, which draws nothing; returns the num_samples
            best texts [1].
        length_penalty: beam search: the exponent of the length that divides a sum of log-probabilities [1].
        early_stopping: beam search: stop when as many texts have ended as there are beams (True), when no
            other text can beat them at its present length (False), or at any length ("never") [False].
        draft: a model with the same tokenizer that drafts for this one: faster, with the same distribution
            [None].
        num_drafted: tokens drafted at a time [4].
        fusion: a model with the same tokenizer, such as n-grams, whose opinion counts too (shallow fusion)
            [None].
        fusion_weight: what its log-probabilities are multiplied by before they are added [0.3].
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    no_repeat_ngram: int
    banned: Sequence[str | int]
    forced: str | Sequence[int]
    stop: Sequence[str]
    min_tokens: int
    forced_end: bool
    seed: int | Sequence[int]
    num_samples: int
    num_beams: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    draft: Any
    num_drafted: int
    fusion: Any
    fusion_weight: float


def lists_options(method: _Method) -> _Method:
    """Puts the list of the options into the docstring of a method that takes them, for `help`."""
    text = inspect.cleandoc(method.__doc__ or "")
    _, _, options = inspect.cleandoc(Options.__doc__ or "").partition("Attributes:\n")
    method.__doc__ = f"{text}\n\nOptions (defaults in brackets):\n{options}"
    return method


_SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty",
    "no_repeat_ngram", "min_tokens",
)  # fmt: skip


class Request:
    """The checked arguments of decoders for one call of `generate`. Each prompt follows a beginning token.

    Args:
        tokenizer: from text to ids.
        prompts: the texts to continue, or sources.
        max_tokens: the maximum number of tokens to add.
        options: see `Options`.
        beginnings: for sources, the tokens that each target follows, [B]; None: the prompts are continued.

    Attributes:
        prompts: the prompts' tokens.
        limits: how much to generate.
        sampling: how each token is chosen.
        beams: how to search; None: sample.
        draft: the model that drafts, or None.
        num_drafted: tokens that it drafts at a time.
        fusion: the model that is fused, or None.
        fusion_weight: its weight.
        stop: the UTF-8 bytes of texts that end a continuation.

    Raises:
        UserError: an option that is unknown, out of range or without effect, or a prompt that the tokenizer
            refuses.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompts: Sequence[str],
        max_tokens: int,
        options: Mapping[str, Any],
        beginnings: Sequence[np.ndarray] | None = None,
    ):
        _check_names(options)
        prompts = as_texts(prompts, "prompts")
        options = {name: plain(value) for name, value in options.items()}
        self._tokenizer = tokenizer
        self.draft: Any = options.get("draft")
        self.num_drafted: int = options.get("num_drafted", 4)
        self.fusion: Any = options.get("fusion")
        self.fusion_weight = options.get("fusion_weight", 0.3)
        check_number("fusion_weight", self.fusion_weight, 0, 100)
        self.stop = _stop_texts(options.get("stop", ()))
        max_tokens = plain(max_tokens)
        check_counts(max_tokens=max_tokens)
        self.limits = Limits(
            max_tokens,
            options.get("num_samples", 1),
            tokenizer.end_id,
            self._keep if self.stop or tokenizer.other_end_ids else None,
        )
        self.sampling = self._sampling(options, max_tokens)
        self.beams = _beam_settings(options, self.sampling)
        self._ids = self._encode(prompts) if beginnings is None else [np.empty(0, np.int32)] * len(prompts)
        if beginnings is None:
            beginnings = [np.append(np.int32(tokenizer.begin_id), ids) for ids in self._ids]
        seed = options.get("seed", 0)
        self.prompts = self._prompts(beginnings, seed if isinstance(seed, tuple) else (seed,) * len(prompts))
        self.limits.checked()
        self.prompts.checked(context_length=None)
        self._check_other("draft", self.draft)
        self._check_other("fusion", self.fusion)

    def part(self, numbers: Sequence[int]) -> "Request":
        """The same request of some of the prompts."""
        made, lengths = copy.copy(self), self.prompts.lengths[list(numbers)]
        made._ids = [self._ids[i] for i in numbers]
        tokens, seeds = self.prompts.tokens[list(numbers), : lengths.max()], self.prompts.seeds or ()
        made.prompts = Prompts(tokens, lengths, [seeds[i] for i in numbers])
        made.limits = self.limits._replace(stop=None if self.limits.stop is None else made._keep)
        return made

    def text(self, row: int, tokens: np.ndarray) -> bytes:
        """The bytes that tokens add to a row's prompt, with the space between words where one belongs."""
        prompt_ids = self._ids[row // self.limits.num_samples]
        whole = self._tokenizer.decode_bytes(np.concatenate([prompt_ids, tokens]))
        return whole[len(self._tokenizer.decode_bytes(prompt_ids)) :]

    def stops_at(self, text: bytes) -> int | None:
        """The first index at which a stop text begins; None if there is none."""
        return min((place for s in self.stop if (place := text.find(s)) >= 0), default=None)

    def _keep(self, row: int, tokens: np.ndarray) -> int | None:
        """A `Stop`: keeps the tokens up to the first further end token, or to the end of a stop text."""
        others = np.flatnonzero(np.isin(tokens, self._tokenizer.other_end_ids))
        if others.size:
            kept = tokens[: others[0] + 1]
            return self._keep(row, kept[:-1]) or len(kept)
        if self.stops_at(self.text(row, tokens)) is None:
            return None
        return next(
            n for n in range(1, len(tokens) + 1) if self.stops_at(self.text(row, tokens[:n])) is not None
        )

    def _sampling(self, options: Mapping[str, Any], max_tokens: int) -> Sampling:
        banned = options.get("banned", ())
        if not isinstance(banned, tuple):
            raise UserError(f"banned={banned!r} is not a list", "put texts and token ids in brackets")
        sequences = tuple(self._token_ids("banned", (b,) if is_whole(b) else b) for b in banned)
        if () in sequences:
            raise UserError(f"banned={list(banned)} has an entry without tokens", "leave it out")
        values = {name: options[name] for name in _SAMPLING if name in options}
        made = Sampling(
            **values,
            banned=sequences,
            forced=self._token_ids("forced", options.get("forced", ())),
            forced_end=max_tokens if options.get("forced_end", False) else 0,
            other_ends=self._tokenizer.other_end_ids,
        )
        made.check()
        return made

    def _token_ids(self, name: str, tokens: Any) -> tuple[int, ...]:
        """The ids of a text, or ids as they are."""
        if isinstance(tokens, str):
            return plain(self._tokenizer.encode(tokens).ids)
        if not isinstance(tokens, tuple) or not all(map(is_whole, tokens)):
            raise UserError(f"{name} has {tokens!r}", "give a text or token ids")
        if not all(0 <= token < self._tokenizer.vocab_size for token in tokens):
            raise UserError(
                f"no tokens {list(tokens)}",
                f"the vocabulary has those from 0 to {self._tokenizer.vocab_size - 1}",
            )
        return tokens

    def _encode(self, prompts: list[str]) -> list[np.ndarray]:
        if not prompts:
            raise UserError("no prompt", 'give at least one; [""] starts a new text')
        return self._tokenizer.encode_prompts(prompts)

    def _prompts(self, beginnings: Sequence[np.ndarray], seeds: Sequence[int]) -> Prompts:
        lengths = np.array([len(ids) for ids in beginnings])
        rows = np.full((len(lengths), lengths.max(initial=1)), self._tokenizer.begin_id, np.int32)
        for row, ids in zip(rows, beginnings, strict=True):
            row[: len(ids)] = ids
        return Prompts(rows, lengths, seeds)

    def _check_other(self, name: str, other: Any) -> None:
        """Raises UserError for a model that cannot draft for this one, or be fused with it."""
        if other is None:
            return
        if not hasattr(other, "_decoder") or not hasattr(other, "tokenizer"):
            raise UserError(
                f"{name} is a {type(other).__name__}, not a model that continues text",
                "open it with lm_jax.load first",
            )
        ours, theirs = ((t.fingerprint(), t.begin_id, t.end_id) for t in (self._tokenizer, other.tokenizer))
        if ours != theirs:
            what = "drafting" if name == "draft" else "fused"
            raise UserError(
                f"the {what} model has other tokens", "train it with data.tokenizer=PATH of this one's"
            )


def _check_names(options: Mapping[str, Any]) -> None:
    """Raises UserError for an option that does not exist, or that has no effect without another."""
    for name in options.keys() - Options.__annotations__.keys():
        near = difflib.get_close_matches(name, Options.__annotations__, n=1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join(Options.__annotations__)}"
        raise UserError(f"no option {name}", known)
    has_beams, has_draft = options.get("num_beams", 1) != 1, options.get("draft") is not None
    has_fusion = options.get("fusion") is not None
    if has_draft and has_fusion:
        raise UserError("draft with fusion", "leave out the one or the other")
    for name, needed, given in (
        ("length_penalty", "num_beams", has_beams),
        ("early_stopping", "num_beams", has_beams),
        ("num_drafted", "draft", has_draft),
        ("fusion_weight", "fusion", has_fusion),
    ):
        if name in options and not given:
            raise UserError(f"{name} without {needed}", f"give {needed} too, or leave it out")


def _stop_texts(stop: Sequence[str]) -> list[bytes]:
    texts = as_texts(stop, "stop")
    if not all(texts):
        raise UserError("stop holds an empty text", "leave it out")
    return [utf8(text) for text in texts]


def as_texts(texts: Any, name: str) -> list[str]:
    """A list of the texts of any iterable.

    Raises:
        UserError: a lone text, which would be read as its characters; bytes; what has no order or is no
            iterable; an element that is not a text.
    """
    if isinstance(texts, str | bytes):
        kind = "a text" if isinstance(texts, str) else "bytes"
        raise UserError(f"{name}={texts[:40]!r} is {kind}, not a list of texts", "put it in brackets")
    if isinstance(texts, Mapping | Set) or not isinstance(texts, Iterable):
        raise UserError(f"{name} is a {type(texts).__name__}, not a list of texts", "give a list of strings")
    listed = list(texts)
    for i, text in enumerate(listed):
        if not isinstance(text, str):
            what = "bytes, not a text" if isinstance(text, bytes) else f"{str(text)[:40]!r}, not a text"
            raise UserError(f"{name}[{i}] is {what}", "give strings; decode bytes first")
    return listed


def check_stride(stride: Any, context: int | None) -> None:
    """Raises UserError unless a stride is None or a whole number from 1 to the context, if there is one."""
    stride = plain(stride)
    if stride is not None and not (is_whole(stride) and 1 <= stride <= (context or LARGEST)):
        if context is None:
            raise UserError(f"stride={stride!r}", "give a whole number of 1 or more, or leave it out")
        raise UserError(f"stride={stride!r} with a context of {context}", f"choose 1..{context}")


def _beam_settings(options: Mapping[str, Any], sampling: Sampling) -> BeamSettings | None:
    """How to search; None for one beam."""
    beams = BeamSettings(options.get("num_beams", 1)).checked()
    if beams.num_beams == 1:
        return None
    off = Sampling()
    odd = [n for n in ("top_k", "top_p", "min_p") if getattr(sampling, n) != getattr(off, n)]
    odd += ["temperature"] if sampling.temperature not in (0, 1) else []
    odd += ["draft"] if options.get("draft") is not None else []
    if odd:
        raise UserError(
            f"num_beams={beams.num_beams} with {', '.join(odd)}", "leave out the one or the other"
        )
    given = {name: options[name] for name in BeamSettings._fields if name in options}
    return beams._replace(**given).checked()
