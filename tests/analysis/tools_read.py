"""What the tests of other tools' logs share."""

import csv
from pathlib import Path
from typing import Any

from analysis.sources.records import Broken, Collected
from analysis.sources.tools import runs_of

SAMPLES = Path(__file__).parent / "foreign"
ZOO = SAMPLES / "rl-trained-agents" / "ppo" / "CartPole-v1_1"
SB3 = SAMPLES / "stable-baselines3" / "CartPole-v1" / "PPO_1"
RAY = SAMPLES / "ray"
CLEANRL = SAMPLES / "cleanrl"

Rows = list[tuple[Any, ...]]  # env_step, return, length


def read(source: str) -> list[Collected]:
    runs = runs_of(source)
    assert runs is not None
    found = list(runs)
    assert all(isinstance(run, Collected) for run in found), found
    return [run for run in found if isinstance(run, Collected)]


def read_one(source: str) -> Collected:
    (run,) = read(source)
    return run


def broken(source: str) -> str:
    """What is wrong with a source's only run."""
    runs = runs_of(source)
    assert runs is not None
    (found,) = runs
    assert isinstance(found, Broken)
    assert "\n" not in str(found)
    return str(found)


def rows_of(run: Collected) -> Rows:
    return list(zip(*(run.episodes[name].to_pylist() for name in ("env_step", "return", "length")), strict=True))


def raw_monitors(folder: Path) -> list[list[tuple[float, int]]]:
    """Return and length of every episode of every copy, by the csv module alone."""
    copies = []
    for number in range(len(list(folder.glob("*.monitor.csv")))):
        with (folder / f"{number}.monitor.csv").open(newline="") as file:
            next(file)
            copies.append([(float(row["r"]), int(row["l"])) for row in csv.DictReader(file)])
    return copies


def stepped(copies: list[list[tuple[float, int]]]) -> Rows:
    """The episodes as they end while all copies are stepped together, one step after another."""
    found, env_step = [], 0
    left = [[length for _, length in copy] for copy in copies]
    while any(left):
        env_step += len(copies)
        for copy, lengths in zip(copies, left, strict=True):
            if lengths:
                lengths[0] -= 1
                if not lengths[0]:
                    found.append((env_step, *copy[len(copy) - len(lengths)]))
                    lengths.pop(0)
    return found


def monitor(folder: Path, rows: str, name: str = "monitor.csv", env: str = "A-v1") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f'#{{"t_start": 1.0, "env_id": "{env}"}}\nr,l,t\n{rows}')
