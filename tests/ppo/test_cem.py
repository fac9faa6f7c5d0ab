"""The cross-entropy method: on functions whose optimum is known, by hand for one generation, and as an agent."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from ppo.cem import CrossEntropyMethod, Search
from ppo.config import Algo, Env, Profile, RunConfig
from ppo.pack import Pack
from ppo.randomness import generator
from ppo.refusals import UserError
from ppo.train import train

CEM = Algo(
    "cem", candidates=50, elite_fraction=0.2, initial_variance=1.0, extra_std=0.01, extra_generations=20.0
)  # fmt: skip


def test_it_finds_the_optimum_of_a_noisy_quadratic_in_every_run() -> None:
    optima, rng = np.array([[1.0, -2.0, 0.5], [-1.0, 0.0, 2.0]]), np.random.default_rng(0)
    search = Search(np.zeros((2, 3)), CEM, seeds=[0, 1])
    for _ in range(30 * 50):
        for run in range(2):
            distance = np.square(search.candidate(run) - optima[run]).sum()
            search.score(run, -distance + 0.01 * rng.standard_normal())
    np.testing.assert_allclose(search.mean, optima, atol=0.05)
    assert list(search.generation) == [30, 30]


def test_a_generation_is_fitted_to_its_best_by_hand() -> None:
    algo = replace(CEM, candidates=5, elite_fraction=0.4, initial_variance=4.0, extra_std=3.0, extra_generations=2.0)
    search = Search(np.array([[10.0, 20.0]]), algo, seeds=[7])
    draws = generator(7, "candidates", 0).standard_normal((5, 2))
    expected = np.array([10.0, 20.0]) + np.sqrt(4.0 + 9.0) * draws
    seen = []
    for score in (3.0, 9.0, 1.0, 7.0, 5.0):
        seen.append(search.candidate(0))
        search.score(0, score)
    np.testing.assert_allclose(seen, expected)
    best = expected[[1, 3]]
    np.testing.assert_allclose(search.mean[0], best.mean(axis=0))
    np.testing.assert_allclose(search.std(0), np.sqrt(best.var(axis=0) + 9.0 * 0.5))  # half the extra noise is gone
    search.generation[0] = 5
    np.testing.assert_allclose(search.std(0), best.std(axis=0))  # all of it


def test_a_search_goes_on_from_its_state() -> None:
    whole, parts = (Search(np.zeros((1, 2)), CEM, seeds=[3]) for _ in range(2))
    for step in range(120):
        for search in (whole, parts):
            search.score(0, -float(np.square(search.candidate(0) - 1).sum()))
        if step == 70:
            state = parts.state_dict(0)
            parts = Search(np.zeros((1, 2)), CEM, seeds=[3])
            parts.load_state_dict(0, state)
    np.testing.assert_array_equal(whole.mean, parts.mean)
    assert whole.returns == parts.returns


def cartpole(seed: int, env_steps: int) -> RunConfig:
    """Few parameters and much extra noise: made to solve CartPole in seconds, unlike the settings of conf/algo/cem."""
    profile = Profile(horizon=2048, hidden_sizes=(4,), observation_filter="per_step", filter_clip=5.0)
    algo = replace(CEM, extra_std=0.5)
    return RunConfig(algo, profile, Env("CartPole-v1"), backend="gymnasium", seed=seed, env_steps=env_steps)


def test_it_solves_cartpole() -> None:
    """What it found, the mean of its last generation, plays by itself."""
    pack = Pack([cartpole(seed, 81_920) for seed in range(3)])
    first, *_ = [iteration.episodes for iteration in train(pack)]
    assert all(np.mean([episode.episode_return for episode in episodes[:50]]) < 60 for episodes in first)
    actor = pack.learner.agent(sample=True)
    environment = gymnasium.make("CartPole-v1")
    for run in range(3):
        returns = []
        for episode in range(20):
            observation, over, total = environment.reset(seed=episode)[0], False, 0.0
            while not over:
                seen = np.broadcast_to(observation, (3, 1, 4)).astype(np.float64)
                action = actor.act(pack.filter.normalise(seen), np.zeros((3, 1, 2), np.float32))[run, 0]
                observation, reward, terminated, truncated, _ = environment.step(action)
                total, over = total + float(reward), terminated or truncated
            returns.append(total)
        assert np.mean(returns) > 475


def test_an_episode_is_one_candidates_and_the_value_network_never_moves() -> None:
    pack = Pack([cartpole(seed, 4096) for seed in range(2)])
    before = pack.learner.model.network.views(pack.learner.flat.clone())
    episodes = [0, 0]
    for iteration in train(pack):
        for run in range(2):
            episodes[run] += len(iteration.episodes[run])
    for run in range(2):
        assert isinstance(pack.learner, CrossEntropyMethod)
        search = pack.learner.search
        assert int(search.generation[run]) * 50 + len(search.returns[run]) == episodes[run] > 50
        playing = pack.learner.flat[run, pack.learner.columns].numpy()
        np.testing.assert_array_equal(playing, search.candidate(run).astype(np.float32))
    views = pack.learner.views
    assert all((views[name] == before[name]).all() for name in views if name.startswith("value."))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="one candidate at a time"):
        replace(cartpole(0, 8192), profile=Profile(actors=2))
    with pytest.raises(UserError, match="keeps none"):
        replace(cartpole(0, 8192), algo=replace(CEM, elite_fraction=0.001))
