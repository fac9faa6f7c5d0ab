"""What is broken, missing, unfinished, there twice or mixed under one name is refused by name, or left out by name."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from collected import ITERATIONS, RUNS, alter, edit, folders_of, halve, one_of, retrained, unfinish

from analysis import collect
from analysis.dataset import load
from experiments.identity import code_id


def resettled(folder: Path) -> None:
    """config.json altered, where done.json has its digest."""
    edit(folder / "done.json", config_sha256="")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"horizon":', '"horizon" :'))


def digested(folder: Path, digest: str) -> None:
    done = json.loads((folder / "done.json").read_text())
    (folder / "done.json").write_text(json.dumps({**done, "sha256": digest}))


DAMAGES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a byte of episodes.csv": ("broken", lambda run: alter(run / "attempt-1/episodes.csv"), "it was altered"),
    "a byte of iterations.csv": ("broken", lambda run: alter(run / "attempt-1/iterations.csv"), "it was altered"),
    "timing.csv gone": ("broken", lambda run: (run / "attempt-1/timing.csv").unlink(), "timing.csv"),
    "a torn timing.csv": ("broken", lambda run: (run / "attempt-1/timing.csv").write_text(""), "Empty CSV file"),
    "a torn config.json": ("broken", lambda run: halve(run / "config.json"), "JSONDecodeError"),
    "config.json gone": ("broken", lambda run: (run / "config.json").unlink(), "config.json"),
    "config.json of another kind": ("broken", lambda run: (run / "config.json").write_text("[]"), "AttributeError"),
    "a setting gone": ("broken", lambda run: edit(run / "config.json", config={}), "KeyError: 'env'"),
    "a word for a number": ("broken", lambda run: edit(run / "config.json", config__seed="x"), "another seed than"),
    "deep brackets": ("broken", lambda run: (run / "config.json").write_text("[" * 100_000), "RecursionError"),
    "another epsilon": ("broken", lambda run: edit(run / "config.json", config__algo__epsilon=0.9),
                        "another task or variant than the folder's name"),
    "another seed": ("broken", lambda run: edit(run / "config.json", config__seed=7), "another seed than"),
    "a setting that its digest does not have": ("broken", lambda run: resettled(run), "it was altered"),
    "other env steps": ("broken", lambda run: edit(run / "done.json", env_steps=99), "iterations.csv ends at 5120"),
    "another score": ("broken", lambda run: edit(run / "done.json", score=500.0), "has score 500.0"),
    "a code id of another": ("broken", lambda run: edit(run / "done.json", code_id="0123456789ab"), "code_id 012"),
    "a newer format": ("broken", lambda run: edit(run / "config.json", format=2), "newer code: it has format 2, and"),
    "an attempt of no number": ("broken", lambda run: edit(run / "done.json", attempt="../x"), "no whole number"),
    "another status": ("broken", lambda run: edit(run / "done.json", status="fine"), "a status that is none of"),
    "a digest of done.json": ("broken", lambda run: digested(run, "0" * 64), "its own digest"),
    "a torn done.json": ("broken", lambda run: halve(run / "done.json"), "JSONDecodeError"),
    "an empty done.json": ("broken", lambda run: (run / "done.json").write_text("{}"), "KeyError: 'attempt'"),
    "provenance.json gone": ("broken", lambda run: (run / "provenance.json").unlink(), "provenance.json"),
    "the attempt gone": ("broken", lambda run: shutil.rmtree(run / "attempt-1"), "attempt-1"),
    "another attempt": ("broken", lambda run: edit(run / "done.json", attempt=2), "attempt-2"),
    "a foreign attempt": ("missing", lambda run: (unfinish(run), shutil.move(run / "attempt-1", run / "attempt-one")),
                          "was never begun"),
    "never begun": ("missing", lambda run: (unfinish(run), shutil.rmtree(run / "attempt-1")), "was never begun"),
    "claimed, not begun": ("missing", lambda run: (unfinish(run), (run / "attempt-1/timing.csv").unlink()),
                           "was never begun"),
    "in training": ("partial", lambda run: unfinish(run, rows=5), f"at env step {5 * 256}"),
    "in its first iteration": ("partial", lambda run: unfinish(run, rows=0), "at env step 0"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_refused_by_name_or_left_out_by_name(
    records: Path, out: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    kind, do, why = DAMAGES[damage]
    do(folder := one_of(records))
    said = refused(records)
    assert said.startswith(f"error: 1 {kind}: {folder}")
    assert why in said
    assert said.endswith(f". To go on without them: --leave-out {kind}")
    others = [other for other in collect.TROUBLES if other != kind]
    assert refused(records, "--leave-out", *others).endswith(f"--leave-out {' '.join([*others, kind])}")

    assert collect.main([str(records), "--out", str(out), "--leave-out", kind]) == 0
    whole = [str(other) for other in folders_of(records) if other != folder]
    assert list(load(out).runs["source"]) == whole
    assert len(load(out).read("iterations")) == ITERATIONS * (RUNS - 1)
    (named,) = load(out).note["left_out"][kind]
    assert str(folder) in named
    assert f"left out, 1 {kind}: {named}\n" in capsys.readouterr().out


def test_all_troubles_are_told_at_once_and_many_are_counted(
    records: Path, out: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "SHOWN", 2)
    folders = folders_of(records)
    for folder in folders[:3]:
        alter(folder / "attempt-1" / "episodes.csv")
    unfinish(folders[3])
    said = refused(records)
    assert re.fullmatch(
        f"error: 3 broken: {folders[0]}[^;]*; {folders[1]}[^;]* and 1 more [|] 1 partial: {folders[3]} at env step 5120"
        ". To go on without them: --leave-out broken partial",
        said,
    )
    arguments = [str(records), "--out", str(out), "--leave-out", "broken", "--leave-out", "partial"]
    assert collect.main(arguments) == 0
    assert list(load(out).runs["source"]) == [str(folders[4])]


def test_results_of_two_runs_exchanged_are_refused(records: Path, refused: Callable[..., str]) -> None:
    one, two = one_of(records), one_of(records, "clip_0.2.s1")
    for name in ("attempt-1", "done.json"):
        (one / name).rename(one / "kept")
        (two / name).rename(one / name)
        (one / "kept").rename(two / name)
    said = refused(records)
    assert said.startswith(f"error: 2 broken: {one}/done.json is of run_id ")
    assert f"{two}/done.json is of run_id " in said


def test_nothing_finished_is_no_dataset(records: Path, refused: Callable[..., str]) -> None:
    for folder in folders_of(records):
        unfinish(folder)
    assert "no finished run in" in refused(records, "--leave-out", "partial")
    shutil.rmtree(records / "runs")
    assert "no finished run in" in refused(records)


class TestTwice:
    @pytest.mark.parametrize("again", ["the same words", "a folder inside", "a copy", "another way to it", "its study"])
    def test_a_run_counts_once(
        self, records: Path, tmp_path: Path, out: Path, refused: Callable[..., str], again: str
    ) -> None:
        folder = one_of(records)
        if again == "a copy":
            shutil.copytree(folder, tmp_path / "copy")
        (tmp_path / "link").symlink_to(folder)
        second = {"the same words": folder, "a folder inside": folder.parent, "a copy": tmp_path / "copy",
                  "another way to it": tmp_path / "link", "its study": "tiny"}[again]  # fmt: skip
        said = refused(folder, second, "--records", records)
        assert said.startswith("error: 1 twice: ") and f" is {folder} again" in said
        arguments = [str(folder), str(second), "--records", str(records), "--out", str(out), "--leave-out", "twice"]
        assert collect.main(arguments) == 0
        assert list(load(out).runs["source"]).count(str(folder)) == 1
        assert load(out).runs["run"].is_unique
        assert len(load(out).note["left_out"]["twice"]) == 1

    def test_the_whole_one_counts_wherever_it_stands(self, records: Path, tmp_path: Path, out: Path) -> None:
        shutil.copytree(whole := one_of(records), half := tmp_path / "half")
        unfinish(half)
        assert collect.main([str(half), str(whole), "--out", str(out), "--leave-out", "partial"]) == 0
        assert list(load(out).runs["source"]) == [str(whole)]


MIXED = {
    "versions of the task": ({"config__env__id": "CartPole-v0"}, "CartPole-v0, CartPole-v1"),
    "profiles": ({"names__profile": "modern"}, "modern, test"),
    "code ids": ({"code_id": "0123456789ab"}, "0123456789ab"),
    "budgets": ({"config__env_steps": 4096}, "4096, 5120"),
    "kinds of numerics": ({"config__numerics": "fast"}, "exact, fast"),
    "backends": ({"config__backend": "gymnasium"}, "envpool, gymnasium"),
    "settings": (
        {"config__profile__gamma": 0.5, "config__algo__gae_lambda": 1.0},
        "algo.gae_lambda=0.95, algo.gae_lambda=1.0, profile.gamma=0.5, profile.gamma=0.99",
    ),
}


@pytest.mark.parametrize("what", MIXED)
def test_two_kinds_under_one_name_are_refused(records: Path, refused: Callable[..., str], what: str) -> None:
    changes, values = MIXED[what]
    folder = retrained(one_of(records), **changes)
    said = refused(records)
    assert said.startswith(f"error: clip_0.2 on CartPole has runs of several {what}: ")
    assert values in said
    assert code_id() in said or what != "code ids"
    edit(folder / "config.json", names__variant="another name")
    collect.collect([str(records)], records, records.parent / "apart", [])


def test_one_seed_twice_under_one_name_is_refused(records: Path, refused: Callable[..., str]) -> None:
    retrained(one_of(records), config__seed=1)
    assert "clip_0.2 on CartPole-v1 has seed 1 more than once" in refused(records)
