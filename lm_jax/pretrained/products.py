"""Our kernels from published ones in PyTorch's layout, and back: a `Linear` has the weight (out, in)."""

from collections.abc import Mapping, Sequence

import numpy as np

Shape = tuple[int, ...]
_BY_HEADS = ("/qkv/", "/query/", "/key_value/")  # [I, N, G, K] for N published weights


def weight_and_bias(names: Mapping[str, str], kind: str) -> dict[str, tuple[str, ...]]:
    """The two parameters of products, of the kind kernel, or of norms, of the kind scale."""
    return {
        f"{ours}/{end}": (f"{theirs}.{'bias' if end == 'bias' else 'weight'}",)
        for ours, theirs in names.items()
        for end in (kind, "bias")
    }


def their_shapes(name: str, shape: Shape) -> list[Shape]:
    """The shapes of the weights that make our parameter."""
    if _has_heads(name):
        *inputs, number, G, K = shape
        return [(G * K, *inputs)] * number
    return [shape[::-1] if name.endswith("/kernel") else shape]


def join(name: str, arrays: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    """Our parameter from theirs, up to its shape: q, k and v, for instance, are one kernel, [D, 3, G, K]."""
    if _has_heads(name):
        return np.stack([array.T for array in arrays], axis=-2)
    return arrays[0].T if name.endswith("/kernel") else arrays[0]


def split(name: str, array: np.ndarray) -> list[np.ndarray]:
    """The inverse of `join`."""
    if _has_heads(name):
        *inputs, _, G, K = array.shape
        return [part.reshape(*inputs, G * K).T for part in np.moveaxis(array, -3, 0)]
    return [array.T if name.endswith("/kernel") else array]


def _has_heads(name: str) -> bool:
    return any(part in name for part in _BY_HEADS)
