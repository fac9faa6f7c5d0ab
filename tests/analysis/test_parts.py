"""A dataset in parts: only finished cells, never rewritten, the same as the whole."""

import hashlib
import json
import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import initialize_config_dir
from invented import write

from analysis import equal_codes, parts, report
from analysis.collect import collect
from analysis.dataset import absent_cells, load
from analysis.equal_codes import Proof
from analysis.gates import QUANTITIES
from experiments.compose import CONF
from experiments.files import as_json
from experiments.grammar import Study
from experiments.identity import code_id
from experiments.manifest import Entry, expand, freeze
from tests.conftest import train

VARIANTS = {"plain": ("algo=unconstrained",), "mine/clip": ("algo=clip",)}
OVERRIDES = ["profile.horizon=256", "profile.epochs=1"]


def begin(records: Path, seeds: tuple[int, ...]) -> list[Entry]:
    """The study `small` with these seeds, two variants on two tasks."""
    study = Study(("cartpole", "invertedpendulum"), VARIANTS, seeds, env_steps=512, profile="ppo1_2017_08")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        entries = freeze(records / "studies" / "small", expand(study, OVERRIDES), extend=True)
    said = {"tables": [], "figures": [], "code_id": code_id(), "overrides": [*OVERRIDES, f"records={records}"]}
    (records / "studies" / "small" / "study.json").write_bytes(as_json(said))
    return entries


def digests(folder: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of the study with two seeds, but for one run."""
    records = tmp_path_factory.mktemp("parts")
    entries = begin(records, (0, 1))
    for env in ("cartpole", "invertedpendulum"):
        train([entry.run.config for entry in entries[:-1] if entry.env == env], records)
    return records


@pytest.fixture
def records(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may add to."""
    return Path(shutil.copytree(trained, tmp_path / "records"))


def grown(records: Path, out: Path) -> tuple[list[str], int]:
    written, waiting = parts.grow(records / "studies" / "small", out)
    return [str(path.relative_to(out)) for path in written], waiting


def test_finished_cells_become_parts_once(records: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    first = ["CartPole-v1/plain.s0-1", "InvertedPendulum-v4/plain.s0-1", "CartPole-v1/mine-clip.s0-1"]
    assert grown(records, out) == (first, 1)
    assert load(out).note["left_out"] == {"missing": ["mine/clip on InvertedPendulum-v4"]}
    assert load(out).note["study"]["overrides"] == OVERRIDES
    before = digests(out)
    assert grown(records, out) == ([], 1)
    train([begin(records, (0, 1))[-1].run.config], records)
    assert grown(records, out) == (["InvertedPendulum-v4/mine-clip.s0-1"], 0)
    assert before.items() <= digests(out).items()


def test_what_is_missing_is_named_by_task() -> None:
    runs = pd.DataFrame([("a", "Hopper-v4"), *((name, "Reacher-v4") for name in "bcd")], columns=["variant", "env"])
    study = {"variants": list("abcde"), "environments": ["Swimmer-v4", "Hopper-v4", "Reacher-v4", "Walker2d-v4"]}
    assert absent_cells(runs, study) == [
        "all variants on Swimmer-v4, Walker2d-v4", "4 of 5 variants on Hopper-v4", "a, e on Reacher-v4",
    ]  # fmt: skip


def test_later_seeds_are_parts_of_their_own(records: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    grown(records, out)
    before = digests(out)
    added = [entry for entry in begin(records, (0, 1, 2)) if entry.run.config.seed == 2 and entry.env == "cartpole"]
    train([entry.run.config for entry in added], records)
    written, waiting = grown(records, out)
    assert (written, waiting) == (["CartPole-v1/plain.s2-2", "CartPole-v1/mine-clip.s2-2"], 2)
    assert before.items() <= digests(out).items()


def test_every_study_that_trained_parts_is_told_how_to_have_again(tmp_path: Path) -> None:
    """The folder's own study first, in the plainer of its two launches; then the one beside it."""
    asked = {"small": [["study=small"], ["study=small", "cluster.workers=1"]], "a_more": [["study=small", "seed=3"]]}
    for name, launches in asked.items():
        for number, overrides in enumerate(launches):
            study = {"name": name, "variants": ["random"], "environments": ["Hopper-v4"], "overrides": overrides}
            folder = tmp_path / "small" / "Hopper-v4" / f"{name}.s{number}-{number}"
            write(folder, np.random.default_rng(0), ("random",), ("Hopper-v4",), seeds=1, study=study)
    found = load(tmp_path / "small")
    assert found.note["study"]["overrides"] == ["study=small"]
    assert report.commands(
        found, Namespace(random="random", best="variant", seed=0, variants=None, tasks=None, reference=None)
    )[:2] == [
        "python -m experiments.study study=small",
        "python -m experiments.study study=small seed=3",
    ]


def test_all_parts_are_the_dataset_that_collect_makes(records: Path, tmp_path: Path) -> None:
    train([begin(records, (0, 1))[-1].run.config], records)
    out = tmp_path / "data"
    grown(records, out)
    collect(["small"], records, tmp_path / "whole", ())
    found, whole = load(out), load(tmp_path / "whole")
    assert found.note["left_out"] == {}
    assert found.note["study"] == {**whole.note["study"], "overrides": OVERRIDES}
    told = whole.runs.assign(source=[str(Path(source).relative_to(records)) for source in whole.runs["source"]])
    for ours, theirs in ((found.runs, told), (found.read("episodes"), whole.read("episodes"))):
        keys = ["run", "env_step"] if "env_step" in ours else ["run"]
        sides = [frame.astype({"run": str}).sort_values(keys, ignore_index=True) for frame in (ours, theirs)]
        pd.testing.assert_frame_equal(*sides)
    iterations = [
        side.read("iterations").astype({"run": str}).sort_values(["run", "iteration"]) for side in (found, whole)
    ]
    assert set(iterations[0].columns) == {"run", "iteration", "env_steps", *QUANTITIES}
    np.testing.assert_allclose(iterations[0]["kl"], iterations[1]["kl"], rtol=1e-6)
    assert sum(batch.num_rows for batch in found.batches("episodes", ["return"])) == len(whole.read("episodes"))


def test_an_altered_run_is_refused_by_name_and_writes_nothing(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(records.rglob("CartPole*s0*/attempt-1/episodes.csv"))
    path.write_text(path.read_text().replace("1", "2", 1))
    out = tmp_path / "data"
    assert parts.main(["small", "--records", str(records), "--out", str(out)]) == 2
    assert "it was altered" in capsys.readouterr().err
    assert not list(out.rglob("*.parquet"))


def of_older_code(part: Path) -> None:
    path = part / "runs.parquet"
    pd.read_parquet(path).assign(code_id="0123456789ab").to_parquet(path)


def test_a_study_that_is_none_is_named_with_those_that_are(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parts.main(["nostudy", "--records", str(records), "--out", str(tmp_path / "data")]) == 2
    assert capsys.readouterr().err == f"error: nostudy is no study of {records} (small)\n"


def test_runs_trained_again_by_another_code_are_refused(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing but new cells would be written, and the report would be of the older code."""
    out = tmp_path / "data"
    grown(records, out)
    of_older_code(out / "CartPole-v1" / "plain.s0-1")
    before = digests(out)
    train([begin(records, (0, 1))[-1].run.config], records)
    assert parts.main(["small", "--records", str(records), "--out", str(out)]) == 2
    assert capsys.readouterr().err == (
        f"error: 2 runs that code id {code_id()} has trained are in {out} as runs of code id 0123456789ab, and no part "
        "is rewritten; give another --out\n"
    )
    assert digests(out) == before


def test_parts_of_an_equal_code_are_stored_already_and_the_dataset_names_the_proof(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equal_codes, "FILE", tmp_path / "equal_codes.jsonl")
    out, older = tmp_path / "data", "0123456789ab"
    grown(records, out)
    of_older_code(out / "CartPole-v1" / "plain.s0-1")
    proof = Proof((older, code_id()), (40 * "1", 40 * "2"), 342, 64 * "f", {"cpu": "Zen 5"}, "2026-12-01")
    equal_codes.FILE.write_text(proof.line())
    train([begin(records, (0, 1))[-1].run.config], records)
    assert grown(records, out) == (["InvertedPendulum-v4/mine-clip.s0-1"], 0)
    assert load(out).note["equal_codes"] == [json.loads(proof.line())]


def test_cells_of_an_older_code_that_were_not_trained_again_stay(records: Path, tmp_path: Path) -> None:
    """As figure3's clip 0.2, which is table1's; and as what `experiments.study parts=…` finds there."""
    out = tmp_path / "data"
    grown(records, out)
    of_older_code(out / "CartPole-v1" / "plain.s0-1")
    for folder in records.glob("runs/*/CartPole-v1-unconstrained*"):
        shutil.rmtree(folder)
    train([begin(records, (0, 1))[-1].run.config], records)
    assert grown(records, out) == (["InvertedPendulum-v4/mine-clip.s0-1"], 0)


def test_parts_of_another_code_are_refused(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    grown(records, out)
    of_older_code(out / "CartPole-v1" / "plain.s0-1")
    for folder in records.glob("runs/*/CartPole-v1-unconstrained*"):
        shutil.rmtree(folder)
    begin(records, (0, 1, 2))
    added = [entry for entry in begin(records, (0, 1, 2)) if entry.run.config.seed == 2 and entry.env == "cartpole"]
    train([entry.run.config for entry in added], records)
    assert parts.main(["small", "--records", str(records), "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert "plain on CartPole has runs of several code ids" in told
    assert json.loads((records / "studies" / "small" / "study.json").read_text())["code_id"] in told
