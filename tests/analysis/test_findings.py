"""What a report's tables say, against hand calculations, SciPy and the configs they come from."""

import html.parser
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from invented import write
from omegaconf import OmegaConf
from scipy import stats

from analysis import findings, others, replicate, report, tables
from analysis.dataset import Dataset, load
from analysis.paper import published
from analysis.records import RecordError
from analysis.results import Options, Results
from analysis.scores import Scaling
from analysis.tables import Table, returns
from tests.conftest import profile_of

PLAIN = Options()
CONF = Path(__file__).parents[2] / "conf"
PAPER = ("unconstrained", "clip_0.1", "clip_0.2", "kl_fixed_3", "random", "initial")


def results(folder: Path, seed: int = 0, options: Options = PLAIN, **asked: object) -> Results:
    return Results(load(write(folder / "dataset", np.random.default_rng(seed), **asked)), options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Results:
    environments = ("HalfCheetah-v4", "Hopper-v4", "Reacher-v4")
    return results(tmp_path_factory.mktemp("paper"), variants=PAPER, environments=environments)


def returns_of(dataset: Dataset, variant: str, environment: str) -> list[np.ndarray]:
    """The raw returns of each run, read with pandas alone."""
    runs = dataset.runs.query("variant == @variant and env == @environment").sort_values("seed")
    episodes = pd.read_parquet(dataset.folder / "episodes.parquet")
    return [episodes.loc[episodes["run"] == run, "return"].to_numpy() for run in runs["run"]]


def by_hand(found: Results, variant: str) -> float:
    """The paper's score: last 100 episodes, 0 is random, 1 is the best variant's mean, averaged over all runs."""
    shares = []
    for environment in found.environments:
        means = {v: np.mean([r[-100:].mean() for r in returns_of(found.dataset, v, environment)])
                 for v in found.variants}  # fmt: skip
        best = max(mean for v, mean in means.items() if v not in ("random", "initial"))
        shares.append((means[variant] - means["random"]) / (best - means["random"]))
    return float(np.mean(shares))


class TestTable1:
    def test_ours_is_the_papers_score_of_our_three_seeds(self, paper: Results) -> None:
        table = findings.table1(paper).values.set_index("variant")
        assert list(table.index) == ["unconstrained", "clip_0.1", "clip_0.2", "kl_fixed_3"]
        for variant in table.index:
            assert table.loc[variant, "ours"] == pytest.approx(by_hand(paper, variant))
        assert list(table["published"]) == [-0.39, 0.76, 0.82, 0.72]

    def test_a_published_score_far_from_ours_is_called_so_and_a_near_one_is_not(self, paper: Results) -> None:
        table = findings.table1(paper).values.set_index("variant")
        assert table.loc["unconstrained", "verdict"] == "published is lower, beyond luck"
        inside = table["published"].between(table["prediction_low"], table["prediction_high"])
        assert (table["verdict"].eq("as a re-run would") == inside).all()
        assert inside.any()

    @pytest.mark.parametrize("holm", [0.01, 0.02, 0.03, 0.049, 0.06])
    def test_the_table_and_the_sentences_call_the_same_rows_beyond_luck(self, holm: float) -> None:
        row = pd.DataFrame({"published": 0.2, "ours": 0.8, "low": 0.6, "high": 0.9, "holm": holm}, ["clip_0.1"])
        again = pd.DataFrame({"clip_0.1": np.linspace(0.5, 1, 100)})
        ranks = pd.DataFrame({"ours": 0.0, "own_low": 0.0, "own_high": 0.0}, ["Kendall"])
        said = "\n".join(replicate.verdict(row, ranks, again))
        table = findings.verdict(row.iloc[0], 11)
        assert ("the score of clip_0.1" in said) == ("luck of seeds: clip_0.1" in said) == ("beyond luck" in table)

    def test_a_rerun_is_less_certain_than_our_mean(self, paper: Results) -> None:
        table = findings.table1(paper).values
        widths = table["prediction_high"] - table["prediction_low"], table["interval_high"] - table["interval_low"]
        assert widths[0].sum() > widths[1].sum()

    def test_the_readings_are_what_each_choice_finds(self, paper: Results) -> None:
        table = findings.readings(paper)
        assert list(table.values[["random", "best"]].itertuples(index=False, name=None)) == [
            ("random", "variant"), ("random", "run"), ("initial", "variant"), ("initial", "run"),
        ]  # fmt: skip
        for row in table.values.itertuples():
            chosen = Results(paper.dataset, Options(Scaling(row.random, row.best)))
            said = " ".join(report.summary(chosen))
            assert f"{row.inside} of 4 published scores lie inside" in said
            assert f"{row.no_more:.0%} of re-runs have no more inside" in said
            assert all(doubt in said for doubt in row.against.split("; "))
            assert (row.against == "nothing") == ("against it speak" not in said)
        assert list(table.shown["scores 1"])[:2] == ["the best variant's mean", "the best single run"]

    def test_a_reading_without_its_policy_is_left_out(self, tmp_path: Path) -> None:
        found = results(tmp_path, variants=PAPER[:-1])
        assert list(findings.readings(found).values["random"]) == ["random", "random"]

    def test_names_are_the_papers(self, paper: Results) -> None:
        shown = findings.table1(paper).shown["setting"]
        assert list(shown)[:2] == ["No clipping or penalty", "Clipping, ε = 0.1"]

    def test_is_not_made_of_tasks_that_the_paper_does_not_have(self, tmp_path: Path) -> None:
        runs = results(tmp_path, variants=PAPER)
        runs.dataset.runs["env"] = runs.dataset.runs["env"].replace("Hopper-v4", "CartPole-v1")
        assert "table1" not in [table.name for table in findings.made(Results(runs.dataset))]

    def test_reads_the_words_as_asked(self, tmp_path: Path) -> None:
        found = results(tmp_path, variants=PAPER, options=Options(Scaling("initial", "run")))
        caption = findings.table1(found).caption
        assert "the untrained policy" in caption
        assert "the best single run" in caption


def test_cells_of_other_sizes_are_said(tmp_path: Path) -> None:
    """Four seeds, of one cell three: the words have the range."""
    found = results(
        tmp_path, variants=PAPER, environments=("Reacher-v4",), seeds=4, env_steps=50_000,
        missing=[("clip_0.1", "Reacher-v4", 3)],
    )  # fmt: skip
    assert "of our mean (3 to 4 seeds)" in findings.table1(found).caption
    assert "3 to 4 runs a cell" in findings.raw_scores(found).caption
    assert "3 to 4 seeds: intervals are Student's t" in " ".join(report.doubts(found))
    assert report.about(found).startswith(
        "15 runs: 4 variants on 1 task, 3 to 4 runs a cell; 8 runs of policies that do not"
    )


@pytest.mark.parametrize("seeds", [3, 10])
def test_intervals_that_take_the_references_for_exact_say_so(seeds: int, tmp_path: Path) -> None:
    """Below ten seeds they do; from ten on a bootstrap finds them anew."""
    found = results(tmp_path, variants=PAPER, environments=("Reacher-v4",), seeds=seeds, env_steps=50_000)
    for table in (findings.table1(found), findings.normalised_scores(found)):
        assert ("taken for exact, so perhaps too narrow" in table.caption) == (
            found.intervals["clip_0.1"].method == "t"
        )


class TestRawScores:
    def test_are_means_and_sample_deviations_over_runs(self, paper: Results) -> None:
        table = findings.raw_scores(paper).values.set_index(["variant", "env"])
        runs = [r[-100:].mean() for r in returns_of(paper.dataset, "clip_0.2", "Hopper-v4")]
        row = table.loc[("clip_0.2", "Hopper-v4")]
        assert (row["mean"], row["std"]) == pytest.approx((np.mean(runs), np.std(runs, ddof=1)))
        assert row["runs"] == 3

    def test_a_run_that_diverged_is_flagged_and_counted_as_the_worst_beside(self, tmp_path: Path) -> None:
        found = results(tmp_path, diverged={("clip_0.2", "Hopper-v4", 1): 0.5})
        table = findings.raw_scores(found)
        row = table.values.set_index(["variant", "env"]).loc[("clip_0.2", "Hopper-v4")]
        every = [r[-100:].mean() for v in found.variants for r in returns_of(found.dataset, v, "Hopper-v4")]
        own = [r[-100:].mean() for r in returns_of(found.dataset, "clip_0.2", "Hopper-v4")]
        assert row["flagged"]
        assert row["mean"] == pytest.approx(np.mean(own))
        assert row["mean_with_worst"] == pytest.approx(np.mean([own[0], min(every), own[2]]))
        assert "†" in table.shown.set_index("variant").loc["clip_0.2", "Hopper-v4"]
        assert not table.values.query("variant == 'random'")["flagged"].any()

    def test_a_missing_cell_is_a_dash_and_its_variant_is_not_averaged(self, tmp_path: Path) -> None:
        found = results(tmp_path, missing=[("clip_0.2", "Hopper-v4", seed) for seed in range(3)])
        assert findings.raw_scores(found).shown.set_index("variant").loc["clip_0.2", "Hopper-v4"] == "–"
        assert found.complete == ["unconstrained"]
        assert list(findings.normalised_scores(found).values["variant"]) == ["unconstrained", "random"]


class TestComparisons:
    def test_of_one_task_are_scipys(self, tmp_path: Path) -> None:
        found = results(tmp_path, variants=("mine", "other"), environments=("Hopper-v4",), seeds=6)
        assert found.why_raw
        row = findings.comparisons(found).values.iloc[0]
        x, y = (found.raw[v]["Hopper-v4"] for v in ("other", "mine"))
        welch = stats.ttest_ind(x, y, equal_var=False)
        assert (row["variant"], row["against"]) == ("other", "mine")
        assert row["p"] == pytest.approx(welch.pvalue)
        assert (row["low"], row["high"]) == pytest.approx(tuple(welch.confidence_interval()))
        assert row["probability_of_improvement"] == pytest.approx(stats.mannwhitneyu(x, y).statistic / 36)

    def test_are_with_the_papers_choice(self, paper: Results) -> None:
        table = findings.comparisons(paper)
        assert set(table.values["against"]) == {"clip_0.2"}
        assert (table.values["p_holm"] >= table.values["p"]).all()


class TestAggregates:
    def test_by_hand(self, paper: Results) -> None:
        row = findings.aggregates(paper).values.set_index("variant").loc["clip_0.1"]
        cells = np.array(paper.cells("clip_0.1"))
        assert row["mean"] == pytest.approx(by_hand(paper, "clip_0.1"))
        assert row["median"] == pytest.approx(np.median(cells.mean(axis=1)))
        assert row["IQM"] == pytest.approx(np.sort(cells.ravel())[2:7].mean())
        assert row["optimality gap"] == pytest.approx(np.maximum(1 - cells, 0).mean())


class TestDifferences:
    def test_are_those_between_the_profiles_files(self, tmp_path: Path) -> None:
        """Runs of the suite's own defaults against the file that says what the paper prints."""
        found = results(tmp_path, variants=("clip_0.2", "random"), env_steps=102_400)
        table = findings.differences(found).values.set_index("setting")
        paper = OmegaConf.to_container(OmegaConf.load(CONF / "profile" / "paper_text.yaml"))
        ours = found.config("clip_0.2")["profile"]
        wanted = {f"profile.{name}" for name, value in paper.items() if ours[name] != value}  # type: ignore[union-attr]
        assert set(table.index) == wanted | {"env_steps", "task"}
        assert tuple(table.loc["env_steps", ["paper", "here", "kind"]]) == ("1000000", "102400", "printed otherwise")

    def test_what_only_some_variants_have_is_told_with_their_names(self, tmp_path: Path) -> None:
        found = results(tmp_path, variants=("clip_0.2", "unconstrained"))
        runs = found.dataset.runs
        odd = runs["variant"] == "unconstrained"
        runs.loc[odd, "config"] = runs.loc[odd, "config"].str.replace('"horizon": 2048', '"horizon": 1024')
        row = findings.differences(Results(found.dataset)).values.set_index("setting").loc["profile.horizon"]
        assert (row["here"], row["kind"]) == ("1024 (unconstrained)", "printed otherwise")

    def test_what_is_printed_for_ppo_does_not_bind_what_it_is_compared_with(self, tmp_path: Path) -> None:
        found = results(tmp_path, variants=("clip_0.2", "mine"))
        runs = found.dataset.runs
        for variant, objective in (("clip_0.2", "clip"), ("mine", "a2c")):
            of = runs["variant"] == variant
            changed = (
                runs.loc[of, "config"]
                .map(json.loads)
                .map(
                    lambda config, objective=objective: (
                        config
                        | {"algo": {"objective": objective}, "profile": config["profile"] | {"epochs": 3, "horizon": 5}}
                    )
                )
            )
            runs.loc[of, "config"] = changed.map(json.dumps)
        rows = findings.differences(Results(found.dataset)).values.set_index(["setting", "kind"])
        columns = ["paper", "here", "source"]
        assert tuple(rows.loc[("profile.epochs", "printed otherwise"), columns]) == ("10", "3", "Table 3")
        assert tuple(rows.loc[("profile.epochs", "silent"), columns]) == ("–", "3", "for PPO: Table 3")
        assert ("env_steps", "silent") not in rows.index

    def test_settings_of_the_paper_are_those_of_its_profile(self) -> None:
        paper = asdict(profile_of("paper_text"))
        known = published.settings()
        listed = {key.removeprefix("profile."): row for key, row in known.iterrows() if key.startswith("profile.")}
        lines = (CONF / "profile" / "paper_text.yaml").read_text().splitlines()
        set_there = {line.partition(":")[0]: line for line in lines if not line.startswith("#")}
        assert set_there.keys() <= listed.keys() <= paper.keys()
        for name, row in listed.items():
            value = paper[name] if not isinstance(paper[name], tuple) else list(paper[name])
            assert OmegaConf.to_container(OmegaConf.create(f"x: {row['value']}"))["x"] == value  # type: ignore[index, call-overload]
            assert (row["printed"] == "no") == ("# unprinted" in set_there.get(name, "# unprinted"))


class TestPublished:
    def test_stand_beside_runs_of_their_length_only(self, tmp_path: Path) -> None:
        short = results(tmp_path / "short", variants=("clip_0.2", "random"))
        assert others.others_scores(short).empty
        short.dataset.runs["budget"] = 1_000_000
        rows = others.others_scores(Results(short.dataset))
        assert set(rows["env"]) == {"Hopper", "InvertedPendulum"}
        assert (rows["steps"] == 1_000_000).all()
        assert len(others.published_scores(Results(short.dataset)).shown) == len(rows) + 2 > 5

    def test_ours_come_first_and_all_means_have_intervals(self, tmp_path: Path) -> None:
        found = results(tmp_path, variants=("clip_0.2", "random"), environments=("HalfCheetah-v4", "Swimmer-v4"))
        found.dataset.runs["budget"] = 1_000_000
        table = others.published_scores(Results(found.dataset)).values
        assert set(table["env"]) == {"HalfCheetah"}
        runs = [returns[-100:].mean() for returns in returns_of(found.dataset, "clip_0.2", "HalfCheetah-v4")]
        first = table.iloc[0]
        assert (first["library"], first["mean"]) == ("this suite", pytest.approx(np.mean(runs)))
        reach = 4.303 * np.std(runs, ddof=1) / np.sqrt(3)
        assert [first["low"], first["high"]] == pytest.approx([np.mean(runs) - reach, np.mean(runs) + reach], rel=1e-4)
        theirs = table[table["mean"] == 1442.64].iloc[0]  # ± 46.03 of 3 seeds, which is 56.37 with ddof=1
        assert [theirs["low"], theirs["high"]] == pytest.approx([1302.6, 1582.7], abs=0.1)
        assert not table["algo"].str.contains("KL").any()
        (row,) = others.in_short(Results(found.dataset)).shown.to_dict("records")
        assert row["task"] == "HalfCheetah-v4"
        assert row["this suite"] == f"{returns(first['mean'])} [{returns(first['low'])}, {returns(first['high'])}]"
        assert row["others"].startswith("CleanRL 1,443 [1,303, 1,583]; KLip-PPO 1,955 [")


class TestRuns:
    def test_are_all_there(self, paper: Results) -> None:
        assert sorted(findings.list_of_runs(paper).values["run"]) == sorted(paper.dataset.runs["run"])


def test_a_study_may_ask_for_some_tables_and_not_for_unknown_ones(paper: Results) -> None:
    def asked(*names: str) -> list[str]:
        note = paper.dataset.note | {"study": {"tables": list(names)}}
        return [table.name for table in findings.made(Results(Dataset(paper.dataset.folder, paper.dataset.runs, note)))]

    assert asked("raw", "table1") == ["table1", "raw"]
    with pytest.raises(RecordError, match="asks for table tabel1; there are table1, "):
        asked("tabel1")


ODD = Table(
    "odd", "A | title & 50 %", "Caption_1 with ε", pd.DataFrame({"a<b": ["x|y", "<script>"], "n": ["−1.50", "2.00"]}),
    pd.DataFrame({"a": ["x,y", "z"], "n": [-1.5, 2.0]}),
)  # fmt: skip


class TestText:
    def test_markdown(self) -> None:
        assert tables.markdown(ODD).splitlines()[2:] == [
            r"| a\<b | n |", "| :-- | --: |", r"| x\|y | −1.50 |", r"| \<script> | 2.00 |",
        ]  # fmt: skip

    def test_csv_is_read_back_as_it_was(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text(tables.csv(ODD))
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), ODD.values)

    def test_latex_has_no_character_left_that_means_something(self) -> None:
        text = tables.latex(ODD)
        assert r"\caption{A \textbar{} title \& 50 \%. Caption\_1 with $\epsilon$}" in text
        assert r"\textless{}script\textgreater{} & 2.00 \\" in text
        assert r"$-$1.50" in text
        assert text.isascii()
        assert text.count("{") == text.count("}")

    def test_html_shows_names_and_runs_nothing(self) -> None:
        seen: list[str] = []
        parser = html.parser.HTMLParser()
        parser.handle_starttag = lambda tag, _attributes: seen.append(tag)  # type: ignore[method-assign]
        text: list[str] = []
        parser.handle_data = text.append  # type: ignore[method-assign]
        parser.feed(tables.as_html(ODD))
        assert set(seen) == {"table", "thead", "tbody", "tr", "th", "td"}
        assert "<script>" in text

    @pytest.mark.parametrize(
        ("value", "shown"), [(1234.5, "1,234"), (-0.004, "−0.0"), (-12.34, "−12.3"), (float("nan"), "–"), (0.0, "0.0")]
    )
    def test_returns(self, value: float, shown: str) -> None:
        assert tables.returns(value) == ("0.0" if shown == "−0.0" else shown)


def test_every_score_of_the_dataset_is_the_mean_of_its_last_100_episodes(paper: Results) -> None:
    """What the tables rest on."""
    for variant in ("clip_0.2", "random"):
        runs = paper.dataset.runs.query("variant == @variant and env == 'Hopper-v4'").sort_values("seed")
        assert list(runs["score"]) == pytest.approx(
            [r[-100:].mean() for r in returns_of(paper.dataset, variant, "Hopper-v4")]
        )
