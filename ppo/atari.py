"""Atari through ALE's C++ vector environment, the third backend: observations are stacks of frames, uint8.

The wrappers of 2017 (openai/baselines@2dd7d30, common/atari_wrappers.py) did three things otherwise. After a lost
life they took steps of their own (a no-op, FIRE, then action 2), here FIRE takes the place of the agent's next
decision; they filled the stack of frames anew there, here it goes on; and at a game's start they pressed FIRE and
action 2 for a whole env step each. A game's own score means the same.
"""

from collections.abc import Sequence

import numpy as np

from ppo.config import Env
from ppo.randomness import MAX_SEED, generator
from ppo.refusals import UserError, near_matches
from ppo.spaces import Spaces

SUFFIX = "NoFrameskip-v4"  # Gymnasium's name of a game that skips no frames by itself
FIRE = 1  # its number among the actions of every game that has it


class Ale:
    """Games stepped together in one thread. Rewards are the game's own. `lost` tells, after a step, which of its rows
    lost a life in a game that goes on.

    No action is repeated by chance, and every game starts from a seed of its own, which loads its ROM anew (90 ms): a
    plain reset (5 ms) leaves in some games' memory what was played before, in Ice Hockey and Time Pilot at once, in
    Seaquest and others after whole games, so that the next game would hang on all before it."""

    remembers = False

    def __init__(self, env: Env, seeds: Sequence[int]):
        import ale_py
        from ale_py.registration import rom_id_to_name
        from ale_py.vector_env import AtariVectorEnv

        roms = {rom_id_to_name(rom) + SUFFIX: rom for rom in ale_py.roms.get_all_rom_ids()}
        if env.id not in roms:
            raise UserError(f"ALE has no game {env.id}{near_matches(env.id, list(roms)) or f'; try Pong{SUFFIX}'}")
        if ale_py.roms.get_rom_path(roms[env.id]) is None:
            raise UserError(f"{env.id}: ale-py {ale_py.__version__} has no ROM {roms[env.id]}; reinstall ale-py")
        for name in ("frame_skip", "frame_stack", "screen", "noop_max", "max_episode_steps"):
            if getattr(env, name) is None:
                raise UserError(f"env.{name} is not set, and {env.id} needs it; env=atari/pong shows all settings")
        assert env.frame_skip and env.frame_stack and env.screen and env.noop_max is not None and env.max_episode_steps
        self.envs = AtariVectorEnv(
            roms[env.id], len(seeds), num_threads=1, frameskip=env.frame_skip, maxpool=env.frame_max,
            stack_num=env.frame_stack, img_height=env.screen, img_width=env.screen, noop_max=env.noop_max,
            use_fire_reset=env.fire, repeat_action_probability=0.0,
            max_num_frames_per_episode=env.max_episode_steps * env.frame_skip,
            # Its own ways with lives and rewards would end whole games and forget their scores.
            life_loss_info=True, episodic_life=False, reward_clipping=False,
        )  # fmt: skip
        actions = [action.name for action in self.envs.ale.get_action_set()]
        self.fires = env.fire and actions[FIRE] == "FIRE"
        shape = (env.frame_stack, env.screen, env.screen)
        self.spaces = Spaces(shape, len(actions), True, np.zeros(1), np.zeros(1), np.uint8)
        self.seeds = list(seeds)
        self.begun = np.zeros(len(seeds), dtype=np.int64)
        self.lost = np.zeros(len(seeds), dtype=bool)
        self.lives = self.envs.reset()[1]["lives"]  # it wants all games reset once before it resets some of them

    def reset(self, ids: np.ndarray) -> np.ndarray:
        asked = np.isin(np.arange(len(self.seeds)), ids)
        seeds = [generator(self.seeds[i], "game", self.begun[i]).integers(MAX_SEED) for i in np.flatnonzero(asked)]
        observations, told = self.envs.reset(seed=np.array(seeds), options={"reset_mask": asked})
        self.begun[ids] += 1
        self.lost &= ~asked
        self.lives = told["lives"]
        return observations[ids]

    def skip(self, ids: np.ndarray) -> None:
        self.begun[ids] += 1

    def step(self, actions: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All games move: those not in `ids` by a no-op, so they must be reset before they count."""
        moves = np.zeros(len(self.lost), dtype=np.int64)
        moves[ids] = actions
        if self.fires:
            moves[self.lost] = FIRE
        observations, rewards, terminated, truncated, told = self.envs.step(moves)
        self.lost = terminated & (told["lives"] < self.lives) & (told["lives"] > 0)
        self.lives = told["lives"]
        over = terminated & ~self.lost
        return observations[ids], rewards[ids].astype(np.float64), over[ids], truncated[ids]

    def unseen(self, row: int) -> bytes:
        return b""

    def generators(self, row: int) -> bytes:
        return b""
