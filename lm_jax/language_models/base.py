"""What every family of language models speaks, and what the left-to-right ones share."""

import abc
import codecs
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, Unpack

import numpy as np

from lm_jax.decoding import beam, sampling, speculative
from lm_jax.decoding.decoder import Decoder
from lm_jax.decoding.text import Generated
from lm_jax.errors import UserError
from lm_jax.language_models.options import Options, Request
from lm_jax.text.base import END, Encoding, Tokenizer


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
        self, prompts: Sequence[str], max_tokens: int = 100, **options: Unpack[Options]
    ) -> list[Generation]:
        """Continuations of each prompt."""
        ...

    def describe_context(self, stride: int | None = None) -> dict[str, Any]:
        """What a token's probability may depend on, for the record beside a result."""
        ...


class LeftToRight(abc.ABC):
    """A model that continues text: writes with the decoders that all families share.

    Attributes:
        family: its name.
        tokenizer: from text to ids.
    """

    family: str
    tokenizer: Tokenizer

    @abc.abstractmethod
    def _decoder(self) -> Decoder:
        """The model as functions, the same objects at each call, so that nothing is compiled again."""

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
        self, prompts: Sequence[str], max_tokens: int = 100, **options: Unpack[Options]
    ) -> list[Generation]:
        """Continues each prompt until the model ends the text or `max_tokens` have come.

        The same seed, prompt and sample number give the same text, whatever else is asked for.

        Args:
            prompts: what to continue; the empty one starts a new text.
            max_tokens: the most tokens to add.
            options: see `Options`.

        Raises:
            UserError: an option that is unknown or out of range, or a prompt longer than the context.
        """
        request = Request(self.tokenizer, prompts, max_tokens, options)
        generations = []
        for row, (tokens, log_probs, length) in enumerate(zip(*self._generated(request), strict=True)):
            text = request.text(row, tokens[:length])
            end = request.stops_at(text)
            text = text if end is None else text[:end]
            generations.append(Generation(text.decode(errors="replace"), tokens[:length], log_probs[:length]))
        return generations

    def _generated(self, request: Request) -> Generated:
        decoder, prompts, limits = self._decoder(), request.prompts, request.limits
        if request.beams is not None:
            found = beam.search(decoder, prompts, limits, request.beams, request.sampling)
            return Generated(found.tokens, found.log_probs, found.lengths)
        if request.draft is None:
            return sampling.generate(decoder, prompts, limits, request.sampling)
        return speculative.generate(
            decoder, request.draft._decoder(), prompts, limits, request.sampling, request.num_drafted
        ).generated

    def stream(self, prompt: str, max_tokens: int = 100, **options: Unpack[Options]) -> Iterator[str]:
        """The text of `generate([prompt], ...)`, a few tokens at a time and never half a character.

        Raises:
            UserError: as `generate` does, or for beams or several samples, which are done all at once.
        """
        request = Request(self.tokenizer, [prompt], max_tokens, options)
        if request.beams is not None or request.limits.num_samples > 1:
            raise UserError("beams and several samples do not stream", "ask `generate` for them")
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        tokens, shown = np.empty(0, np.int32), 0
        held = max((len(text) for text in request.stop), default=1) - 1  # may be the beginning of a stop
        for made in self._pieces(request):
            tokens = np.concatenate([tokens, made.tokens[0, : made.lengths[0]]])
            text = request.text(0, tokens)
            end = request.stops_at(text)
            ready = max(shown, len(text) - held) if end is None else end
            yield decoder.decode(text[shown:ready])
            shown = ready
            if end is not None:
                break
        else:
            yield decoder.decode(text[shown:])
        yield decoder.decode(b"", final=True)

    def _pieces(self, request: Request) -> Iterator[Generated]:
        """What `stream` writes, a few tokens at a time."""
        decoder, prompts, limits = self._decoder(), request.prompts, request.limits
        if request.draft is None:
            return sampling.stream(decoder, prompts, limits, request.sampling)
        made = speculative.stream(
            decoder, request.draft._decoder(), prompts, limits, request.sampling, request.num_drafted
        )
        return (piece.generated for piece in made)
