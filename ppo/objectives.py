"""The surrogate objectives of Table 1, per sample, to be maximised.

`ratio` is r_t(θ) = π_θ(a_t|s_t) / π_θold(a_t|s_t), `advantage` Â_t, `kl` KL[π_θold(·|s_t), π_θ(·|s_t)], each (..., B);
`epsilon` and `beta` are (..., 1): one number per run.
"""

import numpy as np
import torch
from torch import Tensor

BETA_BOUND = 2.0**40
"""β stays within [1/BETA_BOUND, BETA_BOUND]. Source: ours; the paper states no bound."""


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


def adapt_beta(beta: np.ndarray, kl: np.ndarray, kl_target: np.ndarray) -> np.ndarray:
    """The next update's β, any shape, float64: halved below d_targ/1.5, doubled above 1.5·d_targ (section 4).

    `kl` is d, the mean over the rollout of KL[π_θold, π_θ] after the last epoch.
    """
    beta = np.where(kl < kl_target / 1.5, beta / 2, np.where(kl > kl_target * 1.5, beta * 2, beta))
    return np.clip(beta, 1 / BETA_BOUND, BETA_BOUND)
