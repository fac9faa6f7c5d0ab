"""Two at one run: the higher attempt has it, and nothing is taken from whoever lives."""

from pathlib import Path
from typing import Any

import pytest
from test_resume import train_until_checkpoint

from experiments import runner
from experiments.records import checkpoint
from experiments.records.record import Attempt, Record
from tests.conftest import Killed, named, promised, small_run, train


def test_a_higher_attempt_fences_off_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [small_run(0, 6)]
    fenced = Record(tmp_path, *named(runs))
    original = Attempt.append

    def taken_over(self: Attempt, *arguments: Any) -> None:
        original(self, *arguments)
        if arguments[0].number == 3:
            fenced.attempt_folder(2).mkdir()

    monkeypatch.setattr(Attempt, "append", taken_over)
    said: list[str] = []
    outcome = train(runs, tmp_path, said=said)
    assert not outcome.done and fenced.done() is None
    assert len(outcome.elsewhere) == 1
    assert any("taken over" in line for line in said)
    assert checkpoint.iterations_in(fenced.attempt_folder(1)) == [2, 1]


@pytest.mark.parametrize("begun", [False, True])
def test_who_comes_late_takes_nothing_from_a_living_trainer(
    begun: bool, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for living trainers and the claim another process claims the first run."""
    runs = [small_run(0, 3), small_run(1, 3)]
    if begun:
        with pytest.raises(Killed):
            train_until_checkpoint(runs, tmp_path, 1)
    taken = Record(tmp_path, *named(runs[:1]))
    theirs = taken.attempt_folder(2 if begun else 1)
    original = runner.live_owners

    def overtaken(*arguments: Any) -> Any:
        found = original(*arguments)
        theirs.mkdir()
        return found

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(runner, "live_owners", overtaken)
        outcome = train(runs, tmp_path, said=said)
    assert (len(outcome.done), outcome.elsewhere) == (1, said)
    assert said == [f"{theirs} was claimed by someone else just now"]
    assert taken.attempt_folder(taken.attempts()[0]) == theirs and list(theirs.iterdir()) == []
    assert promised(runs[1:], tmp_path) == undisturbed(runs[1:])


def test_a_member_fenced_off_at_its_end_leaves_and_its_mates_finish(
    undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [small_run(0, 3), small_run(1, 3)]
    taken = Record(tmp_path, *named(runs[:1]))
    original = Attempt.finish

    def taken_over(self: Attempt, *arguments: Any) -> dict[str, Any]:
        taken.attempt_folder(2).mkdir(exist_ok=True)
        return original(self, *arguments)

    monkeypatch.setattr(Attempt, "finish", taken_over)
    outcome = train(runs, tmp_path, checkpoint_seconds=1e9)
    assert (len(outcome.done), len(outcome.elsewhere)) == (1, 1)
    assert taken.done() is None
    assert promised(runs[1:], tmp_path) == undisturbed(runs[1:])
