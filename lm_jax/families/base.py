"""What every family of language models speaks, and what the left-to-right ones share."""

import abc
import codecs
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from lm_jax.decoding import sampling
from lm_jax.decoding.sampling import Sampling
from lm_jax.errors import UserError
from lm_jax.tokenizers import END, Encoding, Tokenizer


class Scores(NamedTuple):
    """How probable a model finds one text.

    The last token is the end of the text, with an empty span: a distribution over strings pays for where
    they end.

    Attributes:
        text: the UTF-8 bytes that were scored.
        spans: int64 [T, 2], where in `text` each token lies.
        log_probs: float64 [T], natural log of each token's probability given those before it.
        unknown: bool [T], tokens that stand for something the vocabulary does not have.
        conditioned_on: what precedes the first token.
        complete: every byte of the text was paid for, so that bits per byte can be compared.
    """

    text: bytes
    spans: np.ndarray
    log_probs: np.ndarray
    unknown: np.ndarray
    conditioned_on: str
    complete: bool

    @property
    def tokens(self) -> list[bytes]:
        """The bytes of each token."""
        return [self.text[start:end] for start, end in self.spans.tolist()]


class Generation(NamedTuple):
    """One continuation of a prompt.

    Attributes:
        text: what follows the prompt.
        tokens: int32 [N], its ids, with the end token where the model ended the text.
        log_probs: float64 [N], natural log of each token's probability under the model at temperature 1.
    """

    text: str
    tokens: np.ndarray
    log_probs: np.ndarray


class LanguageModel(Protocol):
    """What evaluation, reports and the command line know of a model."""

    family: str
    objective: str
    documents: str  # how its training text was cut: file, line or paragraph
    step: int | None  # the checkpoint, where training goes by steps

    def score(self, texts: Sequence[str], stride: int | None = None) -> list[Scores]:
        """Log-probabilities of each text, each on its own."""
        ...

    def generate(
        self,
        prompts: Sequence[str],
        max_tokens: int = 100,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        num_samples: int = 1,
    ) -> list[Generation]:
        """Continuations of each prompt."""
        ...

    def describe_context(self, stride: int | None = None) -> dict[str, Any]:
        """What a token's probability may depend on, for the record beside a result."""
        ...


class LeftToRight(abc.ABC):
    """A model that continues text: writes with the decoders that all families share.

    Attributes:
        tokenizer: from text to ids.
    """

    tokenizer: Tokenizer

    @abc.abstractmethod
    def _decoder(self) -> dict[str, Any]:
        """The arguments `prefill`, `step`, `params` and `context_length` of `sampling.stream`.

        The functions must be the same objects at every call, for which alone they are compiled once.
        """

    def _scores(self, text: str, encoding: Encoding, log_probs: np.ndarray) -> Scores:
        """Scores of a text from the log-probabilities of its tokens and of its end."""
        data = text.encode()
        spans = np.concatenate([encoding.spans, [[len(data), len(data)]]])
        no_id = -1  # for a vocabulary that lacks nothing
        unknown_id = no_id if self.tokenizer.unknown_id is None else self.tokenizer.unknown_id
        unknown = np.append(encoding.ids == unknown_id, False)
        complete = self.tokenizer.lossless and not unknown.any()
        return Scores(data, spans, log_probs, unknown, END, complete)

    def generate(
        self,
        prompts: Sequence[str],
        max_tokens: int = 100,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        num_samples: int = 1,
    ) -> list[Generation]:
        """Continues each prompt until the model ends the text or `max_tokens` have come.

        Args:
            prompts: what to continue; the empty one starts a new text.
            max_tokens: the most tokens to add.
            temperature: divides the logits; 0 takes the most probable token.
            top_k: sample among the k most probable tokens only; 0: all.
            top_p: sample among the fewest tokens whose probabilities reach p.
            seed: the same seed, prompt and sample number give the same text, whatever else is asked for.
            num_samples: continuations of each prompt; they follow each other in the result.

        Raises:
            UserError: an option out of range, or a prompt longer than the context.
        """
        options = Sampling(temperature, top_k, top_p)
        request, prompt_ids = self._request(prompts, max_tokens, options, seed, num_samples)
        generations = []
        for row, (tokens, log_probs, length) in enumerate(zip(*sampling.generate(**request), strict=True)):
            tokens, log_probs = tokens[:length], log_probs[:length]
            text = self._continuation(prompt_ids[row // num_samples], tokens).decode(errors="replace")
            generations.append(Generation(text, tokens, log_probs))
        return generations

    def stream(
        self,
        prompt: str,
        max_tokens: int = 100,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """The text of `generate([prompt], ...)`, a few tokens at a time and never half a character."""
        options = Sampling(temperature, top_k, top_p)
        request, [prompt_ids] = self._request([prompt], max_tokens, options, seed, 1)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        tokens, shown = np.empty(0, np.int32), 0
        for made in sampling.stream(**request):
            tokens = np.concatenate([tokens, made.tokens[0, : made.lengths[0]]])
            text = self._continuation(prompt_ids, tokens)
            yield decoder.decode(text[shown:])
            shown = len(text)
        yield decoder.decode(b"", final=True)

    def _continuation(self, prompt_ids: np.ndarray, tokens: np.ndarray) -> bytes:
        """The bytes that tokens add to a prompt; a word adds a space too, which it alone would not show."""
        whole = self.tokenizer.decode_bytes(np.concatenate([prompt_ids, tokens]))
        return whole[len(self.tokenizer.decode_bytes(prompt_ids)) :]

    def _request(
        self, prompts: Sequence[str], max_tokens: int, options: Sampling, seed: int, num_samples: int
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """The arguments of `sampling.stream`, each prompt after an end of text; and the prompts' ids."""
        if not prompts or max_tokens < 1 or num_samples < 1 or seed < 0:
            raise UserError(
                f"{len(prompts)} prompts, max_tokens={max_tokens}, num_samples={num_samples}, seed={seed}",
                "give at least one prompt, token and sample, and a seed of 0 or more",
            )
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(list(prompts))]
        lengths = np.array([1 + len(i) for i in ids])
        rows = np.full((len(ids), lengths.max()), self.tokenizer.end_id, np.int32)
        for row, prompt_ids in zip(rows, ids, strict=True):
            row[1 : 1 + len(prompt_ids)] = prompt_ids
        request = {
            "prompts": rows,
            "lengths": lengths,
            "num_tokens": max_tokens,
            "sampling": options,
            "seeds": [seed] * len(ids),
            "end_id": self.tokenizer.end_id,
            "num_samples": num_samples,
        }
        return request | self._decoder(), ids
