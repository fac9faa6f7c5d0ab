"""The report as its reader meets it: the command, its files, its page; the same bytes every time."""

import html.parser
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from invented import write

from analysis import collect, report
from analysis.baseline import FOLDER as BASELINES
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
