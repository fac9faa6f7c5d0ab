"""A mistake in the settings is refused in one clear sentence that names the setting."""

import math
import re
from dataclasses import fields, replace
from typing import Any

import pytest

from ppo.config import SWITCHES, Algo, Env, Profile, RunConfig, pack_key
from ppo.refusals import UserError

CEM = Algo("cem", candidates=2, elite_fraction=0.5, initial_variance=1.0, extra_std=0.1, extra_generations=3.0)


def refusal(make: Any, **settings: Any) -> str:
    """The sentence with which `make` refuses: one line, without a closing stop."""
    with pytest.raises(UserError) as refused:
        make(**settings)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert not sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    ("horizon", "asked", "nearest"), [(2048, 60, 64), (2048, 3000, 2048), (100, 3, 2), (7, 5, 7), (96, 35, 32)]
)
def test_a_minibatch_that_does_not_divide_the_horizon_gets_the_nearest_that_does(
    horizon: int, asked: int, nearest: int
) -> None:
    sentence = refusal(Profile, horizon=horizon, minibatch_size=asked)
    assert f"profile.minibatch_size={asked}" in sentence
    assert f"profile.horizon={horizon}" in sentence
    assert re.search(r"nearest that does is (\d+)$", sentence)[1] == str(nearest)


def test_several_actors_are_named_where_their_steps_do_not_fit() -> None:
    profile = Profile(horizon=16, actors=3, minibatch_size=24)
    assert profile.steps == 48
    assert "32 does not divide profile.horizon=16 × profile.actors=3; the nearest that does is 24" in refusal(
        Profile, horizon=16, actors=3, minibatch_size=32
    )
    assert "profile.horizon=16 × profile.actors=3; ask for at least 48" in refusal(
        RunConfig, profile=profile, env_steps=47
    )


def test_a_budget_below_one_horizon_is_refused() -> None:
    sentence = refusal(RunConfig, env_steps=2047)
    assert "env_steps=2047" in sentence
    assert "profile.horizon=2048" in sentence
    assert RunConfig(env_steps=2048).iterations == 1
    assert RunConfig(env_steps=4095).iterations == 1


NUMBERS = {
    Algo: ("epsilon", "beta", "kl_target", "gae_lambda"),
    Profile: tuple(f.name for f in fields(Profile) if f.type in (float, float | None)),
}
ALGO_OF = {"epsilon": "clip", "beta": "kl_fixed", "kl_target": "kl_adaptive", "gae_lambda": "unconstrained"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("cls", "name"),
    [(cls, name) for cls, names in NUMBERS.items() for name in names],
)
def test_no_setting_takes_nan_or_infinity(cls: type, name: str, value: float) -> None:
    others: dict[str, Any] = {"objective": ALGO_OF[name]} if cls is Algo else {}
    if name == "kl_target":
        others["beta"] = 1.0
    assert f"{cls.__name__.lower()}.{name}={value}" in refusal(cls, **others, **{name: value})


@pytest.mark.parametrize("name", [f.name for f in fields(Profile) if f.type in (int, int | None)])
def test_no_count_is_negative(name: str) -> None:
    assert f"profile.{name}=-1 must be " in refusal(Profile, **{name: -1})


@pytest.mark.parametrize(
    ("objective", "given", "foreign"),
    [
        ("unconstrained", {}, "epsilon"),
        ("clip", {"epsilon": 0.2}, "beta"),
        ("clip", {"epsilon": 0.2}, "kl_target"),
        ("kl_fixed", {"beta": 1.0}, "kl_target"),
        ("kl_adaptive", {"beta": 1.0, "kl_target": 0.01}, "epsilon"),
        ("random", {}, "beta"),
        ("initial", {}, "epsilon"),
    ],
)
def test_a_setting_that_means_nothing_to_the_objective_is_refused(objective: str, given: dict, foreign: str) -> None:
    Algo(objective, **given)
    sentence = refusal(Algo, objective=objective, **given, **{foreign: 0.5})
    assert f"algo.{foreign}=0.5 means nothing to {objective}" in sentence


@pytest.mark.parametrize(
    ("objective", "given", "missing"),
    [
        ("clip", {}, "epsilon"),
        ("kl_fixed", {}, "beta"),
        ("kl_adaptive", {"beta": 1.0}, "kl_target"),
        ("kl_adaptive", {"kl_target": 0.01}, "beta"),
    ],
)
def test_a_setting_the_objective_needs_is_asked_for(objective: str, given: dict, missing: str) -> None:
    assert f"algo.{missing} is not set, and {objective} needs it" in refusal(Algo, objective=objective, **given)


def test_n_step_belongs_to_its_own_estimator_alone() -> None:
    assert Algo(advantage="n_step", n_step=5).n_step == 5
    assert "algo.n_step is not set" in refusal(Algo, advantage="n_step")
    assert "algo.n_step=5 means nothing to gae" in refusal(Algo, n_step=5)


def test_a_negative_seed_is_refused() -> None:
    assert "seed=-1 is not a seed" in refusal(RunConfig, seed=-1)


@pytest.mark.parametrize(
    ("cls", "name", "choice"),
    [
        (Algo, "objective", "clip"),
        (Algo, "advantage", "gae"),
        *((Profile, f.name, f.default) for f in fields(Profile) if f.type is str),
        (RunConfig, "backend", "gymnasium"),
        (RunConfig, "numerics", "fast"),
        (RunConfig, "device", "cuda"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_choices(cls: type, name: str, choice: str) -> None:
    sentence = refusal(cls, **{name: "nonsense"})
    assert f"{name}=nonsense is unknown" in sentence
    assert choice in sentence.partition("choose one of ")[2].split(", ")


@pytest.mark.parametrize(
    ("cls", "settings", "words"),
    [
        (Profile, {"stepsize": 0.0}, "profile.stepsize=0.0 must be above 0"),
        (Profile, {"epochs": 0}, "profile.epochs=0 must be above 0"),
        (Profile, {"horizon": -1}, "profile.horizon=-1 must be above 0"),
        (Profile, {"value_coef": -1.0}, "profile.value_coef=-1.0 must be at least 0"),
        (Profile, {"gamma": 1.5}, "profile.gamma=1.5 must lie between 0 and 1"),
        (Profile, {"hidden_sizes": ()}, "profile.hidden_sizes=[]"),
        (Profile, {"hidden_sizes": (64, 1)}, "profile.hidden_sizes=[64, 1]"),
        (Algo, {"gae_lambda": -0.1}, "algo.gae_lambda=-0.1 must lie between 0 and 1"),
        (Algo, {"objective": "clip", "epsilon": 0.0}, "algo.epsilon=0.0 must be above 0"),
        (Algo, {"objective": "clip", "epsilon": 0.2, "delta": 1.0}, "algo.delta=1.0 means nothing to clip"),
        (Algo, {"objective": "projected", "delta": 1.0}, "algo.average_decay is not set, and projected needs it"),
        (Profile, {"standardise": "minibatch", "minibatch_size": 1}, "one env step has none"),
        (Profile, {"standardise": "rollout", "horizon": 1, "minibatch_size": 1}, "one env step has none"),
        (
            Profile,
            {"standardise": "minibatch", "value_fit": "separate", "horizon": 1, "minibatch_size": 1},
            "one env step has none",
        ),
        (Profile, {"segment": 100}, "profile.segment=100 must divide profile.horizon=2048"),
        (Profile, {"segment": 128}, "profile.segment=128 must divide"),
        (Profile, {"value_stepsize": 1e-3}, "profile.value_stepsize=0.001 means nothing to profile.value_fit=joint"),
        (Profile, {"stepsize_schedule": "kl"}, "set both or neither"),
        (Profile, {"value_fit": "separate", "shared_trunk": True}, "set profile.shared_trunk=false"),
        (RunConfig, {"env": Env(frame_skip=4)}, "env.frame_skip=4 means nothing to backend=envpool"),
        (
            RunConfig,
            {"env": Env(fire=True), "backend": "gymnasium"},
            "env.fire=True means nothing to backend=gymnasium",
        ),
        (RunConfig, {"env": Env(noop_max=0)}, "env.noop_max=0 means nothing to backend=envpool"),
        (RunConfig, {"algo": CEM, "profile": Profile(observation_filter="per_rollout")}, "use per_step or none"),
        (RunConfig, {"algo": Algo("trajectory_ratio")}, "set profile.minibatch_size=2048, or profile.segment"),
    ],
)
def test_what_is_out_of_range_or_does_not_fit_is_refused(cls: type, settings: dict, words: str) -> None:
    assert words in refusal(cls, **settings)


@pytest.mark.parametrize("name", SWITCHES)
def test_runs_share_a_pack_exactly_when_they_differ_in_per_run_numbers(name: str) -> None:
    tries, (under, *_) = SWITCHES[name].tries, SWITCHES[name].under
    one, other = (RunConfig(profile=Profile(**{"minibatch_size": 32, **under, name: value})) for value in tries[:2])
    assert one != other
    assert (pack_key(one) == pack_key(other)) == SWITCHES[name].per_run


def test_learners_share_a_pack_and_seeds_and_tasks_do_what_they_should() -> None:
    assert {"stepsize", "gamma", "value_coef", "entropy_coef"} <= {n for n, each in SWITCHES.items() if each.per_run}
    clip, fixed = (RunConfig(algo=algo) for algo in (Algo("clip", epsilon=0.2), Algo("kl_fixed", beta=3.0)))
    assert pack_key(clip) == pack_key(fixed) == pack_key(replace(clip, seed=9))
    for stranger in (
        replace(clip, env=Env("Walker2d-v4")),
        replace(clip, backend="gymnasium"),
        replace(clip, numerics="fast"),
        replace(clip, device="cuda"),
        replace(clip, env_steps=5000),
        replace(clip, algo=Algo("random")),
        replace(clip, algo=Algo("clip", epsilon=0.2, advantage="rewards_to_go")),
    ):
        assert pack_key(stranger) != pack_key(clip)
