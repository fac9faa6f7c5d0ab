"""A run's id is of its values, of every one of them, and of nothing else."""

import copy
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from experiments import identity
from experiments.compose import (
    CONF,
)  # fmt: skip
from ppo.config import Algo, Env, Profile, RunConfig
from tests.experiments.composed import run

PROFILES, ALGOS, ENVS = (
    sorted(path.stem for path in (CONF / group).glob("*.yaml") if "atari" not in path.stem)
    for group in ("profile", "algo", "env")
)


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


EXAMPLE = RunConfig(
    algo=Algo("kl_adaptive", beta=1.0, kl_target=0.01),
    profile=Profile(observation_filter="per_step", filter_clip=10.0, hidden_sizes=(32, 32), reward_clip=5.0),
    env=Env("Walker2d-v4"),
    seed=3,
    env_steps=4096,
)


def test_recorded_ids_stay_what_they_are() -> None:
    """A change here orphans every record made before it."""
    assert identity.run_id(run("algo.epsilon=0.1", "seed=5")) == "555a3c47bdde"
    assert identity.run_id(EXAMPLE) == "da6d92cf14e1"
    assert identity.slug(run("algo.epsilon=0.1", "seed=5")) == "Hopper-v4-clip_0.1.s5"
    assert identity.slug(EXAMPLE) == "Walker2d-v4-kl_adaptive_0.01.s3"


def test_an_id_depends_on_values_and_not_on_what_they_are_called(tmp_path: Path) -> None:
    explicit = run("algo=unconstrained", "algo.objective=clip", "+algo.epsilon=0.2")
    assert identity.run_id(explicit) == identity.run_id(run("algo=clip"))
    assert identity.run_id(run("algo.epsilon=1")) == identity.run_id(run("algo.epsilon=1.0"))


def leaves(values: dict[str, Any]) -> Iterator[Any]:
    for value in values.values():
        yield from leaves(value) if isinstance(value, dict) else [value]


def test_settings_at_their_default_leave_no_trace_in_the_id() -> None:
    """So that a field added later, at its neutral default, changes no id."""
    assert identity.canonical(RunConfig()) == {}
    assert identity.canonical(RunConfig(seed=2)) == {"seed": 2}
    assert len(list(leaves(identity.canonical(EXAMPLE)))) == 10


def places(config: Any, *path: str) -> Iterator[tuple[str, ...]]:
    for f in fields(config):
        value = getattr(config, f.name)
        yield from places(value, *path, f.name) if is_dataclass(value) else [(*path, f.name)]


def flipped(config: RunConfig, path: tuple[str, ...]) -> RunConfig:
    """A copy with another value in one place, past all checks."""
    config = copied = copy.deepcopy(config)
    for name in path[:-1]:
        copied = getattr(copied, name)
    old = getattr(copied, path[-1])
    new = not old if isinstance(old, bool) else "other" if isinstance(old, str) else 12 if old != 12 else 13
    object.__setattr__(copied, path[-1], (7,) if isinstance(old, tuple) else new)
    return config


@pytest.mark.parametrize("config", [RunConfig(), EXAMPLE], ids=["default", "example"])
def test_every_single_setting_changes_the_id(config: RunConfig) -> None:
    everywhere = list(places(config))
    assert len(everywhere) == sum(len(fields(part)) for part in (Algo, Profile, Env, RunConfig)) - 3
    ids = {path: identity.run_id(flipped(config, path)) for path in everywhere}
    assert len({identity.run_id(config), *ids.values()}) == len(everywhere) + 1
