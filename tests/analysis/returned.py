"""What the tests of both ways back from W&B share: runs that came back, against the records they came from."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mirrored import wandb_id

from analysis.dataset import RUN_COLUMNS
from analysis.sources.records import Broken, Collected, read_run
from analysis.sources.wandb import lacks_episodes


def folders_in(records: Path) -> list[Path]:
    return sorted(path.parent for path in records.glob("runs/*/*/config.json"))


def by_id(found: Iterator[Collected | Broken]) -> dict[str, Collected]:
    """None of them broken, none twice."""
    runs = list(found)
    assert not [run for run in runs if isinstance(run, Broken)]
    named = {run.row["run"]: run for run in runs if isinstance(run, Collected)}
    assert len(named) == len(runs)
    return named


def the_broken(found: Iterator[Collected | Broken], sound: int = 2) -> str:
    """The sentence about the one run that is broken; the others are there."""
    runs = list(found)
    assert len(runs) == sound + 1
    (broken,) = [run for run in runs if isinstance(run, Broken)]
    return str(broken)


def same_as_record(run: Collected, folder: Path, lacking: bool = False) -> None:
    """Every column of the row but `source`, and both tables; the score is of the same episodes."""
    want = read_run(folder, {})
    assert list(run.row) == list(want.row) == list(RUN_COLUMNS)
    own, wanted = ({n: x for n, x in row.items() if n not in ("source", "score")} for row in (run.row, want.row))
    differing = {n: (own[n], wanted[n]) for n in own if own[n] != wanted[n]}
    assert not differing, str(differing)
    assert run.row["score"] == (pytest.approx(want.row["score"], rel=1e-12) if lacking else want.row["score"])
    assert run.iterations.equals(want.iterations)
    assert run.episodes.equals(want.episodes.slice(0, 0) if lacking else want.episodes)
    assert lacks_episodes(run) == lacking


def all_same(runs: dict[str, Collected], records: Path) -> None:
    assert runs.keys() == {wandb_id(folder) for folder in folders_in(records)}
    for folder in folders_in(records):
        same_as_record(runs[wandb_id(folder)], folder)


def piece(records: Path, folder: Path) -> Path:
    """The only offline folder of a run."""
    (found,) = records.glob(f"wandb/offline-run-*-{wandb_id(folder)}")
    return found


def altered(text: bytes) -> bytes:
    return text.replace(b"9", b"8")
