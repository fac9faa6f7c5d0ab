"""A2C: one update against Stable-Baselines3's, from the same weights and the same rollout."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import DummyVecEnv

from ppo.batches import merged
from ppo.config import Algo, Env, Profile, RunConfig
from ppo.pack import Pack
from ppo.rollout import collect
from tests.ppo.sb3 import POLICY, assert_same_weights, copy_weights

STEPS, ACTORS = 5, 4


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("optimiser", ["rmsprop_torch", "rmsprop_tensorflow"])
def test_an_update_is_that_of_stable_baselines3(env_id: str, optimiser: str) -> None:
    profile = Profile(
        horizon=STEPS, actors=ACTORS, epochs=1, minibatch_size=STEPS * ACTORS, stepsize=7e-4, hidden_sizes=(16, 16),
        value_coef=0.5, entropy_coef=0.01, max_grad_norm=0.5, optimiser=optimiser,
    )  # fmt: skip
    algo = Algo("policy_gradient", advantage="n_step", n_step=STEPS)
    budget = {"env_steps": 3 * STEPS * ACTORS, "backend": "gymnasium"}
    pack = Pack([RunConfig(algo, profile, Env(env_id), seed=seed, **budget) for seed in range(2)])
    models = [twin(pack, row, env_id, optimiser) for row in range(2)]
    pack.start()
    for _ in range(3):
        rollout = collect(pack)
        _, value_target, values = pack.learner.estimate(rollout)
        pack.learner.update(rollout, pack.filter, pack.rollout)
        pack.rollout += 1
        for row, model in enumerate(models):
            fill(model, merged(rollout.x)[row], merged(rollout.actions)[row], value_target[row], values[row])
            model.train()
            assert_same_weights(pack, row, model, atol=1e-5)


def twin(pack: Pack, row: int, env_id: str, optimiser: str) -> A2C:
    """SB3's agent with a run's weights."""
    model = A2C(
        "MlpPolicy", DummyVecEnv([lambda: gymnasium.make(env_id)] * ACTORS), learning_rate=7e-4, n_steps=STEPS,
        ent_coef=0.01, vf_coef=0.5, max_grad_norm=0.5, rms_prop_eps=1e-5, device="cpu",
        policy_kwargs=POLICY
        | (tensorflow_like() if optimiser == "rmsprop_tensorflow" else {}),
    )  # fmt: skip
    model._setup_learn(1)
    model._current_progress_remaining = 1.0
    copy_weights(pack, row, model)
    return model


def tensorflow_like() -> dict[str, Any]:
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    return {"optimizer_class": RMSpropTFLike, "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5}}


def fill(model: A2C, x: np.ndarray, actions: np.ndarray, value_target: np.ndarray, values: np.ndarray) -> None:
    """SB3's rollout buffer with our rollout: actors one after another here, beside each other there."""
    buffer = model.rollout_buffer
    buffer.reset()
    for ours, theirs in ((x, buffer.observations), (actions, buffer.actions), (value_target, buffer.returns)):
        theirs[...] = ours.reshape(ACTORS, STEPS, -1).swapaxes(0, 1).reshape(theirs.shape)
    buffer.advantages[...] = (value_target - values).reshape(ACTORS, STEPS).T
    buffer.full, buffer.pos = True, STEPS
