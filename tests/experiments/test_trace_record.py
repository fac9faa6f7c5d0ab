"""A trace's verdict, made by hand, becomes a proof that two codes are equal, or does not."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from analysis import equal_codes
from experiments import trace
from experiments.trace_sides import Lines, Side
from ppo.refusals import UserError
from tests.conftest import ROOT
from tests.experiments.test_trace import said

LINES: Lines = {("a", 1): {"kl": "0.5"}, ("a", 0): {"kl": "0.0"}, ("b", 0): {"kl": "0.25"}}
BODY = (
    '{"run": "a", "iteration": 0, "quantities": {"kl": "0.0"}}\n'
    '{"run": "a", "iteration": 1, "quantities": {"kl": "0.5"}}\n'
    '{"run": "b", "iteration": 0, "quantities": {"kl": "0.25"}}\n'
)
MACHINE = {"cpu": "Zen 5", "torch": "2.9"}


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(equal_codes, "FILE", tmp_path / "equal_codes.jsonl")
    monkeypatch.setattr(trace, "refuse_uncommitted", lambda: None)
    return tmp_path / "equal_codes.jsonl"


def side(folder: Path, digit: str, source: str, lines: Lines = LINES, leaking: Any = None) -> Side:
    """A code of one line, whose id its own experiments.identity reckons, and what it left of its trace."""
    for package in ("ppo", "experiments"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text("")
    shutil.copy(ROOT / "experiments" / "identity.py", folder / "experiments")
    (folder / "ppo" / "one.py").write_text(source)
    (folder / "trace").write_text(trace.text_of(lines, MACHINE, leaking))
    return Side(f"code {digit}", 40 * digit, folder, folder / "trace")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proofs: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command about two codes of one line and their traces: exit code, and what it said last."""

    def run(old: str, new: str, there: Lines = LINES, here: Lines = LINES, leaking: Any = ()) -> tuple[int, str]:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        sides = side(folder / "old", "1", old, there), side(folder / "new", "2", new, here, leaking)

        @contextmanager
        def two_sides(revision: str) -> Iterator[tuple[Side, Side]]:
            yield sides

        monkeypatch.setattr(trace, "two_sides", two_sides)
        code, words = said(capsys, "--against", "main", "--record")
        return code, words.splitlines()[-1]

    return run


def test_the_proof_says_which_codes_by_which_trace_and_where(recorded: Any, proofs: Path) -> None:
    code, words = recorded("x = 1", "x = 1 + 0")
    assert code == 0
    (line,) = proofs.read_text().splitlines()
    found = json.loads(line)
    assert datetime.now(UTC).date() - datetime.fromisoformat(found.pop("date")).date() <= timedelta(days=1)
    one, other = found.pop("code_ids")
    assert one != other
    assert found == {
        "commits": [40 * "1", 40 * "2"],
        "runs": 2,
        "sha256": hashlib.sha256(BODY.encode()).hexdigest(),
        "machine": MACHINE,
    }
    assert words == f"recorded in analysis/equal_codes.jsonl, to be committed: codes {one} and {other} are equal"
    assert equal_codes.ways(one, equal_codes.read()) == {other: equal_codes.read()}


def test_proofs_are_appended_and_none_stands_there_twice(recorded: Any, proofs: Path) -> None:
    recorded("x = 1", "x = 1 + 0")
    before = proofs.read_text()
    assert recorded("x = 1", "x = 1 + 0")[1].startswith("recorded already on 20")
    assert recorded("x = 1 + 0", "x = 1")[1].startswith("recorded already on 20")
    assert proofs.read_text() == before
    recorded("x = 1 + 0", "x = 0 + 1")
    assert proofs.read_text().startswith(before)
    assert len(equal_codes.one_name()) == 3
    assert len({*equal_codes.one_name().values()}) == 1


OTHER: Mapping[str, dict[str, Any]] = {
    "another value": {"here": LINES | {("a", 1): {"kl": "0.6"}}},
    "a run less": {"here": {("a", 0): {"kl": "0.0"}}},
    "a quantity more": {"there": LINES | {("a", 1): {"kl": "0.5", "std": "1"}}},
    "a leak": {"leaking": ["a differs beside b"]},
}


@pytest.mark.parametrize("what", OTHER)
def test_anything_but_the_same_is_not_recorded(recorded: Any, proofs: Path, what: str) -> None:
    code, words = recorded("x = 1", "x = 1 + 0", **OTHER[what])
    assert (code, words) == (1, "nothing was recorded, for only codes that are the same in everything count together")
    assert not proofs.exists()


def test_codes_that_trace_other_runs_are_not_recorded_though_none_differs(recorded: Any, proofs: Path) -> None:
    code, words = recorded("x = 1", "x = 1 + 0", here=LINES | {("c", 0): {"kl": "0.6"}})
    assert (code, words) == (0, "nothing was recorded, for only codes that are the same in everything count together")
    assert not proofs.exists()


def test_one_code_id_needs_no_proof(recorded: Any, proofs: Path) -> None:
    code, words = recorded("x = 1", "x = 1  # one")
    assert code == 0
    assert words.startswith("nothing to record: both have code id ")
    assert not proofs.exists()


def test_a_trace_of_nothing_proves_nothing(proofs: Path, tmp_path: Path) -> None:
    old, new = side(tmp_path / "old", "1", "x = 1"), side(tmp_path / "new", "2", "x = 1 + 0")
    with pytest.raises(UserError, match="this proves nothing, and is not recorded"):
        trace.record(old, new, {}, MACHINE)
    assert not proofs.exists()


def test_a_file_that_was_edited_is_refused_and_stays(
    recorded: Any, proofs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proofs.write_text("{}\n")
    code, words = recorded("x = 1", "x = 1 + 0")
    assert code == 2
    assert f"{proofs}, line 1 is no proof as " in words
    assert proofs.read_text() == "{}\n"


@pytest.mark.parametrize("other", ["--out", "--with"])
def test_only_commits_are_recorded(
    other: str, tmp_path: Path, proofs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, other, tmp_path / "trace", "--record") == (
        2, "error: --record goes with --against, which knows the commits of both codes",
    )  # fmt: skip
    assert not (tmp_path / "trace").exists()
