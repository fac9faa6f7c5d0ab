"""One switch at a time: every setting moves what is learned, under every profile, and no setting moves it in secret.

Two short trainings differ in one setting, their draws being equal by name. What the agents then say, on inputs of our
own, must differ by far more than rounding; where a setting is documented as read by nothing, not in one bit.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from ppo.config import Algo, Profile, RunConfig
from ppo.learners import OBJECTIVES
from ppo.pack import Pack
from ppo.refusals import UserError
from ppo.train import train
from tests.conftest import PROFILES, small_run

CLIP = Algo("clip", epsilon=0.05)
TINY = {"horizon": 64, "minibatch_size": 32, "epochs": 3, "stepsize": 1e-2, "hidden_sizes": (8, 8)}
VISIBLE = 1e-4  # of outputs up to 2 in size; a start moved by one rounding error ends 6e-7 away at most

TRUST_REGION = Algo(
    "trust_region", delta=0.01, kl_accepted=1.5, backtracks=10, cg_iterations=10, cg_damping=0.1, fisher_every=1
)
CEM = Algo("cem", candidates=2, elite_fraction=0.5, initial_variance=1.0, extra_std=0.1, extra_generations=3.0)
NEEDS: dict[str, dict[str, Any]] = {
    "trust_region": {"value_fit": "separate"},
    "trajectory_ratio": {"minibatch_size": 64},
    "cem": {"observation_filter": "per_step"},
}

NORMC, ORTHOGONAL = {"init": "normc"}, {"init": "orthogonal"}
PER_STEP, PER_ROLLOUT = ({"observation_filter": when} for when in ("per_step", "per_rollout"))
SWITCHES: dict[str, list[tuple[dict[str, Any], tuple[Any, ...]]]] = {
    "horizon": [({}, (64, 96))],
    "actors": [({}, (1, 2, 3))],
    "segment": [({}, (None, 8, 16, 32))],
    "rollouts": [({}, (1, 2))],
    "epochs": [({}, (2, 3))],
    "minibatch_size": [({}, (16, 32))],
    "stepsize": [({}, (3e-3, 1e-2))],
    "gamma": [({}, (0.9, 0.99))],
    "hidden_sizes": [({}, ((8, 8), (8,), (16, 8)))],
    "activation": [({}, ("tanh", "relu", "elu"))],
    "shared_trunk": [({}, (False, True))],
    "init": [({}, ("torch", "normc", "orthogonal"))],
    "hidden_gain": [(NORMC, (1.0, 2.0)), (ORTHOGONAL, (1.0, 2.0))],
    "policy_gain": [(NORMC, (0.01, 1.0)), (ORTHOGONAL, (0.01, 1.0))],
    "value_gain": [(NORMC, (0.5, 1.0)), (ORTHOGONAL, (0.5, 1.0))],
    "log_std_init": [({}, (-0.5, 0.0))],
    "observation_filter": [({}, ("none", "per_rollout", "per_step"))],
    "filter_clip": [(PER_STEP, (None, 0.5)), (PER_ROLLOUT, (None, 0.5))],
    "filter_prior": [(PER_STEP, (1e-2, 10.0)), (PER_ROLLOUT, (1e-2, 10.0))],
    "filter_floor": [(PER_STEP, (0.0, 2.0)), (PER_ROLLOUT, (0.0, 2.0))],
    "filter_epsilon": [(PER_STEP, (0.0, 1.0)), (PER_ROLLOUT, (0.0, 1.0))],
    "clip_actions": [({"log_std_init": 0.5}, (False, True))],
    "scale_rewards": [({}, (False, True))],
    "reward_clip": [({"scale_rewards": False}, (None, 0.5)), ({"scale_rewards": True}, (None, 0.1))],
    "time_limit": [({}, ("terminal", "bootstrap"))],
    "standardise": [({}, ("none", "rollout", "minibatch")), ({"value_fit": "separate"}, ("none", "minibatch"))],
    "standardise_epsilon": [({"standardise": name}, (0.0, 1.0)) for name in ("rollout", "minibatch")],
    "value_coef": [({"shared_trunk": True}, (0.05, 1.0))],
    "value_clip": [({}, (None, 0.01))],
    "entropy_coef": [({}, (0.0, 0.1))],
    "value_fit": [({}, ("joint", "separate"))],
    "value_stepsize": [({"value_fit": "separate"}, (None, 1e-3, 3e-3))],
    "max_grad_norm": [({}, (None, 0.1))],
    "optimiser": [({}, ("adam", "rmsprop_torch", "rmsprop_tensorflow"))],
    "rmsprop_decay": [({"optimiser": f"rmsprop_{form}"}, (0.9, 0.99)) for form in ("torch", "tensorflow")],
    "rmsprop_epsilon": [({"optimiser": f"rmsprop_{form}"}, (1e-5, 1.0)) for form in ("torch", "tensorflow")],
    "adam_epsilon": [({}, (1e-8, 1e-2))],
    "adam_epsilon_at": [({"adam_epsilon": 1e-2}, ("corrected", "uncorrected"))],
    "stepsize_schedule": [({}, ("constant", "linear"))],
    "stepsize_kl_target": [({"stepsize_schedule": "kl"}, (1e-5, 1.0))],
    "epsilon_schedule": [({}, ("constant", "linear"))],
}
"""What a switch needs to bite, and settings of it that must all teach something else."""

NO_SWITCH = {"policy", "convolutions", "lost_life"}
"""`policy` only refuses what does not fit; the others are for frames and lives: tests/ppo/test_atari.py."""

VARIANTS: dict[str, list[tuple[Algo, ...]]] = {
    "objective": [
        (
            Algo("unconstrained"),
            CLIP,
            Algo("kl_fixed", beta=3.0),
            Algo("kl_adaptive", beta=3.0, kl_target=1e-4),
            Algo("policy_gradient"),
            Algo("trajectory_ratio"),
            Algo("projected", delta=1e-4, average_decay=0.9),
            TRUST_REGION,
            CEM,
        )
    ],
    "epsilon": [(CLIP, Algo("clip", epsilon=0.2))],
    "beta": [
        (Algo("kl_fixed", beta=1.0), Algo("kl_fixed", beta=10.0)),
        tuple(Algo("kl_adaptive", beta=beta, kl_target=0.01) for beta in (1.0, 10.0)),
    ],
    "kl_target": [tuple(Algo("kl_adaptive", beta=1.0, kl_target=target) for target in (1e-4, 1.0))],
    "advantage": [
        tuple(
            Algo("clip", epsilon=0.05, **estimator)
            for estimator in (
                {},
                {"advantage": "n_step", "n_step": 5},
                {"advantage": "rewards_to_go"},
                {"advantage": "whole_return"},
            )
        )
    ],
    "gae_lambda": [tuple(Algo("clip", epsilon=0.05, gae_lambda=value) for value in (0.5, 0.95))],
    "delta": [
        tuple(replace(TRUST_REGION, delta=delta) for delta in (1e-3, 1e-2)),
        tuple(Algo("projected", delta=delta, average_decay=0.9) for delta in (1e-4, 1e-1)),
    ],
    "average_decay": [tuple(Algo("projected", delta=1e-4, average_decay=decay) for decay in (0.1, 0.99))],
    "kl_accepted": [tuple(replace(TRUST_REGION, kl_accepted=factor) for factor in (0.1, 1.5))],
    "backtracks": [tuple(replace(TRUST_REGION, kl_accepted=0.1, backtracks=count) for count in (1, 10))],
    "cg_iterations": [tuple(replace(TRUST_REGION, cg_iterations=count) for count in (1, 10))],
    "cg_damping": [tuple(replace(TRUST_REGION, cg_damping=damping) for damping in (0.01, 1.0))],
    "fisher_every": [tuple(replace(TRUST_REGION, fisher_every=every) for every in (1, 5))],
    "candidates": [tuple(replace(CEM, candidates=count) for count in (2, 3))],
    "elite_fraction": [tuple(replace(CEM, elite_fraction=share) for share in (0.5, 1.0))],
    "initial_variance": [tuple(replace(CEM, initial_variance=variance) for variance in (0.5, 1.0))],
    "extra_std": [tuple(replace(CEM, extra_std=std) for std in (0.0, 1.0))],
    "extra_generations": [tuple(replace(CEM, extra_std=1.0, extra_generations=count) for count in (1.0, 5.0))],
    "n_step": [tuple(Algo("clip", epsilon=0.05, advantage="n_step", n_step=n) for n in (1, 5))],
}

KNOWN = {algo.objective for algo in VARIANTS["objective"][0]} | {"random", "initial"}
for each in OBJECTIVES.values():  # what is declared since has values to try beside its settings
    if each.name not in KNOWN:
        VARIANTS["objective"].append((Algo("unconstrained"), Algo(each.name, **each.example)))
        for setting in each.settings:
            if setting.name not in VARIANTS:
                VARIANTS[setting.name] = [
                    tuple(Algo(each.name, **each.example | {setting.name: value}) for value in setting.tries)
                ]

UNREAD = [
    ("filter_clip", {"observation_filter": "none"}, (None, 0.1)),
    ("filter_prior", {"observation_filter": "none"}, (1e-2, 10.0)),
    ("filter_floor", {"observation_filter": "none"}, (0.0, 2.0)),
    ("filter_epsilon", {"observation_filter": "none"}, (0.0, 1.0)),
    ("hidden_gain", {"init": "torch"}, (1.0, 2.0)),
    ("policy_gain", {"init": "torch"}, (0.01, 1.0)),
    ("value_gain", {"init": "torch"}, (0.5, 1.0)),
    ("standardise_epsilon", {"standardise": "none"}, (0.0, 1.0)),
    ("policy", {}, ("auto", "gaussian")),
    ("rmsprop_decay", {"optimiser": "adam"}, (0.9, 0.99)),
    ("rmsprop_epsilon", {"optimiser": "adam"}, (1e-5, 1.0)),
    ("adam_epsilon", {"optimiser": "rmsprop_torch"}, (1e-8, 1e-2)),
]
"""Settings that nothing reads where another setting switches their reader off."""

OUT_OF_REACH = ("filter_clip", "reward_clip", "value_clip", "max_grad_norm")
"""Bounds, each tried at a million."""


def run_of(base: str, settings: Mapping[str, Any], algo: Algo = CLIP, **changes: Any) -> RunConfig:
    needs = NEEDS.get(algo.objective, {})
    return small_run(base=base, profile={**TINY, **needs, **settings}, algo=algo, **{"env": "Reacher-v4", **changes})


@cache
def outputs(run: RunConfig) -> np.ndarray:
    """What the trained agent says on 16 inputs: its mean actions (or logits), its values, its log std if it has one."""
    pack = Pack([run])
    for _ in train(pack):
        pass
    assert pack.iteration == run.iterations
    x = pack.learner.model.tensor(np.random.default_rng(0).standard_normal((1, 16, pack.spaces.observation_size)))
    policy, value = pack.learner.model.network.policy_and_value(pack.learner.views, x)
    log_std = [pack.learner.views["log_std"]] if "log_std" in pack.learner.views else []
    return np.concatenate([part.detach().numpy().ravel() for part in (policy, value, *log_std)])


def assert_all_differ(runs: list[RunConfig]) -> None:
    for i, one in enumerate(runs):
        for other in runs[:i]:
            distance = np.abs(outputs(one) - outputs(other)).max()
            assert distance > VISIBLE, f"moved by {distance:.1e}: {other} and {one}"


def test_every_setting_has_a_case() -> None:
    for cls, cases in ((Profile, SWITCHES.keys() | NO_SWITCH), (Algo, VARIANTS.keys())):
        missing = {f.name for f in fields(cls)} - cases
        assert not missing, f"{cls.__name__}: add what makes {', '.join(sorted(missing))} bite to this file's tables"
        assert cases <= {f.name for f in fields(cls)}


@pytest.mark.parametrize("base", PROFILES)
@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_of_a_profile_moves_what_is_learned(name: str, base: str) -> None:
    for needs, values in SWITCHES[name]:
        assert_all_differ([run_of(base, {**needs, name: value}) for value in values])


@pytest.mark.parametrize("base", PROFILES)
@pytest.mark.parametrize("name", VARIANTS)
def test_a_setting_of_the_algorithm_moves_what_is_learned(name: str, base: str) -> None:
    for algos in VARIANTS[name]:
        assert_all_differ([run_of(base, {}, algo) for algo in algos])


@pytest.mark.parametrize("base", PROFILES)
@pytest.mark.parametrize(("name", "needs", "values"), UNREAD, ids=[name for name, *_ in UNREAD])
def test_what_nothing_reads_moves_nothing(name: str, needs: dict[str, Any], values: Any, base: str) -> None:
    one, other = (run_of(base, {**needs, name: value}) for value in values)
    np.testing.assert_array_equal(outputs(one), outputs(other))


@pytest.mark.parametrize("base", PROFILES)
@pytest.mark.parametrize("name", OUT_OF_REACH)
def test_a_bound_that_nothing_meets_is_as_good_as_off(name: str, base: str) -> None:
    one, other = (run_of(base, {**PER_STEP, name: value}) for value in (None, 1e6))
    np.testing.assert_allclose(outputs(one), outputs(other), rtol=0, atol=VISIBLE / 10)


def settings(**values: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two sets of settings, from a pair each."""
    return tuple({name: pair[i] for name, pair in values.items()} for i in (0, 1))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("pair", "changes"),
    [
        (settings(epsilon_schedule=("constant", "linear")), {"algo": Algo("unconstrained")}),
        (
            settings(stepsize_schedule=("constant", "linear"), epsilon_schedule=("constant", "linear")),
            {"iterations": 1},
        ),
        (settings(time_limit=("terminal", "bootstrap")), {"env": "InvertedPendulum-v4"}),
        (settings(clip_actions=(False, True), log_std_init=(0.0, 1.0)), {"env": "CartPole-v1"}),
        (settings(standardise=("rollout", "minibatch"), value_fit=("separate", "separate")), {}),
        (settings(standardise=("rollout", "minibatch")), {"algo": TRUST_REGION}),
    ],
    ids=["no ε to anneal", "one iteration", "no time limit met", "discrete actions", "one minibatch", "one step"],
)
def test_what_meets_no_occasion_moves_nothing(pair: Any, changes: dict[str, Any]) -> None:
    one, other = (run_of("ppo1_2017_08", values, **changes) for values in pair)
    np.testing.assert_array_equal(outputs(one), outputs(other))


def test_gae_lambda_is_read_by_gae_alone() -> None:
    for estimator in ({"advantage": "n_step", "n_step": 5}, {"advantage": "rewards_to_go"}):
        one, other = (Algo("clip", epsilon=0.05, gae_lambda=value, **estimator) for value in (0.5, 0.95))
        np.testing.assert_array_equal(outputs(run_of("paper_text", {}, one)), outputs(run_of("paper_text", {}, other)))


@pytest.mark.parametrize(("wanted", "env"), [("categorical", "Reacher-v4"), ("gaussian", "CartPole-v1")])
def test_a_policy_that_does_not_fit_the_actions_is_refused(wanted: str, env: str) -> None:
    with pytest.raises(UserError, match=f"profile.policy={wanted}: {env} has"):
        Pack([run_of("ppo1_2017_08", {"policy": wanted}, env=env)])


def test_random_and_initial_learn_nothing_and_act_differently() -> None:
    random, initial = (Pack([run_of("paper_text", {}, Algo(name))]) for name in ("random", "initial"))
    start = [pack.learner.flat.clone() for pack in (random, initial)]
    episodes = [[iteration.episodes for iteration in train(pack)] for pack in (random, initial)]
    assert all((pack.learner.flat == flat).all() for pack, flat in zip((random, initial), start, strict=True))
    assert (start[0] == start[1]).all()
    assert episodes[0] != episodes[1]
