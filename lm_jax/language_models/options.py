"""The options of `generate`, and their translation into the decoders' arguments."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np

from lm_jax.decoding.beam import BeamSettings
from lm_jax.decoding.decoder import Limits, Prompts, check_counts, plain
from lm_jax.decoding.settings import Sampling
from lm_jax.errors import UserError
from lm_jax.text.base import Tokenizer


class Options(TypedDict, total=False):
    """The options of `generate`; defaults in brackets. NumPy and JAX numbers are accepted."""

    # Divides the logits; 0 takes the most probable token [1]
    temperature: float
    # Sample among the k most probable tokens; 0: all [0]
    top_k: int
    # Sample among the fewest tokens whose total probability reaches p [1]
    top_p: float
    # Sample among tokens with at least this share of the best one's probability [0]
    min_p: float
    # Above 1: tokens of the prompt and the text so far become less likely [1]
    repetition_penalty: float
    # Subtracted from a token's logit for each time that it was generated [0]
    frequency_penalty: float
    # Subtracted once from the logits of generated tokens [0]
    presence_penalty: float
    # No sequence of this many tokens occurs twice; 0: off [0]
    no_repeat_ngram: int
    # Never generated: texts, as the tokens that each has by itself, or token ids [()]
    banned: Sequence[str | int]
    # The continuation begins with this text or these token ids [""]
    forced: str | Sequence[int]
    # The text ends before the first occurrence of one of these [()]
    stop: Sequence[str]
    # The model does not end the text before this many tokens [0]
    min_tokens: int
    # Of the random draws: one for all prompts, or one for each [0]
    seed: int | Sequence[int]
    # Continuations of each prompt, which are adjacent in the result [1]
    num_samples: int
    # Above 1: beam search with this many beams, which draws nothing; returns the num_samples best texts [1]
    num_beams: int
    # Beam search: the exponent of the length that divides a sum of log-probabilities [1]
    length_penalty: float
    # Beam search: see `decoding.beam.BeamSettings` [False]
    early_stopping: bool | Literal["never"]
    # A model with the same tokenizer that drafts for this one: faster, with the same distribution [None]
    draft: Any
    # Tokens drafted at a time [4]
    num_drafted: int


_SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty",
    "no_repeat_ngram", "min_tokens",
)  # fmt: skip


class Request:
    """The checked arguments of decoders for one call of `generate`. Each prompt follows an end token.

    Attributes:
        prompts: the prompts' tokens.
        limits: how much to generate.
        sampling: how each token is chosen.
        beams: how to search; None: sample.
        draft: the model that drafts, or None.
        num_drafted: tokens that it drafts at a time.
        stop: the UTF-8 bytes of texts that end a continuation.

    Raises:
        UserError: an option that is unknown, out of range or without effect, or a prompt that the tokenizer
            refuses.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompts: Sequence[str], max_tokens: int, options: Mapping[str, Any]
    ):
        _check_names(options)
        options = {name: plain(value) for name, value in options.items()}
        self._tokenizer = tokenizer
        self.draft: Any = options.get("draft")
        self.num_drafted: int = options.get("num_drafted", 4)
        self.stop = _stop_texts(options.get("stop", ()))
        self.limits = Limits(
            plain(max_tokens),
            options.get("num_samples", 1),
            tokenizer.end_id,
            self._keep if self.stop else None,
        )
        self.sampling = self._sampling(options)
        self.beams = _beam_settings(options, self.sampling)
        self._ids = self._encode(prompts)
        seed = options.get("seed", 0)
        self.prompts = self._prompts(seed if isinstance(seed, tuple) else (seed,) * len(prompts))
        self.limits.checked()
        self.prompts.checked(context_length=None)
        self._check_draft()

    def text(self, row: int, tokens: np.ndarray) -> bytes:
        """The bytes that tokens add to a row's prompt, with the space between words where one belongs."""
        prompt_ids = self._ids[row // self.limits.num_samples]
        whole = self._tokenizer.decode_bytes(np.concatenate([prompt_ids, tokens]))
        return whole[len(self._tokenizer.decode_bytes(prompt_ids)) :]

    def stops_at(self, text: bytes) -> int | None:
        """The first index at which a stop text begins; None if there is none."""
        return min((place for s in self.stop if (place := text.find(s)) >= 0), default=None)

    def _keep(self, row: int, tokens: np.ndarray) -> int | None:
        """A `Stop`: keeps the tokens up to the one that completes a stop text."""
        if self.stops_at(self.text(row, tokens)) is None:
            return None
        return next(
            n for n in range(1, len(tokens) + 1) if self.stops_at(self.text(row, tokens[:n])) is not None
        )

    def _sampling(self, options: Mapping[str, Any]) -> Sampling:
        banned = tuple(self._token_ids((b,) if isinstance(b, int) else b) for b in options.get("banned", ()))
        values = {name: options[name] for name in _SAMPLING if name in options}
        made = Sampling(**values, banned=banned, forced=self._token_ids(options.get("forced", ())))
        made.check()
        return made

    def _token_ids(self, tokens: str | Sequence[int]) -> tuple[int, ...]:
        ids = self._tokenizer.encode(tokens).ids if isinstance(tokens, str) else np.array(tokens, int)
        if ids.size and not 0 <= ids.min() <= ids.max() < self._tokenizer.vocab_size:
            raise UserError(
                f"no tokens {ids.tolist()}",
                f"the vocabulary has those from 0 to {self._tokenizer.vocab_size - 1}",
            )
        return plain(ids)

    def _encode(self, prompts: Sequence[str]) -> list[np.ndarray]:
        if isinstance(prompts, str):
            raise UserError("prompts is a text, not a list of texts", "put it in brackets")
        if not prompts:
            raise UserError("no prompt", 'give at least one; [""] starts a new text')
        return self._tokenizer.encode_prompts(list(prompts))

    def _prompts(self, seeds: Sequence[int]) -> Prompts:
        lengths = np.array([1 + len(ids) for ids in self._ids])
        rows = np.full((len(lengths), lengths.max()), self._tokenizer.end_id, np.int32)
        for row, ids in zip(rows, self._ids, strict=True):
            row[1 : 1 + len(ids)] = ids
        return Prompts(rows, lengths, seeds)

    def _check_draft(self) -> None:
        if self.draft is not None and self.draft.tokenizer.fingerprint() != self._tokenizer.fingerprint():
            raise UserError(
                "the drafting model has other tokens", "train it with data.tokenizer=PATH of this one's"
            )


def _check_names(options: Mapping[str, Any]) -> None:
    """Raises UserError for an option that does not exist, or that has no effect without another."""
    for name in options.keys() - Options.__annotations__.keys():
        near = difflib.get_close_matches(name, Options.__annotations__, n=1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join(Options.__annotations__)}"
        raise UserError(f"no option {name}", known)
    has_beams, has_draft = options.get("num_beams", 1) != 1, options.get("draft") is not None
    for name, needed, given in (
        ("length_penalty", "num_beams", has_beams),
        ("early_stopping", "num_beams", has_beams),
        ("num_drafted", "draft", has_draft),
    ):
        if name in options and not given:
            raise UserError(f"{name} without {needed}", f"give {needed} too, or leave it out")


def _stop_texts(stop: Sequence[str]) -> list[bytes]:
    if isinstance(stop, str):
        raise UserError(f"stop={stop!r} is a text, not a list of texts", "put it in brackets")
    if not all(stop):
        raise UserError("stop holds an empty text", "leave it out")
    return [text.encode() for text in stop]


def _beam_settings(options: Mapping[str, Any], sampling: Sampling) -> BeamSettings | None:
    """How to search; None for one beam."""
    beams = BeamSettings(options.get("num_beams", 1))
    check_counts(num_beams=beams.num_beams)
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
    return beams._replace(**{name: options[name] for name in BeamSettings._fields if name in options})
