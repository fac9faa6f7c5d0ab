"""Policies and values of agents on one task, and the one way in which they act: in training, films and measurements.

Whoever plays takes an actor. Its draws are named by the caller and come from outside, so it holds no randomness.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ppo.networks import Network, initialise
from ppo.numerics import precision
from ppo.policies import Categorical, Distribution, Gaussian, distribution_class
from ppo.randomness import generator
from ppo.spaces import Spaces

if TYPE_CHECKING:
    from ppo.config import RunConfig

FRAMES_AT_ONCE = 256  # more of them would only take more memory

Views = Mapping[str, Tensor]
"""Parameters of R agents by name, as `Network.views` gives them."""


class ActorCritic:
    """The networks of agents that differ in nothing but their numbers, and the kind of their policies.

    It holds no parameters: every method takes them as `Views`.
    """

    def __init__(self, run: "RunConfig", spaces: Spaces):
        """run: any of those that share the networks. Raises UserError for a profile that does not fit the task."""
        self.spaces = spaces
        self.profile = run.profile
        self.device = torch.device(run.device)
        self.distribution_class = distribution_class(run.profile.policy, spaces.discrete, run.env.id)
        gaussian = self.distribution_class is Gaussian
        shapes = spaces.observation_shape, spaces.action_size
        self.network = Network(*shapes, gaussian, run.profile, precision(run.numerics))

    def initial(self, seeds: Sequence[int]) -> Tensor:
        """The parameters that these runs start from, (R, P)."""
        start = [initialise(self.network, self.profile, generator(seed, "weights")) for seed in seeds]
        return torch.from_numpy(np.stack(start)).to(self.device)

    def leaves(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of (R, P) to differentiate by. They share its memory."""
        return {name: view.detach().requires_grad_() for name, view in self.network.views(flat).items()}

    def tensor(self, array: np.ndarray) -> Tensor:
        """The array on the device; real numbers as float32."""
        dtype = torch.float32 if array.dtype.kind == "f" else None
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, dtype)

    def distribution(self, views: Views, output: Tensor) -> Distribution:
        """π(·|x) from the policy network's output, (R, B, A)."""
        return Gaussian(output, views["log_std"]) if self.distribution_class is Gaussian else Categorical(output)

    def policy(self, views: Views, x: Tensor) -> Distribution:
        """π(·|x), x (R, B, …)."""
        return self.distribution(views, self.network.policy(views, x))

    def policy_outputs(self, views: Views, x: Tensor) -> Tensor:
        """The policy network's output for a whole rollout's inputs, (R, B, …) → (R, B, A)."""
        return torch.cat([self.network.policy(views, piece) for piece in self._pieces(x)], dim=1)

    def values(self, views: Views, x: Tensor) -> Tensor:
        """V of a whole rollout's inputs, (R, B, …) → (R, B)."""
        return torch.cat([self.network.value(views, piece) for piece in self._pieces(x)], dim=1)

    def outputs_and_values(self, views: Views, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both of a whole rollout, a shared trunk computed once."""
        outputs = [self.network.policy_and_value(views, piece) for piece in self._pieces(x)]
        policies, values = zip(*outputs, strict=True)
        return torch.cat(policies, dim=1), torch.cat(values, dim=1)

    def _pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        """A whole rollout's inputs as they pass a network without gradients: numbers at once, frames in portions."""
        return x.split(FRAMES_AT_ONCE if self.spaces.frames else x.shape[1], dim=1)


class Actor(Protocol):
    """How R agents choose actions."""

    manner: str  # sampled | likeliest | uniform

    def draws(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        """What one agent needs of chance for so many actions: (steps, …)."""

    def act(self, x: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """x (R, N, …), as the filter leaves it, and a draw for each → actions (R, N, A) float32 or (R, N) int64."""


class NetworkActor:
    """Acts by the policy network: samples a_t ~ π(·|s_t), or takes the likeliest action."""

    def __init__(self, model: ActorCritic, views: Views, sample: bool = True):
        self.model, self.manner = model, "sampled" if sample else "likeliest"
        # Numbers are few, and NumPy beats torch; frames go to the device.
        self.parameters: Mapping[str, Any] = (
            model.network.rounded(views)
            if model.spaces.frames
            else {name: values.cpu().numpy() for name, values in views.items()}
        )
        self.scale = model.distribution_class.scale(self.parameters)

    def draws(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        size = self.model.spaces.action_size
        if self.manner == "likeliest":
            return np.zeros((steps, size), dtype=np.float32)
        return self.model.distribution_class.noise(rng, steps, size)

    def act(self, x: np.ndarray, draws: np.ndarray) -> np.ndarray:
        return self.model.distribution_class.act(self._outputs(x), self.scale * draws)

    def _outputs(self, x: np.ndarray) -> np.ndarray:
        if not self.model.spaces.frames:
            return self.model.network.policy(self.parameters, x)
        with torch.no_grad():
            return self.model.network.policy(self.parameters, self.model.tensor(x)).cpu().numpy()


class UniformActor:
    """Acts uniformly at random: the draws are the actions."""

    manner = "uniform"

    def __init__(self, spaces: Spaces):
        self.spaces = spaces

    def draws(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        if self.spaces.discrete:
            return rng.integers(self.spaces.action_size, size=steps)
        shape = (steps, self.spaces.action_size)
        return rng.uniform(self.spaces.low, self.spaces.high, shape).astype(np.float32)

    def act(self, x: np.ndarray, draws: np.ndarray) -> np.ndarray:
        return draws


def outgoing(actions: np.ndarray, spaces: Spaces, clip: bool) -> np.ndarray:
    """Chosen actions as an environment takes them: real ones in float64, within their bounds if `clip`."""
    if spaces.discrete:
        return actions
    actions = actions.astype(np.float64)
    return np.clip(actions, spaces.low, spaces.high) if clip else actions
