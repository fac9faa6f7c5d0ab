"""The environments of a pack: stepped together, and rebuilt exactly by replay.

Three backends with one face. EnvPool steps MuJoCo in C++; Gymnasium serves any registered task and is the reference;
ALE plays Atari's games (atari.py). None resets by itself here: an ended episode keeps its final observation until
`reset` is called, so a rollout holds only real transitions. Each environment has a seed of its own and is the one it
would be alone.

A task that draws randomness only at reset is rebuilt from (seed, number of resets, actions since the last reset); this
needs no access to a simulator's internals and serves all backends. Proof is that all it hands out is as before: the
last observation, every reward and end. A task in Python may remember things over episodes (a running mean of rewards,
a counter), so its episode before the present one is replayed as well: without the episodes before, it would differ.
"""

import errno
import hashlib
import random
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np

from ppo.atari import Ale
from ppo.config import Env
from ppo.refusals import UserError, near_matches
from ppo.spaces import Spaces


class TaskError(UserError):
    """A task's own code failed. `row` is the environment, `place` says of which run and when, if that is known."""

    def __init__(self, env_id: str, row: int, why: str):
        super().__init__(env_id, row, why)
        self.env_id, self.row, self.why, self.place = env_id, row, why, ""

    def __str__(self) -> str:
        return f"{self.env_id} failed{self.place}: {self.why}"


def described(error: BaseException) -> str:
    """An exception of somebody else's code in one line: kind, words and place."""
    words = " ".join(str(error).split())
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}{words and f': {words}'} ({last.filename}, line {last.lineno})"


class Backend(Protocol):
    """What a backend offers. `ids` (n,) int name the environments meant; arrays have n rows."""

    spaces: Spaces
    remembers: bool  # whether an environment may carry something over from one episode to the next

    @property
    def lost(self) -> np.ndarray:
        """Who of all environments lost a life at its last step and plays on, bool."""
        ...

    def reset(self, ids: np.ndarray) -> np.ndarray:
        """Start new episodes; the first reset of each environment seeds it. Returns observations (n, …)."""
        ...

    def skip(self, ids: np.ndarray) -> None:
        """A reset whose episode nobody will play."""
        ...

    def step(self, actions: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Observations (n, …), rewards (n,) float64, terminated (n,), truncated (n,). What it does to environments not
        in `ids` is its own affair: they are reset before they count."""
        ...

    def unseen(self, row: int) -> bytes:
        """Of an environment's state what can be told beside its observation, to check a replay by."""
        ...

    def generators(self, row: int) -> bytes:
        """The state of every generator that can be found in an environment and its wrappers."""
        ...


class EnvPool:
    """EnvPool's synchronous vector, in one thread.

    A fall at the very last allowed step is here a time limit alone (terminated = done & ~truncated), with Gymnasium
    both. So under time_limit=bootstrap such a state is worth V(s) here and 0 there; under terminal nothing differs.
    """

    remembers = False

    def __init__(self, env: Env, seeds: Sequence[int]):
        import envpool

        if env.id not in envpool.list_all_envs():
            near = near_matches(env.id, envpool.list_all_envs())
            raise UserError(f"EnvPool has no task {env.id}{near}; backend=gymnasium runs any registered task")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*precision lowered.*")  # of a space's bounds, used by nothing
            # num_threads=1: one core per pack; without it EnvPool starts a thread per core.
            limit = {} if env.max_episode_steps is None else {"max_episode_steps": env.max_episode_steps}
            self.envs = envpool.make(env.id, "gymnasium", num_envs=len(seeds), seed=list(seeds), num_threads=1, **limit)
            self.spaces = Spaces.of(env.id, self.envs.observation_space, self.envs.action_space)
        self.lost = np.zeros(len(seeds), dtype=bool)

    def reset(self, ids: np.ndarray) -> np.ndarray:
        observations, _ = self.envs.reset(ids)
        return observations.astype(np.float64)

    def skip(self, ids: np.ndarray) -> None:
        self.reset(ids)

    def step(self, actions: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        observations, rewards, terminated, truncated, _ = self.envs.step(actions, ids)
        return observations.astype(np.float64), rewards.astype(np.float64), terminated, truncated

    def unseen(self, row: int) -> bytes:
        return b""

    def generators(self, row: int) -> bytes:
        return b""


def layers(env: gymnasium.Env[Any, Any]) -> Iterator[gymnasium.Env[Any, Any]]:
    """An environment's wrappers from the outside, then itself."""
    while isinstance(env, gymnasium.Wrapper):
        yield env
        env = env.env
    yield env


def action_dtype(env: gymnasium.Env[Any, Any]) -> Any:
    """What an environment takes: its action space's dtype, as `sample` gives it.

    Gymnasium's own tasks take float64 as well and compute with what they get; in float32 a cost of control would be
    another number than EnvPool's.
    """
    own = type(env.unwrapped).__module__.partition(".")[0] == "gymnasium"
    return np.float64 if own and isinstance(env.action_space, gymnasium.spaces.Box) else env.action_space.dtype


class Gymnasium:
    """Plain environments, stepped in turn."""

    remembers = True

    def __init__(self, env: Env, seeds: Sequence[int]):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*out of date.*", category=DeprecationWarning)
            try:
                self.envs = [gymnasium.make(env.id, max_episode_steps=env.max_episode_steps) for _ in seeds]
            except gymnasium.error.UnregisteredEnv as error:
                near = near_matches(env.id, list(gymnasium.registry))
                raise UserError(f"Gymnasium has no task {env.id}{near}") from error
            except gymnasium.error.Error as error:
                raise UserError(f"Gymnasium cannot make {env.id}: {error}") from error
            except (ImportError, MemoryError, OSError):
                raise  # explained where backends are opened
            except Exception as error:
                raise UserError(f"Gymnasium cannot make {env.id}: {described(error)}") from error
        spec, named = self.envs[0].spec, env.id.rpartition(":")[2]  # module:Id imports a module that registers Id
        if spec is not None and spec.id != named:  # a run names its task in full, whatever Gymnasium makes of less
            raise UserError(f"Gymnasium makes {spec.id} of {env.id}; say env.id={spec.id}")
        self.env_id = env.id
        self.seeds: list[int | None] = list(seeds)
        self.lost = np.zeros(len(seeds), dtype=bool)
        self.spaces = Spaces.of(env.id, self.envs[0].observation_space, self.envs[0].action_space)
        self.action_dtype = action_dtype(self.envs[0])

    def reset(self, ids: np.ndarray) -> np.ndarray:
        observations = []
        for i in ids:
            try:
                observation, _ = self.envs[i].reset(seed=self.seeds[i])
                observations.append(np.asarray(observation, dtype=np.float64))
            except Exception as error:
                raise TaskError(self.env_id, int(i), described(error)) from error
            self.seeds[i] = None
        return self._whole(observations, ids)

    def skip(self, ids: np.ndarray) -> None:
        self.reset(ids)

    def step(self, actions: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        actions = actions.astype(self.action_dtype, copy=False)
        observations, results = [], []
        for i, action in zip(ids, actions, strict=True):
            try:
                observation, reward, terminated, truncated, _ = self.envs[i].step(action)
                observations.append(np.asarray(observation, dtype=np.float64))
                number = np.asarray(reward, dtype=np.float64).item()  # None is NaN
                results.append((number, bool(terminated), bool(truncated)))
            except Exception as error:
                raise TaskError(self.env_id, int(i), described(error)) from error
        rewards, terminated, truncated = zip(*results, strict=True)
        return (
            self._whole(observations, ids),
            np.asarray(rewards, dtype=np.float64),
            np.asarray(terminated, dtype=bool),
            np.asarray(truncated, dtype=bool),
        )

    def _whole(self, observations: list[np.ndarray], ids: np.ndarray) -> np.ndarray:
        for i, observation in zip(ids, observations, strict=True):
            if observation.shape != self.spaces.observation_shape:
                there, said = observation.shape, self.spaces.observation_shape
                raise TaskError(self.env_id, int(i), f"its observation has the shape {there}, its space says {said}")
        return np.array(observations)

    def unseen(self, row: int) -> bytes:
        """Its generator: whoever draws in steps stands elsewhere in it after a replay."""
        drawn = self.envs[row].unwrapped._np_random
        return b"" if drawn is None else repr(drawn.bit_generator.state).encode()

    def generators(self, row: int) -> bytes:
        found: list[tuple[str, Any]] = []
        for layer in layers(self.envs[row]):
            for name, value in sorted(vars(layer).items()):
                if isinstance(value, np.random.Generator):
                    found.append((name, value.bit_generator.state))
                elif isinstance(value, np.random.RandomState):
                    found.append((name, value.get_state(legacy=False)))
                elif isinstance(value, random.Random):
                    found.append((name, value.getstate()))
        return repr(found).encode()


BACKENDS: dict[str, type[EnvPool] | type[Gymnasium] | type[Ale]] = {
    "envpool": EnvPool, "gymnasium": Gymnasium, "ale": Ale
}  # fmt: skip


class Environments:
    """A backend plus what replay needs: resets so far, the actions since the last one (or the one before it) and what
    was handed out for them, for each of its E environments, which are the actors of a pack's runs, one run's after
    another's."""

    def __init__(self, env: Env, backend: str, seeds: Sequence[int]):
        try:
            self.backend: Backend = BACKENDS[backend](env, seeds)
        except ModuleNotFoundError as error:
            raise UserError(f"backend={backend}: {error}; install it, or choose another backend") from error
        except (ImportError, MemoryError, OSError) as error:
            raise UserError(f"backend={backend} is there but cannot be loaded: {cause(error)}") from error
        self.env_id = env.id
        self.spaces = self.backend.spaces
        self.ids = np.arange(len(seeds), dtype=np.int32)
        self.resets = np.zeros(len(seeds), dtype=np.int64)
        self.history: list[np.ndarray] = []  # one action array (E, …) per step
        self.handed_out: list[tuple[np.ndarray, ...]] = []  # rewards, terminated, truncated, lost: (E,) each, per step
        self.started = np.zeros(len(seeds), dtype=np.int64)  # where in them each one's episode began
        self.earlier = np.zeros(len(seeds), dtype=np.int64)  # the same of the first episode to replay
        self.observations = np.zeros((len(seeds), *self.spaces.observation_shape), dtype=self.spaces.dtype)

    @property
    def lost(self) -> np.ndarray:
        """Who lost a life at the last step, in a game that goes on: (E,) bool."""
        return self.backend.lost

    def reset(self, ids: np.ndarray | None = None) -> None:
        ids = self.ids if ids is None else ids.astype(np.int32)
        self.observations[ids] = self.backend.reset(ids)
        self.resets[ids] += 1
        self.earlier[ids] = self.started[ids] if self.backend.remembers else len(self.history)
        self.started[ids] = len(self.history)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Actions (E, A) or (E,) → rewards (E,), terminated (E,), truncated (E,); `observations` moves on."""
        self.history.append(actions)
        self.observations, *handed_out = self.backend.step(actions, self.ids)
        self.handed_out.append((*handed_out, self.backend.lost))
        rewards, terminated, truncated = handed_out
        return rewards, terminated, truncated

    def forget(self) -> None:
        """Drop actions of episodes that no replay needs."""
        oldest = int(self.earlier.min())
        del self.history[:oldest], self.handed_out[:oldest]
        self.started -= oldest
        self.earlier -= oldest

    def state_dict(self, row: int) -> dict[str, Any]:
        return {
            "resets": int(self.resets[row]),
            "actions": self._actions(row, self.history[self.started[row] :]),
            "earlier_actions": self._actions(row, self.history[self.earlier[row] : self.started[row]]),
            "observation_sha256": self._digest(row),
            "handed_out_sha256": self._handed_out_digest(row),
        }

    def load_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Replay every environment to where it stood, all of them together; refuses by name what does not replay.

        States of older code have neither earlier actions nor a digest of what was handed out.
        """
        actions = [np.asarray(state["actions"]) for state in states]
        earlier = [
            np.asarray(state.get("earlier_actions", now[:0])) for state, now in zip(states, actions, strict=True)
        ]
        try:
            self._replay(earlier, actions, np.array([state["resets"] for state in states]))
        except TaskError as error:
            error.place = " while its actions up to the checkpoint were replayed"
            raise
        for row, state in enumerate(states):
            whole = self._digest(row) == state["observation_sha256"]
            if whole and self._handed_out_digest(row) == state.get("handed_out_sha256", self._handed_out_digest(row)):
                continue
            what = "where the checkpoint left it" if not whole else "what it was: its rewards or its generators differ"
            raise UserError(
                f"{self.env_id} does not replay: after the same {state['resets']} resets and {len(actions[row])} "
                f"actions it is not {what}. It draws randomness in step, or remembers something of earlier episodes "
                "(a running mean, a counter), or the simulator changed; such a run cannot be resumed exactly, start it "
                "from the beginning in another records folder"
            )

    def _replay(self, earlier: Sequence[np.ndarray], actions: Sequence[np.ndarray], resets: np.ndarray) -> None:
        """Play every environment's actions of its last two episodes again, after all but these of its resets."""
        played = [np.concatenate(both) for both in zip(earlier, actions, strict=True)]
        begun = resets - 1 - np.array([len(each) > 0 for each in earlier])
        while (behind := self.ids[self.resets < begun]).size:
            self.backend.skip(behind)
            self.resets[behind] += 1
        count, longest = len(played), max(map(len, played))
        self.history = [np.zeros((count, *self._action_shape()), self._action_dtype()) for _ in range(longest)]
        self.handed_out = [(np.zeros(count), *(np.zeros(count, dtype=bool) for _ in range(3))) for _ in range(longest)]
        # All end together, so that who stands still has not begun.
        self.earlier = longest - np.array(list(map(len, played)))
        self.started = longest - np.array(list(map(len, actions)))
        for t in range(longest + 1):
            starting = self.ids[(resets > 0) & ((self.earlier == t) | (self.started == t))]
            if starting.size:
                self.observations[starting] = self.backend.reset(starting)
                self.resets[starting] += 1
            if t < longest:
                now = self.ids[self.earlier <= t]
                step = np.stack([played[i][t - self.earlier[i]] for i in now])
                self.observations[now], *handed_out = self.backend.step(step, now)
                self.history[t][now] = step
                for kept, new in zip(self.handed_out[t], (*handed_out, self.backend.lost[now]), strict=True):
                    kept[now] = new

    def _actions(self, row: int, history: Sequence[np.ndarray]) -> np.ndarray:
        actions = [action[row] for action in history]
        return np.array(actions, dtype=self._action_dtype()).reshape(-1, *self._action_shape())

    def _digest(self, row: int) -> str:
        return hashlib.sha256(self.observations[row].tobytes() + self.backend.unseen(row)).hexdigest()

    def _handed_out_digest(self, row: int) -> str:
        digest = hashlib.sha256(self.backend.generators(row))
        for values in zip(*self.handed_out[self.earlier[row] :], strict=True):
            digest.update(np.array([value[row] for value in values]).tobytes())
        return digest.hexdigest()

    def _action_shape(self) -> tuple[int, ...]:
        return () if self.spaces.discrete else (self.spaces.action_size,)

    def _action_dtype(self) -> type:
        return np.int64 if self.spaces.discrete else np.float64


def cause(error: BaseException) -> str:
    """Why a library that is installed does not load: the system's limits by name, where they are the cause."""
    words = " ".join(str(error).split()) or type(error).__name__
    few = "too little memory may be used here (ulimit -v, or the job's memory); allow more"
    files = "too few files may be open here (ulimit -n); allow more"
    number = getattr(error, "errno", None)
    if isinstance(error, MemoryError) or number == errno.ENOMEM or any(sign in words for sign in OUT_OF_MEMORY):
        return f"{words}; {few}"
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in words:
        return f"{words}; {files}"
    return f"{words}; install it again, or choose another backend"


OUT_OF_MEMORY = ("annot allocate memory", "failed to map segment", "bad_alloc", "nable to allocate")
"""In the words of the loader, of C++ and of NumPy."""
