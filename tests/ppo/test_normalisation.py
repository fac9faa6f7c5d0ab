import copy
import pickle

import numpy as np
import pytest

from ppo.config import Profile
from ppo.normalisation import ObservationFilter, RewardScale, RunningMoments

R, T, D = 2, 50, 3


def observations(seed, shape=(R, T, D)):
    rng = np.random.default_rng(seed)
    return rng.normal(rng.normal(scale=3, size=D), rng.uniform(0.1, 5, size=D), size=shape)


def moments_of(data, prior):
    """Mean and variance of rows (n, D) beside `prior` observations of mean 0 and variance 1, from the raw sums."""
    total = prior + len(data)
    mean = data.sum(axis=0) / total
    return mean, (prior + np.square(data).sum(axis=0)) / total - np.square(mean)


close = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("prior", [1e-4, 1e-2, 10.0])
def test_running_moments_are_those_of_all_data_and_the_prior(prior):
    moments = RunningMoments(R, D, prior)
    chunks = [observations(seed, (R, size, D)) for seed, size in enumerate((1, 7, 40))]
    for chunk in chunks:
        moments.merge(chunk.mean(axis=1), chunk.var(axis=1), chunk.shape[1])
    together = np.concatenate(chunks, axis=1)
    for run in range(R):
        mean, variance = moments_of(together[run], prior)
        np.testing.assert_allclose(moments.mean[run], mean, **close)
        np.testing.assert_allclose(moments.variance[run], variance, **close)
    np.testing.assert_allclose(moments.count, np.full((R, 1), prior + 48))


def test_running_moments_start_as_the_prior():
    moments = RunningMoments(R, D, 0.5)
    np.testing.assert_array_equal(moments.mean, np.zeros((R, D)))
    np.testing.assert_array_equal(moments.variance, np.ones((R, D)))


def test_running_moments_keep_their_precision_far_from_zero():
    data = 1e6 + np.random.default_rng(0).standard_normal((1, 1000, 1))
    moments = RunningMoments(1, 1, 1e-12)
    for t in range(1000):
        moments.merge(data[:, t], np.zeros(1), 1)
    # The prior pulls the mean, and adds its squared distance from the data to the variance: weight / n · 10¹².
    np.testing.assert_allclose(moments.variance[0], data[0].var(axis=0) + 1e-12 / 1000 * 1e12, rtol=1e-3)


def test_filter_off_passes_observations_through():
    data = observations(0)
    filter = ObservationFilter(R, D, Profile(observation_filter="none"))
    filter.see(data[:, :1])
    filter.see_rollout(data)
    np.testing.assert_array_equal(filter.normalise(data), data.astype(np.float32), strict=True)


@pytest.mark.parametrize("when", ["per_rollout", "per_step"])
def test_filter_standardises_by_all_it_has_seen_when_it_says_so(when):
    profile = Profile(observation_filter=when, filter_prior=0.3)
    filter = ObservationFilter(R, D, profile)
    rollouts = [observations(0), observations(1)]
    probe = observations(2)
    for data in rollouts:
        for t in range(T):
            filter.see(data[:, t : t + 1])
        filter.see_rollout(data)
    seen = np.concatenate(rollouts, axis=1)
    for run in range(R):
        mean, variance = moments_of(seen[run], 0.3)
        expected = (probe[run] - mean) / np.sqrt(variance)
        np.testing.assert_allclose(filter.normalise(probe)[run], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(filter.normalise(probe[:, 4])[run], expected[4], rtol=1e-6, atol=1e-6)
    assert filter.normalise(probe).dtype == filter.normalise(probe[:, 4]).dtype == np.float32


def test_filter_per_step_sees_all_actors_at_once():
    filter = ObservationFilter(R, D, Profile(observation_filter="per_step", filter_prior=0.3))
    data, probe = observations(0, (R, T, 4, D)), observations(1)
    for t in range(T):
        filter.see(data[:, t])
    for run in range(R):
        mean, variance = moments_of(data[run].reshape(-1, D), 0.3)
        np.testing.assert_allclose(filter.normalise(probe)[run], (probe[run] - mean) / np.sqrt(variance), rtol=1e-5)


def test_filter_per_rollout_stands_still_within_a_rollout_and_per_step_moves_at_once():
    data = observations(0)
    still = ObservationFilter(R, D, Profile(observation_filter="per_rollout"))
    still.see(data[:, :1])
    np.testing.assert_array_equal(still.normalise(data), data.astype(np.float32))
    moving = ObservationFilter(R, D, Profile(observation_filter="per_step", filter_prior=1.0))
    moving.see(data[:, :1])
    # One observation beside the prior's one: mean x/2, variance (1 + x²)/2 − x²/4.
    x = data[:, 0]
    np.testing.assert_allclose(moving.normalise(x), x / 2 / np.sqrt(0.5 + x * x / 4), rtol=1e-6)


def test_filter_clips_in_standard_deviations():
    filter = ObservationFilter(1, 1, Profile(observation_filter="per_rollout", filter_clip=1.5))
    x = np.array([[[-9.0], [-1.5], [0.25], [1.5], [9.0]]])
    np.testing.assert_array_equal(filter.normalise(x)[0, :, 0], [-1.5, -1.5, 0.25, 1.5, 1.5])
    np.testing.assert_array_equal(x[0, :, 0], [-9.0, -1.5, 0.25, 1.5, 9.0])


@pytest.mark.parametrize(
    ("floor", "epsilon", "variance"), [(0.04, 0.0, 0.04), (0.0, 0.01, 0.01), (0.04, 0.05, 0.09), (0.0, 0.0, 0.0)]
)
def test_filter_floor_bounds_the_variance_and_epsilon_adds_to_it(floor, epsilon, variance):
    profile = Profile(observation_filter="per_rollout", filter_prior=1e-12, filter_floor=floor, filter_epsilon=epsilon)
    filter = ObservationFilter(1, 2, profile)
    moving = np.tile([5.0, -5.0], T // 2)
    filter.see_rollout(np.stack([np.full(T, 3.0), moving], axis=-1)[None])
    expected = [3.0 + 1.0 * np.sqrt(variance), np.sqrt(25.0 + epsilon)]
    np.testing.assert_allclose(filter.normalise(np.array([expected]))[0, 1], 1.0, rtol=1e-5)
    if variance:
        np.testing.assert_allclose(filter.normalise(np.array([expected]))[0, 0], 1.0, rtol=1e-5)


@pytest.mark.parametrize("when", ["per_rollout", "per_step"])
def test_filter_of_a_run_does_not_know_its_mates(when):
    def run_zero(data):
        filter = ObservationFilter(R, D, Profile(observation_filter=when))
        for t in range(T):
            filter.see(data[:, t : t + 1])
        filter.see_rollout(data)
        return (
            filter.normalise(data)[0].tobytes(),
            pickle.dumps(filter.state_dict(0)),
            pickle.dumps(filter.state_dict(1)),
        )

    data = observations(0)
    changed = data.copy()
    changed[1] = 1e6 * changed[1] + 7
    before, after = run_zero(data), run_zero(changed)
    assert before[:2] == after[:2]
    assert before[2] != after[2]


def slow_reward_scale(rewards, ended, gamma, clip=None):
    """VecNormalize for one run, its variance from the raw sums of all returns so far."""
    discounted, returns, scaled = 0.0, [], []
    for reward, end in zip(rewards, ended, strict=True):
        discounted = gamma * discounted + reward
        returns.append(discounted)
        total = 1e-4 + len(returns)
        variance = (1e-4 + sum(r * r for r in returns)) / total - (sum(returns) / total) ** 2
        quotient = reward / np.sqrt(variance + 1e-8)
        scaled.append(quotient if clip is None else min(max(quotient, -clip), clip))
        if end:
            discounted = 0.0
    return scaled


def rewards_and_ends(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(2, 3, size=(R, 1, T)), rng.random((R, 1, T)) < 0.1


@pytest.mark.parametrize("clip", [None, 0.5])
def test_rewards_are_scaled_as_vec_normalize_does_over_several_rollouts(clip):
    gamma = np.array([[0.9], [0.5]])
    scale = RewardScale(R, Profile(scale_rewards=True, reward_clip=clip), gamma)
    (first, ends), (second, more_ends) = rewards_and_ends(0), rewards_and_ends(1)
    original = first.copy()
    actual = np.concatenate([scale.scale(first, ends), scale.scale(second, more_ends)], axis=2)
    np.testing.assert_array_equal(first, original)
    for run in range(R):
        rewards, ended = (
            np.concatenate([first[run, 0], second[run, 0]]),
            np.concatenate([ends[run, 0], more_ends[run, 0]]),
        )
        np.testing.assert_allclose(actual[run, 0], slow_reward_scale(rewards, ended, gamma[run, 0], clip), rtol=1e-7)


def test_rewards_are_only_clipped_when_not_scaled():
    scale = RewardScale(1, Profile(reward_clip=2.0), np.array([[0.9]]))
    scaled = scale.scale(np.array([[[-3.0, 1.0, 5.0]]]), np.zeros((1, 1, 3), dtype=bool))
    np.testing.assert_array_equal(scaled, [[[-2.0, 1.0, 2.0]]])


def test_reward_scale_of_a_run_does_not_know_its_mates():
    def run_zero(rewards, ended):
        scale = RewardScale(R, Profile(scale_rewards=True), np.array([[0.9], [0.5]]))
        return scale.scale(rewards, ended)[0].tobytes(), pickle.dumps(scale.state_dict(0))

    rewards, ended = rewards_and_ends(0)
    changed, changed_ends = rewards.copy(), ended.copy()
    changed[1] *= 1e6
    changed_ends[1] = ~ended[1]
    assert run_zero(rewards, ended) == run_zero(changed, changed_ends)


def test_filter_state_goes_round_and_lands_in_another_row():
    profile = Profile(observation_filter="per_step")
    filter, fresh = ObservationFilter(R, D, profile), ObservationFilter(3, D, profile)
    for t in range(T):
        filter.see(observations(0)[:, t : t + 1])
    for run in range(R):
        fresh.load_state_dict(run + 1, pickle.loads(pickle.dumps(filter.state_dict(run))))
    probe, more = observations(1), observations(2)[:, :1]
    padded = np.concatenate([probe[:1], probe])
    np.testing.assert_array_equal(fresh.normalise(padded)[1:], filter.normalise(probe))
    filter.see(more)
    fresh.see(np.concatenate([more[:1], more]))
    np.testing.assert_array_equal(fresh.normalise(padded)[1:], filter.normalise(probe))


def test_reward_scale_state_goes_round():
    profile, gamma = Profile(scale_rewards=True), np.array([[0.9], [0.5]])
    scale, fresh = RewardScale(R, profile, gamma), RewardScale(R, profile, gamma)
    rewards, ended = rewards_and_ends(0)
    ended[..., -1] = False
    scale.scale(rewards, ended)
    for run in range(R):
        fresh.load_state_dict(run, pickle.loads(pickle.dumps(scale.state_dict(run))))
    np.testing.assert_array_equal(fresh.scale(*rewards_and_ends(1)), scale.scale(*rewards_and_ends(1)))


def test_saved_states_do_not_move_with_their_owner():
    filter = ObservationFilter(R, D, Profile(observation_filter="per_step"))
    scale = RewardScale(R, Profile(scale_rewards=True), np.array([[0.9], [0.5]]))
    scale.scale(*rewards_and_ends(0))
    states = filter.state_dict(0), scale.state_dict(0)
    before = copy.deepcopy(states)
    filter.see(observations(0)[:, :1])
    scale.scale(*rewards_and_ends(1))
    assert pickle.dumps(states) == pickle.dumps(before)
