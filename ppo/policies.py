"""Action distributions: diagonal Gaussian and categorical.

Parameters carry any leading axes, (..., A); `log_prob`, `entropy` and `kl` reduce the last one. Acting takes its
noise from outside, so a policy holds no randomness; it happens in NumPy, beside the environments, whatever the device.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppo.refusals import UserError

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


@dataclass
class Gaussian:
    """Independent normals with a state-independent log standard deviation (section 6.1). mean, log_std: (..., A)."""

    mean: Tensor
    log_std: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) * torch.exp(-self.log_std)
        return -(0.5 * z * z + self.log_std + LOG_SQRT_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """The shape of log_std without its last axis: it is the same in every state."""
        return (self.log_std + LOG_SQRT_2PI + 0.5).sum(-1)

    def kl(self, new: "Distribution") -> Tensor:
        """KL[self, new], exact."""
        assert isinstance(new, Gaussian)
        difference = (self.mean - new.mean) * torch.exp(-new.log_std)
        log_ratio = self.log_std - new.log_std
        return 0.5 * (torch.expm1(2 * log_ratio) + difference * difference - 2 * log_ratio).sum(-1)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.mean, self.log_std

    def map(self, f: Callable[[Tensor], Tensor]) -> "Gaussian":
        """The distribution with f applied to its parameters."""
        return Gaussian(f(self.mean), f(self.log_std))

    def rows(self, rows: slice) -> "Gaussian":
        return self.map(lambda parameter: parameter[rows])

    @staticmethod
    def noise(rng: np.random.Generator, steps: int, size: int) -> np.ndarray:
        """Standard normal, (steps, A)."""
        return rng.standard_normal((steps, size), dtype=np.float32)

    @staticmethod
    def scale(parameters: Mapping[str, Any]) -> np.ndarray:
        """What multiplies the noise: σ, (R, 1, A). parameters: of R policies, by name."""
        return np.exp(np.asarray(parameters["log_std"]))

    @staticmethod
    def act(output: np.ndarray, perturbation: np.ndarray) -> np.ndarray:
        """a_t ~ π_θ(·|s_t) from the network's output and the scaled noise, (R, N, A) each → the same."""
        return output + perturbation


@dataclass
class Categorical:
    """One of A actions. logits: (..., A), unnormalised."""

    logits: Tensor

    def __post_init__(self) -> None:
        self.log_probs = torch.log_softmax(self.logits, -1)

    def log_prob(self, action: Tensor) -> Tensor:
        """action: (...) integer."""
        return self.log_probs.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def kl(self, new: "Distribution") -> Tensor:
        """KL[self, new], exact."""
        assert isinstance(new, Categorical)
        return (self.log_probs.exp() * (self.log_probs - new.log_probs)).sum(-1)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return (self.logits,)

    def map(self, f: Callable[[Tensor], Tensor]) -> "Categorical":
        """The distribution with f applied to its parameters."""
        return Categorical(f(self.logits))

    def rows(self, rows: slice) -> "Categorical":
        return self.map(lambda parameter: parameter[rows])

    @staticmethod
    def noise(rng: np.random.Generator, steps: int, size: int) -> np.ndarray:
        """Standard Gumbel, (steps, A)."""
        return rng.gumbel(size=(steps, size)).astype(np.float32)

    @staticmethod
    def scale(parameters: Mapping[str, Any]) -> float:
        """What multiplies the noise: 1, for logits and standard Gumbel noise have one unit."""
        return 1.0

    @staticmethod
    def act(output: np.ndarray, perturbation: np.ndarray) -> np.ndarray:
        """a_t ~ π_θ(·|s_t) by the Gumbel-max trick: (R, N, A) each → (R, N)."""
        return (output + perturbation).argmax(-1)


Distribution = Gaussian | Categorical


def distribution_class(wanted: str, discrete: bool, env_id: str) -> type[Distribution]:
    """The distribution of an action space, or a refusal if the profile asks for the other one."""
    fitting = "categorical" if discrete else "gaussian"
    if wanted not in ("auto", fitting):
        kind = "discrete" if discrete else "continuous"
        raise UserError(f"profile.policy={wanted}: {env_id} has {kind} actions; use profile.policy={fitting} or auto")
    return Categorical if discrete else Gaussian
