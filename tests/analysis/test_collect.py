"""A dataset holds exactly what the records hold, or is not there: every trouble is refused by name."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from collected import (
    ITERATIONS,
    OVERRIDES,
    RUNS,
    VARIANTS,
    contents,
    edit,
    folders_of,
    halve,
    lines_of,
    one_of,
    rewrite,
)

from analysis import collect
from analysis.dataset import FILES, RUN_COLUMNS, load
from analysis.records import RecordError, attempts_with
from experiments.identity import code_id
from experiments.records.schema import COLUMNS

ITERATION_COLUMNS = list(COLUMNS["iterations.csv"])


class TestTables:
    def test_hold_exactly_what_the_records_hold(self, trained: Path, out: Path) -> None:
        dataset = load(out)
        episodes, iterations = dataset.read("episodes"), dataset.read("iterations")
        assert list(dataset.runs.columns) == list(RUN_COLUMNS)
        assert len(dataset.runs) == RUNS
        for folder in folders_of(trained):
            head, done, seen = (
                json.loads((folder / f"{name}.json").read_text()) for name in ("config", "done", "provenance")
            )
            key = f"{head['run_id']}-{head['code_id']}"
            (row,) = dataset.runs[dataset.runs["run"] == key].to_dict("records")
            config, rows = head["config"], lines_of(folder, "episodes")
            resources = json.loads((folder / "attempt-1" / "resources.json").read_text())
            assert json.loads(row.pop("config")) == config
            seconds = sum(
                (float(line["environment"]) + float(line["inference"]) + float(line["update"])) / RUNS
                for line in lines_of(folder, "timing")
            )
            assert row.pop("seconds") == pytest.approx(seconds, rel=1e-12)
            epsilon = config["algo"]["epsilon"]
            assert row.pop("gpu") is np.nan
            assert row == {
                "run": key, "run_id": head["run_id"], "code_id": code_id(),
                "variant": "unconstrained" if epsilon is None else f"clip_{epsilon}", "env": "CartPole-v1",
                "profile": "test", "seed": done["seed"], "status": "complete", "not_finite": "",
                "measure": "training episodes",
                "budget": 5120, "env_steps": 5120, "episodes": len(rows), "score": done["score"],
                "score_episodes": min(len(rows), 100), "peak_mb": resources["peak_mb"],
                "backend": config["backend"], "numerics": "exact", "device": "cpu",
                "commit": (seen["commit"] or "unknown")[:12] + "+" * seen["dirty"],
                "host": seen["host"], "cpu": seen["cpu"], "source": str(folder),
            }  # fmt: skip
            ours = episodes[episodes["run"] == key].drop(columns="run")
            assert ours.to_dict("list") == {
                "env_step": [int(line["env_step"]) for line in rows],
                "return": [float(line["return"]) for line in rows],
                "length": [int(line["length"]) for line in rows],
            }
            ours, rows = iterations[iterations["run"] == key].drop(columns="run"), lines_of(folder, "iterations")
            assert list(ours.columns) == list(ITERATION_COLUMNS)
            for name in ITERATION_COLUMNS:
                np.testing.assert_array_equal(ours[name], [float(line[name] or "nan") for line in rows])
            assert ours["epsilon"].isna().all() == (epsilon is None)
        assert dataset.runs["episodes"].max() > 100
        assert len(episodes) == dataset.runs["episodes"].sum()
        assert len(iterations) == RUNS * ITERATIONS

    def test_have_the_types_that_are_promised(self, out: Path) -> None:
        types = {table: dict(zip((s := pq.read_schema(out / f"{table}.parquet")).names, map(str, s.types), strict=True))
                 for table in ("runs", "episodes", "iterations")}  # fmt: skip
        numbers = {name: kind for name, kind in types["runs"].items() if kind != "string"}
        whole = ("seed", "budget", "env_steps", "episodes", "score_episodes")
        assert numbers == dict.fromkeys(whole, "int64") | dict.fromkeys(("score", "seconds", "peak_mb"), "double")
        key = "dictionary<values=string, indices=int32, ordered=0>"
        assert types["episodes"] == {"run": key, "env_step": "int64", "return": "double", "length": "int32"}
        counts = {"run": key, "iteration": "int64", "env_steps": "int64"}
        assert types["iterations"] == counts | dict.fromkeys(ITERATION_COLUMNS[2:], "double")

    @pytest.mark.parametrize("batch", [2, 100])
    def test_keep_the_order_of_runs_and_of_time(
        self, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
    ) -> None:
        monkeypatch.setattr(collect, "BATCH", batch)
        runs = collect.collect([str(trained)], trained, tmp_path / "d", [])
        assert list(runs["source"]) == [str(folder) for folder in folders_of(trained)]
        dataset = load(tmp_path / "d")
        for table, clock in (("episodes", "env_step"), ("iterations", "iteration")):
            rows = dataset.read(table)
            place = rows["run"].astype(str).map({run: place for place, run in enumerate(runs["run"])})
            assert place.is_monotonic_increasing
            assert all(times.is_monotonic_increasing for _, times in rows.groupby(place)[clock])
            read = pd.concat([piece.to_pandas() for piece in dataset.batches(table, [clock])], ignore_index=True)
            pd.testing.assert_frame_equal(read.astype({"run": str}), rows[["run", clock]].astype({"run": str}))

    @pytest.mark.parametrize("returns", ["inf", "nan"])
    def test_a_diverged_run_has_no_score(self, records: Path, tmp_path: Path, returns: str) -> None:
        folder = one_of(records)
        rewrite(folder, "episodes", ["env_step,return,length", "20,20.0,20", f"50,{returns},30"],
                status="diverged", score=None, not_finite={"quantity": "actions", "env_step": 5120})  # fmt: skip
        runs = collect.collect([str(folder)], records, tmp_path / "d", [])
        assert runs.loc[0, ["status", "env_steps", "episodes", "score_episodes"]].tolist() == ["diverged", 5120, 2, 2]
        assert runs["not_finite"][0] == "actions at env step 5120"
        assert np.isnan(runs["score"][0])
        assert load(tmp_path / "d").read("episodes")["return"].equals(pd.Series([20.0, float(returns)]))

    def test_attempts_are_counted_by_number_and_copies_are_none(self, tmp_path: Path) -> None:
        for name in ("attempt-2", "attempt-10", "attempt-10 (copy)", "attempt-1.bak"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "episodes.csv").touch()
        (tmp_path / "attempt-11").mkdir()
        assert attempts_with("episodes.csv", tmp_path) == [tmp_path / "attempt-2", tmp_path / "attempt-10"]

    def test_a_run_without_a_finished_episode_is_a_run(self, records: Path, tmp_path: Path) -> None:
        rewrite(folder := one_of(records), "episodes", ["env_step,return,length"], score=None)
        runs = collect.collect([str(folder)], records, tmp_path / "d", [])
        assert runs.loc[0, ["episodes", "score_episodes"]].tolist() == [0, 0]
        assert np.isnan(runs["score"][0])
        assert load(tmp_path / "d").read("episodes").empty

    def test_columns_that_only_some_runs_have_are_kept(
        self, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(collect, "BATCH", 2)
        third, last = folders_of(records)[2], folders_of(records)[4]
        for folder, old, new in ((third, "kl_k1", "earlier"), (last, "std", "later")):
            text = (folder / "attempt-1" / "iterations.csv").read_text().splitlines()
            rewrite(folder, "iterations", [text[0].replace(f",{old}", f",{new}"), *text[1:]])
        runs = collect.collect([str(records)], records, tmp_path / "d", [])
        assert list(load(tmp_path / "d").runs["run"]) == list(runs["run"])
        iterations = load(tmp_path / "d").read("iterations")
        assert sorted(contents(tmp_path / "d")) == sorted(FILES)
        assert set(iterations) == {"run", *ITERATION_COLUMNS, "earlier", "later"}
        assert len(iterations) == RUNS * ITERATIONS
        for folder, run in zip(folders_of(records), runs["run"], strict=True):
            ours, rows = iterations[iterations["run"] == run], lines_of(folder, "iterations")
            for name in iterations.columns[1:]:
                wanted = [float(line.get(name) or "nan") for line in rows]
                np.testing.assert_array_equal(ours[name], wanted)
            assert ours["earlier"].notna().all() == (folder == third)


class TestStudies:
    @pytest.mark.parametrize("folder", [False, True])
    def test_are_exactly_their_manifest(self, trained: Path, out: Path, folder: bool) -> None:
        name = str(trained / "studies" / "tiny") if folder else "tiny"
        assert collect.main([name, "--records", str(trained), "--out", str(out)]) == 0
        lines = [json.loads(line) for line in (trained / "studies/tiny/manifest.jsonl").read_text().splitlines()]
        runs, note = load(out).runs, load(out).note
        assert list(runs["run_id"]) == [line["run_id"] for line in lines]
        assert list(runs["variant"]) == ["plain", "plain", "mine/clip", "mine/clip"]
        assert list(runs["seed"]) == [0, 1, 0, 1]
        assert note["sources"] == [name] and note["left_out"] == {}
        assert note["study"] == {
            "name": "tiny", "variants": list(VARIANTS), "environments": ["CartPole-v1"], "overrides": OVERRIDES,
            "tables": ["scores"], "figures": [],
        }  # fmt: skip

    def test_several_are_all_noted(self, records: Path, out: Path) -> None:
        """A copy of the study under another name: its runs are the first one's again."""
        shutil.copytree(records / "studies" / "tiny", records / "studies" / "other")
        asked = ["tiny", "other", "--records", str(records), "--out", str(out), "--leave-out", "twice"]
        assert collect.main(asked) == 0
        note = load(out).note
        assert [study["name"] for study in note["studies"]] == ["tiny", "other"]
        assert note["study"] == note["studies"][0]

    def test_name_what_is_missing(
        self, records: Path, out: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.rmtree(one_of(records, "clip_0.2.s1"))
        said = refused("tiny", "--records", records)
        assert said == "error: 1 missing: CartPole-v1 mine/clip seed 1. To go on without them: --leave-out missing"
        assert collect.main(["tiny", "--records", str(records), "--out", str(out), "--leave-out", "missing"]) == 0
        assert "left out, 1 missing: CartPole-v1 mine/clip seed 1\n" in capsys.readouterr().out
        assert load(out).note["left_out"] == {"missing": ["CartPole-v1 mine/clip seed 1"]}
        assert list(load(out).runs["variant"]) == ["plain", "plain", "mine/clip"]

    def test_are_of_the_code_that_the_command_was_last_given_under(
        self, records: Path, refused: Callable[..., str]
    ) -> None:
        edit(records / "studies" / "tiny" / "study.json", code_id="0123456789ab")
        assert "4 missing: CartPole-v1 plain seed 0;" in refused("tiny", "--records", records)

    def test_that_nobody_knows_are_refused_with_those_there_are(
        self, trained: Path, refused: Callable[..., str]
    ) -> None:
        said = refused("tinny", "--records", trained)
        assert said == f"error: tinny is neither a folder nor a study in {trained}/studies (tiny)"

    @pytest.mark.parametrize("name", ["manifest.jsonl", "study.json"])
    def test_that_are_torn_are_refused(self, records: Path, refused: Callable[..., str], name: str) -> None:
        path = records / "studies" / "tiny" / name
        path.write_bytes(path.read_bytes()[:-20])
        assert "studies/tiny is not a whole study" in refused("tiny", "--records", records)


class TestOut:
    @pytest.mark.parametrize("held", ["a note", "a note beside a dataset", "a file", "the records"])
    def test_that_holds_something_else_is_left_alone(
        self, records: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], held: str
    ) -> None:
        (tmp_path / "mine").mkdir()
        place = {"a note": tmp_path / "mine", "a note beside a dataset": out, "a file": tmp_path / "mine/note",
                 "the records": records}[held]  # fmt: skip
        (out if "dataset" in held else tmp_path / "mine").joinpath("note").write_text("dear diary")
        before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        assert collect.main([str(records), "--out", str(place)]) == 2
        assert capsys.readouterr().err.startswith(f"error: --out {place} is there and is no dataset")
        assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before

    def test_may_be_empty_or_new_and_is_the_same_each_time(self, trained: Path, tmp_path: Path, out: Path) -> None:
        (tmp_path / "empty").mkdir()
        for place in (tmp_path / "empty", tmp_path / "a" / "new" / "one", out):
            assert collect.main([str(trained), "--out", str(place)]) == 0
            assert contents(place) == contents(out)
            assert sorted(contents(place)) == sorted(FILES)
            assert [path.name for path in place.parent.iterdir() if path.name.startswith(".")] == []

    def test_that_cannot_be_written_is_one_sentence(
        self, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").touch()
        assert collect.main([str(trained), "--out", str(tmp_path / "file" / "d")]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1

    @pytest.mark.parametrize(
        ("line", "call", "there", "stays"),
        [
            ("collect.joined", 1, True, True),
            ("collect.pq.write_table", 1, True, True),
            ("Path.write_text", 1, True, True),
            ("Path.replace", 1, True, True),
            ("Path.replace", 2, True, False),
            ("Path.replace", 1, False, False),
        ],
    )
    def test_is_whole_or_absent_after_a_kill(
        self, trained: Path, tmp_path: Path, line: str, call: int, there: bool, stays: bool
    ) -> None:
        out = tmp_path / "d"
        if there:
            collect.collect(["tiny"], trained, out, [])
        before = contents(out) if there else None
        script = f"""
import os, sys
from pathlib import Path
from analysis import collect
original, calls = {line}, []
def dies(*arguments, **options):
    calls.append(0)
    if len(calls) == {call}:
        os._exit(9)
    return original(*arguments, **options)
{line} = dies
collect.main(sys.argv[1:])
"""
        words = [sys.executable, "-c", script, str(trained), "--out", str(out)]
        assert subprocess.run(words).returncode == 9
        assert contents(out) == before if stays else not out.exists()
        assert collect.main([str(trained), "--out", str(out)]) == 0
        assert len(load(out).runs) == RUNS


class TestLoad:
    @pytest.mark.parametrize("name", FILES)
    def test_names_what_is_missing(self, out: Path, name: str) -> None:
        (out / name).unlink()
        with pytest.raises(RecordError, match=f"is no dataset .no {name}"):
            load(out)

    @pytest.mark.parametrize("name", ["runs.parquet", "dataset.json"])
    def test_refuses_what_is_torn(self, out: Path, name: str) -> None:
        halve(out / name)
        with pytest.raises(RecordError, match="cannot be read"):
            load(out)

    def test_refuses_another_schema(self, out: Path) -> None:
        edit(out / "dataset.json", schema=0)
        with pytest.raises(RecordError, match="has schema 0"):
            load(out)
