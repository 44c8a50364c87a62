"""The transformer block that GPT, BERT and BART share, and stacks of it. Shape letters: `layers.py`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm_jax.models.attention import (
    AttentionCore,
    CrossAttention,
    LayerCache,
    SelfAttention,
    full_attention,
    padding_mask,
)
from lm_jax.models.layers import MLP, Dropout, LayerNorm, SwiGLU, gelu_exact

MLPS: dict[str, Callable[..., nn.Module]] = {
    "gelu": MLP,
    "gelu_exact": partial(MLP, activation=gelu_exact),
    "swiglu": SwiGLU,
}
NORMS = ("layer", "rms")


@dataclass(frozen=True)
class StackConfig:
    """The shape of a stack of transformer blocks."""

    num_layers: int
    num_heads: int  # attention heads in a block; divides d_model
    d_model: int  # width of the residual stream
    d_ff: int  # width inside the MLP
    num_kv_heads: int = 0  # heads of keys and values; 0: num_heads
    norm: str = "layer"  # one of NORMS
    norm_first: bool = True  # norms before attention and MLP (pre-norm), or after each sum (post-norm)
    mlp: str = "gelu"  # one of MLPS
    parallel: bool = False  # attention and MLP read the same norm and are added together; pre-norm only
    cross_attention: bool = False  # blocks attend to a memory too, between self-attention and MLP
    use_bias: bool = True  # of products and layer norms
    dropout: float = 0.0  # of residual branches
    attention_dropout: float = 0.0  # of attention probabilities
    layer_norm_epsilon: float = 1e-5
    residual_scale: float = 1.0  # of the initial kernels whose results are added to the residual stream
    rope_theta: float = 0.0  # base of rotary positions; 0: none
    core: AttentionCore = full_attention  # of self-attention
    dtype: jnp.dtype = jnp.float32  # of computation
    scan_layers: bool = False  # layers are one stacked parameter tree and compile once
    remat: bool = False  # the backward pass recomputes blocks and keeps less


class Memory(NamedTuple):
    """What a stack with cross-attention attends to, such as an encoder's output: keys and values.

    They do not change from token to token, so they are computed once and kept apart from the cache.

    Attributes:
        layers: keys and values of each layer, as `Stack.read_memory` returned them.
        mask_B11S: true at keys that are not padding; None: no padding.
    """

    layers: Any
    mask_B11S: jax.Array | None = None


def layer_sizes(config: StackConfig) -> tuple[int, int]:
    """Parameters of a block without cross-attention, and the numbers in the kernels of its products."""
    c = config
    qkv = (c.num_heads + 2 * (c.num_kv_heads or c.num_heads)) * (c.d_model // c.num_heads)
    D, F = c.d_model, c.d_ff
    kernels = [(D, qkv), (D, D), *[(D, F)] * (2 if c.mlp == "swiglu" else 1), (F, D)]
    products = sum(inputs * outputs for inputs, outputs in kernels)
    biases = sum(outputs for _, outputs in kernels) if c.use_bias else 0
    return (1 if c.parallel else 2) * norm_size(c) + biases + products, products


def norm_size(config: StackConfig) -> int:
    """Parameters of a norm."""
    return config.d_model * (2 if config.norm == "layer" and config.use_bias else 1)


def make_norm(config: StackConfig, name: str | None = None) -> nn.Module:
    """A norm of the config's kind."""
    c = config
    if c.norm == "rms":
        return nn.RMSNorm(c.layer_norm_epsilon, c.dtype, name=name)
    return LayerNorm(c.layer_norm_epsilon, c.dtype, use_bias=c.use_bias, name=name)


class Block(nn.Module):
    """Self-attention, cross-attention where there is a memory, and an MLP, each added to what it reads.

    Pre-norm: x + f(norm(x)) (Radford et al. 2019, section 2.3). Post-norm: norm(x + f(x)) (Vaswani et al.
    2017, section 3.1). Parallel: x + attention(norm(x)) + mlp(norm(x)) with one norm (Chowdhery et al. 2022,
    section 2).
    """

    config: StackConfig

    def setup(self):
        """Makes the layers, named as parameters are."""
        c = self.config
        out_init = nn.initializers.normal(0.02 * c.residual_scale)
        attention: dict[str, Any] = {
            "num_heads": c.num_heads, "dtype": c.dtype, "dropout": c.attention_dropout, "out_init": out_init,
            "num_kv_heads": c.num_kv_heads, "use_bias": c.use_bias,
        }  # fmt: skip
        self.attention = SelfAttention(**attention, rope_theta=c.rope_theta, core=c.core)
        self.mlp = MLPS[c.mlp](c.d_ff, c.dtype, out_init, c.use_bias)
        # A name of its own would draw other masks than runs of earlier versions did.
        self.drop = Dropout(c.dropout, name="Dropout_0")
        if c.parallel:
            self.norm = make_norm(c)
            return
        self.attention_norm, self.mlp_norm = make_norm(c), make_norm(c)
        if c.cross_attention:
            self.cross_attention = CrossAttention(c.d_model, **attention)
            self.cross_attention_norm = make_norm(c)

    def __call__(
        self,
        x_BTD: jax.Array,
        cache: LayerCache | None,
        memory: LayerCache | None,
        mask_BHTS: jax.Array | None,
        memory_mask_B11S: jax.Array | None,
        position_BT: jax.Array | None,
        is_causal: bool,
        train: bool,
    ) -> tuple[jax.Array, LayerCache | None]:
        """Returns [B, T, D] and the layer's cache, which is None where none was given."""
        if self.config.parallel:
            h_BTD = self.norm(x_BTD)
            a_BTD, cache = self.attention(h_BTD, mask_BHTS, cache, position_BT, is_causal, train)
            return x_BTD + self._drop(a_BTD, train) + self._drop(self.mlp(h_BTD), train), cache
        h_BTD = self._before(self.attention_norm, x_BTD)
        h_BTD, cache = self.attention(h_BTD, mask_BHTS, cache, position_BT, is_causal, train)
        x_BTD = self._after(self.attention_norm, x_BTD + self._drop(h_BTD, train))
        if memory is not None:
            h_BTD = self._before(self.cross_attention_norm, x_BTD)
            h_BTD = self.cross_attention(h_BTD, memory, memory_mask_B11S, train)
            x_BTD = self._after(self.cross_attention_norm, x_BTD + self._drop(h_BTD, train))
        h_BTD = self.mlp(self._before(self.mlp_norm, x_BTD))
        return self._after(self.mlp_norm, x_BTD + self._drop(h_BTD, train)), cache

    def read_memory(self, memory_BSD: jax.Array, _: None = None) -> tuple[jax.Array, LayerCache]:
        """The memory itself, and its keys and values: a scan over layers passes the first on."""
        return memory_BSD, self.cross_attention.read_memory(memory_BSD)

    def _before(self, norm: nn.Module, x_BTD: jax.Array) -> jax.Array:
        return norm(x_BTD) if self.config.norm_first else x_BTD

    def _after(self, norm: nn.Module, x_BTD: jax.Array) -> jax.Array:
        return x_BTD if self.config.norm_first else norm(x_BTD)

    def _drop(self, x_BTD: jax.Array, train: bool) -> jax.Array:
        return self.drop(x_BTD, deterministic=not train)


class Stack(nn.Module):
    """Blocks one after another: an encoder, a decoder, or both halves of BART.

    The layers' parameters are `layer_0`, `layer_1`, ...; with `scan_layers` they are `layers`, stacked along
    a first axis. `convert_layers` makes either from the other. A model whose layers stand beside its other
    parameters calls `nn.share_scope(self, stack)`.
    """

    config: StackConfig

    def setup(self):
        """Makes the layers."""
        c = self.config
        block = _rematerialised(c) if c.remat else Block
        self.layers: Any = (
            _scanned(block, c)(c)
            if c.scan_layers
            else [block(c, name=f"layer_{i}") for i in range(c.num_layers)]
        )

    def __call__(
        self,
        x_BTD: jax.Array,
        caches: Sequence[LayerCache] | None = None,
        mask_BHTS: jax.Array | None = None,
        position_BT: jax.Array | None = None,
        is_causal: bool = False,
        memory: Memory | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, tuple[LayerCache, ...] | None]:
        """Passes x through all blocks.

        Sows each block's output as "blocks" into the collection "intermediates"; not with `scan_layers`.

        Args:
            x_BTD: what is read.
            caches: keys and values of earlier calls, for each layer.
            mask_BHTS: true where a query may attend; axes of size 1 broadcast. S is T, or the capacity.
            position_BT: the tokens' positions; None: 0 to T - 1.
            is_causal: no position attends to a later one; only without caches.
            memory: what cross-attention attends to, from `read_memory`.
            train: whether dropout is on; needs `rngs={"dropout": key}`.

        Returns:
            [B, T, D], and the caches with these tokens in them (None where none were given).
        """
        num_layers, old = self.config.num_layers, caches
        per_layer: tuple[Any, ...] = (None,) * num_layers if caches is None else tuple(caches)
        layers, memory_mask = (None, None) if memory is None else memory
        rest = (mask_BHTS, memory_mask, position_BT, is_causal, train)
        if self.config.scan_layers:
            x_BTD, made = self.layers(x_BTD, stack_trees(per_layer), layers, *rest)
            return x_BTD, None if old is None else unstack_tree(made, num_layers)
        new = []
        memories = (None,) * num_layers if layers is None else layers
        for layer, cache, layer_memory in zip(self.layers, per_layer, memories, strict=True):
            x_BTD, cache = layer(x_BTD, cache, layer_memory, *rest)
            self.sow("intermediates", "blocks", x_BTD)
            new.append(cache)
        return x_BTD, None if old is None else tuple(new)

    def read_memory(self, memory_BSD: jax.Array, segments_BS: jax.Array | None = None) -> Memory:
        """Keys and values of a memory for each layer's cross-attention.

        Args:
            memory_BSD: such as an encoder's output.
            segments_BS: its segments, of which negative ones are padding; None: nothing is.
        """
        mask_B11S = None if segments_BS is None else padding_mask(segments_BS)
        if self.config.scan_layers:
            return Memory(self.layers.read_memory(memory_BSD, None)[1], mask_B11S)
        return Memory(tuple(layer.read_memory(memory_BSD)[1] for layer in self.layers), mask_B11S)


def _rematerialised(config: StackConfig) -> type[Block]:
    # A scan keeps XLA from merging the second computation with the first; elsewhere a barrier must.
    return nn.remat(Block, prevent_cse=not config.scan_layers, static_argnums=(7, 8))  # is_causal, train


def _scanned(block: type[Block], config: StackConfig) -> Callable[..., Block]:
    """The block as `num_layers` blocks one after another; caches and memories differ from layer to layer."""
    common = {
        "variable_axes": {"params": 0},
        "split_rngs": {"params": True, "dropout": True},
        "length": config.num_layers,
    }
    methods = {"__call__": {**common, "in_axes": (0, 0, *[nn.broadcast] * 5)}}
    if config.cross_attention:
        methods["read_memory"] = {**common, "in_axes": (nn.broadcast,)}
    return nn.scan(block, methods=methods)


def convert_layers(variables: Any, scan_layers: bool) -> Any:
    """Variables of a model with a stack in the layout that `scan_layers` asks for, from either.

    Stacks may be anywhere in the tree. Nothing is computed.
    """
    return {**variables, "params": _convert(variables["params"], scan_layers)}


def _convert(params: Any, scan_layers: bool) -> Any:
    if not isinstance(params, dict):
        return params
    if scan_layers and "layer_0" in params:
        num_layers = sum(name.startswith("layer_") for name in params)
        layers = [params[f"layer_{i}"] for i in range(num_layers)]
        params = {k: v for k, v in params.items() if not k.startswith("layer_")}
        return params | {"layers": stack_trees(layers)}
    if not scan_layers and "layers" in params:
        num_layers = jax.tree.leaves(params["layers"])[0].shape[0]
        unstacked = unstack_tree(params["layers"], num_layers)
        params = {k: v for k, v in params.items() if k != "layers"}
        return params | {f"layer_{i}": layer for i, layer in enumerate(unstacked)}
    return {name: _convert(child, scan_layers) for name, child in params.items()}


def stack_trees(trees: Sequence[Any]) -> Any:
    """Trees of one structure as one tree whose leaves have a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack_tree(tree: Any, n: int) -> tuple[Any, ...]:
    """The inverse of `stack_trees`."""
    return tuple(jax.tree.map(itemgetter(i), tree) for i in range(n))
