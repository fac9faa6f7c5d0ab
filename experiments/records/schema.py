"""What a run leaves on disk, described once: experiments write it, analysis reads it.

This module imports the standard library alone, so that analysis needs no torch. Every run's folder holds a copy of the
description, schema.json.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict, get_type_hints

FORMAT = 1
"""Version of a record, `format` in its config.json. It counts up when older code would misread newer records; a new key
or a new diagnostic needs no new number. Records of older code do not say one, and are read all the same."""

# Files


class Column(NamedTuple):
    """A column of a CSV file; an empty cell is no number. `kind` is int32, int64 or float64."""

    kind: str
    unit: str
    meaning: str


DIAGNOSTICS = {
    "kl": Column("float64", "nats", "KL[π_θold, π_θ], exact, mean over the rollout's states"),
    "kl_k1": Column("float64", "nats", "estimate of it from the rollout's actions: mean of −log r"),
    "kl_k3": Column("float64", "nats", "estimate of it from the rollout's actions: mean of r − 1 − log r"),
    "clip_fraction": Column("float64", "share", "ratios r outside 1 ± ε; empty without ε"),
    "explained_variance": Column("float64", "share", "1 − Var[target − V] / Var[target], V from before the update"),
    "entropy": Column("float64", "nats", "of the policy, mean over the rollout's states"),
    "beta": Column("float64", "1", "β of the KL penalty in this update; empty without β"),
    "epsilon": Column("float64", "1", "ε of the clipped ratio in this update; empty without ε"),
    "stepsize": Column("float64", "1", "of the optimiser in this update"),
    "update_norm": Column("float64", "1", "Euclidean length of the change of all parameters"),
    "policy_loss": Column("float64", "1", "−L of the objective, which the update makes small"),
    "value_loss": Column("float64", "scaled reward²", "squared error of V, before its coefficient"),
    "std": Column("float64", "as actions", "of a Gaussian policy, mean over its dimensions; of cem, over parameters"),
}
"""Of an iteration's update, measured after its last epoch over the whole rollout; the mean where an iteration has
several rollouts."""

SPENT = {
    "environment": Column("float64", "seconds", "in the environments, of the whole pack"),
    "inference": Column("float64", "seconds", "choosing actions, of the whole pack"),
    "update": Column("float64", "seconds", "learning, of the whole pack"),
}
"""What an iteration spends its wall time on."""

COLUMNS = {
    "episodes.csv": {
        "env_step": Column("int64", "env steps", "of the run, at the episode's end"),
        "return": Column("float64", "raw reward", "sum of the episode's rewards, undiscounted"),
        "length": Column("int32", "env steps", "of the episode"),
    },
    "iterations.csv": {
        "iteration": Column("int64", "iterations", "from 1"),
        "env_steps": Column("int64", "env steps", "of the run, at the iteration's end"),
        **DIAGNOSTICS,
    },
    "timing.csv": {
        "iteration": Column("int64", "iterations", "from 1"),
        "unix_time": Column("float64", "seconds", "since 1970, at the iteration's end"),
        "pack_size": Column("int64", "runs", "trained together"),
        **SPENT,
    },
}
"""By file of an attempt, in the order of its columns: a row per finished episode, and per iteration. The bytes of
timing.csv are not promised."""

KINDS = {name: column.kind for columns in COLUMNS.values() for name, column in columns.items()}
"""By column; no name has two. What a file has beyond these is a diagnostic, float64."""

# Status and score

FINISHED = {
    "complete": "it reached its budget of env steps",
    "diverged": "its parameters or actions were no finite numbers before that; a result too",
    "faulty": "its environment gave rewards or observations that are no finite numbers; it has no score",
}
"""What done.json may say of a run. All three are finished: no run of these is trained again."""

SCORE_EPISODES = 100


def score(returns: Sequence[float], status: str = "complete") -> float | None:
    """A run's score: the mean return of its last 100 finished training episodes, fewer if there are no more (section
    6.1 of the paper). None without any, if it is not finite, and of a faulty run."""
    last = returns[-SCORE_EPISODES:]
    if status == "faulty" or not last or not all(map(math.isfinite, last)):
        return None
    try:
        return math.fsum(last) / len(last)
    except OverflowError:  # the sum of returns near the largest number
        return None


# Heads


class Head(TypedDict):
    """config.json: what the run is."""

    format: Annotated[NotRequired[int], "version of this record; records of older code have none"]
    run_id: Annotated[str, "hash of all that changes the run's numbers"]
    code_id: Annotated[str, "digest of the algorithm's code and the packages beneath it"]
    label: Annotated[NotRequired[str], "the objective with its setting, such as clip_0.2"]
    names: Annotated[dict[str, str], "what was picked from conf/: algo, profile, env; of a study, the variant"]
    config: Annotated[dict[str, Any], "all settings, as ppo/config.py describes them"]


class Unfinite(TypedDict):
    """What was first no finite number."""

    quantity: str
    env_step: int


class Done(TypedDict):
    """done.json: how the run ended. It is created last; a run without it is not finished."""

    status: Annotated[str, "complete | diverged | faulty"]
    run_id: Annotated[str, "as in config.json"]
    code_id: Annotated[str, "as in config.json"]
    seed: Annotated[NotRequired[int], "as in config.json"]
    attempt: Annotated[int, "number of the attempt that finished; its files count"]
    env_steps: Annotated[int, "taken"]
    score: Annotated[float | None, f"mean return of the last {SCORE_EPISODES} finished episodes; fewer if need be"]
    episodes_sha256: Annotated[NotRequired[str], "digest of the attempt's episodes.csv"]
    iterations_sha256: Annotated[NotRequired[str], "digest of the attempt's iterations.csv"]
    config_sha256: Annotated[NotRequired[str], "digest of config.json"]
    not_finite: Annotated[NotRequired[Unfinite], "what was first no finite number, and at which env step"]
    sha256: Annotated[NotRequired[str], "digest of this file without its own"]


class StudyNote(TypedDict):
    """study.json: how a study's command was last given. It also has the grid, of which the manifest has every run."""

    tables: Sequence[str]  # of its report
    figures: Sequence[str]
    code_id: str  # of the code that trains its runs
    overrides: list[str]  # of the command
    parts: NotRequired[str | None]  # folder of a dataset's parts; older launches do not say it


def newer(head: Mapping[str, Any]) -> str:
    """Why this code cannot read a record with such a config.json, in words; empty if it can."""
    said = head.get("format", FORMAT)
    if type(said) is int and said <= FORMAT:
        return ""
    return f"it has format {said!r}, and this code reads formats up to {FORMAT}; read it with newer code"


def whole_numbers(settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings that are integers, for stores that do not tell 1.0 from 1."""
    inner = [name for value in settings.values() if isinstance(value, Mapping) for name in whole_numbers(value)]
    return sorted({*inner, *(name for name, value in settings.items() if type(value) is int)})


def seal(done: Mapping[str, Any]) -> str:
    """The digest of a done.json, without its own."""
    content = {name: value for name, value in done.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def description() -> bytes:
    """schema.json, for whoever opens a run's folder."""
    heads = {"config.json": Head, "done.json": Done}
    hints = {name: get_type_hints(kind, include_extras=True) for name, kind in heads.items()}
    content = {
        "format": FORMAT,
        **{name: {key: hint.__metadata__[0] for key, hint in keys.items()} for name, keys in hints.items()},
        "status": FINISHED,
        **{name: {key: column._asdict() for key, column in keys.items()} for name, keys in COLUMNS.items()},
    }
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
