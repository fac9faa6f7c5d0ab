"""A pack rebuilt by replay is the one it was, or is refused by name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppo.config import Env
from ppo.environments import Environments
from ppo.refusals import UserError
from tests.ppo.own_tasks import BACKENDS, advance, registry, uniform


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", ["Hopper-v4", "CartPole-v1", "Pendulum-v1", "Reacher-v4"])
@given(steps=st.integers(0, 120), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
def test_a_pack_rebuilt_by_replay_goes_on_with_the_same_bits(env_id: str, backend: str, steps: int, seed: int) -> None:
    seeds = [seed, 7, 123456]
    original = Environments(Env(env_id), backend, seeds)
    original.reset()
    advance(original, np.random.default_rng(seed), steps, reset_chance=0.03)
    states = [original.state_dict(run) for run in range(3)]

    rebuilt = Environments(Env(env_id), backend, seeds)
    rebuilt.load_state_dicts(states)
    np.testing.assert_array_equal(rebuilt.observations, original.observations)
    for ours, theirs in zip(
        advance(rebuilt, np.random.default_rng(2), 20), advance(original, np.random.default_rng(2), 20), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    for run in range(3):
        np.testing.assert_equal(rebuilt.state_dict(run), original.state_dict(run))


@pytest.mark.parametrize("backend", BACKENDS)
def test_replay_keeps_the_time_limit_where_it_was(backend: str) -> None:
    original = Environments(Env("Reacher-v4"), backend, [1, 2])
    original.reset()
    rng = np.random.default_rng(0)
    advance(original, rng, 10)
    original.reset(np.array([1]))  # its time limit is now 10 steps later
    advance(original, rng, 35)
    rebuilt = Environments(Env("Reacher-v4"), backend, [1, 2])
    rebuilt.load_state_dicts([original.state_dict(run) for run in range(2)])
    truncated = np.array([rebuilt.step(uniform(rng, rebuilt))[2] for _ in range(5)])
    assert truncated[:, 0].tolist() == [False] * 4 + [True]
    assert not truncated[:, 1].any()


def test_runs_of_one_pack_resume_from_different_histories() -> None:
    """One member just reset, one deep in its third episode, one in its first."""
    original = Environments(Env("Hopper-v4"), "envpool", [1, 2, 3])
    original.reset()
    for step in range(12):
        original.step(np.full((3, 3), 0.1 * step - 0.5))
        if step in (2, 6):
            original.reset(np.array([1]))
    original.reset(np.array([0]))
    states = [original.state_dict(run) for run in range(3)]
    assert [state["resets"] for state in states] == [2, 3, 1]
    assert [len(state["actions"]) for state in states] == [0, 5, 12]
    rebuilt = Environments(Env("Hopper-v4"), "envpool", [1, 2, 3])
    rebuilt.load_state_dicts(states)
    rewards = [environments.step(np.zeros((3, 3)))[0] for environments in (original, rebuilt)]
    np.testing.assert_array_equal(*rewards)
    np.testing.assert_array_equal(rebuilt.observations, original.observations)


@pytest.fixture
def registered():
    with registry():
        yield


@pytest.mark.parametrize("steps", [10, 13])
@pytest.mark.parametrize("name", ["TestWobbly-v0", "TestNoisy-v0"])
def test_an_environment_that_draws_randomness_in_step_is_refused_by_name(registered, name: str, steps: int) -> None:
    """Also where no observation shows it, as right after a reset."""
    original = Environments(Env(name), "gymnasium", [3])
    original.reset()
    advance(original, np.random.default_rng(0), steps)
    with pytest.raises(UserError, match=rf"{name} does not replay.*randomness in step"):
        Environments(Env(name), "gymnasium", [3]).load_state_dicts([original.state_dict(0)])


@pytest.mark.parametrize("steps", [8, 10, 13])
@pytest.mark.parametrize("name", ["TestScaled-v0", "TestLifelong-v0", "TestOwnDice-v0", "TestFitful-v0"])
def test_what_an_environment_remembers_of_earlier_episodes_is_refused_by_name(registered, name: str, steps: int):
    """Observations and the seeded generator are as before; 8 and 13 steps are right after a reset."""
    original = Environments(Env(name), "gymnasium", [3])
    original.reset()
    advance(original, np.random.default_rng(0), steps)
    state = original.state_dict(0)
    with pytest.raises(UserError, match=rf"{name} does not replay.*rewards or its generators.*earlier episodes"):
        Environments(Env(name), "gymnasium", [3]).load_state_dicts([state])
    older = {key: state[key] for key in ("resets", "actions", "observation_sha256")}  # of code without the proof
    Environments(Env(name), "gymnasium", [3]).load_state_dicts([older])


@pytest.mark.parametrize("steps", [4, 8, 10, 13])
def test_states_of_older_code_replay_as_ever_and_the_next_ones_are_whole(registered, steps: int) -> None:
    seeds = [3, 2]
    original = Environments(Env("TestCounter-v0"), "gymnasium", seeds)
    original.reset()
    rng = np.random.default_rng(0)
    advance(original, rng, steps)
    states = [original.state_dict(row) for row in range(2)]
    for kept in (states, [{name: s[name] for name in ("resets", "actions", "observation_sha256")} for s in states]):
        rebuilt = Environments(Env("TestCounter-v0"), "gymnasium", seeds)
        rebuilt.load_state_dicts(kept)
        again = Environments(Env("TestCounter-v0"), "gymnasium", seeds)
        again.load_state_dicts([rebuilt.state_dict(row) for row in range(2)])
        for ours, theirs in zip(advance(again, np.random.default_rng(2), 9),
                                advance(rebuilt, np.random.default_rng(2), 9), strict=True):  # fmt: skip
            np.testing.assert_array_equal(ours, theirs)
