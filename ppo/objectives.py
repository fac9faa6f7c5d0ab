"""The surrogate objectives, per sample, to be maximised: those of Table 1, and what came before them.

A new objective is a function here, its line in `SURROGATES`, and a file in conf/algo/.

`ratio` is r_t(θ) = π_θ(a_t|s_t) / π_θold(a_t|s_t), `advantage` Â_t, `kl` KL[π_θold(·|s_t), π_θ(·|s_t)], each (..., B);
`epsilon` and `beta` are (..., 1): one number per run.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ppo.declarations import Objective, Setting
from ppo.policies import Distribution
from ppo.refusals import UserError

if TYPE_CHECKING:
    from ppo.config import RunConfig

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


def projected(average: Distribution, new: Distribution, action: Tensor, advantage: Tensor, delta: Tensor) -> Tensor:
    """log π_θ(a_t|s_t)·Â_t, (R, B), whose gradient with respect to the distribution's parameters is projected so that
    the policy does not run away from its average (A2C with a trust region: arXiv:1611.01224, section 3.3)."""
    with torch.enable_grad():
        here = new.map(lambda parameter: parameter.detach().expand(*advantage.shape, -1).clone().requires_grad_())
        gain = policy_gradient(here.log_prob(action), advantage)
        g = torch.autograd.grad(gain.sum(), here.parameters, retain_graph=True)
        k = torch.autograd.grad(average.kl(here).sum(), here.parameters)
    z = project(list(g), list(k), delta)
    pairs = zip(z, new.parameters, here.parameters, strict=True)
    return gain.detach() + torch.stack([(each * (moved - fixed.detach())).sum(-1) for each, moved, fixed in pairs]).sum(
        0
    )


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


EPSILON = Setting("epsilon", "ε of the clipped ratio, eq. 7", "above 0", per_run=True, annealed=True)
BETA = Setting("beta", "β of the KL penalty, eq. 8; its starting value if adaptive", "at least 0", per_run=True)
KL_TARGET = Setting("kl_target", "d_targ, nats", "above 0", per_run=True)
DELTA = Setting(
    "delta", "δ, nats: how far the policy may go from the old one (TRPO), or from its average (ACER)", "above 0",
    per_run=True,
)  # fmt: skip
AVERAGE_DECAY = Setting("average_decay", "of the average parameters, per update", "0 to 1")


def keeps_trajectories(run: "RunConfig") -> None:
    """Raise UserError where minibatches of `trajectory_ratio` would tear trajectories apart."""
    if not run.profile.segment and run.profile.minibatch_size < run.profile.batch:
        raise UserError(
            "algo.objective=trajectory_ratio multiplies the ratios of whole trajectories, which small minibatches "
            f"tear apart; set profile.minibatch_size={run.profile.batch}, or profile.segment"
        )


def next_beta(kl: np.ndarray, beta: np.ndarray, kl_target: np.ndarray) -> dict[str, np.ndarray]:
    """`adapt_beta`, by the name of what it moves; (R, 1) each."""
    return {"beta": adapt_beta(beta, kl, kl_target)}


SURROGATES = (
    Objective("unconstrained", unconstrained),
    Objective("clip", clip, (EPSILON,), label="epsilon"),
    Objective("kl_fixed", kl_penalty, (BETA,), label="beta"),
    Objective("kl_adaptive", kl_penalty, (BETA, KL_TARGET), label="kl_target", adapts=("beta",), adapt=next_beta),
    Objective("policy_gradient", policy_gradient),
    Objective("trajectory_ratio", trajectory_ratio, check=keeps_trajectories),
    Objective("projected", projected, (DELTA, AVERAGE_DECAY), label="delta"),
)
"""Every objective that minibatch steps maximise."""

ADAPTED = tuple(dict.fromkeys(name for each in SURROGATES for name in each.adapts))
"""Settings that move from update to update; every checkpoint has them."""
