"""What `experiments.gradients` measures on: policies that learn no more, whole episodes of them, and their critics.

Shapes: R episodes of up to L env steps, padded at the end; D observations; P parameters.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ppo import advantages
from ppo.actor_critic import ActorCritic, NetworkActor, outgoing
from ppo.config import RunConfig
from ppo.environments import BACKENDS
from ppo.networks import Network, initialise
from ppo.normalisation import ObservationFilter
from ppo.optimisers import optimiser
from ppo.pack import Pack
from ppo.policies import Distribution
from ppo.randomness import MAX_SEED, generator

MINIBATCH = 1024  # env steps, of the critics' fit
EPOCHS = 20
STEPSIZE = 3e-3  # Adam's, falling linearly to 0; targets have standard deviation 1
STATES = 10_000  # on which two policies are compared


@dataclass(frozen=True)
class Policy:
    """A policy of a run at one moment: its parameters (1, P), and the observation filter's statistics of then."""

    run: RunConfig  # its task, and how it acts there
    model: ActorCritic
    flat: Tensor
    filter: ObservationFilter

    @classmethod
    def present(cls, pack: Pack) -> "Policy":
        return cls(pack.runs[0], pack.learner.model, pack.learner.flat.clone(), copy.deepcopy(pack.filter))

    def distribution(self, x: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Distribution:
        """π(·|x), x (R, B, D); of other parameters, a set for each row, where they are given."""
        return self.model.policy(parameters or self.model.network.views(self.flat.expand(len(x), -1)), x)


@dataclass
class Episodes:
    """R whole episodes. Steps that were never played are `ended`, have no reward and `there` is False."""

    x: np.ndarray  # (R, L, D) float32, as the networks see it
    actions: np.ndarray  # (R, L) int64 or (R, L, A) float32, as sampled
    rewards: np.ndarray  # (R, L) float64
    lengths: np.ndarray  # (R,) env steps

    @property
    def there(self) -> np.ndarray:
        """(R, L) bool."""
        return np.arange(self.rewards.shape[1]) < self.lengths[:, None]

    @property
    def ended(self) -> np.ndarray:
        """(R, L) bool: from the last step on. A time limit ends an episode for good: the horizon is finite."""
        return np.arange(self.rewards.shape[1]) >= self.lengths[:, None] - 1

    def rows(self, rows: np.ndarray) -> "Episodes":
        """Some of them, no longer than the longest."""
        longest = slice(int(self.lengths[rows].max()))
        return Episodes(self.x[rows, longest], self.actions[rows, longest], self.rewards[rows, longest],
                        self.lengths[rows])  # fmt: skip


def play(policy: Policy, seed: int, purpose: str, rounds: int, size: int) -> Iterator[Episodes]:
    """`rounds` times `size` whole episodes. In each round every environment plays one to its end: those that happen to
    be short are not there more often. `purpose` names the draws."""
    run, spaces = policy.run, policy.model.spaces
    seeds = generator(seed, f"{purpose} environment").integers(MAX_SEED, size=size)
    backend = BACKENDS[run.backend](run.env, seeds.tolist())
    actor = NetworkActor(policy.model, policy.model.network.views(policy.flat))
    for number in range(rounds):
        rng = generator(seed, f"{purpose} action", number)
        playing = np.arange(size, dtype=np.int32)
        observations = backend.reset(playing)
        lengths, steps = np.zeros(size, dtype=np.int64), []
        while playing.size:
            x = policy.filter.normalise(observations[None])
            actions = actor.act(x, actor.draws(rng, size)[None, playing])[0]
            taken = outgoing(actions, spaces, run.profile.clip_actions)
            observations, rewards, terminated, truncated = backend.step(taken, playing)
            steps.append((playing, x[0], actions, rewards))
            lengths[playing] += 1
            observations, playing = (array[~(terminated | truncated)] for array in (observations, playing))
        who, *what = zip(*steps, strict=True)
        x, sampled, of_steps = (padded(size, who, values) for values in what)
        yield Episodes(x, sampled, of_steps, lengths)


def padded(size: int, who: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> np.ndarray:
    """(size, L, …): at each of L steps the values of those who played it, 0 of all others."""
    found = np.zeros((size, len(values), *values[0].shape[1:]), values[0].dtype)
    for t, (rows, value) in enumerate(zip(who, values, strict=True)):
        found[rows, t] = value
    return found


@dataclass(frozen=True)
class Critics:
    """A value function for each of G discounts, fitted to the returns that followed: shift + scale · network."""

    network: Network
    flat: Tensor  # (G, P')
    shift: np.ndarray  # (G, 1)
    scale: np.ndarray  # (G, 1)
    gammas: Sequence[float]
    clock: int | None  # env steps that the clock's 1 means; None: V sees the state alone, as in PPO

    def values(self, episodes: Episodes) -> dict[float, np.ndarray]:
        """V of every step by its discount, (R, L) float64 each."""
        x = inputs(episodes, self.clock)
        flat = torch.from_numpy(x.reshape(1, -1, x.shape[-1])).expand(len(self.flat), -1, -1)
        with torch.no_grad():
            fitted = self.network.value(self.network.views(self.flat), flat).numpy().astype(np.float64)
        values = self.shift + self.scale * fitted
        return dict(zip(self.gammas, values.reshape(-1, *episodes.rewards.shape), strict=True))


def fit_critics(
    policy: Policy, data: Sequence[Episodes], gammas: Sequence[float], seed: int, with_clock: bool = False
) -> Critics:
    """Least squares on discounted rewards-to-go, Adam on minibatches, all discounts side by side."""
    profile, clock = policy.run.profile, max(map(longest, data)) if with_clock else None
    network = Network((policy.model.spaces.observation_size + with_clock,), 1, False, profile)
    x = torch.from_numpy(np.concatenate([inputs(episodes, clock)[episodes.there] for episodes in data]))
    returns = np.array([np.concatenate([to_go(episodes, gamma) for episodes in data]) for gamma in gammas])
    shift, scale = returns.mean(axis=1, keepdims=True), returns.std(axis=1, keepdims=True)
    target = torch.from_numpy(((returns - shift) / scale).astype(np.float32))
    start = [initialise(network, profile, generator(seed, "critic weights", row)) for row in range(len(gammas))]
    flat = torch.from_numpy(np.stack(start))
    adam, rng, count = optimiser(flat, profile), generator(seed, "critic minibatch"), -(-len(x) // MINIBATCH)
    batches = [rows for _ in range(EPOCHS) for rows in np.array_split(rng.permutation(len(x)), count)]
    for number, rows in enumerate(batches):
        leaves = {name: view.detach().requires_grad_() for name, view in network.views(flat).items()}
        chosen = torch.from_numpy(rows)
        error = network.value(leaves, x[chosen].expand(len(gammas), -1, -1)) - target[:, chosen]
        bias, epsilon = adam.next_step()
        rate = STEPSIZE * (1 - number / len(batches)) * bias
        adam.move(network.gradient(leaves, error.square().mean(-1).sum()), rate, epsilon)
    return Critics(network, flat, shift, scale, gammas, clock)


def inputs(episodes: Episodes, clock: int | None) -> np.ndarray:
    """What a critic sees, (R, L, D) or, with the time since the start, (R, L, D + 1)."""
    if clock is None:
        return episodes.x
    time = np.broadcast_to(np.arange(longest(episodes), dtype=np.float32) / clock, episodes.rewards.shape)
    return np.concatenate([episodes.x, time[..., None]], axis=-1)


def longest(episodes: Episodes) -> int:
    return episodes.rewards.shape[1]


def to_go(episodes: Episodes, gamma: float) -> np.ndarray:
    """Discounted rewards-to-go of the steps that are there, one after another: (steps,)."""
    returns, _ = advantages.rewards_to_go(
        episodes.rewards, np.zeros_like(episodes.rewards), episodes.ended, episodes.ended, np.array([[gamma]])
    )
    return returns[episodes.there]


def perturbed(policy: Policy, data: Sequence[Episodes], kl: float, seed: int) -> Policy:
    """A policy in a random direction of the weights, so far away that the mean of KL[it, policy] over the states in
    `data` is `kl` nats."""
    x = torch.from_numpy(np.concatenate([episodes.x[episodes.there] for episodes in data]))
    x = x[:: -(-len(x) // STATES)][None]
    columns = torch.from_numpy(policy.model.network.policy_columns())
    direction = torch.zeros_like(policy.flat)
    draws = generator(seed, "direction").standard_normal(len(columns), dtype=np.float32)
    direction[:, columns] = torch.from_numpy(draws)

    def at(distance: float) -> Policy:
        return replace(policy, flat=policy.flat + distance * direction)

    @torch.no_grad()
    def is_near(distance: float) -> bool:
        return float(at(distance).distribution(x).kl(policy.distribution(x)).mean()) < kl

    low, high = 0.0, 1e-3
    while is_near(high):
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if is_near(middle) else (low, middle)
    return at(high)
