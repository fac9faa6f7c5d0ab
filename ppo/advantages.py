"""Advantage estimates and value targets from one rollout.

Shapes: every array is (..., T), time last; `gamma` and `gae_lambda` are (..., 1), one number per run.
`next_values[t]` is V(s_{t+1}), where s_{t+1} is the *final* observation if the episode ended at t, never the next
episode's first. `terminated` cuts the bootstrap (the state is worth nothing after it); `ended` cuts the sum
(terminated, or truncated by a time limit, whose final state is still worth V). A profile whose time limits are terminal
passes `terminated = ended`.

Each estimator returns (advantages, value_targets), both (..., T).
"""

import numpy as np
from numpy import ndarray

from ppo.declarations import Estimator, Setting


def gae(
    rewards: ndarray,
    values: ndarray,
    next_values: ndarray,
    terminated: ndarray,
    ended: ndarray,
    gamma: ndarray,
    gae_lambda: ndarray,
) -> tuple[ndarray, ndarray]:
    """Truncated generalised advantage estimation (section 5, eq. 11 and 12); targets are TD(λ): advantage + value."""
    delta = rewards + gamma * ~terminated * next_values - values
    decay = gamma * gae_lambda * ~ended
    advantages = np.empty_like(delta)
    following = np.zeros_like(delta[..., 0])
    for t in reversed(range(delta.shape[-1])):
        following = delta[..., t] + decay[..., t] * following
        advantages[..., t] = following
    return advantages, advantages + values


def n_step(
    rewards: ndarray,
    values: ndarray,
    next_values: ndarray,
    terminated: ndarray,
    ended: ndarray,
    gamma: ndarray,
    n_step: int,
) -> tuple[ndarray, ndarray]:
    """`n_step` rewards, then the value (section 5, eq. 10, with T = n); fewer where the episode or rollout ends."""
    cut = ended.copy()
    cut[..., -1] = True
    returns = values
    for _ in range(n_step):
        following = np.concatenate([returns[..., 1:], returns[..., -1:]], axis=-1)
        returns = rewards + gamma * ~terminated * np.where(cut, next_values, following)
    return returns - values, returns


def rewards_to_go(
    rewards: ndarray, next_values: ndarray, terminated: ndarray, ended: ndarray, gamma: ndarray
) -> tuple[ndarray, ndarray]:
    """Discounted rewards until the episode ends, no baseline; V stands in where a time limit or the rollout cuts it."""
    discount = gamma * ~terminated
    returns = np.empty_like(rewards)
    following = next_values[..., -1]
    for t in reversed(range(rewards.shape[-1])):
        following = rewards[..., t] + discount[..., t] * np.where(ended[..., t], next_values[..., t], following)
        returns[..., t] = following
    return returns, returns


def whole_return(
    rewards: ndarray, next_values: ndarray, terminated: ndarray, ended: ndarray, gamma: ndarray
) -> tuple[ndarray, ndarray]:
    """At every step of an episode its whole return, discounted from the first step of it that the rollout holds: plain
    REINFORCE (Williams 1992). V stands in where `rewards_to_go`, the value target, says so."""
    to_go, value_target = rewards_to_go(rewards, next_values, terminated, ended, gamma)
    first = np.ones_like(ended)
    first[..., 1:] = ended[..., :-1]
    start = np.maximum.accumulate(np.where(first, np.arange(ended.shape[-1]), 0), axis=-1)
    return np.take_along_axis(to_go, start, axis=-1), value_target


GAE_LAMBDA = Setting("gae_lambda", "λ, eq. 11", "0 to 1", per_run=True, default=0.95)  # default: Table 3
N_STEP = Setting("n_step", "env steps before the value stands in, eq. 10", "above 0", int)

ESTIMATORS = {
    each.name: each
    for each in (
        Estimator("gae", gae, (GAE_LAMBDA,)),
        Estimator("n_step", n_step, (N_STEP,)),
        Estimator("rewards_to_go", rewards_to_go),
        Estimator("whole_return", whole_return),
    )
}
"""Every advantage estimator there is."""
