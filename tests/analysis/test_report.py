"""The report as its reader meets it: the command, its files, its page; the same bytes every time."""

import errno
import html.parser
import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from invented import write
from markdown_it import MarkdownIt
from scipy import stats

from analysis import collect, findings, report
from analysis.baseline import FOLDER as BASELINES
from analysis.dataset import load
from analysis.records import RecordError
from analysis.results import Options, Results
from analysis.tables import Table, csv, markdown
from tests.conftest import ROOT

PAPER = ("unconstrained", "clip_0.1", "clip_0.2", "random")


def rendered(dataset: Path, out: Path, hash_seed: str) -> dict[str, bytes]:
    """Every file of a report made by a process of its own."""
    command = [sys.executable, "-m", "analysis.report", str(dataset), "--out", str(out)]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


class Reader(html.parser.HTMLParser):
    """What a page would load, its text, and whether every tag is closed."""

    VOID = ("meta", "img", "wbr", "link")

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag in ("script", "iframe", "link"):
            self.loads.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("invented") / "dataset", np.random.default_rng(0), variants=PAPER)


@pytest.fixture(scope="module")
def files(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return rendered(dataset, tmp_path_factory.mktemp("first") / "report", "1")


def test_two_renders_are_equal_byte_for_byte(dataset: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    again = rendered(dataset, tmp_path / "elsewhere", "2")
    assert list(files) == list(again)
    assert [name for name in files if files[name] != again[name]] == []
    endings = {name.rpartition(".")[2] for name in files}
    assert endings == {"html", "md", "csv", "tex", "png", "pdf"}


def test_the_page_needs_nothing_beside_it(files: dict[str, bytes]) -> None:
    page = Reader(files["index.html"].decode())
    assert page.open == []
    pictures = [name for name in files if name.endswith(".png")]
    assert sum(load.startswith("data:image/png;base64,") for load in page.loads) == len(pictures) > 3
    assert [load for load in page.loads if not load.startswith(("data:", "#"))] == []


def test_the_page_says_what_was_found_and_how_to_have_it_again(files: dict[str, bytes]) -> None:
    text = Reader(files["index.html"].decode()).text
    for words in ("Reproduced?", "Table 1 of the paper and ours", "Known differences from the paper", "Core-hours",
                  "python -m analysis.report DATASET --random random --best variant --seed 0",
                  "does not say whether its random policy draws uniform actions"):  # fmt: skip
        assert words in text
    assert "Partial" not in text


def test_names_cannot_become_tags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "<script>alert(1)</script>"
    folder = write(tmp_path / "dataset", np.random.default_rng(0), variants=(evil, "$x_{1}$"), env_steps=50_000)
    assert report.main([str(folder), "--out", str(tmp_path / "report")]) == 0
    page = Reader((tmp_path / "report" / "index.html").read_text())
    assert evil in page.text
    assert "script" not in page.loads
    assert "Raw scores only" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seeds", "says"),
    [(1, "1 seed: no intervals; differences mean nothing yet."), (2, "2 seeds: intervals are Student's t and wide")],
)
def test_intervals_are_promised_where_there_are_some(
    seeds: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "dataset", np.random.default_rng(0), variants=PAPER, seeds=seeds, env_steps=50_000)
    assert report.main([str(folder), "--out", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out
    assert says in said
    assert ("Student's t" in said) == (seeds > 1)


def test_what_is_missing_is_refused_or_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "dataset", np.random.default_rng(0), missing=[("clip_0.2", "Hopper-v4", 1)])
    note = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(
        note.replace('"left_out": {}', '"left_out": {"missing": ["Hopper-v4 clip_0.2 seed 1"]}')
    )
    out = tmp_path / "report"
    assert report.main([str(folder), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "Left out, missing: Hopper-v4 clip_0.2 seed 1." in said
    assert "--missing=mark" in said
    assert not out.exists()
    assert report.main([str(folder), "--out", str(out), "--missing", "mark"]) == 0
    assert capsys.readouterr().out.startswith("PARTIAL: Left out, missing")
    page = (out / "index.html").read_text()
    assert page.index("Partial.") < page.index("<h2")
    assert "> **Partial.**" in (out / "report.md").read_text()


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_name_that_is_nothing_is_refused_in_one_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report.main([name]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.rglob("index.html")) == []


def test_a_folder_that_holds_something_else_is_left_alone(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert report.main([str(dataset), "--out", str(tmp_path)]) == 2
    assert "give a folder of its own" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_report_replaces_the_one_before_it(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    out.mkdir()
    (out / "index.html").write_text("old")
    (out / "tables").mkdir()
    (out / "tables" / "gone.md").write_text("old")
    assert report.main([str(dataset), "--out", str(out)]) == 0
    assert not (out / "tables" / "gone.md").exists()
    assert (out / "index.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("name", ["table1", "paper_match", "figure3"])
def test_the_committed_report_is_of_the_committed_data(name: str, tmp_path: Path) -> None:
    made = rendered(BASELINES / name, tmp_path / "report", "1")
    stored = ROOT / "analysis" / "reports" / name
    assert made.keys() == {str(path.relative_to(stored)) for path in stored.rglob("*") if path.is_file()}
    other = [file for file, content in made.items() if (stored / file).read_bytes() != content]
    assert not other, (
        f"of other data: run python -m analysis.report analysis/baselines/{name} --out analysis/reports/{name}"
    )


def returned(folder: Path, returns: Mapping[str, Sequence[float]]) -> Path:
    """A dataset collected from a table: one episode per run, of these returns, on one task."""
    rows = [f"{v},Hopper-v4,{seed},1000,{r},10" for v, runs in returns.items() for seed, r in enumerate(runs)]
    folder.with_suffix(".csv").write_text("\n".join(["variant,env,seed,env_step,return,length", *rows]) + "\n")
    assert collect.main([f"csv:{folder}.csv", "--out", str(folder)]) == 0
    return folder


def test_a_best_variant_that_resamples_lose_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 is 100, 1 is (150 + 90 + 95) / 3; among re-runs of three seeds some have no variant above random."""
    returns = {"clip_0.2": [150, 90, 95], "clip_0.1": [80, 81, 82], "random": [100, 100, 100]}
    assert report.main([str(returned(tmp_path / "data", returns)), "--out", str(tmp_path / "report")]) == 0
    assert "Not set beside the paper's Table 1: in 2,9" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "report" / "tables" / "normalised.csv", index_col="variant")["mean"]
    assert found["clip_0.2"] == pytest.approx(1)
    assert found["clip_0.1"] == pytest.approx((81 - 100) / (335 / 3 - 100))


def test_ten_seeds_that_resamples_lose_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = returned(tmp_path / "data", {"a": [150] + [99] * 9, "random": [100] * 10})
    assert report.main([str(folder), "--out", str(tmp_path / "report")]) == 0
    assert "In some resamples no variant is better than the policy that scores 0" in capsys.readouterr().out
    assert "taken for exact" in (tmp_path / "report" / "tables" / "normalised.md").read_text()


HEADER = "variant,env,seed,env_step,return,length"


def collected(folder: Path, rows: Sequence[str]) -> Results:
    folder.with_suffix(".csv").write_text("\n".join([HEADER, *rows]) + "\n")
    assert collect.main([f"csv:{folder}.csv", "--out", str(folder)]) == 0
    return Results(load(folder))


def test_budgets_that_differ_are_said_and_curves_compared_up_to_the_shortest(tmp_path: Path) -> None:
    """Both learn 10 in 1,000 env steps, one of them for a tenth of the time: up to there their heights are the same."""
    rows = [
        f"{v},Hopper-v4,{seed},{100 * t},{k * t + seed},10"
        for seed in range(3)
        for v, count, k in (("long", 1000, 1), ("short", 100, 1), ("random", 1000, 0))
        for t in range(1, count + 1)
    ]
    found = collected(tmp_path / "data", rows)
    said = " ".join(report.doubts(found))
    assert "Budgets differ: Hopper-v4 from 10,000 (short) to 100,000 env steps (long)" in said
    assert "In 3 runs of 6 the episodes of the score span more than 20% of the run, at most 100%" in said
    short, long = (found.heights[v]["Hopper-v4"] for v in ("short", "long"))
    assert short == pytest.approx(long) and np.isfinite(short).all()
    assert "‡" in findings.raw_scores(found).shown.set_index("variant").loc["short", "Hopper-v4"]
    assert "‡" not in findings.raw_scores(found).shown.set_index("variant").loc["long", "Hopper-v4"]


def test_budgets_that_are_about_equal_are_no_doubt(tmp_path: Path) -> None:
    rows = [f"{v},Hopper-v4,{seed},{n * t},{t},10" for seed in range(2) for v, n in (("a", 99), ("b", 100))
            for t in range(1, 1001)]  # fmt: skip
    said = " ".join(report.doubts(collected(tmp_path / "data", rows)))
    assert "Budgets" not in said and "span" not in said


def test_a_faulty_run_is_named_and_counts_in_no_mean(tmp_path: Path) -> None:
    whole = load(write(tmp_path / "data", np.random.default_rng(0), env_steps=50_000))
    runs = whole.runs.assign(not_finite="")
    bad = (runs["variant"] == "clip_0.2") & (runs["env"] == "Hopper-v4") & (runs["seed"] == 1)
    lost = (runs["variant"] == "clip_0.2") & (runs["env"] == "Hopper-v4") & (runs["seed"] == 2)
    runs.loc[bad, ["status", "not_finite", "score"]] = ["faulty", "rewards at env step 5", np.nan]
    runs.loc[lost, ["status", "not_finite"]] = ["diverged", "parameters at env step 7"]
    found = Results(replace(whole, runs=runs))
    worst = runs.loc[(runs["env"] == "Hopper-v4") & ~bad, "score"].min()
    own = runs.loc[(runs["variant"] == "clip_0.2") & (runs["env"] == "Hopper-v4") & (runs["seed"] == 0), "score"]
    assert list(found.raw["clip_0.2"]["Hopper-v4"]) == [own.item(), worst]
    assert len(found.curves["Hopper-v4"].runs["clip_0.2"]) == 2
    said = " ".join(report.doubts(found))
    assert "1 run is faulty" in said and "clip_0.2 on Hopper-v4, seed 1 (rewards at env step 5)" in said
    assert "1 run diverged" in said and "clip_0.2 on Hopper-v4, seed 2 (parameters at env step 7)" in said
    assert report.about(found).startswith("11 runs: 2 variants on 2 tasks, 2 to 3 runs a cell; 6 runs of policies")
    assert "faulty" in set(findings.list_of_runs(found).shown["status"])
    old = Results(replace(whole, runs=whole.runs.drop(columns="not_finite", errors="ignore")))
    assert "faulty" not in " ".join(report.doubts(old))


def test_kinds_of_episodes_are_never_averaged_together(tmp_path: Path) -> None:
    whole = load(write(tmp_path / "data", np.random.default_rng(0), env_steps=50_000))

    def measured(rows: pd.Series) -> Results:
        return Results(replace(whole, runs=whole.runs.assign(
            measure=whole.runs["measure"].where(~rows, "evaluation episodes"))))  # fmt: skip

    learns = whole.runs["variant"] != "random"
    assert "All scores are of evaluation episodes." in report.doubts(measured(learns))
    apart = " ".join(report.doubts(measured(whole.runs["variant"] == "clip_0.2")))
    assert "some scores are of evaluation episodes and others of training episodes" in apart
    with pytest.raises(RecordError, match=r"clip_0\.2 on .* not averaged together"):
        measured((whole.runs["variant"] == "clip_0.2") & (whole.runs["seed"] == 0))


EVIL = "![x](http://x/y.png) <b>a|b`c"


def test_names_are_text_in_markdown() -> None:
    """Read by another program, nothing but text comes of them, in the title, the caption and the cells."""
    table = Table("t", EVIL, EVIL, pd.DataFrame([{"variant": EVIL, "mean": "1"}]), pd.DataFrame())
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown(table))
    inner = [each for token in tokens for each in token.children or []]
    kinds = {token.type for token in (*tokens, *inner)}
    assert not kinds & {"html_block", "html_inline", "image", "link_open", "code_inline"}
    assert "".join(each.content for each in inner if each.type == "text").count(EVIL) == 3
    assert sum(token.type == "td_open" for token in tokens) == 2


def test_names_are_no_formulas_in_csv() -> None:
    values = pd.DataFrame({"variant": ["=1+1", "+x", "-x", "@x", "a"], "mean": [-1.5] * 5, "text": ["-2"] * 5})
    found = pd.read_csv(io.StringIO(csv(Table("t", "", "", values, values))))
    assert list(found["variant"]) == ["'=1+1", "'+x", "'-x", "'@x", "a"]
    assert (found["mean"] == -1.5).all() and (found["text"] == -2).all()


@pytest.mark.parametrize("failing", ["build", "render"])
def test_a_full_disk_keeps_the_old_report(
    failing: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report"
    out.mkdir()
    (out / "index.html").write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(report, failing, full)
    if failing == "render":
        monkeypatch.setattr(report.style, "save", lambda figure, path: path.with_suffix(".png").touch())
    assert report.main([str(dataset), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(out) in said and "No space left" in said
    assert (out / "index.html").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report"]


def test_without_a_random_policy_tasks_are_compared_one_by_one(tmp_path: Path) -> None:
    """Two tasks, no policy that scores 0: differences by hand, in returns."""
    folder = write(
        tmp_path / "data", np.random.default_rng(0), variants=("unconstrained", "clip_0.2"), env_steps=50_000
    )
    found = Results(load(folder), Options(reference="unconstrained"))
    made = {table.name: table for table in findings.made(found)}
    rows = made["comparisons"].values.set_index("env")
    assert list(rows.index) == ["Hopper-v4", "InvertedPendulum-v4"]
    for task, row in rows.iterrows():
        theirs, ours = found.raw["unconstrained"][str(task)], found.raw["clip_0.2"][str(task)]
        expected = stats.ttest_ind(ours, theirs, equal_var=False)
        assert row["difference"] == pytest.approx(ours.mean() - theirs.mean())
        assert row["p"] == pytest.approx(expected.pvalue)
        assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval()))
    ends = made["raw_intervals"].values
    assert len(ends) == 4 and (ends["low"] < ends["mean"]).all() and (ends["mean"] < ends["high"]).all()
    assert "random policy on Hopper-v4" in " ".join(report.summary(found))


def test_a_reader_chooses_what_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "data", np.random.default_rng(0), variants=PAPER, env_steps=50_000)
    out = tmp_path / "report"
    some = ["--variants", "clip_0.1", "clip_0.2", "--tasks", "Hopper-v4", "--reference", "clip_0.1"]
    assert report.main([str(folder), "--out", str(out), *some]) == 0
    found = pd.read_csv(out / "tables" / "raw.csv")
    assert set(found["variant"]) == {"clip_0.1", "clip_0.2", "random"} and set(found["env"]) == {"Hopper-v4"}
    assert list(pd.read_csv(out / "tables" / "comparisons.csv")["against"]) == ["clip_0.1"]
    assert " ".join(some) in (out / "index.html").read_text()
    capsys.readouterr()
    for flag in ("--variants", "--tasks", "--reference"):
        assert report.main([str(folder), "--out", str(out), flag, "nothing"]) == 2
        said = capsys.readouterr().err
        assert flag in said and "nothing" in said and said.count("\n") == 1


def test_seeds_that_were_numbered_are_said(dataset: Path) -> None:
    whole = load(dataset)
    for names, runs in ((["a"], "1 run"), (["a", "b"], "2 runs")):
        found = Results(replace(whole, note={**whole.note, "numbered": names}))
        assert [line for line in report.doubts(found) if line.startswith(f"The seeds of {runs} were numbered")]
    assert not [line for line in report.doubts(Results(whole)) if "numbered" in line]
