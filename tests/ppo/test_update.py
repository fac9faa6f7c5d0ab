"""A whole update against plain single-agent PyTorch."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ppo.config import Algo, Env, Profile, RunConfig
from ppo.learner import column
from ppo.pack import Pack
from ppo.rollout import collect
from tests.ppo.plain import Trainer

ALGOS = (
    Algo(),
    Algo("clip", epsilon=0.05, gae_lambda=0.9),
    Algo("kl_fixed", beta=30.0, gae_lambda=0.8),
    Algo("kl_adaptive", beta=1.0, kl_target=0.01),
)
BASE = {
    "horizon": 64, "minibatch_size": 16, "epochs": 3, "stepsize": 1e-3, "gamma": 0.97, "hidden_sizes": (16, 16),
    "init": "orthogonal", "log_std_init": -0.5, "value_coef": 0.5,
}  # fmt: skip


def pack_of(env_id, algos=ALGOS, iterations=1, **settings):
    profile = Profile(**BASE | settings)
    budget = {"env_steps": iterations * profile.steps, "backend": "gymnasium"}
    return Pack([RunConfig(algo, profile, Env(env_id), seed=seed, **budget) for seed, algo in enumerate(algos)])


def assert_same_parameters(pack, trainer):
    views = {
        name: view[trainer.row] for name, view in pack.learner.model.network.views(pack.learner.flat.detach()).items()
    }
    expected = {} if trainer.agent.log_std is None else {"log_std": trainer.agent.log_std[None]}
    for layer, module in trainer.agent.layers.items():
        expected[f"{layer.replace('_', '.')}.weight"] = module.weight.T
        expected[f"{layer.replace('_', '.')}.bias"] = module.bias[None]
    assert expected.keys() == views.keys()
    for name, parameter in expected.items():
        used, unused = np.split(views[name].numpy(), [parameter.shape[1]], axis=1)
        where = f"{trainer.algo.objective}, {name}"
        np.testing.assert_allclose(used, parameter.detach().numpy(), rtol=0, atol=1e-5, err_msg=where)
        assert (unused == 0).all(), where


def train_both(pack, iterations=1):
    """The last rollout, after updating the pack and its reference and comparing them."""
    trainers = [Trainer(pack, row) for row in range(len(pack))]
    start = pack.learner.flat.detach().clone()
    pack.start()
    for iteration in range(iterations):
        rollout = collect(pack)
        pack.learner.update(rollout, pack.filter, pack.rollout)
        pack.rollout += 1
        for trainer in trainers:
            trainer.update(rollout, iteration, alpha=1 - iteration / pack.iterations)
            assert_same_parameters(pack, trainer)
    assert ((pack.learner.flat.detach() - start).abs().amax(dim=1) > 1e-3).all()
    betas = [np.nan if trainer.beta is None else trainer.beta for trainer in trainers]
    np.testing.assert_array_equal(pack.learner.settings["beta"][:, 0], betas)
    return rollout


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"value_clip": 0.2},
        {"max_grad_norm": 0.5},
        {"standardise": "minibatch", "standardise_epsilon": 1e-8},
        {"standardise": "rollout", "standardise_epsilon": 0.1},
        {"entropy_coef": 0.1},
        {"shared_trunk": True, "activation": "relu", "max_grad_norm": 0.5},
        {"activation": "elu", "init": "torch"},
        {"adam_epsilon_at": "uncorrected", "adam_epsilon": 1e-5, "init": "normc"},
        {"adam_epsilon_at": "corrected", "adam_epsilon": 1e-5, "init": "normc"},
        {"observation_filter": "per_rollout", "filter_clip": 1.0, "filter_prior": 0.5},
        {"observation_filter": "per_step", "scale_rewards": True, "reward_clip": 0.2},
        {"actors": 3, "observation_filter": "per_rollout", "filter_clip": 1.0, "filter_prior": 0.5},
        {"actors": 4, "observation_filter": "per_step", "scale_rewards": True, "reward_clip": 0.2},
    ],
    ids=lambda settings: ", ".join(f"{k}={v}" for k, v in settings.items()) or "plain",
)
def test_update_of_a_continuous_task_is_the_plain_one(settings):
    train_both(pack_of("Pendulum-v1", **settings))


@pytest.mark.parametrize("time_limit", ["terminal", "bootstrap"])
def test_update_treats_time_limits_as_the_plain_one(time_limit):
    rollout = train_both(pack_of("Pendulum-v1", horizon=256, minibatch_size=64, time_limit=time_limit))
    assert rollout.truncated[..., 199].all() and not rollout.terminated.any()


@pytest.mark.parametrize("settings", [{}, {"standardise": "minibatch", "entropy_coef": 0.05, "shared_trunk": True}])
def test_update_of_a_discrete_task_is_the_plain_one(settings):
    rollout = train_both(pack_of("CartPole-v1", **settings))
    assert rollout.terminated.any(axis=2).all()


@pytest.mark.parametrize(
    "estimator", [{"advantage": "n_step", "n_step": 5}, {"advantage": "rewards_to_go"}, {"advantage": "whole_return"}]
)
@pytest.mark.parametrize("actors", [1, 3])
def test_update_with_another_advantage_is_the_plain_one(estimator, actors):
    rollout = train_both(pack_of("CartPole-v1", [replace(algo, **estimator) for algo in ALGOS], actors=actors))
    assert rollout.terminated.any(axis=2).all()


def test_later_updates_carry_adam_beta_and_schedules_as_the_plain_ones_do():
    schedules = {"stepsize_schedule": "linear", "epsilon_schedule": "linear", "standardise": "rollout"}
    schedules |= {"value_clip": 0.1}  # follows ε
    train_both(pack_of("Pendulum-v1", iterations=3, **schedules), iterations=3)


PROJECTED = (Algo("projected", delta=1e-4, average_decay=0.5), Algo("projected", delta=1.0, average_decay=0.5))
SEPARATE = {"value_fit": "separate", "value_stepsize": 3e-3}


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize(
    "settings",
    [
        SEPARATE,
        SEPARATE | {"max_grad_norm": 0.5, "entropy_coef": 0.1},
        SEPARATE | {"standardise": "minibatch", "standardise_epsilon": 1e-8},
        SEPARATE | {"stepsize_schedule": "kl", "stepsize_kl_target": 1e-3},
        {"epochs": 1, "optimiser": "rmsprop_tensorflow", "max_grad_norm": 0.5, "stepsize": 3e-3},
        {"epochs": 1, "optimiser": "rmsprop_torch", "rmsprop_decay": 0.9},
        {"actors": 2, "segment": 8, "minibatch_size": 32},
    ],
    ids=lambda settings: ", ".join(f"{k}={v}" for k, v in settings.items()),
)
def test_the_policy_gradient_is_the_plain_one(env_id, settings):
    pack = pack_of(env_id, [Algo("policy_gradient", gae_lambda=value) for value in (0.0, 0.9, 1.0)], 3, **settings)
    train_both(pack, iterations=3)
    moved = pack.learner.stepsize != column(pack.runs, "stepsize")
    assert moved.all() if settings.get("stepsize_schedule") == "kl" else not moved.any()


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("settings", [{"minibatch_size": 64}, {"segment": 8, "minibatch_size": 32, "actors": 2}])
def test_weights_of_whole_trajectories_are_the_plain_ones(env_id, settings):
    train_both(pack_of(env_id, [Algo("trajectory_ratio"), Algo("unconstrained"), Algo("trajectory_ratio")], **settings))


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_the_projected_gradient_is_the_plain_one(env_id):
    pack = pack_of(env_id, PROJECTED, iterations=3)
    trainers = [Trainer(pack, row) for row in range(len(pack))]
    pack.start()
    for iteration in range(3):
        rollout = collect(pack)
        pack.learner.update(rollout, pack.filter, pack.rollout)
        pack.rollout += 1
        for trainer in trainers:
            trainer.update(rollout, iteration, alpha=1.0)
            assert_same_parameters(pack, trainer)
    assert trainers[0].projections > 0  # the tight trust region was met


@pytest.mark.skipif(not shutil.which("g++"), reason="numerics=fast needs a C++ compiler, g++")
def test_a_compiled_update_of_a_pack_is_the_eager_one_rounded_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With clipped gradients, whose norm must not be compiled together with what moves by them."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    eager = pack_of("CartPole-v1", ALGOS[:2], max_grad_norm=0.5)
    compiled = Pack([replace(run, numerics="fast") for run in eager.runs])
    start = eager.flat.clone()
    for pack in (eager, compiled):
        pack.start()
        pack.learner.update(collect(pack), pack.filter, pack.rollout)
    torch.testing.assert_close(compiled.flat, eager.flat, rtol=0, atol=1e-5)
    assert ((eager.flat - start).abs().amax(dim=1) > 1e-3).all()
