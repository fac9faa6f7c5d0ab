import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ppo.advantages import gae, n_step, rewards_to_go

# Six steps: terminated after the second, truncated after the fourth, cut by the rollout after the sixth.
# The 100 is the value of a terminal state and must never count.
REWARDS = np.array([1.0, 6.0, 3.0, 4.0, 5.0, 6.0])
VALUES = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
NEXT_VALUES = np.array([2.0, 100.0, 4.0, 8.0, 6.0, 10.0])
TERMINATED = np.array([False, True, False, False, False, False])
ENDED = np.array([False, True, False, True, False, False])
HALF = np.array([0.5])


def test_gae_by_hand():
    advantages, targets = gae(REWARDS, VALUES, NEXT_VALUES, TERMINATED, ENDED, HALF, HALF)
    # δ = 1, 4, 2, 4, 3, 5 and γλ = 1/4
    np.testing.assert_array_equal(advantages, [2.0, 4.0, 3.0, 4.0, 4.25, 5.0])
    np.testing.assert_array_equal(targets, [3.0, 6.0, 6.0, 8.0, 9.25, 11.0])


def test_gae_with_terminal_time_limits_by_hand():
    advantages, targets = gae(REWARDS, VALUES, NEXT_VALUES, ENDED, ENDED, HALF, HALF)
    np.testing.assert_array_equal(advantages, [2.0, 4.0, 2.0, 0.0, 4.25, 5.0])
    np.testing.assert_array_equal(targets, [3.0, 6.0, 5.0, 4.0, 9.25, 11.0])


def test_n_step_by_hand():
    advantages, targets = n_step(REWARDS, VALUES, NEXT_VALUES, TERMINATED, ENDED, HALF, 2)
    np.testing.assert_array_equal(targets, [4.0, 6.0, 7.0, 8.0, 10.5, 11.0])
    np.testing.assert_array_equal(advantages, [3.0, 4.0, 4.0, 4.0, 5.5, 5.0])


def test_n_step_with_terminal_time_limits_by_hand():
    _, targets = n_step(REWARDS, VALUES, NEXT_VALUES, ENDED, ENDED, HALF, 2)
    np.testing.assert_array_equal(targets, [4.0, 6.0, 5.0, 4.0, 10.5, 11.0])


def test_n_step_value_stands_in_after_n_rewards_by_hand():
    rewards, values, next_values = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4, 8]])
    never = np.zeros(4, dtype=bool)
    advantages, targets = n_step(rewards, values, next_values, never, never, HALF, 2)
    np.testing.assert_array_equal(targets, [1 + 1 + 0.75, 2 + 1.5 + 1, 3 + 2 + 2, 4 + 4])
    np.testing.assert_array_equal(advantages, [1.75, 2.5, 4.0, 4.0])


def test_rewards_to_go_by_hand():
    advantages, targets = rewards_to_go(REWARDS, NEXT_VALUES, TERMINATED, ENDED, HALF)
    np.testing.assert_array_equal(advantages, [4.0, 6.0, 7.0, 8.0, 10.5, 11.0])
    np.testing.assert_array_equal(targets, advantages)


def test_rewards_to_go_with_terminal_time_limits_by_hand():
    advantages, _ = rewards_to_go(REWARDS, NEXT_VALUES, ENDED, ENDED, HALF)
    np.testing.assert_array_equal(advantages, [4.0, 6.0, 5.0, 4.0, 10.5, 11.0])


def test_estimators_leave_their_inputs_alone():
    inputs = [REWARDS.copy(), VALUES.copy(), NEXT_VALUES.copy(), TERMINATED.copy(), ENDED.copy()]
    gae(*inputs, HALF, HALF)
    n_step(*inputs, HALF, 3)
    rewards_to_go(inputs[0], *inputs[2:], HALF)
    for array, original in zip(inputs, (REWARDS, VALUES, NEXT_VALUES, TERMINATED, ENDED), strict=True):
        np.testing.assert_array_equal(array, original)


@st.composite
def rollouts(draw, runs=()):
    """(rewards, values, next_values, terminated, ended), gamma; next_values[t] is values[t + 1] inside an episode."""
    shape = (*runs, draw(st.integers(1, 12)))
    numbers = st.floats(-10, 10, width=32)
    rewards, values, finals = (draw(arrays(np.float64, shape, elements=numbers)) for _ in range(3))
    terminated, truncated = (draw(arrays(bool, shape, elements=st.booleans())) for _ in range(2))
    ended = terminated | truncated
    next_values = np.where(ended, finals, np.concatenate([values[..., 1:], finals[..., -1:]], axis=-1))
    gamma = draw(arrays(np.float64, (*runs, 1), elements=st.floats(0, 1, width=32)))
    return (rewards, values, next_values, terminated, ended), gamma


def return_to_cut(rewards, next_values, terminated, ended, gamma, start):
    """Σ γ^k r + γ^n V, forward in time from one step."""
    total, weight = 0.0, 1.0
    for t in range(start, len(rewards)):
        total += weight * rewards[t]
        weight *= gamma
        if terminated[t]:
            return total
        if ended[t] or t == len(rewards) - 1:
            return total + weight * next_values[t]
    raise AssertionError


close = {"rtol": 1e-9, "atol": 1e-9}


@settings(deadline=None)
@given(rollouts())
def test_gae_with_lambda_one_is_the_return_to_the_cut_minus_the_value(case):
    (rewards, values, next_values, terminated, ended), gamma = case
    advantages, targets = gae(*case[0], gamma, np.ones(1))
    expected = [
        return_to_cut(rewards, next_values, terminated, ended, gamma[0], start) for start in range(len(rewards))
    ]
    np.testing.assert_allclose(advantages, expected - values, **close)
    np.testing.assert_allclose(targets, expected, **close)


@settings(deadline=None)
@given(rollouts())
def test_gae_with_lambda_zero_and_n_step_of_one_are_the_td_error(case):
    (rewards, values, next_values, terminated, _), gamma = case
    expected = [
        r + (0 if end else gamma[0] * following) - v
        for r, v, following, end in zip(rewards, values, next_values, terminated, strict=True)
    ]
    np.testing.assert_allclose(gae(*case[0], gamma, np.zeros(1))[0], expected, **close)
    np.testing.assert_allclose(n_step(*case[0], gamma, 1)[0], expected, **close)


@settings(deadline=None)
@given(rollouts(), st.integers(0, 5))
def test_n_step_beyond_the_rollout_is_the_return_to_the_cut_as_are_rewards_to_go(case, more):
    (rewards, values, next_values, terminated, ended), gamma = case
    expected = [
        return_to_cut(rewards, next_values, terminated, ended, gamma[0], start) for start in range(len(rewards))
    ]
    np.testing.assert_allclose(n_step(*case[0], gamma, len(rewards) + more)[0], expected - values, **close)
    to_go, _ = rewards_to_go(rewards, next_values, terminated, ended, gamma)
    np.testing.assert_allclose(to_go, expected, **close)


@pytest.mark.parametrize("estimator", ["gae", "n_step", "rewards_to_go"])
@settings(deadline=None, max_examples=30)
@given(case=rollouts(runs=(3,)))
def test_each_row_of_a_pack_is_the_row_alone(estimator, case):
    arrays_, gamma = case

    def estimate(rewards, values, next_values, terminated, ended, gamma, gae_lambda):
        match estimator:
            case "gae":
                return gae(rewards, values, next_values, terminated, ended, gamma, gae_lambda)
            case "n_step":
                return n_step(rewards, values, next_values, terminated, ended, gamma, 3)
        return rewards_to_go(rewards, next_values, terminated, ended, gamma)

    gae_lambda = np.array([[0.0], [0.5], [1.0]])
    together = estimate(*arrays_, gamma, gae_lambda)
    for row in range(3):
        alone = estimate(*(array[row] for array in arrays_), gamma[row], gae_lambda[row])
        for packed, single in zip(together, alone, strict=True):
            np.testing.assert_array_equal(packed[row], single)
