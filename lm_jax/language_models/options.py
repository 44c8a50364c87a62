"""What `generate` may be asked for, by name, and how it is put to the decoders."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np

from lm_jax.decoding.processors import Sampling
from lm_jax.errors import UserError
from lm_jax.text.base import Tokenizer


class Options(TypedDict, total=False):
    """How `generate` chooses; in brackets what is chosen without the option."""

    temperature: float  # divides the logits; 0 takes the most probable token [1]
    top_k: int  # sample among the k most probable tokens only; 0: all [0]
    top_p: float  # sample among the fewest tokens whose probabilities reach p [1]
    min_p: float  # sample among tokens with at least this share of the best one's probability [0]
    repetition_penalty: float  # above 1: tokens of the prompt and the text so far become less likely [1]
    frequency_penalty: float  # taken from a token's logit each time that the model has written it [0]
    presence_penalty: float  # taken once from the logits of tokens that the model has written [0]
    no_repeat_ngram: int  # no so many tokens in succession come twice; 0: they may [0]
    banned: Sequence[
        str | int
    ]  # texts, as the tokens that each is by itself, or token ids, never written [()]
    forced: str | Sequence[int]  # what the continuation begins with, a text or token ids [""]
    stop: Sequence[str]  # the text ends before the first of these [()]
    min_tokens: int  # the model may not end the text before so many [0]
    seed: int | Sequence[int]  # of the draws; one for all prompts, or one for each [0]
    num_samples: int  # continuations of each prompt, one after the other in the result [1]
    num_beams: int  # above 1: no draws, but the best of so many texts at a time, num_samples of them [1]
    length_penalty: float  # of beams: the power of the length that divides a sum of log-probabilities [1]
    early_stopping: bool | Literal["never"]  # of beams: see `decoding.beam.search` [False]
    draft: (
        Any  # a model of the same tokens that drafts for this one: faster, with the same distribution [None]
    )
    num_drafted: int  # tokens that it drafts at a time [4]


_SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty",
    "no_repeat_ngram", "min_tokens",
)  # fmt: skip


class Request:
    """What `generate` was asked for, checked, as arguments of decoders; a prompt follows an end of text."""

    def __init__(
        self, tokenizer: Tokenizer, prompts: Sequence[str], max_tokens: int, options: Mapping[str, Any]
    ):
        for name in options.keys() - Options.__annotations__.keys():
            near = difflib.get_close_matches(name, Options.__annotations__, n=1)
            known = f"did you mean {near[0]}?" if near else f"there are {', '.join(Options.__annotations__)}"
            raise UserError(f"no option {name}", known)
        if isinstance(prompts, str):
            raise UserError("prompts is a text, not a list of texts", "put it in brackets")
        self.num_samples: int = options.get("num_samples", 1)
        self.num_beams: int = options.get("num_beams", 1)
        self.draft: Any = options.get("draft")
        seed = options.get("seed", 0)
        self.seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        stop = options.get("stop", ())
        if isinstance(stop, str):
            raise UserError(f"stop={stop!r} is a text, not a list of texts", "put it in brackets")
        self.stop = [text.encode() for text in stop]
        if not prompts or min(max_tokens, self.num_samples, self.num_beams) < 1 or min(self.seeds) < 0:
            raise UserError(
                f"{len(prompts)} prompts, max_tokens={max_tokens}, num_samples={self.num_samples}, "
                f"num_beams={self.num_beams}, seed={seed}",
                "give at least one prompt, token, sample and beam, and a seed of 0 or more",
            )
        if not all(self.stop):
            raise UserError("stop holds an empty text", "leave it out")
        for name, needed, given in (
            ("length_penalty", "num_beams", self.num_beams > 1),
            ("early_stopping", "num_beams", self.num_beams > 1),
            ("num_drafted", "draft", self.draft is not None),
        ):
            if name in options and not given:
                raise UserError(f"{name} without {needed}", f"give {needed} too, or leave it out")
        self._tokenizer, self._options, self._max_tokens = tokenizer, options, max_tokens
        self._sampling = self._make_sampling()
        self._ids = [encoding.ids for encoding in tokenizer.encode_batch(list(prompts))]

    def for_sampling(self) -> dict[str, Any]:
        """The arguments of `sampling.stream`."""
        return self._rows() | {
            "sampling": self._sampling,
            "seeds": self.seeds,
            "num_samples": self.num_samples,
            "stop": self._keep if self.stop else None,
        }

    def for_beams(self) -> dict[str, Any]:
        """The arguments of `beam.search`."""
        off = Sampling()
        odd = [n for n in ("top_k", "top_p", "min_p") if getattr(self._sampling, n) != getattr(off, n)]
        odd += ["temperature"] if self._sampling.temperature not in (0, 1) else []
        odd += ["draft"] if self.draft is not None else []
        self._refuse(f"num_beams={self.num_beams}", odd)
        names = ("length_penalty", "early_stopping")
        return self._rows() | {
            "sampling": self._sampling,
            "num_beams": self.num_beams,
            "num_results": self.num_samples,
            "stop": self._keep if self.stop else None,
            **{name: self._options[name] for name in names if name in self._options},
        }

    def for_drafts(self) -> dict[str, Any]:
        """The arguments of `speculative.stream`."""
        if self.draft.tokenizer.fingerprint() != self._tokenizer.fingerprint():
            raise UserError(
                "the drafting model has other tokens", "train it with data.tokenizer=PATH of this one's"
            )
        return self.for_sampling() | {"num_drafted": self._options.get("num_drafted", 4)}

    def _refuse(self, what: str, options: list[str]) -> None:
        if options:
            raise UserError(f"{what} with {', '.join(options)}", "leave out the one or the other")

    def text(self, row: int, tokens: np.ndarray) -> bytes:
        """The bytes that tokens add to a prompt; a word adds a space too, which it alone would not show."""
        prompt_ids = self._ids[row // self.num_samples]
        whole = self._tokenizer.decode_bytes(np.concatenate([prompt_ids, tokens]))
        return whole[len(self._tokenizer.decode_bytes(prompt_ids)) :]

    def stops_at(self, text: bytes) -> int | None:
        """Where the first of the stop texts begins; None where there is none."""
        return min((place for s in self.stop if (place := text.find(s)) >= 0), default=None)

    def _keep(self, row: int, tokens: np.ndarray) -> int | None:
        """`sampling.Stop`: the tokens up to that which completes a stop text."""
        if self.stops_at(self.text(row, tokens)) is None:
            return None
        return next(
            n for n in range(1, len(tokens) + 1) if self.stops_at(self.text(row, tokens[:n])) is not None
        )

    def _make_sampling(self) -> Sampling:
        options = self._options
        banned = tuple(self._token_ids([b] if isinstance(b, int) else b) for b in options.get("banned", ()))
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
        return tuple(ids.tolist())

    def _rows(self) -> dict[str, Any]:
        lengths = np.array([1 + len(ids) for ids in self._ids])
        rows = np.full((len(lengths), lengths.max()), self._tokenizer.end_id, np.int32)
        for row, ids in zip(rows, self._ids, strict=True):
            row[1 : 1 + len(ids)] = ids
        return {
            "prompts": rows,
            "lengths": lengths,
            "num_tokens": self._max_tokens,
            "end_id": self._tokenizer.end_id,
        }
