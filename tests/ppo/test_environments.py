"""The two backends are the same tasks, replay is exact, and collection holds only real transitions."""

import errno
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest

import ppo.environments
from ppo.config import Algo, Env, Profile, RunConfig
from ppo.environments import Environments, TaskError
from ppo.pack import Pack
from ppo.refusals import UserError
from ppo.rollout import Episode, collect
from tests.ppo.own_tasks import BACKENDS, Counter, registry, uniform

pytest.importorskip("envpool")
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting:UserWarning")

# Episodes per run and backend for the comparison of returns, of 8 runs: few where an episode has 1000 env steps.
TASKS = {
    "HalfCheetah-v4": 3,
    "Hopper-v4": 40,
    "InvertedDoublePendulum-v4": 60,
    "InvertedPendulum-v4": 60,
    "Reacher-v4": 20,
    "Swimmer-v4": 3,
    "Walker2d-v4": 40,
}


def state_of(env_id: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(qpos, qvel) from a fresh episode's observation; the root's place, unobserved, is set to 0 and moves nothing."""
    match env_id.partition("-")[0]:
        case "HalfCheetah" | "Hopper" | "Walker2d":
            half = len(x) // 2
            return np.r_[0.0, x[:half]], x[half:]
        case "Swimmer":
            return np.r_[0.0, 0.0, x[:3]], x[3:]
        case "InvertedPendulum":
            return x[:2], x[2:]
        case "InvertedDoublePendulum":
            return np.r_[x[0], np.arctan2(x[1:3], x[3:5])], x[5:8]
        case "Reacher":  # angles as cosines and sines, target, velocities; the target stands still
            return np.r_[np.arctan2(x[2:4], x[:2]), x[4:6]], np.r_[x[6:8], 0.0, 0.0]
    raise AssertionError(env_id)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("env_id", TASKS)
def test_same_state_and_raw_action_give_the_same_step_on_both_backends(env_id: str, times: int) -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        ours = Environments(Env(env_id), "envpool", [seed])
        ours.reset()
        theirs = gymnasium.make(env_id).unwrapped
        theirs.reset(seed=0)
        mujoco.mj_resetData(theirs.model, theirs.data)
        theirs.set_state(*state_of(env_id, ours.observations[0]))
        np.testing.assert_allclose(theirs._get_obs(), ours.observations[0], rtol=0, atol=1e-12)
        for _ in range(10):
            action = uniform(rng, ours, times)
            reward, terminated, _ = ours.step(action)
            observation, their_reward, their_terminated, _, _ = theirs.step(action[0])
            np.testing.assert_allclose(ours.observations[0], observation, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(reward[0], their_reward, rtol=1e-6, atol=1e-6)
            assert terminated[0] == their_terminated
            if their_terminated:
                break


def returns_and_lengths(env_id: str, backend: str, episodes: int) -> np.ndarray:
    """(8 × episodes, 2): the first `episodes` of each of 8 runs under uniform actions."""
    environments = Environments(Env(env_id), backend, range(100, 108))
    rng = np.random.default_rng(1)
    environments.reset()
    current, finished = np.zeros((8, 2)), [[] for _ in range(8)]
    while min(map(len, finished)) < episodes:
        rewards, terminated, truncated = environments.step(uniform(rng, environments))
        current += np.column_stack([rewards, np.ones(8)])
        over = np.flatnonzero(terminated | truncated)
        if over.size:
            for run in over:
                finished[run].append(current[run].copy())
            current[over] = 0.0
            environments.reset(over)
            environments.forget()
    return np.concatenate([run[:episodes] for run in finished])


@pytest.mark.parametrize("env_id", TASKS)
def test_random_returns_and_lengths_agree_between_the_backends(env_id: str) -> None:
    ours, theirs = (returns_and_lengths(env_id, backend, TASKS[env_id]) for backend in BACKENDS)
    difference = ours.mean(axis=0) - theirs.mean(axis=0)
    error = np.sqrt(ours.var(axis=0, ddof=1) / len(ours) + theirs.var(axis=0, ddof=1) / len(theirs))
    assert (np.abs(difference) <= 4 * error).all(), f"return and length differ by {difference}, error {error}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", ["HalfCheetah-v4", "Hopper-v4", "CartPole-v1"])
def test_each_environment_of_a_pack_is_the_one_it_would_be_alone(env_id: str, backend: str) -> None:
    seeds = [11, 0, 2**31 - 2]
    pack, *alone = (Environments(Env(env_id), backend, chosen) for chosen in (seeds, *([seed] for seed in seeds)))
    for environments in (pack, *alone):
        environments.reset()
    assert len({row.tobytes() for row in pack.observations}) == 3
    rng = np.random.default_rng(0)
    for _ in range(60):
        actions = uniform(rng, pack)
        together = np.array(pack.step(actions))
        for run, environments in enumerate(alone):
            np.testing.assert_array_equal(np.array(environments.step(actions[run : run + 1]))[:, 0], together[:, run])
            np.testing.assert_array_equal(environments.observations[0], pack.observations[run])
        over = np.flatnonzero(together[1:].any(axis=0))
        if over.size:
            pack.reset(over)
            for run in over:
                alone[run].reset()
                np.testing.assert_array_equal(alone[run].observations[0], pack.observations[run])


class Strict(gymnasium.Env):
    """Takes what its space contains, as many do, and remembers the types."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} {action.dtype} is not in {self.action_space}"
        return np.zeros(1, np.float32), 1.0, False, False, {}


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Box(np.array([-1, 0.1]), np.array([0.1, 1]), dtype=np.float32),
        gymnasium.spaces.Box(-0.1, 0.1, (2,), np.float64),
        gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
        gymnasium.spaces.Discrete(3),
    ],
)
@pytest.mark.parametrize("objective", ["clip", "random"])
def test_actions_arrive_as_the_action_space_has_them(space: gymnasium.Space, objective: str) -> None:
    if objective == "random" and isinstance(space, gymnasium.spaces.Box) and not space.is_bounded():
        pytest.skip("no bounds, no uniform actions")
    gymnasium.register("TestStrict-v0", type("OfSpace", (Strict,), {"action_space": space}), max_episode_steps=9)
    try:
        algo = Algo("random") if objective == "random" else Algo("clip", epsilon=0.2)
        profile = Profile(horizon=64, minibatch_size=64, observation_filter="none", clip_actions=True)
        run = RunConfig(algo, profile, Env("TestStrict-v0"), "gymnasium", env_steps=64)
        pack = Pack([run])
        pack.start()
        assert collect(pack).rewards.sum() == 64
    finally:
        del gymnasium.registry["TestStrict-v0"]


def test_gymnasiums_own_tasks_get_float64_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their costs of control are computed in what they get; EnvPool's in float64."""
    environments = Environments(Env("Reacher-v4"), "gymnasium", [0])
    environments.reset()
    arrived = []
    task = environments.backend.envs[0].unwrapped

    def step(_: object, action: np.ndarray) -> tuple:
        arrived.append(action.dtype)
        return np.zeros(11), 0.0, False, False, {}

    monkeypatch.setattr(type(task), "step", step)
    environments.step(np.zeros((1, 2)))
    assert arrived == [np.float64]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"step": lambda self, action: 1 / 0}, r"ZeroDivisionError: division by zero \(.*test_environments\.py, line"),
        ({"step": lambda self, action: (np.zeros(2), 1.0, False, {})}, "not enough values to unpack"),
        ({"step": lambda self, action: (np.zeros(3), 1.0, False, False, {})}, r"shape \(3,\), its space says \(2,\)"),
        ({"step": lambda self, action: (np.zeros(2), [1.0, 2.0], False, False, {})}, "ValueError"),
        ({"reset": lambda self, **_: (np.zeros(1), {})}, r"shape \(1,\), its space says \(2,\)"),
        ({"reset": lambda self, **_: np.zeros(2)}, "AttributeError|ValueError|shape"),
    ],
)
def test_a_task_that_fails_is_named_with_its_row(broken: dict, words: str) -> None:
    def make(number: list[int] = []):  # noqa: B006
        number.append(0)
        return type("Broken", (Counter,), broken if len(number) == 2 else {})()

    gymnasium.register("TestBroken-v0", make, disable_env_checker=True, order_enforce=False)
    try:
        with warnings.catch_warnings(), pytest.raises(TaskError, match=rf"TestBroken-v0 failed: .*{words}") as failed:
            warnings.simplefilter("ignore")
            environments = Environments(Env("TestBroken-v0"), "gymnasium", [0, 1])
            environments.reset()
            environments.step(np.array([0, 0]))
        assert failed.value.row == 1
    finally:
        del gymnasium.registry["TestBroken-v0"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImportError("envpool.so: failed to map segment from shared object"), "too little memory"),
        (ImportError("libx.so: cannot allocate memory in static TLS block"), "too little memory"),
        (MemoryError(), "MemoryError; too little memory"),
        (OSError(errno.EMFILE, "Too many open files"), "too few files"),
        (ImportError("libx.so: undefined symbol: y"), "undefined symbol: y; install it again"),
    ],
)
def test_why_a_backend_cannot_be_loaded_is_said(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setitem(ppo.environments.BACKENDS, "envpool", broken)
    with pytest.raises(UserError, match=rf"backend=envpool is there but cannot be loaded: .*{words}"):
        Environments(Env("Hopper-v4"), "envpool", [0])
    monkeypatch.setitem(ppo.environments.BACKENDS, "envpool", lambda *_: __import__("no_such_backend"))
    with pytest.raises(UserError, match="backend=envpool: No module named 'no_such_backend'; install it"):
        Environments(Env("Hopper-v4"), "envpool", [0])


@pytest.fixture
def registered():
    with registry():
        yield


@pytest.mark.parametrize("actors", [1, 3])
def test_collection_holds_every_real_transition_and_no_other(registered, actors: int) -> None:
    profile = Profile(horizon=13, actors=actors, minibatch_size=13, observation_filter="none")
    budget = {"env_steps": 3 * profile.steps, "backend": "gymnasium"}
    pack = Pack([RunConfig(profile=profile, env=Env("TestCounter-v0"), seed=seed, **budget) for seed in range(4)])
    pack.start()
    first = pack.observations[..., 0].astype(int).tolist()
    assert {1, 2} == {episode for run in first for episode in run}, "seeds were meant to start in odd and even episodes"
    rollouts = []
    for _ in range(3):
        rollouts.append(collect(pack))
        pack.rollout += 1

    for run, episodes in enumerate(first):
        finished: list[list[Episode]] = [[], [], []]
        for actor, episode in enumerate(episodes):
            step = 0
            for t in range(39):
                rollout, now = rollouts[t // 13], (run, actor, t % 13)
                np.testing.assert_array_equal(rollout.x[now], [episode, step])
                np.testing.assert_array_equal(rollout.observations[now], [episode, step])
                step += 1
                np.testing.assert_array_equal(rollout.next_x[now], [episode, step])
                assert rollout.rewards[now] == step
                assert rollout.terminated[now] == (episode % 2 == 1 and step == 3)
                assert rollout.truncated[now] == (step == 5)
                if rollout.ended[now]:
                    ended = Episode(t * actors + actor + 1, {3: 6.0, 5: 15.0}[step], step)
                    finished[t // 13].append(ended)
                    episode, step = episode + 1, 0
        assert [rollout.episodes[run] for rollout in rollouts] == [sorted(each) for each in finished]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unknown_task_is_refused_with_near_matches(backend: str) -> None:
    with pytest.raises(UserError, match=r"no task Hoper-v4, did you mean Hopper-v4"):
        Environments(Env("Hoper-v4"), backend, [0])


@pytest.mark.filterwarnings("ignore:.*latest versioned environment")
def test_a_task_that_is_not_named_in_full_is_refused_with_its_full_id() -> None:
    with pytest.raises(UserError, match=r"Gymnasium makes CartPole-v1 of CartPole; say env\.id="):
        Environments(Env("CartPole"), "gymnasium", [0])
    Environments(Env("gymnasium:CartPole-v1"), "gymnasium", [0])  # a module to import and a full id


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"action_space": gymnasium.spaces.Discrete(2, start=1)}, "start at 1"),
        ({"action_space": gymnasium.spaces.MultiDiscrete([2, 2])}, "only Discrete and vectors"),
        ({"action_space": gymnasium.spaces.Box(0, 3, (1,), np.int64)}, "actions are no real numbers"),
        ({"action_space": gymnasium.spaces.Box(0, 1, (0,), np.float32)}, "hold no number at all"),
        ({"observation_space": gymnasium.spaces.Discrete(4)}, "only vectors of numbers"),
    ],
)
def test_an_unsupported_space_is_refused_by_name(space: dict, words: str) -> None:
    gymnasium.register("TestSpaces-v0", type("Spaces", (Counter,), space), disable_env_checker=True)
    try:
        with warnings.catch_warnings(), pytest.raises(UserError, match=rf"TestSpaces-v0: .*{words}"):
            warnings.simplefilter("ignore")
            Environments(Env("TestSpaces-v0"), "gymnasium", [0])
    finally:
        del gymnasium.registry["TestSpaces-v0"]


@pytest.mark.parametrize(("env_id", "action"), [("InvertedPendulum-v4", [[3.0]]), ("CartPole-v1", [1])])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fall_at_the_last_allowed_step_is_a_time_limit_and_to_gymnasium_also_a_fall(
    backend: str, env_id: str, action: list
) -> None:
    def end(limit: int | None) -> tuple[int, bool, bool]:
        """(length, terminated, truncated) of a first episode."""
        environments = Environments(Env(env_id, max_episode_steps=limit), backend, [5])
        environments.reset()
        length, terminated, truncated = 0, False, False
        while not (terminated or truncated):
            _, (terminated,), (truncated,) = environments.step(np.array(action))
            length += 1
        return length, terminated, truncated

    fall = end(None)
    assert fall == (fall[0], True, False)
    assert end(limit=fall[0]) == (fall[0], backend == "gymnasium", True)


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_a_time_limit_of_ones_own_replaces_the_tasks(backend: str) -> None:
    environments = Environments(Env("Pendulum-v1", max_episode_steps=230), backend, [0, 1])
    environments.reset()
    ends = []
    for step in range(1, 231):
        _, terminated, truncated = environments.step(np.zeros((2, 1)))
        ends += [step] if truncated.all() else []
        assert not terminated.any() and truncated.all() == truncated.any()
    assert ends == [230]
