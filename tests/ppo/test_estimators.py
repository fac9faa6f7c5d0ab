"""Gradient estimates on a task so small that every trajectory can be written down: what they expect and how they vary.

Two states, two actions, three steps, random starts and moves. The truth comes from backward induction over states,
never from trajectories; the estimates from the estimators' code on all 128 trajectories, weighed by their probability.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch

from ppo import advantages, objectives

STEPS = 3
RNG = np.random.default_rng(7)
START = np.array([0.3, 0.7])
MOVE = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.3], [0.1, 0.9]]])  # [s, a, s']: where one goes is one's own doing
REWARD = RNG.normal(size=(2, 2, 2)) + np.array([1.0, 3.0])[:, None, None]  # [s, a, s']
THETA = RNG.normal(size=(2, 2))  # logits [s, a]
CRITIC = 3 * RNG.normal(size=(STEPS + 1, 2))  # V(s, t), wrong on purpose
GAMMA, LAMBDA = 0.8, 0.6

Estimate = Callable[..., np.ndarray]


def policy(theta: np.ndarray) -> np.ndarray:
    weights = np.exp(theta)
    return weights / weights.sum(axis=1, keepdims=True)


PI = policy(THETA)
EVERY = np.array(list(product((0, 1), repeat=1 + 2 * STEPS)))  # s, a, s, a, s, a, s: (n, 7)
STATES, ACTIONS = EVERY[:, ::2], EVERY[:, 1::2]
NOW, THEN = STATES[:, :-1], STATES[:, 1:]
PROBABILITY = START[STATES[:, 0]] * (PI[NOW, ACTIONS] * MOVE[NOW, ACTIONS, THEN]).prod(axis=1)
REWARDS = REWARD[NOW, ACTIONS, THEN]
OVER = np.zeros((len(STATES), STEPS), dtype=bool)
OVER[:, -1] = True


def scores() -> np.ndarray:
    """∇ log π(a_t|s_t) by θ, (n, T, 4)."""
    gradient = np.zeros((*ACTIONS.shape, 2, 2))
    n, t = np.indices(ACTIONS.shape)
    gradient[n, t, NOW] -= PI[NOW]
    gradient[n, t, NOW, ACTIONS] += 1.0
    return gradient.reshape(*ACTIONS.shape, 4)


def gradients(advantage: np.ndarray) -> np.ndarray:
    """Each trajectory's estimate, (n, 4)."""
    return (scores() * advantage[..., None]).sum(axis=1)


def gae(gamma: float, lam: float, critic: np.ndarray = CRITIC) -> np.ndarray:
    times = np.arange(STEPS)
    values, following = critic[times, NOW], critic[times + 1, THEN]
    column = np.full((1, 1), gamma)
    return advantages.gae(REWARDS, values, following, OVER, OVER, column, np.full((1, 1), lam))[0]


def n_step(gamma: float, n: int, critic: np.ndarray = CRITIC) -> np.ndarray:
    times = np.arange(STEPS)
    values, following = critic[times, NOW], critic[times + 1, THEN]
    return advantages.n_step(REWARDS, values, following, OVER, OVER, np.full((1, 1), gamma), n)[0]


def to_go(gamma: float) -> np.ndarray:
    return advantages.rewards_to_go(REWARDS, np.zeros_like(REWARDS), OVER, OVER, np.full((1, 1), gamma))[0]


def whole(gamma: float) -> np.ndarray:
    return advantages.whole_return(REWARDS, np.zeros_like(REWARDS), OVER, OVER, np.full((1, 1), gamma))[0]


def value(gamma: float, theta: np.ndarray = THETA) -> np.ndarray:
    """V of the policy by backward induction, (T + 1, 2)."""
    pi, values = policy(theta), np.zeros((STEPS + 1, 2))
    for t in reversed(range(STEPS)):
        values[t] = np.einsum("sa,saz,saz->s", pi, MOVE, REWARD + gamma * values[t + 1])
    return values


def objective_gradient(gamma: float) -> np.ndarray:
    """∇ of the expected return discounted from the start, by central differences of backward induction, (4,)."""
    found = []
    for step in np.eye(4).reshape(4, 2, 2) * 1e-5:
        up, down = (START @ value(gamma, THETA + sign * step)[0] for sign in (1, -1))
        found.append((up - down) / 2e-5)
    return np.array(found)


def expected(worth: np.ndarray, acting: np.ndarray = PI) -> np.ndarray:
    """E[∇ log π · Â] where `worth` (T, s, a) is the expectation of Â given where it is, over the states that the policy
    `acting` visits."""
    visited, total = START, np.zeros((2, 2))
    for t in range(STEPS):
        centred = worth[t] - (PI * worth[t]).sum(axis=1, keepdims=True)
        total += visited[:, None] * PI * centred
        visited = np.einsum("s,sa,saz->z", visited, acting, MOVE)
    return total.ravel()


def expected_gae(gamma: float, lam: float) -> np.ndarray:
    """E[Â | s, a, t] under the wrong critic by backward induction."""
    worth, ahead = np.zeros((STEPS, 2, 2)), np.zeros(2)
    for t in reversed(range(STEPS)):
        following = CRITIC[t + 1] * (t + 1 < STEPS)
        delta = np.einsum("saz,saz->sa", MOVE, REWARD + gamma * following) - CRITIC[t][:, None]
        worth[t] = delta + gamma * lam * np.einsum("saz,z->sa", MOVE, ahead)
        ahead = (PI * worth[t]).sum(axis=1)
    return worth


def expected_n_step(gamma: float, n: int) -> np.ndarray:
    worth = np.zeros((STEPS, 2, 2))
    for t in range(STEPS):
        ahead = CRITIC[min(t + n, STEPS)] * (t + n < STEPS)
        for _ in range(t, min(t + n, STEPS)):
            inside = np.einsum("saz,saz->sa", MOVE, REWARD + gamma * ahead)
            ahead = (PI * inside).sum(axis=1)
        worth[t] = inside - CRITIC[t][:, None]
    return worth


def test_all_trajectories_are_there() -> None:
    assert len(PROBABILITY) == 128
    assert PROBABILITY.sum() == pytest.approx(1)
    assert PROBABILITY @ REWARDS.sum(axis=1) == pytest.approx(START @ value(1.0)[0])


@pytest.mark.parametrize(
    "advantage",
    [whole(1.0), to_go(1.0), gae(1.0, 1.0), n_step(1.0, STEPS), gae(1.0, 0.3, value(1.0)), n_step(1.0, 1, value(1.0))],
    ids=["whole return", "rewards to go", "wrong baseline", "n = T", "λ = 0.3, right critic", "n = 1, right critic"],
)
def test_without_bias(advantage: np.ndarray) -> None:
    np.testing.assert_allclose(PROBABILITY @ gradients(advantage), objective_gradient(1.0), atol=1e-8)


def test_the_discounted_whole_return_has_the_gradient_of_the_discounted_objective() -> None:
    np.testing.assert_allclose(PROBABILITY @ gradients(whole(GAMMA)), objective_gradient(GAMMA), atol=1e-8)


def test_discounted_rewards_to_go_forget_how_late_they_are() -> None:
    values = value(GAMMA)
    worth = np.array([np.einsum("saz,saz->sa", MOVE, REWARD + GAMMA * values[t + 1]) for t in range(STEPS)])
    found = PROBABILITY @ gradients(to_go(GAMMA))
    np.testing.assert_allclose(found, expected(worth), atol=1e-12)
    assert np.abs(found - objective_gradient(GAMMA)).max() > 0.01


@pytest.mark.parametrize("lam", [0.0, LAMBDA, 1.0])
@pytest.mark.parametrize("gamma", [GAMMA, 1.0])
def test_gae_has_the_bias_of_its_critic(gamma: float, lam: float) -> None:
    found = PROBABILITY @ gradients(gae(gamma, lam))
    np.testing.assert_allclose(found, expected(expected_gae(gamma, lam)), atol=1e-12)
    if (gamma, lam) != (1.0, 1.0):
        assert np.abs(found - objective_gradient(1.0)).max() > 0.01


@pytest.mark.parametrize("n", [1, 2])
def test_n_steps_have_the_bias_of_their_critic(n: int) -> None:
    found = PROBABILITY @ gradients(n_step(GAMMA, n))
    np.testing.assert_allclose(found, expected(expected_n_step(GAMMA, n)), atol=1e-12)


def spread(advantage: np.ndarray) -> float:
    """Variance of the estimate from one trajectory, summed over parameters, enumerated."""
    each = gradients(advantage)
    return float(PROBABILITY @ np.square(each - PROBABILITY @ each).sum(axis=1))


def test_every_rung_varies_less() -> None:
    rungs = [whole(1.0), to_go(1.0), gae(1.0, 1.0, value(1.0)), gae(1.0, 0.0, value(1.0))]
    spreads = [spread(rung) for rung in rungs]
    assert spreads == sorted(spreads, reverse=True)


@pytest.mark.parametrize("estimate", [lambda: whole(1.0), lambda: to_go(GAMMA), lambda: gae(GAMMA, LAMBDA)])
def test_samples_have_the_enumerated_mean_and_variance(estimate: Estimate) -> None:
    count = 40_000
    drawn = np.random.default_rng(0).choice(len(PROBABILITY), size=count, p=PROBABILITY)
    each = gradients(estimate())
    mean = PROBABILITY @ each
    squared = np.square(each - mean)
    variance = PROBABILITY @ squared
    assert (np.abs(each[drawn].mean(axis=0) - mean) < 3 * np.sqrt(variance / count)).all()
    of_variance = np.sqrt((PROBABILITY @ np.square(squared - variance)) / count)
    assert (np.abs(each[drawn].var(axis=0) - variance) < 3 * of_variance).all()


OTHER_THETA = THETA + RNG.normal(size=(2, 2))
OTHER = policy(OTHER_THETA)  # who acted: the off-policy estimates learn about π from it
ITS_PROBABILITY = PROBABILITY * (OTHER / PI)[NOW, ACTIONS].prod(axis=1)


def off_policy(objective: str, advantage: np.ndarray) -> np.ndarray:
    """Each trajectory's estimate, (n, 4), from the surrogates' own gradients."""
    logits = torch.tensor(THETA, requires_grad=True)
    log_prob = torch.log_softmax(logits, dim=1)[NOW, ACTIONS]
    log_ratio = log_prob - torch.from_numpy(np.log(OTHER[NOW, ACTIONS]))
    worth = torch.from_numpy(np.broadcast_to(advantage, NOW.shape).copy())
    if objective == "unconstrained":
        surrogate = objectives.unconstrained(log_ratio.exp(), worth)
    else:
        whose = torch.arange(len(NOW)).repeat_interleave(STEPS)[None]
        flat = (each.reshape(1, -1) for each in (log_prob, log_ratio, worth))
        surrogate = objectives.trajectory_ratio(*flat, whose, count=len(NOW)).reshape(NOW.shape)
    each = [torch.autograd.grad(row, logits, retain_graph=True)[0].ravel() for row in surrogate.sum(1)]
    return torch.stack(each).numpy()


@pytest.mark.parametrize("advantage", [whole(1.0), to_go(1.0), gae(1.0, 1.0)], ids=["whole", "to go", "baseline"])
def test_the_product_of_a_trajectorys_ratios_is_without_bias(advantage: np.ndarray) -> None:
    found = ITS_PROBABILITY @ off_policy("trajectory_ratio", advantage)
    np.testing.assert_allclose(found, objective_gradient(1.0), atol=1e-8)


def test_ratios_step_by_step_have_the_bias_of_the_other_policys_states_and_returns() -> None:
    ahead, worth = np.zeros(2), np.zeros((STEPS, 2, 2))
    for t in reversed(range(STEPS)):
        worth[t] = np.einsum("saz,saz->sa", MOVE, REWARD + ahead)
        ahead = (OTHER * worth[t]).sum(axis=1)
    found = ITS_PROBABILITY @ off_policy("unconstrained", to_go(1.0))
    np.testing.assert_allclose(found, expected(worth, acting=OTHER), atol=1e-12)
    assert np.abs(found - objective_gradient(1.0)).max() > 0.01


def test_the_product_varies_more_than_single_ratios() -> None:
    def off_policy_spread(objective: str) -> float:
        each = off_policy(objective, to_go(1.0))
        return float(ITS_PROBABILITY @ np.square(each - ITS_PROBABILITY @ each).sum(axis=1))

    assert off_policy_spread("trajectory_ratio") > 1.5 * off_policy_spread("unconstrained")
