"""Adam and RMSProp over a pack: one row per run, a stepsize per run, in place."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppo.numerics import row_norm

if TYPE_CHECKING:
    from ppo.config import Profile

BETA1 = 0.9  # decay of the mean gradient per step (baselines@d9f194f common/mpi_adam.py; arXiv:1412.6980)
BETA2 = 0.999  # decay of the mean squared gradient per step (same)


def clipped(gradient: Tensor, max_norm: float | None) -> Tensor:
    """gradient: (R, P), each run's scaled down to a norm of at most `max_norm` over all its parameters."""
    if max_norm is None:
        return gradient
    return gradient * (max_norm / torch.clamp(row_norm(gradient), min=max_norm))


class Adam:
    """Moves `flat` (R, P) by a gradient (R, P): Adam (arXiv:1412.6980).

    With a = stepsize·√(1−β2^t)/(1−β1^t): θ ← θ − a·m/(√v + ε) is ppo1's and TensorFlow's update (`uncorrected`), and
    θ ← θ − a·m/(√v + ε·√(1−β2^t)) is the article's (`corrected`, ε beside √v̂).
    """

    def __init__(self, flat: Tensor, profile: "Profile"):
        self.flat = flat
        self.mean = torch.zeros_like(flat)
        self.square = torch.zeros_like(flat)
        self.scratch = torch.zeros_like(flat)
        self.steps = 0
        self.epsilon = profile.adam_epsilon
        self.corrected = profile.adam_epsilon_at == "corrected"
        self.max_grad_norm = profile.max_grad_norm

    def next_step(self) -> tuple[Tensor, Tensor]:
        """a / stepsize and the ε of the next step, as scalars of tensors."""
        self.steps += 1
        bias2 = math.sqrt(1 - BETA2**self.steps)
        epsilon = self.epsilon * bias2 if self.corrected else self.epsilon
        return torch.tensor(bias2 / (1 - BETA1**self.steps)), torch.tensor(epsilon)

    @torch.no_grad()
    def move(self, gradient: Tensor, rate: Tensor, epsilon: Tensor) -> None:
        """gradient: (R, P), clipped here by its norm, run by run, where the profile says so; rate: a, (R, 1)."""
        gradient = clipped(gradient, self.max_grad_norm)
        self.mean.lerp_(gradient, 1 - BETA1)
        self.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        torch.sqrt(self.square, out=self.scratch)
        self.scratch.add_(epsilon)
        torch.div(self.mean, self.scratch, out=self.scratch)
        self.flat.addcmul_(self.scratch, rate, value=-1)

    def state_dict(self, run: int) -> dict[str, Any]:
        return {"steps": self.steps, "mean": self.mean[run].cpu().clone(), "square": self.square[run].cpu().clone()}

    def load_state_dict(self, run: int, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.mean[run] = torch.as_tensor(state["mean"], device=self.mean.device)
        self.square[run] = torch.as_tensor(state["square"], device=self.square.device)


class RMSProp:
    """Moves `flat` (R, P) by a gradient (R, P): θ ← θ − stepsize·g/√(square + ε), the mean square starting at 1, is
    TensorFlow's (`rmsprop_tensorflow`, baselines@2dd7d30 a2c/a2c.py); θ ← θ − stepsize·g/(√square + ε), starting at 0,
    is PyTorch's (`rmsprop_torch`)."""

    def __init__(self, flat: Tensor, profile: "Profile"):
        self.flat = flat
        self.inside = profile.optimiser == "rmsprop_tensorflow"
        self.square = torch.ones_like(flat) if self.inside else torch.zeros_like(flat)
        self.decay, self.epsilon = profile.rmsprop_decay, profile.rmsprop_epsilon
        self.max_grad_norm = profile.max_grad_norm

    def next_step(self) -> tuple[Tensor, Tensor]:
        """What multiplies the stepsize, 1, and ε, as scalars of tensors."""
        return torch.tensor(1.0), torch.tensor(self.epsilon)

    @torch.no_grad()
    def move(self, gradient: Tensor, rate: Tensor, epsilon: Tensor) -> None:
        """gradient: (R, P), clipped here by its norm, run by run, where the profile says so; rate: (R, 1)."""
        gradient = clipped(gradient, self.max_grad_norm)
        self.square.mul_(self.decay).addcmul_(gradient, gradient, value=1 - self.decay)
        root = torch.sqrt(self.square + epsilon) if self.inside else torch.sqrt(self.square) + epsilon
        self.flat.addcmul_(gradient / root, rate, value=-1)

    def state_dict(self, run: int) -> dict[str, Any]:
        return {"square": self.square[run].cpu().clone()}

    def load_state_dict(self, run: int, state: Mapping[str, Any]) -> None:
        self.square[run] = torch.as_tensor(state["square"], device=self.square.device)


Optimiser = Adam | RMSProp


def optimiser(flat: Tensor, profile: "Profile") -> Optimiser:
    """The profile's, for the parameters `flat` (R, P)."""
    return Adam(flat, profile) if profile.optimiser == "adam" else RMSProp(flat, profile)
