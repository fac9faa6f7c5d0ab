"""From a study to a verdict by the commands: trained, blessed, judged."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import invented
import numpy as np
import pytest

from analysis import bless, regress
from analysis.baseline import read_baseline

PNG = b"\x89PNG"


def study(records: Path, name: str, *overrides: str) -> None:
    """A tiny study of CartPole, trained."""
    small = ["environments=[cartpole]", "study.env_steps=1024", "profile.horizon=256", "profile.epochs=1"]
    line = [sys.executable, "-m", "experiments.study", "study=regression", f"name={name}", *small]
    line += ["tracking=none", f"records={records}", *overrides]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def commit(records: Path, name: str, dirty: bool) -> None:
    """Say of a study's runs that the code was (not) committed, whatever it is while tests are written."""
    for line in (records / "studies" / name / "manifest.jsonl").read_text().splitlines():
        (path,) = records.glob(f"runs/*/*-{json.loads(line)['run_id']}/provenance.json")
        provenance = json.loads(path.read_text()) | {"dirty": dirty}
        path.write_text(json.dumps(provenance))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of the same algorithm, on seeds of their own."""
    records = tmp_path_factory.mktemp("gate") / "records"
    study(records, "before", "seed=1000", "num_seeds=24")
    study(records, "after", "variants=clip_0.2", "num_seeds=24")
    commit(records, "before", dirty=False)
    return records


@pytest.fixture(scope="module")
def baselines(records: Path) -> Path:
    """A folder with the first as baseline `mine`."""
    folder = records.parent / "baselines"
    folder.mkdir()
    arguments = [
        "before",
        "--name",
        "mine",
        "--reason",
        "a test",
        "--records",
        str(records),
        "--baselines",
        str(folder),
    ]
    assert bless.main(arguments) == 0
    return folder


def judged(records: Path, baselines: Path, candidate: str, *more: str) -> int:
    return regress.main(["--candidate", candidate, "--baseline", "mine", "--records", str(records),
                         "--baselines", str(baselines), *more])  # fmt: skip


def test_the_same_algorithm_does_the_same(records: Path, baselines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four iterations earn too little to tell apart by return, so the margin is wide."""
    assert judged(records, baselines, "after", "--margin=0.99") == 0
    told = capsys.readouterr().out
    assert told.startswith("## Regression gate: PASS\n")
    assert "24 seeds (look 1 of 2), against baseline `mine`, 24 seeds" in told
    folder = records / "gates" / "after"
    assert (folder / "summary.md").read_text() in told
    assert (folder / "curves.png").read_bytes().startswith(PNG)


def test_an_undecided_candidate_gets_a_second_look_by_the_command_it_was_told(
    records: Path, baselines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(records, "undecided", "variants=clip_0.2", "num_seeds=24")
    assert judged(records, baselines, "undecided", "--margin=1e-9") == 4
    told = capsys.readouterr().out
    command = shlex.split(told.split("More seeds decide: `")[1].split("`")[0].partition(" && ")[0])
    done = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    judged(records, baselines, "undecided", "--margin=1e-9")
    assert "48 seeds (the last)" in capsys.readouterr().out


def test_other_settings_are_refused_with_the_list(
    records: Path, baselines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(records, "other", "variants=clip_0.2", "num_seeds=2", "profile.gamma=0.9", "backend=gymnasium")
    assert judged(records, baselines, "other") == 2
    told = capsys.readouterr().err
    assert told.startswith("error: other cannot be judged by baseline mine: ")
    assert "profile.gamma=0.9, not 0.99 (CartPole)" in told
    assert "backend=" in told


def test_a_run_that_crashed_fails_the_candidate(
    records: Path, baselines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(records, "crashing", "variants=clip_0.2", "num_seeds=1", "profile.gamma=0.5")
    line = json.loads((records / "studies" / "crashing" / "manifest.jsonl").read_text())
    (folder,) = records.glob(f"runs/*/*-{line['run_id']}")
    (folder / "failed.json").write_text("{}")
    assert judged(records, baselines, "crashing") == 1
    assert "- runs that crashed: 1, CartPole-v1" in capsys.readouterr().out


def test_an_unknown_study_is_a_mistake_and_no_verdict(
    records: Path, baselines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judged(records, baselines, "nonesuch") == 2
    assert "nonesuch is neither a folder nor a study" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["regress", "bless"])
def test_a_published_dataset_judges_nothing_and_is_not_replaced(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = invented.write(tmp_path / "table1" / "Hopper-v4" / "clip_0.2.s0-2", np.random.default_rng(0))
    before = {path: path.read_bytes() for path in part.iterdir()}
    place = ["--baselines", str(tmp_path), "--records", str(tmp_path)]
    if command == "regress":
        code = regress.main(["--candidate", "after", "--baseline", "table1", *place])
        told = f"error: {tmp_path / 'table1'} is a published dataset, to be read by analysis.report"
    else:
        code = bless.main(["table1", "--name", "table1", "--reason", "a test", "--replace", *place])
        told = f"error: {tmp_path / 'table1'} is there and is no baseline"
    assert code == 2
    assert capsys.readouterr().err.startswith(told)
    assert {path: path.read_bytes() for path in part.iterdir()} == before


class TestBless:
    def blessed(self, records: Path, folder: Path, *more: str, name: str = "mine", study: str = "before") -> int:
        return bless.main([study, "--name", name, "--records", str(records), "--baselines", str(folder), *more])

    def test_it_says_how_it_was_made(self, records: Path, baselines: Path) -> None:
        about = read_baseline("mine", baselines).about
        assert about["reason"] == "a test"
        assert about["seeds"] == [1000, 1023]
        assert about["code_ids"] == [next((records / "runs").iterdir()).name]
        assert about["versions"]["mujoco"] == "3.6.0"
        assert "profile.horizon=256" in about["overrides"]

    def test_an_old_one_is_replaced_only_when_that_is_said(
        self, records: Path, baselines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "baselines"
        assert self.blessed(records, folder, "--reason=one") == 0
        before = (folder / "mine" / "baseline.json").read_bytes()
        assert self.blessed(records, folder, "--reason=two") == 2
        told = capsys.readouterr().err
        assert "mine is there already; --replace puts this in its place: clip_0.2 on CartPole-v1:" in told
        assert (folder / "mine" / "baseline.json").read_bytes() == before
        assert self.blessed(records, folder, "--reason=two", "--replace") == 0
        assert read_baseline("mine", folder).about["reason"] == "two"
        assert [path.name for path in folder.iterdir()] == ["mine"]

    @pytest.mark.parametrize(
        ("change", "study", "told"),
        [
            ("--reason= ", "before", "--reason is empty"),
            ("--reason=x", "after", "has no variant `random`"),
            ("--reason=x", "nonesuch", "neither a folder nor a study"),
        ],
    )
    def test_what_could_not_judge_is_refused(
        self, change: str, study: str, told: str, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        commit(records, "after", dirty=False)
        assert self.blessed(records, tmp_path / "b", change, name="x", study=study) == 2
        assert told in capsys.readouterr().err
        assert not list(tmp_path.rglob("*.json"))

    def test_uncommitted_code_is_refused(
        self, records: Path, baselines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        commit(records, "before", dirty=True)
        try:
            assert self.blessed(records, tmp_path / "b", "--reason=x", name="x") == 2
            assert "48 runs were trained with uncommitted changes" in capsys.readouterr().err
        finally:
            commit(records, "before", dirty=False)
