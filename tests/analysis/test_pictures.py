"""The documents' pictures and tables of results: the numbers are the dataset's, and the bytes the same each time."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import invented
import numpy as np
import pandas as pd
import pytest
from legible import assert_legible
from matplotlib.figure import Figure
from scipy import stats

from analysis import findings, pictures, replicate, statistics, table1
from analysis.baseline import FOLDER
from analysis.dataset import Dataset, load
from analysis.documents import END, replaced
from analysis.figures import gradients, style
from analysis.records import RecordError
from analysis.results import Results
from experiments.gradients.rungs import RUNGS

ROOT = Path(__file__).parents[2]
TASKS = tuple(invented.TASKS)
STEPS = 20_480
WHOLE = dict.fromkeys(TASKS, invented.TABLE_1)
PARTIAL = {**dict.fromkeys(TASKS[:3], invented.TABLE_1), "Reacher-v4": invented.TABLE_1[:4], "Swimmer-v4": ("random",)}
EXPLODES = ("unconstrained", "HalfCheetah-v4", 1)

committed = pytest.mark.skipif(
    not (FOLDER / "table1").exists(), reason="analysis/baselines/table1 is not committed yet: its study is in training"
)


@pytest.fixture(autouse=True)
def look() -> None:
    style.use()


def parts(folder: Path, cells: Mapping[str, Sequence[str]], **asked: object) -> Path:
    """A growing dataset of study=table1: a part per task, of these variants."""
    study = {"name": "table1", "variants": list(invented.TABLE_1), "environments": list(TASKS), "overrides": []}
    for task, variants in cells.items():
        invented.write(folder / task / "all.s0-2", np.random.default_rng(len(task)), variants, (task,), env_steps=STEPS,
                       study={**study, "tables": [], "figures": []}, **asked)  # type: ignore[arg-type]  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baselines")
    parts(folder / "table1", PARTIAL, diverged={EXPLODES: 0.6})
    return folder


def by_hand() -> Dataset:
    """Three settings on two tasks; the best is 100 above random on Hopper and 50 on InvertedPendulum."""
    scores = {
        ("Hopper-v4", "random"): (10, 10, 10),
        ("Hopper-v4", "unconstrained"): (-9990, -9990, -9990),
        ("Hopper-v4", "clip_0.1"): (60, 70, 80),
        ("Hopper-v4", "clip_0.2"): (110, 110, 110),
        ("InvertedPendulum-v4", "random"): (10, 10, 10),
        ("InvertedPendulum-v4", "unconstrained"): (10, 10, 10),
        ("InvertedPendulum-v4", "clip_0.1"): (35, 45, 55),
        ("InvertedPendulum-v4", "clip_0.2"): (60, 60, 60),
        ("Reacher-v4", "random"): (-43, -43, -43),
        ("Reacher-v4", "clip_0.2"): (-7, -7, -7),
    }
    rows = [(variant, task, seed, of) for (task, variant), runs in scores.items() for seed, of in enumerate(runs)]
    runs = pd.DataFrame(rows, columns=["variant", "env", "seed", "score"]).assign(
        status="complete", measure="training episodes"
    )
    return Dataset(Path("by-hand"), runs, {"left_out": {"missing": ["clip_0.1, unconstrained on Reacher-v4"]}})


def cells_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


class TestScores:
    def test_by_hand(self) -> None:
        """Shares of the span: clip_0.1 has .5 .6 .7 and .5 .7 .9, so .65 with the variances .01 and .04 of 3 runs."""
        found = findings.table1(Results(table1.comparable(by_hand()))).values.set_index("variant")
        assert found["ours"].to_dict() == pytest.approx({"unconstrained": -50, "clip_0.1": 0.65, "clip_0.2": 1.0})
        freedom = 0.05**2 / ((0.01**2 + 0.04**2) / 2)
        reach = stats.t.ppf(0.975, freedom) * np.sqrt(0.05 / 3) / 2
        row = found.loc["clip_0.1"]
        assert [row["interval_low"], row["interval_high"]] == pytest.approx([0.65 - reach, 0.65 + reach])
        again = np.sqrt(2) * reach  # of the difference of two tables alike
        assert [row["prediction_low"], row["prediction_high"]] == pytest.approx([0.65 - again, 0.65 + again], abs=0.02)
        assert found["verdict"].to_dict() == {
            "unconstrained": "published is higher, beyond luck",
            "clip_0.1": "as a re-run would",
            "clip_0.2": "published is lower, beyond luck",
        }

    def test_the_picture_says_them(self) -> None:
        figure = table1.scores_picture(by_hand())
        said = cells_of(figure)
        assert said[3:9] == ["← mean −50 [−50, −50]", "−0.39", "−50.00", "0.76", "0.65", "0.82"]
        assert said[-11:-7] == ["published is higher,\nbeyond luck", "as a re-run would",
                                "published is lower,\nbeyond luck", "no runs yet"]  # fmt: skip
        assert said.count("no runs yet") == 8
        told = figure.get_suptitle().replace("\n", " ")
        assert told == (
            "Partial. Left out, missing: clip_0.1, unconstrained on Reacher-v4. Scores are averages over 2 of the "
            "paper's 7 tasks: Hopper-v4, InvertedPendulum-v4."
        )
        assert_legible("table1", figure)

    def test_a_task_counts_when_all_rows_have_it(self, baselines: Path) -> None:
        found = table1.comparable(load(baselines / "table1"))
        assert set(found.runs["env"]) == {"HalfCheetah-v4", "Hopper-v4", "InvertedDoublePendulum-v4"}
        assert set(found.runs["variant"]) == set(invented.TABLE_1)

    def test_nothing_to_compare_is_one_sentence(self) -> None:
        whole = by_hand()
        without = Dataset(whole.folder, whole.runs[whole.runs["variant"] != "random"], whole.note)
        with pytest.raises(RecordError, match="no task yet on which two settings of Table 1 or more"):
            table1.comparable(without)

    def test_seeds_added_later_do_not_hide_what_the_first_three_say(self) -> None:
        """One more run of the policy without constraint, far off: its row fits only with it."""
        first = by_hand()
        assert table1.fixed_beforehand(first) == ""
        runs = pd.concat([first.runs, first.runs.query("variant == 'unconstrained'").assign(seed=3, score=1e5)])
        said = table1.fixed_beforehand(Dataset(first.folder, runs[runs["env"] != "Reacher-v4"], first.note))
        assert said.startswith("With the 3 seeds that were fixed before any run alone: 1 of 3 inside, ")
        assert said.endswith("; against it: the score of unconstrained, clip_0.2; too many scores at once.")

    @pytest.mark.parametrize("gone", ["seed < 3", "seed == 1"])
    def test_without_all_of_the_first_three_nothing_is_said_of_them(self, gone: str) -> None:
        first = by_hand()
        runs = pd.concat([first.runs, first.runs.assign(seed=first.runs["seed"] + 3)])
        assert table1.fixed_beforehand(Dataset(first.folder, runs.query(f"not ({gone})"), first.note)) == ""


class TestCurves:
    def test_a_panel_per_task_and_the_papers_best_setting_of_each_objective(self, tmp_path: Path) -> None:
        dataset = load(parts(tmp_path / "table1", WHOLE, diverged={EXPLODES: 0.6}))
        figure = table1.curves_picture(dataset)
        assert [axis.get_title() for axis in figure.axes] == list(TASKS)
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [
            "unconstrained", "clip_0.2", "kl_adaptive_0.01", "kl_fixed_3", "random", "initial",
        ]  # fmt: skip
        assert figure.get_suptitle() == ""

    def test_what_is_missing_is_said(self, baselines: Path) -> None:
        figure = table1.curves_picture(load(baselines / "table1"))
        assert [axis.get_title() for axis in figure.axes] == [*TASKS[:3], "Reacher-v4"]
        assert figure.get_suptitle().replace("\n", " ") == (
            "Partial. Left out, missing: all variants on InvertedPendulum-v4, Walker2d-v4; 9 of 13 variants on "
            "Reacher-v4; 12 of 13 variants on Swimmer-v4."
        )


class TestGradients:
    def measured(self) -> pd.DataFrame:
        """A table as the command writes it, by hand: noise grows from rung to rung, and there is a bias at λ = 0."""
        rungs = [rung for group in gradients.GROUPS.values() for rung in group]
        places = [(task, policy) for task in ("CartPole-v1", "InvertedPendulum-v4") for policy in gradients.POLICIES]
        table = pd.DataFrame([(*place, rung) for place in places for rung in rungs], columns=["task", "policy", "rung"])
        table["return"], table["episodes"], table["effective_episodes"] = 100.4, 4096, 4096.0
        table["noise"], table["noise_se"] = 0.1 * 1.3 ** (table.index % len(rungs)), 0.01
        for square in ("squared_turn", "squared_turn_discounted"):
            table[square], table[f"{square}_se"] = -0.001, 0.002
        table.loc[table["rung"] == "gae_0", ["squared_turn", "squared_turn_discounted"]] = 0.09, 0.04
        table.loc[table["rung"] == "ratio_of_trajectories", "effective_episodes"] = 2000.0
        return table

    def test_the_marks_are_the_numbers(self) -> None:
        table = self.measured()
        figure = gradients.gradients(table)
        assert [axis.get_title() for axis in figure.axes][:2] == [
            "CartPole-v1\nuntrained, mean return 100",
            "CartPole-v1\nhalf-trained, mean return 100",
        ]
        for number, axis in enumerate(figure.axes):
            rows = table[number * 13 : (number + 1) * 13]
            marked = {mark: [x for line in axis.lines if line.get_marker() == mark for x in line.get_xdata()]
                      for mark in "oD<>|"}  # fmt: skip
            sampled = rows["effective_episodes"] > 2048
            assert marked["o"] == pytest.approx(list(rows["noise"][sampled]))
            assert marked[">"] == pytest.approx(list(rows["noise"][~sampled]))
            assert marked["D"] == pytest.approx([0.3])
            assert marked["|"] == pytest.approx([0.2])
            assert marked["<"] == pytest.approx([np.sqrt(1.96 * 0.002 - 0.001)] * 11)

    def test_every_word_can_be_read(self) -> None:
        assert_legible("gradients", gradients.gradients(self.measured()))
        assert_legible("gradients", gradients.drawing())

    def test_every_rung_that_is_measured_is_drawn(self) -> None:
        assert {rung for group in gradients.GROUPS.values() for rung in group} == set(RUNGS)


@pytest.mark.parametrize(
    "cells", [WHOLE, PARTIAL, {"Reacher-v4": invented.TABLE_1}], ids=["whole", "partial", "one task"]
)
@pytest.mark.parametrize("diverged", [{}, {EXPLODES: 0.6}], ids=["calm", "exploding"])
def test_every_word_can_be_read(cells: Mapping, diverged: Mapping, tmp_path: Path) -> None:
    dataset = load(parts(tmp_path / "table1", cells, diverged=diverged))
    assert_legible("table1", table1.scores_picture(dataset))
    assert_legible("curves", table1.curves_picture(dataset))


def rendered(out: Path, hash_seed: str, *more: str) -> dict[str, bytes]:
    """What a process of its own draws, and the section it prints."""
    command = [sys.executable, "-m", "analysis.pictures", "--out", str(out), *more]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, check=True, capture_output=True, env=environment, cwd=ROOT)
    return {"section": done.stdout} | {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_two_renders_are_the_same_bytes(baselines: Path, tmp_path: Path) -> None:
    first, second = (rendered(tmp_path / seed, seed, "--baselines", str(baselines)) for seed in ("1", "2"))
    assert list(first) == ["section", "bootstrapping.png", "curves.png", "gradients.png", "table1.png"]
    assert first == second
    assert b"Matplotlib" not in first["table1.png"]
    section = first["section"].decode()
    assert section.startswith("## Table 1\n\n> **Partial.** Left out, missing: all variants on InvertedPendulum-v4, ")
    assert "Reproduced?" in section
    assert "core-hours" in section


def test_what_has_no_dataset_is_named_and_the_rest_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pictures.main(["--baselines", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    out, told = capsys.readouterr()
    assert out == ""
    for line, study in zip(told.splitlines(), ("table1", "figure3", "ladder"), strict=False):
        assert line.startswith(f"there is no dataset {tmp_path / study} yet; python -m analysis.parts {study} --out ")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"bootstrapping.png", "gradients.png"}


def test_the_committed_pictures_are_the_committed_data(tmp_path: Path) -> None:
    for path in pictures.draw(FOLDER, tmp_path):
        stored = ROOT / "analysis" / "pictures" / path.name
        assert stored.read_bytes() == path.read_bytes(), f"{path.name} is of other data: run analysis.pictures"


@committed
def test_the_documents_have_the_tables_of_the_committed_data() -> None:
    texts = pictures.rewritten(pictures.DOCUMENTS, FOLDER)
    assert {path.name for path in texts} == {"README.md", "which_implementation.md"}
    for path, text in texts.items():
        assert path.read_text() == text, f"{path} is of other data: run python -m analysis.pictures --write"


def test_a_block_is_written_between_its_marks_and_the_rest_is_kept() -> None:
    text = f"first\n<!-- mine -->\nold\n{END}last\n<!-- other -->\n{END}"
    assert replaced(text, "<!-- mine -->\n", "new") == (
        f"first\n<!-- mine -->\n\nnew\n\n{END}last\n<!-- other -->\n{END}"
    )
    for broken in (text.replace("mine", "yours"), text.replace(END, ""), text * 2):
        with pytest.raises(ValueError, match="the document needs the line <!-- mine -->"):
            replaced(broken, "<!-- mine -->\n", "new")


def test_the_words_on_table_1_are_of_the_committed_runs() -> None:
    door, words = (" ".join((folder / "README.md").read_text().split()) for folder in (ROOT, pictures.DOCUMENTS))
    found = Results(load(FOLDER / "table1"))
    rows = findings.table1(found).values.set_index("variant")
    above = (rows["ours"].round(2) - rows["published"]).drop("unconstrained")
    assert f"The other ten are {above.min():.2f} to {above.max():.2f} above the paper's" in door
    assert f"this code {rows.loc['unconstrained', 'ours']:.2f}. " in door
    assert f"Clip 0.2 scores {rows.loc['clip_0.2', 'ours']:.2f}, in the paper 0.82" in words
    heights = {variant: list(tasks.values()) for variant, tasks in found.heights.items()}

    def beyond_luck(clip: str) -> set[str]:
        others = [variant for variant in found.complete if variant != clip]
        p = [statistics.welch_test(heights[clip], heights[variant]).p for variant in others]
        return set(np.array(others)[statistics.holm(np.array(p)) < replicate.ALPHA])

    assert beyond_luck("clip_0.2") == {"kl_fixed_0.3", "kl_fixed_3", "kl_fixed_10"}
    assert beyond_luck("clip_0.3") == {"kl_fixed_0.3", "kl_fixed_10", "unconstrained"}
    assert (
        "both wider clips stand above β = 0.3 and 10, ε = 0.2 above β = 3 too and ε = 0.3 above no constraint" in words
    )
