"""A language model is a distribution over strings: the protocol that every family speaks, and `load`."""

import codecs
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import config as config_module
from lm_jax import files, tokenizers
from lm_jax.checkpoint import Checkpoints
from lm_jax.config import Config
from lm_jax.decoding import sampling
from lm_jax.decoding.sampling import Sampling
from lm_jax.errors import UserError
from lm_jax.metrics import likelihood

_TOKENS_PER_BATCH = 8192  # of scoring: enough to keep a device busy, little enough for any vocabulary


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


def load(path: str | pathlib.Path, step: str = "best") -> "NeuralLanguageModel":
    """Opens a run directory.

    Args:
        path: what `train.py` wrote.
        step: "best" (lowest validation loss), "latest", or a step's number.

    Raises:
        UserError: not a run directory, a damaged one, or no such checkpoint.
    """
    path = pathlib.Path(path)
    if not (path / "config.json").is_file():
        raise UserError(
            f"{path} is not a run directory (no config.json in it)", "give the --workdir of a train.py run"
        )
    config = config_module.from_json((path / "config.json").read_text(encoding="utf-8"))
    tokenizer = tokenizers.load(path / "tokenizer")
    if tokenizer.fingerprint() != files.read_json(path / "data.json")["tokenizer"]["sha256"]:
        raise UserError(
            f"{path / 'tokenizer'} is not the tokenizer that the model was trained with",
            "restore it; its vocabulary must match the model's",
        )
    config = config_module.resolve(config, tokenizer.vocab_size)
    model = config_module.make_model(config.model)
    with Checkpoints(path, read_only=True) as checkpoints:
        chosen = checkpoints.choose(step)
        params = checkpoints.restore_params(chosen, abstract_params(model))
    return NeuralLanguageModel(config, model, params, tokenizer, chosen)


def abstract_params(model: nn.Module) -> Any:
    """Shapes of a model's parameters on one device, for restoring into."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes)


@dataclasses.dataclass
class NeuralLanguageModel:
    """A left-to-right Flax model with its parameters and tokenizer.

    Attributes:
        config: the resolved recipe it was trained by.
        model: the linen module.
        params: its variables.
        tokenizer: from text to ids.
        step: the updates behind the parameters.
    """

    config: Config
    model: nn.Module
    params: Any
    tokenizer: tokenizers.Tokenizer
    step: int | None = None

    def __post_init__(self) -> None:
        self.family, self.objective = self.config.model.family, self.config.objective.name
        self.documents = self.config.data.documents
        self._scorer = jax.jit(partial(_log_probs, self.model))
        # Kept, since decoders compile anew for functions that they have not seen.
        self._prefill = partial(self.model.apply, method="prefill")
        self._step = partial(self.model.apply, method="step")

    @property
    def context(self) -> int:
        """The most tokens that the model can look at."""
        return self.config.model.max_length

    def describe_context(self, stride: int | None = None) -> dict[str, Any]:
        """Length of the windows that texts are scored in, and how far each lies from the last."""
        return {"window": self.context, "stride": stride or _default_stride(self.context)}

    def score(self, texts: Sequence[str], stride: int | None = None) -> list[Scores]:
        """Log-probabilities of each text after an end-of-text token, each token scored once.

        A text longer than the context is read in windows that overlap: each starts `stride` tokens after the
        last and scores what that did not reach, so that a token has at least context − stride tokens before
        it, or the whole text so far.

        Args:
            texts: the texts.
            stride: tokens from window to window, 1..context; half the context by default.

        Raises:
            UserError: a stride out of range, or a text that the tokenizer refuses.
        """
        stride = stride or _default_stride(self.context)
        if not 1 <= stride <= self.context:
            raise UserError(f"stride={stride} with a context of {self.context}", f"choose 1..{self.context}")
        encodings = self.tokenizer.encode_batch(list(texts))
        end = np.array([self.tokenizer.end_id], np.int32)
        streams = [np.concatenate([end, e.ids, end]) for e in encodings]
        nats = self._score_streams(streams, stride)
        return [self._scores(*parts) for parts in zip(texts, encodings, nats, strict=True)]

    def _score_streams(self, streams: list[np.ndarray], stride: int) -> list[np.ndarray]:
        """Log-probability of every token of each stream but the first, which is only read."""
        results = [np.empty(len(stream) - 1) for stream in streams]
        for length, windows in _windows(streams, self.context, stride).items():
            rows = max(1, _TOKENS_PER_BATCH // length)
            for first in range(0, len(windows), rows):
                group = windows[first : first + rows]
                inputs_BT, targets_BT = np.zeros((2, rows, length), np.int32)
                for row, (i, start, _, stop) in enumerate(group):
                    inputs_BT[row, : stop - start] = streams[i][start:stop]
                    targets_BT[row, : stop - start] = streams[i][start + 1 : stop + 1]
                log_probs_BT = np.asarray(self._scorer(self.params, inputs_BT, targets_BT))
                for row, (i, start, fresh, stop) in enumerate(group):
                    results[i][fresh:stop] = log_probs_BT[row, fresh - start : stop - start]
        return results

    def _scores(self, text: str, encoding: tokenizers.Encoding, log_probs: np.ndarray) -> Scores:
        data = text.encode()
        spans = np.concatenate([encoding.spans, [[len(data), len(data)]]])
        no_id = -1  # for a vocabulary that lacks nothing
        unknown_id = no_id if self.tokenizer.unknown_id is None else self.tokenizer.unknown_id
        unknown = np.append(encoding.ids == unknown_id, False)
        complete = self.tokenizer.lossless and not unknown.any()
        return Scores(data, spans, log_probs, unknown, tokenizers.END, complete)

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
        made = sampling.generate(**self._request(prompts, max_tokens, options, seed, num_samples))
        return [
            Generation(self.tokenizer.decode(tokens[:length]), tokens[:length], log_probs[:length])
            for tokens, log_probs, length in zip(*made, strict=True)
        ]

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
        request = self._request([prompt], max_tokens, Sampling(temperature, top_k, top_p), seed, 1)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for made in sampling.stream(**request):
            yield decoder.decode(self.tokenizer.decode_bytes(made.tokens[0, : made.lengths[0]]))
        yield decoder.decode(b"", final=True)

    def _request(
        self, prompts: Sequence[str], max_tokens: int, options: Sampling, seed: int, num_samples: int
    ) -> dict[str, Any]:
        """The arguments of `sampling.stream`: each prompt after an end of text, as in training."""
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
        return {
            "prefill": self._prefill,
            "step": self._step,
            "params": self.params,
            "prompts": rows,
            "lengths": lengths,
            "num_tokens": max_tokens,
            "sampling": options,
            "seeds": [seed] * len(ids),
            "end_id": self.tokenizer.end_id,
            "context_length": self.context,
            "num_samples": num_samples,
        }


class _Window(NamedTuple):
    stream: int  # which stream
    start: int  # the first token read
    fresh: int  # the first prediction that no earlier window made
    stop: int  # where reading ends


def _windows(streams: list[np.ndarray], context: int, stride: int) -> dict[int, list[_Window]]:
    """Windows that make every prediction once, by the padded length that they are read in.

    Lengths are the context and the powers of two below it, so that few shapes are compiled.
    """
    by_length: dict[int, list[_Window]] = {}
    for i, stream in enumerate(streams):
        end, start, fresh = len(stream) - 1, 0, 0
        while fresh < end:
            stop = min(start + context, end)
            length = min(context, max(16, 1 << (stop - start - 1).bit_length()))
            by_length.setdefault(length, []).append(_Window(i, start, fresh, stop))
            fresh, start = stop, start + stride
    return by_length


def _default_stride(context: int) -> int:
    return max(1, context // 2)


def _log_probs(model: nn.Module, params: Any, inputs_BT: jax.Array, targets_BT: jax.Array) -> jax.Array:
    logits_BTV, _ = model.apply(params, inputs_BT)
    return likelihood.token_log_probs(logits_BTV, targets_BT)
