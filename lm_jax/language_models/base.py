"""The capabilities of language models, and the shared part of left-to-right ones."""

import abc
import codecs
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, Unpack, runtime_checkable

import numpy as np

from lm_jax import runtime
from lm_jax.decoding import beam, sampling, speculative
from lm_jax.decoding.decoder import Decoder
from lm_jax.decoding.fusion import fuse
from lm_jax.decoding.text import Generated, bucket
from lm_jax.errors import UserError, with_article
from lm_jax.language_models import next_tokens
from lm_jax.language_models.described import Described
from lm_jax.language_models.options import Options, Request, lists_options
from lm_jax.ngram.spelling import Speller
from lm_jax.text.base import Encoding, Spelled, Tokenizer
from lm_jax.text.simple import CharacterTokenizer, WordTokenizer

Capability = TypeVar("Capability")
_ROWS_PER_BATCH = {"cpu": 32}  # of texts that are generated at the same time
_ROWS_PER_BATCH_ELSEWHERE = 512


class ScoredText(NamedTuple):
    """The probability that a model gives to one text.

    The last token is the end of the text, whose span is empty or the white space before it: the probabilities
    of all texts add up to one only if the end is scored too.

    Attributes:
        text: the UTF-8 bytes that were scored.
        spans: int64 [T, 2], the first byte of each token in `text` and the byte after its last.
        log_probs: float64 [T], natural log of each token's probability, given the tokens before it.
        unknown: bool [T], tokens that stand for text outside the vocabulary.
        conditioned_on: what precedes the first token.
        complete: every byte of the text is part of a scored token. Only complete scores have bits per byte,
            and their spans tile the text.
        log_spelling: float64 [T], natural log of the probability of each token's bytes, given the token: a
            token for unknown words stands for many strings. None: each token stands for its own bytes.
    """

    text: bytes
    spans: np.ndarray
    log_probs: np.ndarray
    unknown: np.ndarray
    conditioned_on: str
    complete: bool
    log_spelling: np.ndarray | None = None

    @property
    def byte_log_probs(self) -> np.ndarray:
        """float64 [T], natural log of the probability of each token and of its bytes, given what precedes.

        Where the score is complete, their sum is that of the string; `log_probs` are those of tokens alone.
        """
        return self.log_probs if self.log_spelling is None else self.log_probs + self.log_spelling

    @property
    def tokens(self) -> list[bytes]:
        """The bytes of each token."""
        return [self.text[start:end] for start, end in self.spans.tolist()]

    def ends_after(self, byte: int) -> np.ndarray:
        """bool [T], the tokens whose span ends after a byte of the text; of -1, all."""
        return self.spans[:, 1] > byte


class ExpectedText(NamedTuple):
    """What a model expected at the place of each token of a text; see `Expects`.

    Attributes:
        scored: the text's tokens and their probabilities, as `Scores.score` gives them.
        best: bool [T], whether the token is the most probable one of the vocabulary; of equally probable
            ones it is the one with the lowest id.
        log_shares: float64 [T], natural log of the probability of all tokens together that were asked about.
        log_best: float64 [T], natural log of the probability of the most probable token.
    """

    scored: ScoredText
    best: np.ndarray
    log_shares: np.ndarray
    log_best: np.ndarray


class PseudoScored(NamedTuple):
    """A pseudo-log-likelihood of one text, of tokens' probabilities given those on both sides.

    It is not the probability of the text, and compares with no left-to-right probability.

    Attributes:
        text: the UTF-8 bytes.
        spans: int64 [T, 2], the bytes of each token.
        log_probs: float64 [T], in nats: the natural log of each token's probability, or a sum of such.
        method: how it was computed.
    """

    text: bytes
    spans: np.ndarray
    log_probs: np.ndarray
    method: str

    @property
    def total(self) -> float:
        """The sum over tokens, in nats."""
        return float(self.log_probs.sum())


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


class EmbeddedText(NamedTuple):
    """The vectors of one text's tokens.

    Attributes:
        spans: int64 [T, 2], the first byte of each token in the UTF-8 text and the byte after its last.
            Special tokens that the model adds have empty spans.
        layers_LTD: float32 [L, T, D], one vector for each layer and token; layer 0 is the input embedding.
    """

    spans: np.ndarray
    layers_LTD: np.ndarray


class Candidate(NamedTuple):
    """A text that may replace a mask, with the natural log of its probability."""

    text: str
    log_prob: float


class LabelledText(NamedTuple):
    """The labels that a model gives to one text, or to each of its words.

    Attributes:
        names: the K labels.
        probabilities: float64 [K] for a label of the whole text, [W, K] for one of each word. Sums to 1 over
            the labels.
        spans: int64 [W, 2], the bytes of each word in the UTF-8 text; None for a label of the whole text.
        truncated: whether the end of the text was not read.
    """

    names: tuple[str, ...]
    probabilities: np.ndarray
    spans: np.ndarray | None = None
    truncated: bool = False


class PredictedNumber(NamedTuple):
    """The number that a model gives to one text, or pair of texts.

    Attributes:
        value: the number.
        truncated: whether the end of the text was not read.
    """

    value: float
    truncated: bool = False


class LanguageModel(Protocol):
    """What every model has. Its methods belong to its capabilities, such as `Scores`.

    Attributes:
        family: the name of its kind, such as "gpt".
        task: the name of the task that it was trained for, such as "causal".
        evaluator: the name of the evaluator of that task, a key of `evaluation.base.EVALUATORS`.
        documents: how its training text was cut into documents: file, line or paragraph.
        step: the checkpoint's step; None where the parameters do not come from steps of training.
    """

    family: str
    task: str
    evaluator: str
    documents: str
    step: int | None


@runtime_checkable
class Scores(Protocol):
    """The capability of giving a text a probability."""

    def score(self, texts: Sequence[str], stride: int | None = None) -> list[ScoredText]:
        """The probability of each text. Texts do not influence each other.

        Args:
            texts: the texts.
            stride: tokens from one window to the next, for models that read windows of limited length.
        """
        ...

    def describe_context(self, stride: int | None = None) -> dict[str, Any]:
        """The settings that a token's probability depends on, to be stored with a result."""
        ...


@runtime_checkable
class Expects(Scores, Protocol):
    """The capability of telling what else was expected in place of a token.

    Attributes:
        tokenizer: from text to ids.
    """

    tokenizer: Tokenizer

    def expect(
        self,
        texts: Sequence[str],
        among_V: np.ndarray | None = None,
        stride: int | None = None,
        since: Sequence[int] | None = None,
    ) -> list[ExpectedText]:
        """As `score`, with what the model expected at the place of each token.

        Args:
            texts: the texts.
            among_V: bool, the tokens by id whose probability together is asked for; None: none, whose is 0.
            stride: as for `score`.
            since: for each text a byte; only tokens that end after it are asked about. Of others `best` is
                False, `log_shares` and `log_best` are NaN. None: all tokens.
        """
        ...


@runtime_checkable
class Generates(Protocol):
    """The capability of continuing text, or of writing the target of a source."""

    def generate(
        self, prompts: Sequence[str], max_tokens: int = 100, **options: Unpack[Options]
    ) -> list[Generation]:
        """Continuations of each prompt."""
        ...

    def stream(self, prompt: str, max_tokens: int = 100, **options: Unpack[Options]) -> Iterator[str]:
        """The continuation of one prompt, in pieces as they are made."""
        ...


@runtime_checkable
class ScoresTargets(Protocol):
    """The capability of giving a target a probability, given a source.

    Attributes:
        target_field: the field of documents that holds the target.
    """

    target_field: str

    def score_targets(
        self, sources: Sequence[str], targets: Sequence[str], cut: bool = False
    ) -> list[ScoredText]:
        """The probability of each target, given the source at the same place.

        With `cut` a target that is too long for the model is scored without its end.
        """
        ...


@runtime_checkable
class Embeds(Protocol):
    """The capability of turning texts and their tokens into vectors."""

    def embed(
        self,
        texts: Sequence[str],
        pooling: str = "mean",
        normalize: bool = False,
        max_tokens: int | None = None,
    ) -> np.ndarray:
        """A vector for each text, float32 [N, D]."""
        ...

    def are_cut(self, texts: Sequence[str], max_tokens: int | None = None) -> list[bool]:
        """Whether `embed` reads only the first tokens of each text."""
        ...

    def embed_tokens(self, texts: Sequence[str], max_tokens: int | None = None) -> list[EmbeddedText]:
        """The vectors of each text's tokens, after every layer."""
        ...


@runtime_checkable
class Fills(Protocol):
    """The capability of predicting masked tokens from both sides."""

    def fill(self, texts: Sequence[str], top_k: int = 5) -> list[list[list[Candidate]]]:
        """The `top_k` most probable tokens for each mask of each text, the most probable first.

        A mask is written as the tokenizer writes it, such as [MASK].
        """
        ...


@runtime_checkable
class Labels(Protocol):
    """The capability of classifying texts, pairs of texts, or words.

    Attributes:
        classes: the names of the labels.
        label_field: the field of documents that holds the label, or the labels of the words.
        second_field: the field that holds the second text of a pair; "": it labels single texts.
    """

    classes: tuple[str, ...]
    label_field: str
    second_field: str

    def label(self, texts: Sequence[str | tuple[str, str]]) -> list[LabelledText]:
        """The labels of each text, or pair of texts, with their probabilities."""
        ...


@runtime_checkable
class Predicts(Protocol):
    """The capability of predicting a number for each text, or pair of texts.

    Attributes:
        label_field: the field of documents that holds the number.
        second_field: see `Labels`.
    """

    label_field: str
    second_field: str

    def predict(self, texts: Sequence[str | tuple[str, str]]) -> list[PredictedNumber]:
        """The number of each text, or pair of texts."""
        ...


_REMEDIES: dict[type, str] = {
    Scores: "give one that gives whole texts a probability, such as an n-gram model or a GPT",
    Expects: "give one that reads left to right, such as an n-gram model or a GPT",
    Generates: "give one that reads left to right",
    ScoresTargets: "give one that was trained by task=seq2seq",
    Embeds: "give one that has a vector for each token, such as a BERT",
    Fills: "give one that was trained on masked text, such as a BERT",
    Labels: "give one that was trained to classify",
    Predicts: "give one that was trained by task=regression",
}


def require(model: LanguageModel, capability: type[Capability], what_for: str) -> Capability:
    """The model, if it has a capability.

    Args:
        model: any model.
        capability: `Scores`, `Expects`, `Generates`, `Embeds`, `Fills`, `Labels`, `Predicts`, or a protocol
            that is checkable at run time.
        what_for: what the caller needs it for, as a verb with its object: "continue text".

    Raises:
        UserError: it does not have it.
    """
    if not isinstance(model, capability):
        raise UserError(
            f"{with_article(model.family)} model does not {what_for}", _REMEDIES.get(capability, "")
        )
    return model


def run(decoder: Decoder, request: Request, begins: tuple[int, ...] = ()) -> list[Generation]:
    """What a model generates for a request: the continuations of each prompt, which are adjacent.

    Args:
        decoder: the model.
        request: what is asked for.
        begins: tokens that a fused model reads as the end token, after which it expects a new text.
    """
    generations = []
    made = _generated(decoder, request, begins)
    for row, (tokens, log_probs, length) in enumerate(zip(*made, strict=True)):
        text = request.text(row, tokens[:length])
        end = request.stops_at(text)
        text = text if end is None else text[:end]
        generations.append(Generation(text.decode(errors="replace"), tokens[:length], log_probs[:length]))
    return generations


def run_many(decoder: Decoder, request: Request) -> list[Generation]:
    """As `run`, in batches of prompts of similar length: long ones do not make the caches of all long."""
    most = _ROWS_PER_BATCH.get(runtime.platform(), _ROWS_PER_BATCH_ELSEWHERE)
    each, beams = request.limits.num_samples, 1 if request.beams is None else request.beams.num_beams
    most, order = max(1, most // max(each, beams)), np.argsort(request.prompts.lengths, kind="stable")
    if len(order) <= most:
        return run(decoder, request)
    made: list[list[Generation]] = [[] for _ in order]
    for first in range(0, len(order), most):
        group = order[first : first + most].tolist()
        filled = np.resize(group, min(bucket(len(group)), most)).tolist()  # few numbers of rows
        written = run(decoder, request.part(filled))
        for number, i in enumerate(group):
            made[i] = written[number * each : (number + 1) * each]
    return [one for several in made for one in several]


def _generated(decoder: Decoder, request: Request, begins: tuple[int, ...]) -> Generated:
    prompts, limits = request.prompts, request.limits
    if request.fusion is not None:
        decoder = fuse(decoder, request.fusion._decoder(), request.fusion_weight, begins)
    if request.beams is not None:
        found = beam.search(decoder, prompts, limits, request.beams, request.sampling)
        return Generated(found.tokens, found.log_probs, found.lengths)
    if request.draft is None:
        return sampling.generate(decoder, prompts, limits, request.sampling)
    return speculative.generate(
        decoder, request.draft._decoder(), prompts, limits, request.sampling, request.num_drafted
    ).generated


class LeftToRight(Described, abc.ABC):
    """A model that continues text, by the decoders that all families share.

    Attributes:
        family: its name.
        task: the task that it was trained for.
        evaluator: see `LanguageModel`.
        documents: see `LanguageModel`.
        tokenizer: from text to ids.
        speller: gives the bytes of words a probability; None: of a model whose tokens are no words, and of
            one without a training text.
    """

    family: str
    task: str
    documents: str
    evaluator: str = "causal"
    tokenizer: Tokenizer
    speller: Speller | None = None

    @abc.abstractmethod
    def _decoder(self) -> Decoder:
        """The model as functions, the same objects at each call, so that nothing is compiled again."""

    @property
    def context(self) -> int | None:
        """The largest number of tokens that are read, the one before a text among them; None: any number."""
        return self._decoder().context_length

    def next_log_probs(self, histories: Sequence[np.ndarray]) -> np.ndarray:
        """Natural log of the probability of every token after each history; see `NextTokens`."""
        return next_tokens.from_decoder(self._decoder(), self.tokenizer.begin_id, histories)

    def _scores(
        self, texts: Sequence[str], encodings: Sequence[Encoding], log_probs: Sequence[np.ndarray]
    ) -> list[ScoredText]:
        """The scored texts, from the log-probabilities of each text's tokens and of its end."""
        data, spelled = [text.encode() for text in texts], self._spell(texts, encodings)
        unknown_id, scored = self.tokenizer.unknown_id, []
        for text, encoding, log_probs_T, spelling in zip(data, encodings, log_probs, spelled, strict=True):
            unknown = np.zeros(len(encoding.ids) + 1, bool)
            if unknown_id is not None:
                unknown[:-1] = encoding.ids == unknown_id
            spans, log_spelling = np.concatenate([encoding.spans, [[len(text), len(text)]]]), None
            complete = self.tokenizer.lossless and not unknown.any()
            if spelling is not None:
                (spans, log_spelling), complete = spelling, True
            before = self.tokenizer.begin_text
            scored.append(ScoredText(text, spans, log_probs_T, unknown, before, complete, log_spelling))
        return scored

    def _spell(self, texts: Sequence[str], encodings: Sequence[Encoding]) -> Sequence[Spelled | None]:
        """The spelling of each text's tokens; None of texts whose tokens stand for their own bytes."""
        if isinstance(self.tokenizer, CharacterTokenizer):
            return [self.tokenizer.spell(encoding) for encoding in encodings]
        if self.speller is None or not isinstance(self.tokenizer, WordTokenizer):
            return [None] * len(texts)
        return self.speller.spell([text.encode() for text in texts], encodings, self.tokenizer)

    def perplexity(self, texts: Sequence[str], stride: int | None = None) -> float:
        """exp of the mean negative log-probability of a token, over all texts and their ends.

        It compares with the perplexity of a model that has the same tokens. For others there are bits per
        byte: `eval.py` reports both, with intervals.

        Args:
            texts: the texts, at least one.
            stride: as of `score`.

        Raises:
            UserError: no text, or what `score` raises.
        """
        scored = require(self, Scores, "give texts a probability").score(texts, stride)
        if not scored:
            raise UserError("no texts have no perplexity", "give at least one")
        nats = -sum(float(one.log_probs.sum()) for one in scored)
        return float(np.exp(nats / sum(len(one.log_probs) for one in scored)))

    @lists_options
    def generate(
        self, prompts: Sequence[str], max_tokens: int = 100, **options: Unpack[Options]
    ) -> list[Generation]:
        """Continues each prompt until the model ends the text or `max_tokens` are generated.

        The same seed, prompt and sample number give the same text, independent of other prompts.

        Args:
            prompts: the texts to continue; the empty one starts a new text.
            max_tokens: the maximum number of tokens to add.
            options: those listed below, as in `Options`.

        Raises:
            UserError: an option that is unknown or out of range, or a prompt longer than the context.
        """
        return run_many(self._decoder(), Request(self.tokenizer, prompts, max_tokens, options))

    @lists_options
    def stream(self, prompt: str, max_tokens: int = 100, **options: Unpack[Options]) -> Iterator[str]:
        """The text of `generate([prompt], ...)`, a few tokens at a time, in whole characters.

        Raises:
            UserError: as `generate` does, or for beams or several samples, which are not streamed.
        """
        if not isinstance(prompt, str):
            raise UserError(f"the prompt is a {type(prompt).__name__}, not a text", "give one string")
        request = Request(self.tokenizer, [prompt], max_tokens, options)
        if request.beams is not None or request.limits.num_samples > 1:
            raise UserError("beams and several samples do not stream", "use `generate` for them")
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        tokens, shown = np.empty(0, np.int32), 0
        held = max((len(text) for text in request.stop), default=1) - 1  # may be the beginning of a stop text
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
        if request.fusion is not None:
            decoder = fuse(decoder, request.fusion._decoder(), request.fusion_weight)
        if request.draft is None:
            return sampling.stream(decoder, prompts, limits, request.sampling)
        made = speculative.stream(
            decoder, request.draft._decoder(), prompts, limits, request.sampling, request.num_drafted
        )
        return (piece.generated for piece in made)
