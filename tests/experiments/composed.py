"""Configs composed as the commands compose them."""

import pytest
from hydra import compose

from experiments.compose import (
    CONF,
    NamedRun,
    runs_of,
)  # fmt: skip
from ppo.config import RunConfig
from ppo.refusals import UserError

PROFILES, ALGOS, ENVS = (
    sorted(path.stem for path in (CONF / group).glob("*.yaml") if "atari" not in path.stem)
    for group in ("profile", "algo", "env")
)


def runs(*overrides: str) -> list[NamedRun]:
    chosen = {"algo": "clip", "profile": "ppo1_2017_08", "env": "hopper"}
    chosen |= {k: v for k, _, v in (override.partition("=") for override in overrides) if k in chosen}
    return runs_of(compose("config", list(overrides)), chosen)


def run(*overrides: str) -> RunConfig:
    (named,) = runs(*overrides)
    return named.config


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as refused:
        runs(*overrides)
    assert "\n" not in str(refused.value)
    return str(refused.value)
