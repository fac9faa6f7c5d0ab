"""Another tracker than W&B: a sink that only remembers what it is given, and forgets nothing when it is dropped."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from mirrored import MEANS, expected_rows, folders_of, run_of, train, train_some

from experiments.tracking import mirror
from experiments.tracking.mirror import Mirrors, Target
from experiments.tracking.reading import Ending, Source


class Memory:
    """What a tracker holds of one run, whatever becomes of the mirrors."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, float]] = []
        self.ending: Ending | None = None
        self.opened: list[int] = []  # the last row it had, each time
        self.fails_at = 0  # the iteration at which it gives up, once

    def open(self, confirmed: int) -> int:
        self.opened.append(len(self.rows))
        assert confirmed <= len(self.rows)
        return len(self.rows)

    def log(self, row: Mapping[str, float]) -> None:
        if row["iteration"] == self.fails_at:
            self.fails_at = 0
            raise ConnectionError("the line is cut")
        self.rows.append(row)

    def close(self, ending: Ending | None) -> None:
        self.ending = ending

    def drop(self) -> None:
        pass


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("START_SECONDS", "POLL_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(mirror, name, 0.0)


def shown(
    folders: Sequence[Path], records: Path, held: dict[str, Memory], said: list[str], looks: int = 0
) -> dict[str, int]:
    """How many runs ended how, after so many looks and a last one."""

    def sink(source: Source) -> Memory:
        return held.setdefault(source.folder.name, Memory())

    left = iter([False] * looks)
    mirrors = Mirrors(folders, Target(records / "memory", "all", "here", sink), said.append)
    mirrors.keep_up(lambda _: next(left, True))
    return {stage: count for stage, count in mirrors.ended.items() if count}


def assert_holds(memory: Memory, folder: Path, timing: bool = True) -> None:
    """Every row of the record once, in order, and how the run ended."""
    wanted = expected_rows(folder)
    assert [row["iteration"] for row in memory.rows] == [row["iteration"] for row in wanted]
    for row, want in zip(memory.rows, wanted, strict=True):
        assert row.keys() == want.keys()
        for name in (name for name in want if timing or not name.startswith("timing/")):
            np.testing.assert_allclose(row[name], want[name], rtol=1e-12 if name in MEANS else 0)
    assert memory.ending is not None
    done = json.loads((folder / "done.json").read_text())
    resources = json.loads((folder / f"attempt-{done['attempt']}" / "resources.json").read_text())
    kept = {name: done[name] for name in ("status", "score", "attempt", "env_steps")}
    assert memory.ending.summary.items() >= (kept | resources).items()
    assert memory.ending.episodes == folder / f"attempt-{done['attempt']}" / "episodes.csv"


@pytest.mark.usefixtures("eager")
def test_a_sink_is_given_every_row_and_the_ending_once(tmp_path: Path) -> None:
    runs = [run_of(0), run_of(1)]
    train(runs, tmp_path)
    folders = folders_of(runs, tmp_path)
    held: dict[str, Memory] = {}
    said: list[str] = []
    assert shown(folders, tmp_path, held, said) == {"complete": 2}
    for folder in folders:
        assert_holds(held[folder.name], folder)
    again: dict[str, Memory] = {}
    assert shown(folders, tmp_path, again, said) == {"complete before": 2}
    assert [memory.opened for memory in again.values()] == [[], []] and said == []
    assert not (tmp_path / "wandb").exists()


@pytest.mark.usefixtures("eager")
def test_a_sink_that_fails_is_opened_again_and_goes_on_from_what_it_holds(tmp_path: Path) -> None:
    runs = [run_of(0), run_of(1)]
    train(runs, tmp_path)
    folders = folders_of(runs, tmp_path)
    held = {folder.name: Memory() for folder in folders}
    held[folders[0].name].fails_at = 4
    said: list[str] = []
    assert shown(folders, tmp_path, held, said, looks=3) == {"complete": 2}
    assert [memory.opened for memory in held.values()] == [[0, 3], [0]]
    assert said == [f"{folders[0].name}: the line is cut"]
    for folder in folders:
        assert_holds(held[folder.name], folder)


@pytest.mark.usefixtures("eager")
def test_a_run_in_training_is_shown_as_far_as_a_checkpoint_covers_it(tmp_path: Path) -> None:
    runs = [run_of(0)]
    train_some(runs, tmp_path, 2)
    (folder,) = folders_of(runs, tmp_path)
    held: dict[str, Memory] = {}
    assert shown([folder], tmp_path, held, []) == {"so far": 1}
    memory = held[folder.name]
    assert ([row["iteration"] for row in memory.rows], memory.ending) == ([1, 2], None)
    train(runs, tmp_path)
    assert shown([folder], tmp_path, held, []) == {"complete": 1}
    assert_holds(memory, folder, timing=False)  # of several attempts, each with its own
    assert memory.opened == [0, 2]


@pytest.mark.usefixtures("eager")
def test_a_tracker_that_cannot_start_is_forgotten_before_it_is_tried_again(tmp_path: Path) -> None:
    train([run_of(0)], tmp_path)
    forgotten: list[str] = []

    class Late(Memory):
        def open(self, confirmed: int) -> int:
            if not forgotten:
                raise TimeoutError("no answer")
            return super().open(confirmed)

    late = Late()
    target = Target(tmp_path / "memory", "all", "here", lambda _: late, lambda: forgotten.append("once"))
    left = iter([False])
    assert Mirrors(folders_of([run_of(0)], tmp_path), target, lambda _: None).keep_up(lambda _: next(left, True))
    assert forgotten == ["once"] and [row["iteration"] for row in late.rows] == [1, 2, 3, 4, 5, 6]
