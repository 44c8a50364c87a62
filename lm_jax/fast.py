"""Fast forms of what the models and the loss compute, and the one switch between them and the plain forms.

Each form here has a plain form that computes the same; it is in the module where a reader looks for it, and
`replaced_by` there names the fast form. Gradients are written by hand: XLA's CPU backend has no fast kernels
for some of those that JAX derives, and others keep more arrays than they need. The price is that functions
with such gradients are differentiated in reverse mode only. With plain forms (`with fast.plain():`, or
LM_JAX_PLAIN=1 in the environment) `jax.jvp`, `jax.jacfwd` and Hessian-vector products work.

What helps on a CPU alone is chosen where a program is compiled or traced for a CPU. benchmarks/tricks.py and
benchmarks/train_gpt.py measure all of it.

Shape letters are those of `models/layers.py` and `models/recurrent.py`.
"""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from lm_jax import runtime

# A context of JAX's, which is part of what a compiled program is cached by.
_plain = jax.make_user_context(os.environ.get("LM_JAX_PLAIN", "0") not in ("", "0"))
_GROUPS = (16, 4)  # rows contracted together in bfloat16, the better first
_Form = TypeVar("_Form", bound=Callable[..., Any])


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Lets functions that are traced inside compute by their plain forms."""
    with _plain(True):
        yield


def is_on() -> bool:
    """Whether fast forms are used."""
    return not _plain.value


def is_on_for_cpu() -> bool:
    """Whether fast forms are used that help on a CPU alone."""
    return is_on() and runtime.platform() == "cpu"


def replaced_by(form: Callable[..., Any]) -> Callable[[_Form], _Form]:
    """Calls `form` instead of the decorated plain form, which is `__wrapped__`, while fast forms are on."""

    def decorate(plain_form: _Form) -> _Form:
        @functools.wraps(plain_form)
        def choose(*args: Any, **options: Any) -> Any:
            return (form if is_on() else plain_form)(*args, **options)

        return choose  # type: ignore[return-value]

    return decorate


# Products with float32 weights.


@jax.custom_vjp
def matmul(x: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    """`products.matmul`.

    From what JAX derives XLA's CPU backend makes slow products. And the gradient of a kernel that is cast
    before the product would pass through bfloat16; here it stays float32.
    """
    return _product(x, kernel_IO)


def _product(x, kernel_IO):
    return _dot(x, kernel_IO.astype(x.dtype), ((x.ndim - 1,), (0,)))


def _matmul_forward(x, kernel_IO):
    return _product(x, kernel_IO), (x, kernel_IO)


def _matmul_backward(saved, dy):
    x, kernel_IO = saved
    dy = dy.astype(x.dtype)
    return _gradient_of_x(x, kernel_IO, dy), weight_gradient(x, dy).astype(kernel_IO.dtype)


def _gradient_of_x(x, kernel_IO, dy):
    outputs = kernel_IO.ndim - 1
    contracted = (tuple(range(dy.ndim - outputs, dy.ndim)), tuple(range(1, outputs + 1)))
    return _dot(dy, kernel_IO.astype(x.dtype), contracted).astype(x.dtype)


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def matmul_transposed(x: jax.Array, kernel_OI: jax.Array) -> jax.Array:
    """`products.matmul_transposed`, the kernel's gradient computed in the kernel's own layout."""
    return _product(x, kernel_OI.T)


def _matmul_transposed_forward(x, kernel_OI):
    return _product(x, kernel_OI.T), (x, kernel_OI)


def _matmul_transposed_backward(saved, dy):
    x, kernel_OI = saved
    dy = dy.astype(x.dtype)
    return _gradient_of_x(x, kernel_OI.T, dy), weight_gradient(dy, x).astype(kernel_OI.dtype)


matmul_transposed.defvjp(_matmul_transposed_forward, _matmul_transposed_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def matmul_of(activation: Callable[[jax.Array], jax.Array], x: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    """`products.matmul_of`; the backward pass computes the activation again, so that only x is kept."""
    return matmul(activation(x), kernel_IO)


def _matmul_of_forward(activation, x, kernel_IO):
    return matmul_of(activation, x, kernel_IO), (x, kernel_IO)


def _matmul_of_backward(activation, saved, dy):
    x, kernel_IO = saved
    activated, to_x = jax.vjp(activation, again(x, dy))
    d_activated, d_kernel = _matmul_backward((activated, kernel_IO), dy)
    return (*to_x(d_activated), d_kernel)


matmul_of.defvjp(_matmul_of_forward, _matmul_of_backward)


def again(x: jax.Array, dy: jax.Array) -> jax.Array:
    """x, for a backward pass that repeats a computation of the forward pass.

    XLA would merge the two and keep the result in between. A barrier prevents that, so that nothing starts
    before dy is there. XLA's CPU backend removes barriers too early; there x waits for a zero made of dy.
    """

    def wait(x, dy):
        return x + 0 * dy[(0,) * dy.ndim].astype(x.dtype)

    return jax.lax.platform_dependent(
        x, dy, cpu=wait, default=lambda x, dy: jax.lax.optimization_barrier((x, dy))[0]
    )


def weight_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient [I, O], float32, of a kernel that took x [..., I]; dy [..., O] is that of the result.

    O may be several axes.
    """
    rows = x.ndim - 1
    x_NI, dy_NO = x.reshape(-1, x.shape[-1]), dy.reshape(-1, *dy.shape[rows:])
    return jax.lax.platform_dependent(x_NI, dy_NO, cpu=_outer_on_cpu, default=_outer)


def _outer(x_NI, dy_NO):
    """The sum over N of products of x and dy, float32 [I, O]; I and O may be several axes each."""
    return _dot(x_NI, dy_NO, ((0,), (0,)))


def _outer_on_cpu(x_NI, dy_NO):
    """`_outer` in the forms that XLA's CPU backend has fast products for.

    The result is computed wide rather than tall, unless it has more columns than there are rows: then the
    transpose would cost more. The barrier keeps XLA from undoing this. Rows in bfloat16 are contracted in
    groups.
    """
    num_rows, num_columns = len(dy_NO), math.prod(dy_NO.shape[1:])
    if math.prod(x_NI.shape[1:]) > num_columns <= num_rows:
        inputs, dw_OI = x_NI.ndim - 1, _outer_on_cpu(dy_NO, x_NI)
        return jnp.moveaxis(dw_OI, range(-inputs, 0), range(inputs))
    group = next((size for size in _GROUPS if num_rows % size == 0), 1)
    if x_NI.dtype != jnp.bfloat16 or group == 1:
        return jax.lax.optimization_barrier(_outer(x_NI, dy_NO))
    x_GIM = jnp.moveaxis(x_NI.reshape(-1, group, *x_NI.shape[1:]), 0, -1)
    dy_MGO = dy_NO.reshape(-1, group, *dy_NO.shape[1:])
    return jax.lax.optimization_barrier(_dot(x_GIM, dy_MGO, ((x_GIM.ndim - 1, 0), (0, 1))))


def _dot(x, y, contracted):
    return jax.lax.dot_general(x, y, (contracted, ((), ())), preferred_element_type=jnp.float32)


# Norms and activations. They compute in float32, and keep their input alone for the backward pass.


@jax.custom_vjp
def layer_norm(x: jax.Array, scale_D: jax.Array, bias_D: jax.Array, epsilon: float) -> jax.Array:
    """`layers.layer_norm`."""
    return _layer_norm_forward(x, scale_D, bias_D, epsilon)[0]


def _layer_norm_forward(x, scale_D, bias_D, epsilon):
    exact = _exact(x)
    mean = exact.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(exact - mean).mean(axis=-1, keepdims=True) + epsilon)
    scale, bias = (a.reshape((1,) * (x.ndim - 1) + (-1,)) for a in (scale_D, bias_D))
    y = (exact - mean) * inverse * scale + bias
    return y.astype(x.dtype), (x, mean, inverse, scale)


def _layer_norm_backward(saved, dy):
    x, mean, inverse, scale = saved
    dy, normal = _exact(dy), (_exact(again(x, dy)) - mean) * inverse
    d_normal = dy * scale
    inner = (d_normal * normal).mean(axis=-1, keepdims=True)
    dx = inverse * (d_normal - d_normal.mean(axis=-1, keepdims=True) - normal * inner)
    rows = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), (dy * normal).sum(axis=rows), dy.sum(axis=rows), None


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def _exact(x: jax.Array) -> jax.Array:
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """`layers.gelu`."""
    exact = _exact(x)
    return (exact * _gate(exact)).astype(x.dtype)


_CURVE = 0.044715
_SLOPE = math.sqrt(8 / math.pi)


def _gate(x):
    return jax.nn.sigmoid(_SLOPE * x * (1 + _CURVE * x * x))


def _gelu_forward(x):
    return gelu(x), x


def _gelu_backward(x, dy):
    exact = _exact(again(x, dy))
    gate = _gate(exact)
    slope = gate + exact * gate * (1 - gate) * _SLOPE * (1 + 3 * _CURVE * exact * exact)
    return ((_exact(dy) * slope).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@jax.custom_vjp
def gelu_exact(x: jax.Array) -> jax.Array:
    """`layers.gelu_exact`."""
    exact = _exact(x)
    return (exact * _normal_cdf(exact)).astype(x.dtype)


def _normal_cdf(x):
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


def _gelu_exact_forward(x):
    return gelu_exact(x), x


def _gelu_exact_backward(x, dy):
    exact = _exact(again(x, dy))
    density = jnp.exp(-0.5 * exact * exact) / math.sqrt(2 * math.pi)
    return ((_exact(dy) * (_normal_cdf(exact) + exact * density)).astype(x.dtype),)


gelu_exact.defvjp(_gelu_exact_forward, _gelu_exact_backward)


def dropout(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """`layers.dropout` with two masks from each random number of 32 bits.

    The rate is exact to 1/65,536, and the scale is that of the rounded rate.
    """
    *rows, width = x.shape
    bits = jax.random.bits(key, (*rows, -(-width // 2)), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(bits, jnp.uint16).reshape(*rows, -1)[..., :width]
    kept = round((1 - rate) * 2**16)
    return jnp.where(halves < kept, x * (2**16 / max(kept, 1)), 0).astype(x.dtype)


# Attention.


@jax.custom_vjp
def mean_of_values(scores_BGMS, v_BGSK):
    """`attention.mean_of_values`, as flash attention computes it (Dao et al. 2022, algorithms 1 and 4).

    The sum of exponentials divides the product, which is narrower, and the exponentials are the only array
    [M, S] that is kept; what JAX derives from a softmax keeps three.
    """
    return _mean_of_values_forward(scores_BGMS, v_BGSK)[0]


def _mean_of_values_forward(scores_BGMS, v_BGSK):
    exps_BGMS = jnp.exp(scores_BGMS - scores_BGMS.max(axis=-1, keepdims=True))
    total_BGM1 = exps_BGMS.sum(axis=-1, keepdims=True)
    exps_BGMS = exps_BGMS.astype(v_BGSK.dtype)
    y_BGMK = jnp.einsum("BGMS,BGSK->BGMK", exps_BGMS, v_BGSK, preferred_element_type=jnp.float32)
    y_BGMK = (y_BGMK / total_BGM1).astype(v_BGSK.dtype)
    return y_BGMK, (exps_BGMS, total_BGM1, v_BGSK, y_BGMK)


def _mean_of_values_backward(saved, dy_BGMK):
    exps_BGMS, total_BGM1, v_BGSK, y_BGMK = saved
    dy_BGMK = dy_BGMK / total_BGM1
    inner_BGM1 = (dy_BGMK * y_BGMK).sum(axis=-1, keepdims=True)
    dy_BGMK = dy_BGMK.astype(v_BGSK.dtype)
    dv_BGSK = jnp.einsum("BGMS,BGMK->BGSK", exps_BGMS, dy_BGMK)
    d_scores_BGMS = jnp.einsum("BGMK,BGSK->BGMS", dy_BGMK, v_BGSK, preferred_element_type=jnp.float32)
    return exps_BGMS * (d_scores_BGMS - inner_BGM1), dv_BGSK


mean_of_values.defvjp(_mean_of_values_forward, _mean_of_values_backward)


# Recurrence.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur(
    advance: Callable[..., Any],
    clip: float,
    weights: dict[str, Any],
    x_TBG: jax.Array,
    keep_TB1: jax.Array | None,
    state: Any,
    real_TB1: jax.Array | None,
) -> tuple[jax.Array, Any]:
    """`recurrent.recur`, given `advance(small, x_BG, u_BG, state) -> (m_BH, c_BH)`.

    JAX would add to the weights' gradient at each step. Here the scans keep the factors, and one product
    computes the gradient after the backward scan.
    """
    (outputs_TBP, _, _), state = _scan_forward(advance, clip, weights, x_TBG, keep_TB1, state, real_TB1)
    return outputs_TBP, state


def _float32_product(x: jax.Array, w: jax.Array, w_axis: int = 0) -> jax.Array:
    contracted = (((x.ndim - 1,), (w_axis,)), ((), ()))
    return jax.lax.dot_general(x.astype(w.dtype), w, contracted, preferred_element_type=jnp.float32)


def _scan_forward(advance, clip, weights, x_TBG, keep_TB1, state, real_TB1):
    """((h after each step, cells' outputs, gradients' residuals), last state), the first three stacked over
    time.
    """
    recurrent_PG = weights["recurrent"].astype(x_TBG.dtype)
    projection_HP = weights["projection"].astype(x_TBG.dtype) if "projection" in weights else None

    def step(state, inputs):
        x_BG, keep_B1, real_B1 = inputs
        if keep_B1 is not None:
            state = jax.tree.map(lambda s: s * keep_B1, state)
        u_BG = _float32_product(state.h_BP, recurrent_PG)
        (m_BH, c_BH), pullback = jax.vjp(advance, weights["small"], x_BG, u_BG, state)
        h_BP = m_BH if projection_HP is None else _float32_product(m_BH, projection_HP)
        if clip and projection_HP is not None:
            h_BP = jax.lax.clamp(-clip, h_BP, clip)
        after = state._replace(h_BP=h_BP, c_BH=c_BH)
        if real_B1 is not None:
            after = jax.tree.map(lambda new, old: jnp.where(real_B1 > 0, new, old), after, state)
        return after, (after.h_BP, m_BH, pullback)

    state, stacked = jax.lax.scan(step, state, (x_TBG, keep_TB1, real_TB1))
    return stacked, state


def _recur_forward(advance, clip, weights, x_TBG, keep_TB1, state, real_TB1):
    (h_TBP, m_TBH, pullbacks), last = _scan_forward(advance, clip, weights, x_TBG, keep_TB1, state, real_TB1)
    before_TBP = jnp.concatenate([state.h_BP[None], h_TBP[:-1]])
    return (h_TBP, last), (weights, x_TBG, keep_TB1, real_TB1, before_TBP, h_TBP, m_TBH, pullbacks)


def _recur_backward(advance, clip, saved, cotangents):
    weights, x_TBG, keep_TB1, real_TB1, before_TBP, h_TBP, m_TBH, pullbacks = saved
    dh_TBP, dlast = cotangents
    dtype = x_TBG.dtype
    recurrent_PG = weights["recurrent"].astype(dtype)
    projection_HP = weights["projection"].astype(dtype) if "projection" in weights else None
    clipped_TBP = h_TBP if clip and projection_HP is not None else None

    def step(carry, inputs):
        dstate, dsmall = carry
        dh_BP, keep_B1, real_B1, h_BP, pullback = inputs
        dstate, dheld = dstate._replace(h_BP=dh_BP + dstate.h_BP), None
        if real_B1 is not None:
            dheld = jax.tree.map(lambda d: d * (1 - real_B1), dstate)
            dstate = jax.tree.map(lambda d: d * real_B1, dstate)
        dh_BP = dstate.h_BP
        if h_BP is not None:
            dh_BP = jnp.where(jnp.abs(h_BP) < clip, dh_BP, 0)
        dm_BH = dh_BP if projection_HP is None else _float32_product(dh_BP, projection_HP, 1)
        dsmall_step, dx_BG, du_BG, dstate = pullback((dm_BH, dstate.c_BH))
        dstate = dstate._replace(h_BP=dstate.h_BP + _float32_product(du_BG, recurrent_PG, 1))
        if dheld is not None:
            dstate = jax.tree.map(jnp.add, dstate, dheld)
        if keep_B1 is not None:
            dstate = jax.tree.map(lambda s: s * keep_B1, dstate)
        return (dstate, jax.tree.map(jnp.add, dsmall, dsmall_step)), (dh_BP, dx_BG, du_BG)

    start = (dlast, jax.tree.map(jnp.zeros_like, weights["small"]))
    steps = (dh_TBP, keep_TB1, real_TB1, clipped_TBP, pullbacks)
    (dstate, dsmall), (dh_TBP, dx_TBG, du_TBG) = jax.lax.scan(step, start, steps, reverse=True)
    if keep_TB1 is not None:
        before_TBP = before_TBP * keep_TB1
    dweights = {"small": dsmall, "recurrent": weight_gradient(before_TBP.astype(dtype), du_TBG.astype(dtype))}
    if projection_HP is not None:
        dweights["projection"] = weight_gradient(m_TBH.astype(dtype), dh_TBP.astype(dtype))
    return dweights, dx_TBG, None, dstate, None


recur.defvjp(_recur_forward, _recur_backward)


# The loss.


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def token_nats(
    logits: jax.Array, targets: jax.Array, counts: jax.Array, label_smoothing: float, z_loss: float
) -> jax.Array:
    """`likelihood.token_nats`. What JAX derives scatters into zeros and copies the logits to mask them."""
    return _token_nats_forward(logits, targets, counts, label_smoothing, z_loss)[0]


def _token_nats_forward(logits, targets, counts, label_smoothing, z_loss):
    log_total = jax.nn.logsumexp(logits, axis=-1)
    nats = log_total - target_logits(logits, targets)
    if label_smoothing:
        nats = (1 - label_smoothing) * nats + label_smoothing * (log_total - mean_of_possible(logits))
    if z_loss:
        nats += z_loss * jnp.square(log_total)
    return nats, (logits, targets, counts, log_total)


def _token_nats_backward(label_smoothing, z_loss, saved, d_nats):
    """d nats / d logits = (1 + 2 z log Σ exp logits) · p − (1 − ε) · [v = target] − ε / V."""
    logits, targets, counts, log_total = (x[..., None] if x.ndim == saved[1].ndim else x for x in saved)
    ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    p = jnp.exp(logits - log_total) * (1 + 2 * z_loss * log_total)
    wanted = (1 - label_smoothing) * (ids == targets)
    if label_smoothing:
        is_possible = logits != -jnp.inf
        wanted += label_smoothing * is_possible / is_possible.sum(axis=-1, keepdims=True)
    # NaN and inf of padding stay out of the gradient.
    return jnp.where(counts, d_nats[..., None] * (p - wanted), 0), None, None


token_nats.defvjp(_token_nats_forward, _token_nats_backward)


def target_logits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The targets' logits [...], of logits [..., V]; NaN for a target outside [0, V)."""
    targets = jnp.where(targets < 0, logits.shape[-1], targets)  # negative indices would wrap around
    return jnp.take_along_axis(logits, targets[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]


def mean_of_possible(logits: jax.Array) -> jax.Array:
    """The mean over the vocabulary of the logits that are not -inf, [...]."""
    is_possible = logits != -jnp.inf
    return jnp.where(is_possible, logits, 0).sum(axis=-1) / is_possible.sum(axis=-1)
