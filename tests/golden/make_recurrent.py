"""Writes recurrent.npz: what PyTorch's recurrent layers and adaptive softmax make of random weights.

python tests/golden/make_recurrent.py      (needs torch; written with torch 2.9)
"""

import pathlib

import numpy as np
import torch

KINDS = ("elman", "gru", "lstm", "projected")


def make_case(kind: str, seed: int, rows: int, length: int, inputs: int, units: int, layers: int) -> dict:
    """A layer's weights, what it reads and writes from a random state, and the gradients of a random sum."""
    torch.manual_seed(seed)
    make = {"elman": torch.nn.RNN, "gru": torch.nn.GRU}.get(kind, torch.nn.LSTM)
    output = units // 2 if kind == "projected" else units
    model = make(inputs, units, layers, **({"proj_size": output} if kind == "projected" else {}))
    x = torch.randn(length, rows, inputs, requires_grad=True)
    h, c = (torch.randn(layers, rows, width, requires_grad=True) for width in (output, units))
    is_lstm = isinstance(model, torch.nn.LSTM)
    y, last = model(x, (h, c) if is_lstm else h)
    last_h, last_c = last if is_lstm else (last, torch.zeros(()))
    factors = torch.randn(y.shape)
    ((y * factors).sum() + last_h.sum() + last_c.sum()).backward()
    arrays = {"x": x, "y": y, "factors": factors, "h": h, "last_h": last_h, "dx": x.grad, "dh": h.grad}
    if is_lstm:
        arrays |= {"c": c, "last_c": last_c, "dc": c.grad}
    for name, parameter in model.named_parameters():
        arrays |= {name: parameter, f"d{name}": parameter.grad}
    return {name: array.detach().numpy() for name, array in arrays.items()}


def make_adaptive(seed: int) -> dict:
    """An adaptive softmax over 23 tokens, and its log-probabilities."""
    torch.manual_seed(seed)
    model = torch.nn.AdaptiveLogSoftmaxWithLoss(16, 23, [5, 11], div_value=2.0)
    hidden = torch.randn(7, 16)
    arrays = {"hidden": hidden, "log_probs": model.log_prob(hidden), **dict(model.named_parameters())}
    return {name: array.detach().numpy() for name, array in arrays.items()}


def main() -> None:
    """Writes the file next to this script."""
    cases = {kind: make_case(kind, 0, rows=3, length=5, inputs=4, units=6, layers=2) for kind in KINDS}
    cases["adaptive"] = make_adaptive(0)
    flat = {f"{case}/{name}": array for case, arrays in cases.items() for name, array in arrays.items()}
    np.savez_compressed(pathlib.Path(__file__).with_name("recurrent.npz"), **flat)


if __name__ == "__main__":
    main()
