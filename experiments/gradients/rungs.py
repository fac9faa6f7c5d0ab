"""The rungs of the road to PPO as estimates of the policy gradient, and their gradient of every single episode."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.gradients.play import Critics, Episodes, Policy
from experiments.gradients.statistics import Blocks
from ppo import advantages, objectives
from ppo.config import Algo

GAMMA = 0.99  # of the discounted rungs; Table 3
CHUNK = 32_768  # env steps, padding included, that are differentiated at once


class Rung(NamedTuple):
    """An objective and an estimator as in conf/algo, and the discount."""

    algo: Algo
    gamma: float


def rung(gamma: float, objective: str = "policy_gradient", **estimator: float | str) -> Rung:
    return Rung(Algo(objective, **estimator), gamma)


RUNGS = {
    "whole_return": rung(1.0, advantage="whole_return"),
    "rewards_to_go": rung(1.0, advantage="rewards_to_go"),
    "baseline": rung(1.0, gae_lambda=1.0),
    "discounted_rewards_to_go": rung(GAMMA, advantage="rewards_to_go"),
    "discounted_baseline": rung(GAMMA, gae_lambda=1.0),
    "n_step_5": rung(GAMMA, advantage="n_step", n_step=5),
    **{f"gae_{value:g}": rung(GAMMA, gae_lambda=value) for value in (0.99, 0.95, 0.9, 0.5, 0.0)},
    "ratio_of_trajectories": rung(1.0, "trajectory_ratio", gae_lambda=1.0),
    "ratio_per_step": rung(1.0, "unconstrained", gae_lambda=1.0),
}
"""In the order of the table. The ratios weigh data of another policy; their advantages are those of `baseline`."""

REFERENCES = {"undiscounted": RUNGS["baseline"], "discounted": RUNGS["discounted_baseline"]}
"""They expect ∇E[Σ r], and what discounted rewards-to-go expect, with the least noise: their critic is fitted to more,
and sees the clock too."""

KNOWN = {
    **dict.fromkeys(("whole_return", "rewards_to_go", "baseline", "ratio_of_trajectories"), "undiscounted"),
    **dict.fromkeys(("discounted_rewards_to_go", "discounted_baseline"), "discounted"),
}
"""The reference with a rung's own expectation, in theory; tests/ppo/test_estimators.py has it by enumeration."""


def on_policy(rungs: Mapping[str, Rung]) -> dict[str, Rung]:
    return {name: each for name, each in rungs.items() if each.algo.objective == "policy_gradient"}


def blocks_of(
    policy: Policy, acting: Policy, critics: Critics, rounds: Iterable[Episodes], rungs: Mapping[str, Rung]
) -> dict[str, Blocks]:
    """Each rung's estimates of the gradient of `policy`, a block per round of episodes that `acting` played."""
    rows: dict[str, list[tuple[np.ndarray, float, float]]] = {name: [] for name in rungs}
    for episodes in rounds:
        count = len(episodes.lengths)
        sums = np.zeros((len(rungs), policy.flat.shape[1]))
        squares = np.zeros(len(rungs))
        for part in chunks(episodes):
            for row, found in enumerate(episode_gradients(policy, acting, critics, part, rungs.values())):
                sums[row] += found.sum(0, dtype=torch.float64).numpy()
                squares[row] += float(found.square().sum(dtype=torch.float64))
        for row, name in enumerate(rungs):
            rows[name].append((sums[row] / count, squares[row] / count, float(episodes.lengths.mean())))
    return {name: Blocks(*map(np.array, zip(*each, strict=True))) for name, each in rows.items()}


def effective_episodes(policy: Policy, acting: Policy, rounds: Iterable[Episodes]) -> float:
    """(Σ w)² / Σ w² (Kish 1965) of the products w of the ratios of whole episodes that `acting` played: of so many
    episodes of its own would a mean be as sharp. Few of them say that the weights that matter were never drawn."""
    logs = []
    for episodes in rounds:
        x, actions, there = map(torch.from_numpy, (episodes.x, episodes.actions, episodes.there))
        with torch.no_grad():
            new, old = (each.distribution(x).log_prob(actions) for each in (policy, acting))
        logs.append(((new - old) * there).sum(-1, dtype=torch.float64))
    log_weights = torch.cat(logs)
    return float(torch.exp(2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0)))


def chunks(episodes: Episodes) -> Iterator[Episodes]:
    """All episodes, few enough at once; those of like length together, so that little of a chunk is padding."""
    order = np.argsort(episodes.lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * episodes.lengths[order[end]] > CHUNK:
            yield episodes.rows(order[start:end])
            start = end


def episode_gradients(
    policy: Policy, acting: Policy, critics: Critics, episodes: Episodes, rungs: Iterable[Rung]
) -> Iterator[Tensor]:
    """By rung the gradient of every episode, Σ_t ∇log π(a_t|s_t) Â_t, (R, P): each episode has a copy of the
    parameters as its own row, so that one backward pass tells their gradients apart."""
    network = policy.model.network
    copies = network.views(policy.flat.expand(len(episodes.lengths), -1))
    leaves = {name: view.clone().requires_grad_() for name, view in copies.items()}
    x, actions, there = map(torch.from_numpy, (episodes.x, episodes.actions, episodes.there))
    log_prob = policy.distribution(x, leaves).log_prob(actions) * there
    with torch.no_grad():
        acted = acting.distribution(x).log_prob(actions) * there
    log_ratio = log_prob - acted
    whole = torch.zeros(log_prob.shape, dtype=torch.long)  # a row is one trajectory
    values = critics.values(episodes)
    for each in rungs:
        advantage = torch.from_numpy(estimated(each, episodes, values[each.gamma]).astype(np.float32))
        match each.algo.objective:
            case "unconstrained":
                surrogate = objectives.unconstrained(torch.exp(log_ratio), advantage)
            case "trajectory_ratio":
                surrogate = objectives.trajectory_ratio(log_prob, log_ratio, advantage, whole, count=1)
            case _:
                surrogate = objectives.policy_gradient(log_prob, advantage)
        yield network.gradient(leaves, surrogate.sum(), retain_graph=True)


def estimated(each: Rung, episodes: Episodes, values: np.ndarray) -> np.ndarray:
    """A rung's advantages, (R, L) float64, 0 where no step is. values: (R, L)."""
    following = np.concatenate([values[:, 1:], np.zeros_like(values[:, :1])], axis=1)
    ended, gamma = episodes.ended, np.array([[each.gamma]])
    ends = ended, ended, gamma  # an end is an end, whatever brought it
    match each.algo.advantage:
        case "gae":
            gae_lambda = np.array([[each.algo.gae_lambda]])
            found, _ = advantages.gae(episodes.rewards, values, following, *ends, gae_lambda)
        case "n_step":
            assert each.algo.n_step is not None
            found, _ = advantages.n_step(episodes.rewards, values, following, *ends, each.algo.n_step)
        case "whole_return":
            found, _ = advantages.whole_return(episodes.rewards, following, *ends)
        case _:
            found, _ = advantages.rewards_to_go(episodes.rewards, following, *ends)
    return found * episodes.there
