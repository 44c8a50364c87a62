"""Recurrent layers and the adaptive softmax against PyTorch: a golden file, and live where installed."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm_jax import fast
from lm_jax.models.heads import AdaptiveSoftmax
from lm_jax.models.recurrent import CELLS, LayerState, RecurrentLayer, first_state

GOLDEN = pathlib.Path(__file__).parent / "golden"
KINDS = ("elman", "gru", "lstm", "projected")


def golden(case):
    """The arrays of one case of the golden file."""
    with np.load(GOLDEN / "recurrent.npz") as file:
        return {name.removeprefix(f"{case}/"): file[name] for name in file.files if name.startswith(case)}


def from_torch(arrays, layer, prefix=""):
    """Our parameters of a layer, or their gradients where the prefix is "d", from PyTorch's arrays."""

    def get(name):
        return arrays.get(f"{prefix}{name}_l{layer}")

    params = {"input": get("weight_ih").T, "recurrent": get("weight_hh").T}
    if get("weight_hr") is not None:
        params["projection"] = get("weight_hr").T
    bias, other = get("bias_ih"), get("bias_hh")
    H = len(arrays["weight_hh_l0"].T) if get("weight_hr") is None else get("weight_hr").shape[1]
    if len(bias) == 3 * H:  # a GRU: the last third of the other bias stands apart
        params["candidate_bias"] = other[2 * H :]
        other = np.concatenate([other[: 2 * H], np.zeros(H, np.float32)])
    # A sum's gradient is that of either of its terms.
    params["bias"] = bias if prefix else bias + other
    return params


def check_equal_to_torch(kind, arrays):
    """Outputs, last states and all gradients, to 1e-5."""
    cell = "lstm" if kind == "projected" else kind
    num_layers, _, P = arrays["h"].shape
    H = arrays["c"].shape[2] if "c" in arrays else P
    layer = RecurrentLayer(cell, H, P if kind == "projected" else 0)
    params = [from_torch(arrays, i) for i in range(num_layers)]
    states = [
        LayerState(arrays["h"][i], arrays["c"][i] if "c" in arrays else None) for i in range(num_layers)
    ]

    def total(params, x_TBI, states):
        lasts = []
        for p, state in zip(params, states, strict=True):
            x_TBI, last = layer.apply({"params": p}, x_TBI, state, None, False)
            lasts.append(last)
        ends = sum(leaf.sum() for leaf in jax.tree.leaves(lasts))
        return (x_TBI * arrays["factors"]).sum() + ends, (x_TBI, lasts)

    found = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(params, arrays["x"], states)
    (dparams, dx, dstates), (y, lasts) = found
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(y, arrays["y"], **close)
    np.testing.assert_allclose(dx, arrays["dx"], **close)
    for i in range(num_layers):
        expected = from_torch(arrays, i, "d")
        assert expected.keys() == dparams[i].keys()
        for name, gradient in expected.items():
            np.testing.assert_allclose(dparams[i][name], gradient, **close, err_msg=name)
        np.testing.assert_allclose(lasts[i].h_BP, arrays["last_h"][i], **close)
        np.testing.assert_allclose(dstates[i].h_BP, arrays["dh"][i], **close)
        if "c" in arrays:
            np.testing.assert_allclose(lasts[i].c_BH, arrays["last_c"][i], **close)
            np.testing.assert_allclose(dstates[i].c_BH, arrays["dc"][i], **close)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_golden_file(kind):
    check_equal_to_torch(kind, golden(kind))


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_equals_torch(kind, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(GOLDEN))
    import make_recurrent

    check_equal_to_torch(kind, make_recurrent.make_case(kind, 1, 2, 9, 7, 10, 3))
    sys.modules.pop("make_recurrent")


@pytest.mark.parametrize(
    ("cell", "layer_norm", "clip"),
    [(cell, norm, 0.0) for cell in CELLS for norm in (False, True)] + [("lstm", False, 0.4)],
)
def test_the_gradient_is_what_jax_derives(cell, layer_norm, clip):
    """From the forward pass alone, with states that are forgotten here and there, and a projection.

    With clipping of memory and projection there is padding, too.
    """
    T, B, H, P = 6, 3, 5, 2 if cell == "lstm" else 0
    layer = RecurrentLayer(cell, H, P, layer_norm, cell_clip=clip, projection_clip=clip / 4)
    rng = np.random.default_rng(0)

    def random(like, scale=1.0):
        return np.float32(rng.normal(scale=scale, size=like.shape))

    x_TBI = np.float32(rng.normal(size=(T, B, 4)))
    state = jax.tree.map(random, jax.eval_shape(lambda: first_state(cell, B, H, P)))
    keep_TB1 = np.float32(rng.random((T, B, 1)) < 0.7)
    keep_TB1[0] = 1  # so that the first state has a gradient
    real_TB1 = np.float32(rng.random((T, B, 1)) < 0.7) if clip else None
    params = jax.jit(layer.init, static_argnums=4)(jax.random.key(0), x_TBI, state, keep_TB1, False)
    params = jax.tree.map(lambda p: p + random(p, 0.1), jax.device_get(params))

    def gradient():
        def total(params, x_TBI, state):
            y_TBP, last = layer.apply(params, x_TBI, state, keep_TB1, False, real_TB1)
            return jnp.sin(y_TBP).sum() + sum(jnp.cos(s).sum() for s in jax.tree.leaves(last))

        return jax.jit(jax.grad(total, argnums=(0, 1, 2)))(params, x_TBI, state)

    ours = gradient()
    with fast.plain():
        derived = gradient()
    assert jax.tree.structure(ours) == jax.tree.structure(derived)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(derived)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=str(path))
        assert abs(b).max() > 1e-4, path


def test_clips_memory_and_projection_and_freezes_the_state_at_padding():
    """Against a loop in numpy."""
    T, B, width, H, P, clip = 5, 3, 4, 6, 3, 0.3
    layer = RecurrentLayer("lstm", H, P, cell_clip=clip, projection_clip=clip / 3)
    rng = np.random.default_rng(0)
    shapes = {"input": (width, 4 * H), "recurrent": (P, 4 * H), "bias": (4 * H,), "projection": (H, P)}
    params = {name: np.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
    x_TBI, real_TB1 = np.float32(rng.normal(size=(T, B, width))), np.float32(rng.random((T, B, 1)) < 0.7)
    first = first_state("lstm", B, H, P)
    found, last = jax.jit(layer.apply, static_argnums=4)(
        {"params": params}, x_TBI, first, None, False, real_TB1
    )

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    h, c, num_clipped = np.zeros((B, P)), np.zeros((B, H)), 0
    for t in range(T):
        i, f, g, o = np.split(x_TBI[t] @ params["input"] + h @ params["recurrent"] + params["bias"], 4, 1)
        new_c = np.clip(sigmoid(f) * c + sigmoid(i) * np.tanh(g), -clip, clip)
        new_h = np.clip(sigmoid(o) * np.tanh(new_c) @ params["projection"], -clip / 3, clip / 3)
        num_clipped += (abs(new_c) == clip).sum() * (abs(new_h) == clip / 3).sum()
        h, c = np.where(real_TB1[t], new_h, h), np.where(real_TB1[t], new_c, c)
        np.testing.assert_allclose(found[t], h, atol=1e-6)
    assert num_clipped
    assert not real_TB1.all()
    np.testing.assert_allclose(last.h_BP, h, atol=1e-6)
    np.testing.assert_allclose(last.c_BH, c, atol=1e-6)


def test_layer_norm_is_invariant_to_the_scale_of_weights():
    layer = RecurrentLayer("lstm", 5, layer_norm=True)
    x_TBI, state = np.float32(np.random.default_rng(0).normal(size=(4, 2, 3))), first_state("lstm", 2, 5)

    def init(key):
        return layer.init(key, x_TBI, state, None, False)["params"]

    def outputs(layer, params):
        apply = jax.jit(lambda params: layer.apply({"params": params}, x_TBI, state, None, False)[0])
        return np.asarray(apply(params))

    params = jax.device_get(jax.jit(init)(jax.random.key(1)))
    larger = params | {name: 50 * params[name] for name in ("input", "recurrent")}
    # The epsilon counts for small ones.
    np.testing.assert_allclose(outputs(layer, params), outputs(layer, larger), atol=2e-2)
    a, b = (
        outputs(RecurrentLayer("lstm", 5), {n: p[n] for n in ("input", "recurrent", "bias")})
        for p in (params, larger)
    )
    assert abs(a - b).max() > 0.2


def adaptive_params(arrays):
    """Our parameters from PyTorch's AdaptiveLogSoftmaxWithLoss."""
    params = {"head": {"kernel": arrays["head.weight"].T}}
    for i in range(2):
        params[f"narrow_{i}"] = {"kernel": arrays[f"tail.{i}.0.weight"].T}
        params[f"cluster_{i}"] = {"kernel": arrays[f"tail.{i}.1.weight"].T}
    return {"params": params}


def test_adaptive_softmax_equals_the_golden_file():
    arrays = golden("adaptive")
    model = AdaptiveSoftmax(23, (5, 11), ratio=2.0)
    log_probs = jax.jit(model.apply)(adaptive_params(arrays), arrays["hidden"])
    np.testing.assert_allclose(log_probs, arrays["log_probs"], atol=1e-5)


@pytest.mark.parametrize("cutoffs", [(1,), (22,), (5, 11), (2, 3, 4)])
def test_adaptive_softmax_sums_to_one(cutoffs):
    model = AdaptiveSoftmax(23, cutoffs)
    hidden = 3 * np.float32(np.random.default_rng(0).normal(size=(6, 32)))

    @jax.jit
    def log_probs_of(key):
        return model.apply(jax.tree.map(lambda p: 5 * p, model.init(key, hidden)), hidden)

    probabilities = np.exp(log_probs_of(jax.random.key(1)))
    assert probabilities.shape == (6, 23)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-5)
    assert probabilities.std() > 0.01
