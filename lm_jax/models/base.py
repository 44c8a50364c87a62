"""What a model and its config must offer, and the names of the models there are.

To add a model: a frozen dataclass that extends `ModelConfig`, a linen module that fulfils `LeftToRight` (or
`Encodes`, if it reads both sides, or `EncodesDecodes`; then also set `reads` and `adapter`), and
`@MODELS.register("NAME")` above the config (built-in ones are in the table below). Nothing else in the
project asks which model it has.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax.errors import UserError
from lm_jax.registry import Registry

CONSTANTS = "constants"  # a collection of variables that no training step changes
_ANY_LENGTH = 1 << 24  # that a context may have whatever the parameters are


class Cost(NamedTuple):
    """What a model costs, a multiplication and an addition being two operations.

    Attributes:
        parameters: how many numbers are trained.
        forward: floating-point operations of the matrix products of a forward pass, per token.
        training: those of a forward and a backward pass, per token.
    """

    parameters: int
    forward: int
    training: int


class Size(NamedTuple):
    """What a model needs at the least in training, by arithmetic alone.

    Attributes:
        parameters: how many numbers are trained.
        kept: how many numbers of the compute dtype the backward pass needs of each token, logits left out.
    """

    parameters: int
    kept: int


@dataclass(frozen=True)
class ModelConfig(abc.ABC):
    """The shape of a model; a frozen dataclass whose fields are those of its part `model` in a recipe.

    Attributes:
        family: the model's name in recipes, run directories and reports.
        free_fields: fields that never change the parameters. A recipe that starts from the parameters of
            another run may set them; see `free`.
        sows_output: whether `hidden` sows the last layer's output before dropout, [B, T, D], as "output" into
            the collection "intermediates".
        published_as: the `model_type`s under which transformers reads an exported model, of which the first
            that fits its fields is taken; empty: none does.
        pooling: the positions whose vectors stand for a whole text where a task leaves it open: "first",
            "last" or "mean".
        reads: which tokens a position sees: "left to right"; "both sides"; "each side": those on the left
            and, apart from them, those on the right; or "source and target": those of a source on both sides,
            and those of a target from left to right.
        adapter: the kind of language model that the bare module is; see `language_models.load.ADAPTERS`.
        vocab_size: number of rows of the vocabulary, 0 while it is left to the tokenizer.
        num_tokens: number of tokens that exist; rows beyond them only pad the vocabulary, and have
            probability 0. 0 while it is left to the tokenizer.
    """

    family: ClassVar[str]
    free_fields: ClassVar[frozenset[str]] = frozenset({"dtype"})
    sows_output: ClassVar[bool] = False
    published_as: ClassVar[tuple[str, ...]] = ()
    pooling: ClassVar[str] = "last"
    reads: ClassVar[str] = "left to right"
    adapter: ClassVar[str] = "causal"

    vocab_size: int = 0  # rows of the vocabulary; 0: as many as the tokenizer has tokens
    num_tokens: int = 0  # tokens of the tokenizer, which sets it; further rows only pad the vocabulary

    @abc.abstractmethod
    def check(self) -> None:
        """Raises UserError for an invalid value, or two that do not fit each other."""

    @abc.abstractmethod
    def make(self) -> nn.Module:
        """The linen module of a resolved config."""

    @property
    def context_length(self) -> int | None:
        """The largest number of tokens that the model reads; None: it carries a state over any number."""
        return None

    @property
    def known_tokens(self) -> int:
        """`num_tokens`, or all rows of the vocabulary if that is 0."""
        return self.num_tokens or self.vocab_size

    @property
    def uses_dropout(self) -> bool:
        """Whether training draws random numbers: any rate whose name ends in "dropout" is above 0."""
        return any(name.endswith("dropout") and type(x) is float and x > 0 for name, x in vars(self).items())

    @property
    def spells(self) -> bool:
        """Whether words are read by their characters, so that the parameters fit any vocabulary of words."""
        return False

    def free(self) -> frozenset[str]:
        """The fields that a model may change and still start from the parameters of this one."""
        return self.free_fields

    @property
    def carries_state(self) -> bool:
        """Whether a state can be carried from one row of tokens to the next."""
        return self.context_length is None

    def resolved(self, vocab_size: int, length: int) -> Self:
        """The config with the fields filled in that it leaves to the tokenizer and the data.

        Args:
            vocab_size: number of tokens that the tokenizer has.
            length: tokens in a row of a batch.

        Raises:
            UserError: a vocabulary smaller than the tokenizer's.
        """
        if 0 < self.vocab_size < vocab_size:
            raise UserError(
                f"model.vocab_size={self.vocab_size}, but the tokenizer has {vocab_size} tokens",
                "set model.vocab_size=0 to take the tokenizer's",
            )
        return replace(self, vocab_size=self.vocab_size or vocab_size, num_tokens=vocab_size)

    def check_resolved(self) -> None:
        """Raises UserError if a size is still left to the tokenizer or the data."""
        if self.vocab_size < 1:
            raise UserError(f"model.vocab_size={self.vocab_size}", "a model itself needs 1 or more")

    def describe_context(self) -> Mapping[str, Any]:
        """The settings that a token's probability depends on, to be stored with a result."""
        return {"state": "carried through each document"}

    def for_inference(self) -> Self:
        """The config of the same parameters, possibly in another layout, that generates text fastest."""
        return self

    def convert(self, variables: Any) -> Any:
        """Variables of this model in any of its layouts, in the layout of this config."""
        return variables

    def with_vocabulary(self, variables: Any, token_bytes: Sequence[bytes]) -> Any:
        """The variables with what they hold of a vocabulary in the collection "constants", which no step
        changes.

        Args:
            variables: of this model, or of one with a head.
            token_bytes: the bytes of each token, by id.
        """
        return variables

    def convert_from_format_1(self, variables: Any) -> Any:
        """Variables as run directories of format 1 hold them, in the current layout."""
        return variables

    def cost(self, length: int) -> Cost | None:
        """What the model costs with rows of `length` tokens; None if it is unknown."""
        return None

    def size(self, length: int) -> Size | None:
        """Lower bounds of the resolved model's size with rows of `length` tokens; None if they are unknown.

        A recipe that no machine could hold is refused by it before anything is traced.
        """
        cost = self.cost(length)
        # The backward pass needs what each block of a stack reads, even with remat.
        kept = getattr(self, "num_layers", 0) * getattr(self, "d_model", 0)
        return None if cost is None else Size(cost.parameters, kept)


def num_parameters(variables: Any) -> int:
    """How many numbers are trained of a module's variables, or of their shapes."""
    trained = variables
    if isinstance(variables, Mapping):
        trained = {name: collection for name, collection in variables.items() if name != CONSTANTS}
    return sum(leaf.size for leaf in jax.tree.leaves(trained))


def check_sizes(config: ModelConfig, num_arrays: int, num_values: int, source: str) -> None:
    """Refuses sizes that no model with such parameters has, before a model of that size is traced.

    Args:
        config: a model.
        num_arrays: the number of its arrays of parameters.
        num_values: an upper bound of the number of its parameters.
        source: the file that the config is from, for errors.

    Raises:
        UserError: more layers than arrays, or another size above the bound.
    """
    is_scanned = getattr(config, "scan_layers", False)
    for name, value in vars(config).items():
        limit = num_arrays if name == "num_layers" and not is_scanned else max(num_values, _ANY_LENGTH)
        if type(value) is int and value > limit:
            raise UserError(
                f"{source} describes a model of {name}={value}, and there are {num_arrays} arrays of weights",
                "restore the file",
            )


@runtime_checkable
class LeftToRight(Protocol):
    """The methods of a module that predicts each token from those before it.

    A state is a pytree of arrays whose first axis is the row.
    """

    def hidden(
        self, tokens_BT: jax.Array, state: Any = None, segments: jax.Array | None = None, train: bool = False
    ) -> tuple[jax.Array, Any]:
        """What the head reads at each position, [B, T, D], and the state after these tokens.

        Args:
            tokens_BT: int token ids.
            state: the state after the tokens before these; None: these are the first.
            segments: int [B, T]; attention and state are reset where it changes, and negative ones are
                padding.
            train: whether dropout is on; needs `rngs={"dropout": key}`.
        """
        ...

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Unnormalised natural-log probabilities of the next token, float32 [..., V].

        -inf from row `known_tokens` of the config on (see `heads.mask_padding`), so that the training loss,
        scores and generation are one distribution.
        """
        ...

    def init_state(self, batch_size: int, length: int) -> Any:
        """The state before the first token, with room for `length` tokens; needs no parameters."""
        ...

    def prefill(self, tokens_BT: jax.Array, length_B: jax.Array, capacity: int) -> tuple[jax.Array, Any]:
        """Reads prompts padded on the right: the logits after each, float32 [B, V], and the state."""
        ...

    def step(self, state: Any, token_B: jax.Array) -> tuple[jax.Array, Any]:
        """Reads one token a row: the logits after it, float32 [B, V], and the state."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """The method of a module that reads each token with those on both sides of it."""

    def encode(
        self,
        tokens_BT: jax.Array,
        segments: jax.Array | None = None,
        types: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """A vector for each position, [B, T, D].

        Args:
            tokens_BT: int token ids.
            segments: int [B, T]; runs of different numbers do not attend to each other, and no token attends
                to negative ones, which are padding. None: a row is one text without padding.
            types: int [B, T]; 0 for the first text of a pair, 1 for the second. None: 0.
            train: whether dropout is on; needs `rngs={"dropout": key}`.
        """
        ...


@runtime_checkable
class HasLayers(Encodes, Protocol):
    """An encoder whose layers a head may mix, as ELMo's."""

    def layers(
        self,
        tokens_BT: jax.Array,
        state: Any = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, Any]:
        """A vector for each layer and position, [L, B, T, D], and the state; the last layer is `encode`'s."""
        ...


@runtime_checkable
class EncodesDecodes(Encodes, Protocol):
    """The methods of a module that writes a target from left to right, given a source that it encodes."""

    def decode(
        self,
        tokens_BT: jax.Array,
        memory_BSD: jax.Array,
        memory_segments: jax.Array | None = None,
        segments: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """What the head reads at each position of the target, [B, T, D]; it depends on tokens up to there.

        Args:
            tokens_BT: int token ids of the target.
            memory_BSD: `encode` of the source.
            memory_segments: int [B, S] of the source; negative ones are padding. None: nothing is.
            segments: int [B, T]; runs of different numbers do not attend to each other. None: a row is one
                text, and what is on the right of it does not matter.
            train: whether dropout is on; needs `rngs={"dropout": key}`.
        """
        ...

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Unnormalised natural-log probabilities of the next token, float32 [..., V]; as `LeftToRight`'s."""
        ...


def read(module: Any, tokens_BT: jax.Array, segments: Any, types: Any = None, train: bool = False) -> Any:
    """A vector for each position, [B, T, D], of a module that encodes, or reads left to right.

    Where it encodes and decodes, the vectors are the decoder's, which reads the last token and then the text
    (Lewis et al. 2020, section 3.1): at the last position it has read all of it. Only encoders have types.
    """
    if isinstance(module, EncodesDecodes):
        memory_BTD = module.encode(tokens_BT, segments, types, train)
        length_B1 = jnp.full((tokens_BT.shape[0], 1), tokens_BT.shape[1])
        if segments is not None:
            length_B1 = jnp.sum(segments >= 0, axis=1, keepdims=True)
        last_B1 = jnp.take_along_axis(tokens_BT, jnp.maximum(length_B1 - 1, 0), axis=1)
        shifted_BT = jnp.concatenate([last_B1, tokens_BT[:, :-1]], axis=1)
        return module.decode(shifted_BT, memory_BTD, segments, None, train)
    if isinstance(module, Encodes):
        return module.encode(tokens_BT, segments, types, train)
    return module.hidden(tokens_BT, None, segments=segments, train=train)[0]


@runtime_checkable
class Rewinds(Protocol):
    """What a left-to-right module offers besides, to verify the tokens that another model has drafted."""

    def extend(self, state: Any, tokens_BT: jax.Array) -> tuple[jax.Array, Any]:
        """Reads several tokens a row: the logits after each, float32 [B, T, V], and the state."""
        ...

    def rewind(self, state: Any, count_B: jax.Array) -> Any:
        """The state without the last `count_B` tokens of each row."""
        ...


MODELS: Registry[type[ModelConfig]] = Registry(
    "model",
    {
        "bart": "lm_jax.models.bart:BARTConfig",
        "bert": "lm_jax.models.bert:BERTConfig",
        "elmo": "lm_jax.models.elmo:ELMoConfig",
        "gpt": "lm_jax.models.gpt:GPTConfig",
        "nnlm": "lm_jax.models.nnlm:NNLMConfig",
        "rnn": "lm_jax.models.rnn:RNNConfig",
    },
    tag="family",
)
