"""A run that changes with its mates is a leak, and both are named; a run that does not is none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from experiments import trace
from experiments.independence import leaks
from ppo import rollout, surrogate
from ppo.config import Algo, Env, Profile, RunConfig

PROFILE = Profile(horizon=64, minibatch_size=32, epochs=1, stepsize=1e-2, standardise="rollout")
RUNS = {
    f"{algo.label} seed 0": RunConfig(algo, PROFILE, Env("CartPole-v1"), "gymnasium", seed=0, env_steps=192)
    for algo in (Algo("unconstrained"), Algo("clip", epsilon=0.2))
}


def found() -> list[str]:
    return leaks(RUNS, trace.collect(RUNS), trace.collect)


def test_runs_that_stay_themselves_leak_nothing() -> None:
    assert found() == []


def test_runs_that_diverge_before_their_mates_leak_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone its pack ends with it; beside a run that lives, it is traced on."""
    wild = {name: replace(run, profile=replace(PROFILE, stepsize=1e37)) for name, run in RUNS.items()}
    original = trace.collect
    seeds = {0: 1e37, 1: 1e-2}

    def collect(runs: dict[str, RunConfig]) -> Any:
        tamed = {
            name: replace(run, profile=replace(run.profile, stepsize=seeds[run.seed])) for name, run in runs.items()
        }
        return original(tamed)

    lines = collect(wild)
    assert max(number for _, number in lines) < 3, "all of them died"
    assert leaks(wild, lines, collect) == []


def noise_of_the_first(original: Callable[..., Any]) -> Callable[..., Any]:
    """Every run of a pack gets the first one's action noise: equal bytes where all have one seed."""

    def draws(*arguments: Any) -> np.ndarray:
        mine: np.ndarray = original(*arguments)
        return np.broadcast_to(mine[:1], mine.shape).copy()

    return draws


def standardised_together(_original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda advantage, epsilon: (advantage - advantage.mean()) / (advantage.std() + epsilon)


@pytest.mark.parametrize(
    ("module", "name", "wrap", "first"),
    [
        (rollout, "named_draws", noise_of_the_first, "first_action"),
        (surrogate, "standardised", standardised_together, "policy_loss"),
    ],
)
def test_a_leak_names_its_quantity_and_who_disturbs_whom(
    module: Any, name: str, wrap: Any, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, wrap(getattr(module, name)))
    (leak,) = found()
    assert leak.startswith("beside other seeds, a run is another: ") and f"iteration 1: {first} " in leak
    assert leak.endswith(", with seed 1 disturbs clip_0.2 seed 0")
