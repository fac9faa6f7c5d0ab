"""Codes that a trace proved equal: the file of proofs, and runs of several codes taken together, never in silence."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from collected import edit, folders_of, one_of, unfinish
from pools import pool

from analysis import bless, collect, equal_codes, report
from analysis.dataset import Dataset, load
from analysis.equal_codes import Proof, describe, describe_all, one_name, read, ways
from analysis.records import RecordError
from analysis.scores import one_kind
from experiments.identity import code_id

A, B, C, D, E = (12 * letter for letter in "abcde")
OLD = 12 * "f"  # of two codes with as many runs, the other is named first
PROOF = Proof((A, B), (40 * "1", 40 * "2"), 342, 64 * "f", {"cpu": "Zen 5", "torch": "2.9"}, "2026-12-01")
CHAIN = [
    PROOF,
    replace(PROOF, code_ids=(C, B), date="2026-12-03"),
    replace(PROOF, code_ids=(D, E), machine={"cpu": "Xeon"}),
]


@pytest.fixture(autouse=True)
def proofs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of proofs of a test's own, not there yet."""
    monkeypatch.setattr(equal_codes, "FILE", tmp_path / "equal_codes.jsonl")
    return tmp_path / "equal_codes.jsonl"


def prove(path: Path, *found: Proof) -> None:
    path.write_text("".join(proof.line() for proof in found))


def by_code(folder: Path, code: str = OLD) -> Path:
    """A copy of a run, as another code would have trained it."""
    there = shutil.copytree(folder, folder.parent.parent / code / folder.name)
    edit(there / "config.json", code_id=code)
    if (there / "done.json").exists():
        edit(there / "done.json", code_id=code)
    return there


class TestProofs:
    def test_what_is_written_is_read(self, proofs: Path) -> None:
        assert read() == []
        prove(proofs, *CHAIN)
        assert read() == CHAIN
        assert json.loads(proofs.read_text().splitlines()[0]) == {
            "code_ids": [A, B], "commits": [40 * "1", 40 * "2"], "runs": 342, "sha256": 64 * "f",
            "machine": {"cpu": "Zen 5", "torch": "2.9"}, "date": "2026-12-01",
        }  # fmt: skip

    @pytest.mark.parametrize(
        "change",
        [
            {"code_ids": [A]}, {"code_ids": [A, A]}, {"code_ids": [A, "nix"]}, {"code_ids": [A, B, C]},
            {"code_ids": [A, 3]}, {"code_ids": A + B}, {"commits": ["main", "HEAD"]}, {"commits": [40 * "1"]},
            {"runs": 0}, {"runs": True}, {"runs": "342"}, {"sha256": "f"}, {"sha256": None}, {"machine": {}},
            {"machine": "Zen 5"}, {"machine": {"cpu": 5}}, {"date": "1.12.2026"}, {"date": "20261201"}, {"date": 3},
            {"verdict": "SAME"},
        ],
        ids=str,
    )  # fmt: skip
    def test_an_edited_one_is_refused_in_one_sentence(self, proofs: Path, change: dict[str, Any]) -> None:
        proofs.write_text(PROOF.line() + json.dumps(asdict(PROOF) | change) + "\n")
        with pytest.raises(RecordError, match=r"equal_codes.jsonl, line 2 is no proof as .* writes it; restore it"):
            read()

    @pytest.mark.parametrize("line", ["", "{", "[]", "3", "null", '{"code_ids": null}', "[" * 100_000, "\x00"])
    def test_what_is_none_is_refused_in_one_sentence(self, proofs: Path, line: str) -> None:
        proofs.write_text(f"{line}\n{PROOF.line()}")
        with pytest.raises(RecordError, match=r"line 1 is no proof as .* writes it; restore it"):
            read()

    def test_they_join(self, proofs: Path) -> None:
        prove(proofs, *CHAIN)
        assert ways(A, CHAIN) == {B: CHAIN[:1], C: CHAIN[:2]}
        assert ways(C, CHAIN) == {B: CHAIN[1:2], A: CHAIN[1::-1]}
        assert ways(D, CHAIN) == {E: CHAIN[2:]}
        assert ways(OLD, CHAIN) == {}
        assert one_name() == {A: A, B: A, C: A, D: D, E: D}

    def test_their_words(self) -> None:
        assert describe({B: 1, C: 12, D: 7}, A, CHAIN, "Zen 5") == [
            f"1 run was trained by code {B}, which a trace of 2026-12-01 on Zen 5 proved equal to code {A} "
            "(analysis/equal_codes.jsonl)",
            f"12 runs were trained by code {C}, which traces of 2026-12-01 and 2026-12-03 on Zen 5 proved equal to "
            f"code {A} (analysis/equal_codes.jsonl)",
        ]
        (line,) = describe({D: 2}, E, CHAIN, "Zen 5")
        assert line.endswith(f"on Xeon proved equal to code {E} ({equal_codes.NAME}); the processor here is Zen 5")
        assert [line[:37] for line in describe_all({A: 3, C: 4, B: 4, D: 9, OLD: 99}, CHAIN)] == [
            "3 runs were trained by code aaaaaaaaa",
            "4 runs were trained by code ccccccccc",
        ]


SAID = (
    f"trained by code {OLD}, which a trace of 2026-12-01 on Zen 5 proved equal to code {code_id()} "
    "(analysis/equal_codes.jsonl)"
)
EQUAL = replace(PROOF, code_ids=(OLD, code_id()))


class TestCollected:
    def test_a_study_takes_what_an_equal_code_has_finished(
        self, records: Path, tmp_path: Path, proofs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One run that this code has not begun, one that it has not finished, and one that both have finished."""
        absent, begun, both = (one_of(records, name) for name in ("unconstrained.s0", "clip_0.2.s0", "clip_0.2.s1"))
        for folder in (absent, begun, both):
            by_code(folder)
        shutil.rmtree(absent)
        unfinish(begun)
        edit(records / "studies" / "tiny" / "study.json", tables=[])
        arguments = ["tiny", "--records", str(records), "--out", str(tmp_path / "d")]
        assert collect.main(arguments) == 2
        assert "1 partial: " in capsys.readouterr().err
        prove(proofs, EQUAL)
        assert collect.main(arguments) == 0
        assert f"\n2 runs were {SAID}\n" in capsys.readouterr().out
        found = load(tmp_path / "d")
        assert dict(zip(found.runs["source"], found.runs["code_id"], strict=True)) == {
            str(absent.parent.parent / OLD / absent.name): OLD,
            str(one_of(records, "unconstrained.s1")): code_id(),
            str(begun.parent.parent / OLD / begun.name): OLD,
            str(both): code_id(),
        }
        assert found.note["equal_codes"] == [json.loads(EQUAL.line())]
        assert report.main([str(tmp_path / "d"), "--out", str(tmp_path / "page")]) == 0
        assert f"2 runs were {SAID}." in (tmp_path / "page" / "report.md").read_text().replace("\\", "")

    def test_what_an_equal_code_has_not_finished_counts_for_nothing(
        self, records: Path, tmp_path: Path, proofs: Path
    ) -> None:
        folder = one_of(records, "unconstrained.s0")
        unfinish(by_code(folder))
        shutil.rmtree(folder)
        prove(proofs, EQUAL)
        with pytest.raises(RecordError, match="1 missing: CartPole-v1 plain seed 0"):
            collect.collect(["tiny"], records, tmp_path / "d", [])

    def test_without_a_mixture_nothing_is_noted(self, records: Path, tmp_path: Path, proofs: Path) -> None:
        prove(proofs, EQUAL)
        collect.collect(["tiny"], records, tmp_path / "d", [])
        assert "equal_codes" not in load(tmp_path / "d").note

    def test_a_folder_of_both_is_one_kind_and_a_run_of_both_stands_there_twice(
        self, records: Path, tmp_path: Path, proofs: Path, refused: Callable[..., str]
    ) -> None:
        folder = one_of(records, "clip_0.2.s0")
        by_code(folder)
        assert "clip_0.2 on CartPole has runs of several code ids: " in refused(records)
        prove(proofs, EQUAL)
        assert refused(records).startswith("error: 1 twice: ")
        shutil.rmtree(folder)
        runs = collect.collect([str(records)], records, tmp_path / "d", [])
        assert sorted(runs["code_id"].value_counts().to_dict().items()) == sorted({OLD: 1, code_id(): 4}.items())
        assert load(tmp_path / "d").note["equal_codes"] == [json.loads(EQUAL.line())]

    def test_a_file_of_proofs_that_was_edited_is_refused(
        self, records: Path, proofs: Path, refused: Callable[..., str]
    ) -> None:
        proofs.write_text(EQUAL.line().replace("2026-12-01", "yesterday"))
        for place in ("tiny", folders_of(records)[0].parent):
            assert f"{proofs}, line 1 is no proof" in refused(place, "--records", records)


def mixed() -> pd.DataFrame:
    runs = pool({"clip_0.2": 0.5}, seeds=20)
    return runs.assign(code_id=[A if seed % 2 else C for seed in runs["seed"]], commit="1")


def test_one_kind_of_code_may_have_several_ids(proofs: Path) -> None:
    with pytest.raises(RecordError, match=f"choose one code_id of {A}, {C}"):
        one_kind(mixed(), code_id=None)
    prove(proofs, *CHAIN)
    assert len(one_kind(mixed(), code_id=None)) == len(mixed())
    assert set(one_kind(mixed(), code_id=C)["code_id"]) == {C}


def test_a_baseline_may_have_several_ids(proofs: Path) -> None:
    found = Dataset(Path("by-hand"), mixed().assign(status="complete"), {"left_out": {}})
    with pytest.raises(RecordError, match="several code ids"):
        bless.check(found)
    prove(proofs, *CHAIN)
    bless.check(found)


def test_a_note_that_was_edited_is_refused_by_the_report() -> None:
    note: Any = {"left_out": {}, "equal_codes": [asdict(PROOF) | {"runs": -1}]}
    results: Any = SimpleNamespace(dataset=Dataset(Path("by-hand"), mixed(), note), runs=mixed())
    with pytest.raises(RecordError, match=r"by-hand/dataset.json is no proof as "):
        report.codes_joined(results)
