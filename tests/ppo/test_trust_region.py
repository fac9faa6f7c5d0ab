"""TRPO's parts against explicit matrices, its step against what it promises, and an update against sb3-contrib's."""

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from sb3_contrib import TRPO
from stable_baselines3.common.vec_env import DummyVecEnv

from ppo.batches import merged
from ppo.config import Algo, Env, Profile, RunConfig
from ppo.learners import OBJECTIVES
from ppo.pack import Pack
from ppo.refusals import UserError
from ppo.rollout import collect
from ppo.train import train
from ppo.trust_region import conjugate_gradients, fisher_vector_product
from tests.ppo.sb3 import POLICY, assert_same_weights, copy_weights

TRUST_REGION = {
    "objective": "trust_region", "delta": 0.01, "kl_accepted": 1.5, "backtracks": 10, "cg_iterations": 10,
    "cg_damping": 0.1, "fisher_every": 1, "gae_lambda": 0.98,
}  # fmt: skip
SMALL = {
    "horizon": 128, "minibatch_size": 32, "epochs": 2, "hidden_sizes": (6, 5), "value_fit": "separate",
    "value_stepsize": 1e-3, "log_std_init": -0.3,
}  # fmt: skip
TASKS = ("Pendulum-v1", "CartPole-v1", "Reacher-v4")


def pack_of(env_id: str, seeds: int = 3, iterations: int = 1, profile: Any = None, **algo: Any) -> Pack:
    settings = Profile(**SMALL | (profile or {}))
    budget = {"env_steps": iterations * settings.steps, "backend": "gymnasium"}
    rule = Algo(**TRUST_REGION | algo)
    return Pack([RunConfig(rule, settings, Env(env_id), seed=seed, **budget) for seed in range(seeds)])


def states_and_policy(pack: Pack) -> tuple[torch.Tensor, Any]:
    """Some states (R, 40, D) and the present policy there."""
    x = torch.from_numpy(
        np.random.default_rng(0).standard_normal((len(pack), 40, pack.spaces.observation_size)).astype(np.float32)
    )
    with torch.no_grad():
        policy = pack.learner.model.network.policy(pack.learner.views, x)
        old = pack.learner.model.distribution(pack.learner.views, policy)
        return x, old.map(lambda each: each.expand_as(policy).clone())


@pytest.mark.parametrize("env_id", TASKS)
def test_fisher_products_are_those_of_the_explicit_matrix(env_id: str) -> None:
    pack = pack_of(env_id)
    x, old = states_and_policy(pack)
    product = fisher_vector_product(pack.learner.model, pack.learner.leaves, x, old, damping=0.3)
    vectors = torch.from_numpy(np.random.default_rng(1).standard_normal(pack.learner.flat.shape).astype(np.float32))
    found = product(vectors)
    for row in range(len(pack)):

        def kl(flat: torch.Tensor, row: int = row) -> torch.Tensor:
            """Of one run, as a function of its parameters, with torch.distributions' formula."""
            views = pack.learner.model.network.views(flat[None])
            output = pack.learner.model.network.policy(views, x[row : row + 1])[0]
            if pack.spaces.discrete:
                then, now = (torch.distributions.Categorical(logits=logits) for logits in (old.logits[row], output))
            else:
                then = torch.distributions.Normal(old.mean[row], old.log_std[row].exp())
                now = torch.distributions.Normal(output, views["log_std"][0].exp())
            return torch.distributions.kl_divergence(then, now).sum() / len(output)

        hessian = torch.autograd.functional.hessian(kl, pack.learner.flat[row].detach())
        expected = (hessian + 0.3 * torch.eye(len(hessian))) @ vectors[row]
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)
        assert hessian.abs().max() > 0.1


def test_conjugate_gradients_solve_and_rows_stop_apart() -> None:
    rng = np.random.default_rng(0)
    roots = rng.standard_normal((3, 12, 12))
    matrices = roots @ roots.swapaxes(1, 2) + np.eye(12)
    matrices[2] = np.eye(12)  # solved after one iteration, while the others go on
    b = rng.standard_normal((3, 12))
    calls = []

    def product(v: torch.Tensor) -> torch.Tensor:
        calls.append(v)
        return torch.einsum("rij,rj->ri", torch.from_numpy(matrices), v)

    found = conjugate_gradients(product, torch.from_numpy(b), iterations=30)
    for row in range(3):
        np.testing.assert_allclose(found[row], np.linalg.solve(matrices[row], b[row]), atol=1e-5)
    assert 12 <= len(calls) < 30
    few = conjugate_gradients(product, torch.from_numpy(b), iterations=2)
    np.testing.assert_allclose(few[2].numpy(), b[2])
    assert np.abs(few[0].numpy() - np.linalg.solve(matrices[0], b[0])).max() > 1e-3


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.parametrize("accepted", [1.0, 1.5])
def test_the_step_keeps_its_bound_and_does_not_lower_the_surrogate(env_id: str, accepted: float) -> None:
    pack = pack_of(env_id, seeds=4, iterations=4, kl_accepted=accepted, profile={"standardise": "rollout"})
    kls = []
    for iteration in train(pack):
        kl, gain = iteration.metrics["kl"], -iteration.metrics["policy_loss"]
        assert (kl <= accepted * 0.01 * (1 + 1e-5)).all()
        assert (gain >= -1e-5).all()  # standardised advantages: the old policy's surrogate is 0
        kls += kl.tolist()
    assert max(kls) > 0.005


def test_a_step_that_nothing_can_save_is_not_made() -> None:
    pack = pack_of("Pendulum-v1", kl_accepted=1e-9, backtracks=3)
    before = pack.learner.model.network.views(pack.learner.flat.clone())
    pack.start()
    metrics = pack.learner.update(collect(pack), pack.filter, pack.rollout)
    for name, values in pack.learner.model.network.views(pack.learner.flat).items():
        assert torch.equal(values, before[name]) == (not name.startswith("value."))
    assert (metrics["kl"] == 0).all() and (metrics["update_norm"] > 0).all()


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_an_update_is_that_of_sb3_contrib(env_id: str) -> None:
    """From the same weights, states, actions, advantages and value targets; the value fit takes all steps at once, so
    that the order of minibatches does not matter."""
    pack = pack_of(
        env_id, seeds=2, kl_accepted=1.0, cg_iterations=15, fisher_every=1,
        profile={"horizon": 256, "minibatch_size": 256, "epochs": 3, "hidden_sizes": (16, 16), "adam_epsilon": 1e-5},
    )  # fmt: skip
    models = [twin(pack, row, env_id) for row in range(2)]
    pack.start()
    rollout = collect(pack)
    advantage, value_target, values = pack.learner.estimate(rollout)
    starts = pack.learner.flat.clone()
    pack.learner.update(rollout, pack.filter, pack.rollout)
    assert ((pack.learner.flat - starts).abs().amax(dim=1) > 1e-2).all()
    for row, model in enumerate(models):
        fill(
            model, merged(rollout.x)[row], merged(rollout.actions)[row], advantage[row], value_target[row], values[row]
        )
        model.train()
        assert_same_weights(pack, row, model, atol=2e-4)


def twin(pack: Pack, row: int, env_id: str) -> TRPO:
    """sb3-contrib's agent with a run's weights."""
    model = TRPO(
        "MlpPolicy", DummyVecEnv([lambda: gymnasium.make(env_id)]), learning_rate=1e-3, n_steps=256, batch_size=256,
        n_critic_updates=3, target_kl=0.01, cg_max_steps=15, cg_damping=0.1, line_search_shrinking_factor=0.5,
        normalize_advantage=False, sub_sampling_factor=1, device="cpu",
        policy_kwargs=POLICY,
    )  # fmt: skip
    model._setup_learn(256)
    copy_weights(pack, row, model)
    return model


def fill(model: TRPO, x: np.ndarray, actions: np.ndarray, advantage: Any, value_target: Any, values: Any) -> None:
    """sb3's rollout buffer with our rollout."""
    buffer = model.rollout_buffer
    observations, taken = torch.from_numpy(x), torch.from_numpy(actions)
    with torch.no_grad():
        log_prob = model.policy.get_distribution(observations).log_prob(taken)
    buffer.reset()
    buffer.observations[:, 0], buffer.actions[:, 0] = x, actions.reshape(len(x), -1)
    buffer.advantages[:, 0], buffer.returns[:, 0], buffer.values[:, 0] = advantage, value_target, values
    buffer.log_probs[:, 0] = log_prob.numpy()
    buffer.full, buffer.pos = True, buffer.buffer_size


def test_a_value_network_of_its_own_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"needs profile\.value_fit=separate"):
        RunConfig(Algo(**TRUST_REGION), Profile())


def test_a_setting_that_adapts_is_remembered_whoever_learns_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wider = replace(OBJECTIVES["trust_region"], adapts=("delta",), adapt=lambda kl, delta: {"delta": delta * 2})
    monkeypatch.setitem(OBJECTIVES, "trust_region", wider)
    whole, parts = (pack_of("CartPole-v1", seeds=1, iterations=3) for _ in range(2))
    list(train(whole))
    next(train(parts))
    resumed = pack_of("CartPole-v1", seeds=1, iterations=3)
    resumed.load_state_dicts([parts.state_dict(0)])
    list(train(resumed))
    assert resumed.learner.settings["delta"] == whole.learner.settings["delta"] == 8 * 0.01
    assert torch.equal(resumed.learner.flat, whole.learner.flat)
