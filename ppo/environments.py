"""The environments of a pack: stepped together, and rebuilt exactly by replay.

Three backends with one face. EnvPool steps MuJoCo in C++; Gymnasium serves any registered task and is the reference;
ALE plays Atari's games (atari.py). None resets by itself here: an ended episode keeps its final observation until
`reset` is called, so a rollout holds only real transitions. Each environment has a seed of its own and is the one it
would be alone.

A task that draws randomness only at reset is rebuilt from (seed, number of resets, actions since the last reset); this
needs no access to a simulator's internals and serves all backends.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np

from ppo.atari import Ale
from ppo.config import Env
from ppo.refusals import UserError, near_matches
from ppo.spaces import Spaces


class Backend(Protocol):
    """What a backend offers. `ids` (n,) int name the environments meant; arrays have n rows."""

    spaces: Spaces

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


class EnvPool:
    """EnvPool's synchronous vector, in one thread.

    A fall at the very last allowed step is here a time limit alone (terminated = done & ~truncated), with Gymnasium
    both. So under time_limit=bootstrap such a state is worth V(s) here and 0 there; under terminal nothing differs.
    """

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


class Gymnasium:
    """Plain environments, stepped in turn."""

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
        spec, named = self.envs[0].spec, env.id.rpartition(":")[2]  # module:Id imports a module that registers Id
        if spec is not None and spec.id != named:  # a run names its task in full, whatever Gymnasium makes of less
            raise UserError(f"Gymnasium makes {spec.id} of {env.id}; say env.id={spec.id}")
        self.seeds: list[int | None] = list(seeds)
        self.lost = np.zeros(len(seeds), dtype=bool)
        self.spaces = Spaces.of(env.id, self.envs[0].observation_space, self.envs[0].action_space)

    def reset(self, ids: np.ndarray) -> np.ndarray:
        observations = []
        for i in ids:
            observations.append(self.envs[i].reset(seed=self.seeds[i])[0])
            self.seeds[i] = None
        return np.asarray(observations, dtype=np.float64)

    def skip(self, ids: np.ndarray) -> None:
        self.reset(ids)

    def step(self, actions: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        results = [self.envs[i].step(action)[:4] for i, action in zip(ids, actions, strict=True)]
        observations, rewards, terminated, truncated = zip(*results, strict=True)
        return (
            np.asarray(observations, dtype=np.float64),
            np.asarray(rewards, dtype=np.float64),
            np.asarray(terminated, dtype=bool),
            np.asarray(truncated, dtype=bool),
        )

    def unseen(self, row: int) -> bytes:
        """Its generator: whoever draws in steps stands elsewhere in it after a replay."""
        drawn = self.envs[row].unwrapped._np_random
        return b"" if drawn is None else repr(drawn.bit_generator.state).encode()


BACKENDS: dict[str, type[EnvPool] | type[Gymnasium] | type[Ale]] = {
    "envpool": EnvPool, "gymnasium": Gymnasium, "ale": Ale
}  # fmt: skip


class Environments:
    """A backend plus what replay needs: resets so far and the actions since the last one, for each of its E
    environments, which are the actors of a pack's runs, one run's after another's."""

    def __init__(self, env: Env, backend: str, seeds: Sequence[int]):
        try:
            self.backend: Backend = BACKENDS[backend](env, seeds)
        except ImportError as error:
            raise UserError(f"backend={backend}: {error}; install it, or choose another backend") from error
        self.env_id = env.id
        self.spaces = self.backend.spaces
        self.ids = np.arange(len(seeds), dtype=np.int32)
        self.resets = np.zeros(len(seeds), dtype=np.int64)
        self.history: list[np.ndarray] = []  # one action array (E, …) per step
        self.started = np.zeros(len(seeds), dtype=np.int64)  # where in it each one's episode began
        self.observations = np.zeros((len(seeds), *self.spaces.observation_shape), dtype=self.spaces.dtype)

    @property
    def lost(self) -> np.ndarray:
        """Who lost a life at the last step, in a game that goes on: (E,) bool."""
        return self.backend.lost

    def reset(self, ids: np.ndarray | None = None) -> None:
        ids = self.ids if ids is None else ids.astype(np.int32)
        self.observations[ids] = self.backend.reset(ids)
        self.resets[ids] += 1
        self.started[ids] = len(self.history)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Actions (E, A) or (E,) → rewards (E,), terminated (E,), truncated (E,); `observations` moves on."""
        self.history.append(actions)
        self.observations, rewards, terminated, truncated = self.backend.step(actions, self.ids)
        return rewards, terminated, truncated

    def forget(self) -> None:
        """Drop actions of episodes that are over."""
        oldest = int(self.started.min())
        del self.history[:oldest]
        self.started -= oldest

    def state_dict(self, row: int) -> dict[str, Any]:
        actions = [action[row] for action in self.history[self.started[row] :]]
        return {
            "resets": int(self.resets[row]),
            "actions": np.array(actions, dtype=self._action_dtype()).reshape(-1, *self._action_shape()),
            "observation_sha256": self._digest(row),
        }

    def load_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Replay every environment to where it stood, all of them together; refuses by name what does not replay."""
        targets = np.array([state["resets"] for state in states])
        while (behind := self.ids[self.resets < targets - 1]).size:
            self.backend.skip(behind)
            self.resets[behind] += 1
        actions = [np.asarray(state["actions"]) for state in states]
        lengths = np.array([len(a) for a in actions])
        longest = int(lengths.max())
        self.history = [np.zeros((len(states), *self._action_shape()), self._action_dtype()) for _ in range(longest)]
        self.started = longest - lengths  # all end together, so that who stands still has not begun
        for t in range(longest + 1):
            if (starting := self.ids[(self.started == t) & (targets > 0)]).size:
                self.observations[starting] = self.backend.reset(starting)
                self.resets[starting] += 1
            if t < longest:
                now = self.ids[self.started <= t]
                step = np.stack([actions[i][t - self.started[i]] for i in now])
                self.observations[now] = self.backend.step(step, now)[0]
                self.history[t][now] = step
        for row, state in enumerate(states):
            if self._digest(row) != state["observation_sha256"]:
                raise UserError(
                    f"{self.env_id} does not replay: after the same {state['resets']} resets and {lengths[row]} "
                    "actions it is not where the checkpoint left it. It draws randomness in step, or the "
                    "simulator changed; such a run cannot be resumed exactly, start it anew in another records folder"
                )

    def _digest(self, row: int) -> str:
        return hashlib.sha256(self.observations[row].tobytes() + self.backend.unseen(row)).hexdigest()

    def _action_shape(self) -> tuple[int, ...]:
        return () if self.spaces.discrete else (self.spaces.action_size,)

    def _action_dtype(self) -> type:
        return np.int64 if self.spaces.discrete else np.float64
