"""Learning-rate schedules and optax chains."""

from dataclasses import dataclass

import jax
import optax

from lm_jax.errors import UserError


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019) behind a clipped gradient, with warm-up and cosine decay."""

    learning_rate: float = 1e-3  # at its peak, after the warm-up
    warmup_steps: int = 100  # steps from 0 to learning_rate
    final_ratio: float = 0.1  # the last step's rate as a fraction of learning_rate
    b1: float = 0.9  # decay of the first moment
    b2: float = 0.99  # decay of the second moment
    epsilon: float = 1e-8  # Adam's epsilon
    weight_decay: float = 0.1  # of matrices and embeddings; never of biases and norms
    clip_norm: float = 1.0  # largest global norm of the gradient; 0: no clipping

    def check(self) -> None:
        """Raises UserError for a value that no run can use."""
        for name in ("learning_rate", "epsilon"):
            if not getattr(self, name) > 0:
                raise UserError(f"optimizer.{name}={getattr(self, name)}", "it must be above 0")
        for name in ("warmup_steps", "final_ratio", "weight_decay", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise UserError(f"optimizer.{name}={getattr(self, name)}", "it must be 0 or more")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optimizer.{name}={getattr(self, name)}", "it must lie in [0, 1)")


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up, then a cosine from learning_rate to learning_rate · final_ratio at num_steps."""
    warmup = min(config.warmup_steps, num_steps)
    decay = optax.cosine_decay_schedule(config.learning_rate, max(1, num_steps - warmup), config.final_ratio)
    if not warmup:
        return decay
    # Step 0 already learns: it takes 1 / (warmup + 1) of the peak.
    start = config.learning_rate / (warmup + 1)
    return optax.join_schedules([optax.linear_schedule(start, config.learning_rate, warmup), decay], [warmup])


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW."""
    adamw = optax.adamw(
        make_schedule(config, num_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=_matrices,
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw) if config.clip_norm else adamw


def _matrices(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda p: p.ndim >= 2, params)
