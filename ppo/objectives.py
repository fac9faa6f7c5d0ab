"""The surrogate objectives, per sample, to be maximised: those of Table 1, and what came before them.

`ratio` is r_t(θ) = π_θ(a_t|s_t) / π_θold(a_t|s_t), `advantage` Â_t, `kl` KL[π_θold(·|s_t), π_θ(·|s_t)], each (..., B);
`epsilon` and `beta` are (..., 1): one number per run.
"""

import numpy as np
import torch
from torch import Tensor

BETA_BOUND = 2.0**40
"""β stays within [1/BETA_BOUND, BETA_BOUND]. Source: ours; the paper states no bound."""


PROJECTION_EPSILON = 1e-6
"""Added to |k|², which is 0 before the first update. Source: baselines@fbd4612, acer/acer_simple.py."""

STEPSIZE_BOUNDS = (1e-8, 1.0)
"""Of `adapt_stepsize` (baselines@bb40378, acktr/acktr_cont.py)."""


def unconstrained(ratio: Tensor, advantage: Tensor) -> Tensor:
    """L^CPI, "no clipping or penalty" (section 3, eq. 6)."""
    return ratio * advantage


def clip(ratio: Tensor, advantage: Tensor, epsilon: Tensor) -> Tensor:
    """L^CLIP (section 3, eq. 7)."""
    clipped = torch.clamp(ratio, 1 - epsilon, 1 + epsilon)
    return torch.minimum(ratio * advantage, clipped * advantage)


def kl_penalty(ratio: Tensor, advantage: Tensor, kl: Tensor, beta: Tensor) -> Tensor:
    """L^KLPEN (section 4, eq. 8): `kl_fixed` with a constant β, `kl_adaptive` with the β of `adapt_beta`."""
    return ratio * advantage - beta * kl


def policy_gradient(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """L^PG = log π_θ(a_t|s_t)·Â_t (section 2.1, eq. 2)."""
    return log_prob * advantage


def trajectory_ratio(log_prob: Tensor, log_ratio: Tensor, advantage: Tensor, trajectory: Tensor, count: int) -> Tensor:
    """The off-policy policy gradient: each sample's, times the product of the ratios of its whole trajectory.

    `trajectory` (R, B) numbers the samples' trajectories from 0 to below `count`; the product is a weight, so its own
    gradient is left out. Source: importance sampling of whole trajectories (Precup, Sutton and Singh 2000).
    """
    logs = log_ratio.detach()
    sums = logs.new_zeros(len(logs), count).scatter_add_(1, trajectory, logs)
    return torch.exp(sums.gather(1, trajectory)) * log_prob * advantage


def project(g: list[Tensor], k: list[Tensor], delta: Tensor) -> list[Tensor]:
    """g, or its projection z on the half-space k·z ≤ δ, sample by sample (arXiv:1611.01224, eq. 12).

    g and k: gradients of the objective and of KL[average policy, policy] with respect to the distribution's parameters,
    (R, B, A) each; `delta` is (R, 1).
    """
    along = torch.stack([(each * other).sum(-1) for each, other in zip(g, k, strict=True)]).sum(0)
    square = torch.stack([each.square().sum(-1) for each in k]).sum(0)
    excess = torch.clamp((along - delta) / (square + PROJECTION_EPSILON), min=0)
    return [each - excess[..., None] * other for each, other in zip(g, k, strict=True)]


def adapt_beta(beta: np.ndarray, kl: np.ndarray, kl_target: np.ndarray) -> np.ndarray:
    """The next update's β, any shape, float64: halved below d_targ/1.5, doubled above 1.5·d_targ (section 4).

    `kl` is d, the mean over the rollout of KL[π_θold, π_θ] after the last epoch.
    """
    beta = np.where(kl < kl_target / 1.5, beta / 2, np.where(kl > kl_target * 1.5, beta * 2, beta))
    return np.clip(beta, 1 / BETA_BOUND, BETA_BOUND)


def adapt_stepsize(stepsize: np.ndarray, kl: np.ndarray, kl_target: float) -> np.ndarray:
    """The next update's stepsize, any shape: ÷ 1.5 where the mean KL of the last update was above twice its target,
    × 1.5 below half of it (footnote 3 of the paper: berkeleydeeprlcourse/homework, hw4/main.py)."""
    moved = np.where(kl > 2 * kl_target, stepsize / 1.5, np.where(kl < kl_target / 2, stepsize * 1.5, stepsize))
    return np.clip(moved, *STEPSIZE_BOUNDS)
