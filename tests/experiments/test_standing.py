"""Runs that an equal code has finished: done for a study, and said each time; anything less than finished is not."""

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from analysis import equal_codes
from analysis.equal_codes import Proof
from experiments.files import as_json
from experiments.grammar import Study
from experiments.identity import code_id
from experiments.jobs.local import Local
from experiments.jobs.standing import Standing, by_equal_codes, kept_as_done, runs_in, standings
from experiments.jobs.survey import look, look_anyway
from experiments.manifest import Entry, freeze
from experiments.records.provenance import cpu_model
from experiments.study import Request, missing
from ppo.refusals import UserError
from tests.conftest import small_run
from tests.experiments.test_packs import entries_of

OLD, OLDER = 12 * "f", 12 * "e"
RUNS = entries_of(*(small_run(seed=seed, iterations=4, env="CartPole-v1") for seed in range(5)))
NEAR = Proof((OLD, code_id()), (40 * "1", 40 * "2"), 342, 64 * "f", {"cpu": cpu_model()}, "2026-12-03")
FAR = replace(NEAR, code_ids=(OLDER, OLD), machine={"cpu": "another"}, date="2026-12-01")


@pytest.fixture(autouse=True)
def proofs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of proofs of a test's own, with a chain of two in it."""
    monkeypatch.setattr(equal_codes, "FILE", tmp_path / "equal_codes.jsonl")
    equal_codes.FILE.write_text(NEAR.line() + FAR.line())
    return equal_codes.FILE


def finish(records: Path, entry: Entry, code: str, score: float) -> None:
    folder = records / "runs" / code / entry.folder_name
    folder.mkdir(parents=True)
    (folder / "done.json").write_bytes(as_json({"status": "complete", "score": score, "env_steps": 1024}))


def begin(records: Path, entry: Entry, code: str) -> None:
    (records / "runs" / code / entry.folder_name / "attempt-1").mkdir(parents=True)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Runs that are finished by both codes, by the old one alone with and without a beginning here, by one that is
    older yet; the last one was begun by the old code."""
    freeze(tmp_path / "studies" / "five", RUNS, extend=False)
    (tmp_path / "studies" / "five" / "study.json").write_bytes(as_json({"code_id": code_id()}))
    finish(tmp_path, RUNS[0], code_id(), 1.0)
    finish(tmp_path, RUNS[0], OLD, 2.0)
    finish(tmp_path, RUNS[1], OLD, 2.0)
    begin(tmp_path, RUNS[1], code_id())
    finish(tmp_path, RUNS[2], OLD, 2.0)
    finish(tmp_path, RUNS[2], OLDER, 3.0)
    finish(tmp_path, RUNS[3], OLDER, 3.0)
    begin(tmp_path, RUNS[4], OLD)
    return tmp_path / "studies" / "five"


def lines() -> list[str]:
    """Of the study, in words."""
    return [
        f"2 runs were trained by code {OLD}, which a trace of 2026-12-03 on {cpu_model()} proved equal to code "
        f"{code_id()} (analysis/equal_codes.jsonl)",
        f"1 run was trained by code {OLDER}, which traces of 2026-12-03 and 2026-12-01 on {cpu_model()} and another "
        f"proved equal to code {code_id()} (analysis/equal_codes.jsonl); the processor here is {cpu_model()}",
    ]


def asked(study: Path, kept: dict[str, str]) -> Request:
    head: Any = {}  # of no launch
    return Request("five", Study((), {}, (), 1), RUNS, study.parents[1], Local(), head, False, False, kept)


def test_what_an_equal_code_has_finished_is_done(study: Path) -> None:
    stands = [stand for _, stand in look(study)]
    assert [(stand.state, stand.note, stand.code) for stand in stands] == [
        ("done", "score 1.0", ""),
        ("done", "score 2.0", OLD),
        ("done", "score 2.0", OLD),
        ("done", "score 3.0", OLDER),
        ("missing", "", ""),
    ]
    assert by_equal_codes(stands, code_id()) == lines()
    assert look_anyway(study)[1] == "; ".join(lines())


def test_a_study_trains_the_rest_and_says_so(study: Path) -> None:
    said = io.StringIO()
    assert missing(asked(study, {}), RUNS, {}, Console(file=said)) == RUNS[4:]
    assert said.getvalue().splitlines() == lines()


@pytest.mark.parametrize("proven", ["", FAR.line()])
def test_without_a_proof_nothing_of_another_code_counts(study: Path, proofs: Path, proven: str) -> None:
    proofs.write_text(proven)
    stands = standings(RUNS, study.parents[1], code_id())
    assert [stand.state for stand in stands] == ["done", "stopped", "missing", "missing", "missing"]
    assert look_anyway(study)[1] == ""


def test_runs_that_an_equal_code_left_in_parts_are_done(study: Path, tmp_path: Path) -> None:
    part = tmp_path / "parts" / "CartPole-v1" / "v.s0-4"
    part.mkdir(parents=True)
    (part / "dataset.json").write_text("{}")
    ids = [RUNS[number].run_id for number in (3, 4, 4, 0, 0, 1)]
    codes = [OLDER, OLD, OLDER, code_id(), OLD, 12 * "0"]
    pd.DataFrame({"run_id": ids, "code_id": codes}).to_parquet(part / "runs.parquet")
    kept = runs_in(tmp_path / "parts", code_id())
    assert set(kept) == {RUNS[0].run_id, RUNS[3].run_id, RUNS[4].run_id}
    assert kept[RUNS[0].run_id] == ""  # this code's own
    shutil.rmtree(tmp_path / "runs" / OLDER)
    stands = kept_as_done(RUNS, standings(RUNS, tmp_path, code_id()), kept)
    assert stands[0] == Standing("done", 4, "score 1.0")
    assert {stand.state for stand in stands} == {"done"}
    assert stands[3] == Standing("done", 4, "in the parts", code=OLDER)
    assert stands[4].code in (OLD, OLDER)
    said = io.StringIO()
    assert missing(asked(study, dict(kept)), RUNS, {}, Console(file=said)) == []
    assert f" were trained by code {OLD}, which a trace of 2026-12-03 " in said.getvalue()
    assert said.getvalue().endswith("2 runs left alone: in the parts already\n")


def test_a_file_of_proofs_that_was_edited_is_refused(study: Path, proofs: Path) -> None:
    proofs.write_text(NEAR.line()[:-5])
    with pytest.raises(UserError, match=r"equal_codes.jsonl, line 1 is no proof as "):
        look(study)


def test_a_study_that_was_never_launched_has_no_code_and_nothing_to_say_of_it(study: Path) -> None:
    (study / "study.json").unlink()  # the manifest is written first
    stands, note = look_anyway(study)
    assert {stand.state for _, stand in stands} == {"missing"}
    assert note == ""
