"""Figures show the numbers they claim to, legibly, and are the same bytes each time."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import invented
import numpy as np
import pytest
from legible import assert_legible
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from analysis.curves import Curves
from analysis.dataset import load
from analysis.figures import curves, kinds, style
from analysis.paper import published
from analysis.records import RecordError
from analysis.results import Results

ROOT = Path(__file__).parents[2]
STEPS = 40_000
TASKS = ("Hopper-v4", "InvertedPendulum-v4")
PROFILES = ("paper_text", "ppo1_2017_08", "ppo1_2017_07", "ppo2_2018", "modern")
EXPLODES = ("unconstrained", "Hopper-v4", 1)
SHAPES = {
    "one task, one seed": {"variants": ("unconstrained", "clip_0.2"), "environments": TASKS[:1], "seeds": 1},
    "one variant": {"variants": ("clip_0.2", "random"), "environments": TASKS[:1]},
    "quick": {"variants": ("unconstrained", "clip_0.2", "random"), "diverged": {EXPLODES: 0.6}},
    "table 1": {"variants": invented.TABLE_1, "environments": tuple(invented.TASKS), "diverged": {EXPLODES: 0.6}},
    "profiles": {
        "variants": [f"{p}/{o}" for p in PROFILES for o in ("unconstrained", "clip_0.2")],
        "environments": ("HalfCheetah-v4", "Hopper-v4", "Walker2d-v4"),
    },
    "inventions": {"variants": [*(f"setting_{n}" for n in range(13)), "random"], "seeds": 2},
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a shape's dataset once."""
    root = tmp_path_factory.mktemp("shapes")

    def written(shape: str) -> Path:
        place = root / shape
        if not place.exists():
            chosen = {"environments": TASKS, "env_steps": STEPS} | SHAPES[shape]
            invented.write(place, np.random.default_rng(0), **chosen)  # type: ignore[arg-type]
        return place

    return written


@pytest.fixture(scope="session")
def drawn(folder: Callable[[str], Path]) -> Callable[[str], tuple[Results, dict[str, Figure]]]:
    """A shape's results and figures by name, drawn once."""
    done: dict[str, tuple[Results, dict[str, Figure]]] = {}

    def of(shape: str) -> tuple[Results, dict[str, Figure]]:
        if shape not in done:
            results = Results(load(folder(shape)))
            done[shape] = results, {name: figure for name, _, _, figure in kinds.made(results)}
        return done[shape]

    return of


def lines(figure: Figure, colour: str, panel: int = 0, above: float = 1) -> list[Line2D]:
    """Lines of one colour, wider than thin runs and references."""
    return [x for x in figure.axes[panel].lines if same_color(x.get_color(), colour) and x.get_linewidth() > above]


def values(line: Line2D) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def returns_by_bin(results: Results, variant: str, task: str, bins: int) -> np.ndarray:
    """(runs, bins), counted anew from the episodes."""
    rows = results.runs[(results.runs["variant"] == variant) & (results.runs["env"] == task)]
    episodes = results.dataset.read("episodes")
    found = []
    for run in rows["run"]:
        mine = episodes[episodes["run"] == run]
        bin_of = np.ceil(mine["env_step"] / (STEPS / bins)) - 1
        found.append(mine["return"].groupby(bin_of).mean().reindex(range(bins)).to_numpy())
    return np.array(found)


class TestNumbers:
    def test_curves_are_means_of_runs_with_their_t_band(self, drawn) -> None:
        results, made = drawn("quick")
        colours = style.colours(results.variants)
        for panel, task in enumerate(TASKS):
            x, y = values(*lines(made["curves"], colours["clip_0.2"], panel))
            runs = returns_by_bin(results, "clip_0.2", task, len(x))
            np.testing.assert_allclose(x, STEPS * np.arange(1, len(x) + 1) / len(x))
            np.testing.assert_allclose(y, runs.mean(axis=0))
            thin = [v for v in made["curves"].axes[panel].lines if v.get_linewidth() < 0.5]
            shown = [values(v)[1] for v in thin if same_color(v.get_color(), colours["clip_0.2"])]
            np.testing.assert_allclose(shown, runs)
            reach = stats.t.ppf(0.975, 2) * runs.std(axis=0, ddof=1) / np.sqrt(3)
            bands = [
                c
                for c in made["curves"].axes[panel].collections
                if same_color(c.get_facecolor()[0][:3], colours["clip_0.2"])
            ]
            corners = bands[0].get_paths()[0].vertices
            for place in np.flatnonzero(np.isfinite(reach)):
                ends = corners[np.isclose(corners[:, 0], x[place]), 1]
                np.testing.assert_allclose([ends.min(), ends.max()], y[place] + [-reach[place], reach[place]])

    def test_a_reference_is_its_mean_score(self, drawn) -> None:
        results, made = drawn("quick")
        for panel, task in enumerate(TASKS):
            (line,) = lines(made["curves"], style.REFERENCES["random"].colour, panel, above=0)
            np.testing.assert_allclose(line.get_ydata(), results.raw["random"][task].mean())

    def test_a_mean_ends_where_its_first_run_ends(self, drawn) -> None:
        _, made = drawn("quick")
        x, y = values(*lines(made["curves"], "black"))
        assert x[np.isfinite(y)].max() == pytest.approx(0.6 * STEPS, abs=STEPS / len(x))
        x, y = values(*lines(made["efficiency"], "black"))
        assert x[np.isfinite(y)].max() <= 0.6 * STEPS

    def test_gaps_are_not_bridged(self, folder) -> None:
        results = Results(load(folder("quick")))
        x = np.linspace(0, STEPS, 11)[1:]
        gap = np.where(np.arange(10) == 4, np.nan, np.arange(10.0))
        results.__dict__["curves"] = {
            task: Curves(x, {"clip_0.2": np.array([np.arange(10.0), gap]), "unconstrained": np.ones((2, 10))})
            for task in TASKS
        }
        blue = style.colours(results.variants)["clip_0.2"]
        for name, figure in (("curves", curves.curves(results)), ("efficiency", curves.efficiency(results))):
            assert np.flatnonzero(np.isnan(values(*lines(figure, blue))[1])).tolist() == [4], name

    def test_efficiency_is_the_mean_of_normalised_curves(self, drawn) -> None:
        results, made = drawn("quick")
        x, y = values(*lines(made["efficiency"], style.colours(results.variants)["clip_0.2"]))
        expected = []
        for task in TASKS:
            bins = len(results.curves[task].env_steps)
            curve = returns_by_bin(results, "clip_0.2", task, bins).mean(axis=0)
            middle = (np.arange(bins) + 0.5) / bins
            pooled = [curve[(low <= middle) & (middle < low + 1 / len(x))].mean() for low in np.arange(len(x)) / len(x)]
            zero, one = results.raw["random"][task].mean(), max(results.raw[v][task].mean() for v in results.trained)
            expected.append((np.array(pooled) - zero) / (one - zero))
        np.testing.assert_allclose(y, np.mean(expected, axis=0))

    def test_profile_is_the_share_of_runs_above_tau(self, drawn) -> None:
        results, made = drawn("quick")
        x, y = values(*lines(made["profile"], style.colours(results.variants)["clip_0.2"]))
        runs = np.concatenate(results.cells("clip_0.2"))
        np.testing.assert_allclose(y, [(runs > tau).mean() for tau in x])

    def test_intervals_show_mean_runs_interval_and_the_paper(self, drawn) -> None:
        results, made = drawn("table 1")
        axis = made["intervals"].axes[0]
        names = [label.get_text() for label in axis.get_yticklabels()]
        printed = published.table1()["score"]
        for row, variant in enumerate(names):
            means = [v.get_xdata()[0] for v in axis.lines if v.get_markersize() == 5 and v.get_ydata()[0] == row]
            assert means == [pytest.approx(np.mean([cell.mean() for cell in results.cells(variant)]))]
            thick = [v for v in axis.lines if v.get_linewidth() == 2.2 and v.get_ydata()[0] == row]
            np.testing.assert_allclose(thick[0].get_xdata(), results.intervals[variant][:2])
            below = [v for v in axis.lines if row < v.get_ydata()[0] < row + 1]
            thin = next(v for v in below if v.get_linestyle() == "-")
            np.testing.assert_allclose(thin.get_xdata(), np.quantile(results.reruns[variant], [0.025, 0.975]))
            paper = next(v for v in below if v.get_marker() == "D")
            assert paper.get_xdata()[0] == printed[variant]
            assert axis.get_xlim()[0] < printed[variant] < axis.get_xlim()[1]

    def test_heatmap_prints_means_with_contrast(self, drawn) -> None:
        results, made = drawn("table 1")
        axis = made["heatmap"].axes[0]
        mesh = axis.collections[0]
        faces = mesh.get_facecolor() if mesh.get_facecolor().size > 4 else mesh.to_rgba(mesh.get_array().ravel())
        for text in axis.texts:
            column, row = (int(place) for place in text.get_position())
            variant = results.variants[row]
            cells = [results.normalised[variant][task].mean() for task in results.environments]
            assert text.get_text() == style.number([*cells, np.mean(cells)][column])
            ink, paper = (
                luminance(style.matplotlib.colors.to_rgb(text.get_color())),
                luminance(faces[row * 8 + column][:3]),
            )
            assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 3, text.get_text()

    def test_multiverse_shows_means_and_counts_wins(self, drawn) -> None:
        results, made = drawn("profiles")
        axis = made["multiverse"].axes[0]
        assert [label.get_text() for label in axis.get_xticklabels()] == list(PROFILES)
        mean = {v: results.raw[v]["HalfCheetah-v4"].mean() for v in results.variants}
        for line, name in zip(axis.lines, ("unconstrained", "clip_0.2"), strict=True):
            np.testing.assert_allclose(line.get_ydata(), [mean[f"{profile}/{name}"] for profile in PROFILES])
        wins = sum(
            results.raw[f"{p}/clip_0.2"][e].mean() > results.raw[f"{p}/unconstrained"][e].mean()
            for p in PROFILES
            for e in results.environments
        )
        said = next(caption for name, _, caption, _ in kinds.made(results) if name == "multiverse")
        assert f"in {max(wins, 15 - wins)} of 15 pairs" in said


def luminance(rgb: np.ndarray) -> float:
    linear = np.where(np.asarray(rgb) <= 0.04045, np.asarray(rgb) / 12.92, ((np.asarray(rgb) + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


class TestOutliers:
    def test_an_explosion_does_not_flatten_the_others_and_is_named(self, drawn) -> None:
        results, made = drawn("quick")
        axis = made["curves"].axes[0]
        lowest = np.nanmin(results.curves["Hopper-v4"].runs["unconstrained"])
        top = max(np.nanmax(runs) for runs in results.curves["Hopper-v4"].runs.values())
        low, high = axis.get_ylim()
        assert lowest < -10_000 < -2_000 < low
        assert top < high < 2 * top
        assert f"↓ unconstrained to {style.number(lowest)}" in [text.get_text() for text in axis.texts]
        assert not made["curves"].axes[1].texts

    def test_one_far_above_is_no_outlier(self) -> None:
        runs = [style.Shown(np.array([50.0, 60.0]))] * 5 + [style.Shown(np.array([50.0, 8000.0]))]
        low, high = style.limits(runs)
        assert low < 50 and high > 8000

    def test_half_may_explode(self) -> None:
        good, bad = style.Shown(np.array([0.0, 1500.0])), style.Shown(np.array([0.0, -3e5]), np.array([-9e9, 9e9]))
        low, high = style.limits([bad, good])
        assert low > -200 and high < 1700

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0.824, "0.82"), (-0.001, "0.00"), (-0.39, "−0.39"), (1534.4, "1534"), (-299_600, "−300k"), (1.6e6, "2M")],
    )
    def test_numbers_are_short(self, value: float, text: str) -> None:
        assert style.number(value) == text


class TestStyle:
    def test_colours_do_not_depend_on_what_else_is_drawn(self) -> None:
        whole = style.looks(invented.TABLE_1)
        assert len(set(whole.values())) == len(whole)
        for size in (1, 2, 6):
            for some in itertools.islice(itertools.combinations(invented.TABLE_1, size), 50):
                assert style.looks(some) == {variant: whole[variant] for variant in some}

    def test_colours_are_those_of_every_legend(self, drawn) -> None:
        results, made = drawn("table 1")
        colours = style.colours(results.variants)
        for name in ("curves", "efficiency", "profile"):
            legends = [axis.get_legend() for axis in made[name].axes if axis.get_legend()]
            legends += made[name].legends
            seen = {
                t.get_text(): h.get_color() for g in legends for t, h in zip(g.get_texts(), g.get_lines(), strict=True)
            }
            assert set(seen) >= set(results.trained)
            assert seen == {variant: colours[variant] for variant in seen}

    def test_families_go_from_light_to_dark(self) -> None:
        colours = style.colours(invented.TABLE_1)
        for family in ("clip", "kl_adaptive", "kl_fixed"):
            shades = [luminance(style.to_rgb(c)) for v, c in colours.items() if v.startswith(family)]
            assert all(light > 1.25 * dark for light, dark in itertools.pairwise(shades))

    def test_inventions_are_told_apart(self) -> None:
        names = [f"setting_{number}" for number in range(20)]
        assert len(set(style.looks(names).values())) == 20

    def test_a_prefix_is_a_panel_and_not_a_colour(self) -> None:
        names = [f"{profile}/{name}" for profile in PROFILES for name in ("unconstrained", "clip_0.2")]
        assert [group.title for group in style.groups(names)] == list(PROFILES)
        assert style.colours(names)["modern/clip_0.2"] == style.colours(["clip_0.2"])["clip_0.2"]
        alone = style.looks(["a/clip_0.2", "b/clip_0.2"])
        assert len(set(alone.values())) == 2


class TestChoice:
    PERMITTED = {
        "one task, one seed": ["curves", "intervals", "heatmap"],
        "one variant": ["curves", "intervals"],
        "quick": ["curves", "efficiency", "profile", "intervals", "heatmap"],
        "profiles": ["curves", "intervals", "heatmap", "multiverse"],
    }

    @pytest.mark.parametrize("shape", PERMITTED)
    def test_a_dataset_gets_what_it_permits(self, shape: str, drawn) -> None:
        assert list(drawn(shape)[1]) == self.PERMITTED[shape]

    def test_a_study_chooses(self, folder) -> None:
        results = Results(load(folder("quick")))
        results.dataset.note["study"]["figures"] = ["heatmap", "multiverse"]
        assert [name for name, *_ in kinds.made(results)] == ["heatmap"]

    def test_an_unknown_name_is_one_sentence(self, folder) -> None:
        results = Results(load(folder("quick")))
        results.dataset.note["study"]["figures"] = ["curve"]
        with pytest.raises(RecordError, match="no figure curve; choose among curves, efficiency, profile"):
            next(kinds.made(results))

    def test_raw_scores_say_why(self, folder) -> None:
        results = Results(load(folder("one task, one seed")))
        said = {name: caption for name, _, caption, _ in kinds.made(results)}
        assert results.why_raw in said["intervals"] and results.why_raw in said["heatmap"]
        assert "interval" not in said["intervals"]

    def test_tasks_with_more_seeds_than_others_are_told_apart(self, tmp_path: Path) -> None:
        """Ten runs on one task are a band, three on the other are lines; the caption says both."""
        missing = [(variant, "Hopper-v4", seed) for variant in ("clip_0.2", "random") for seed in range(3, 10)]
        invented.write(
            tmp_path / "d", np.random.default_rng(0), ("clip_0.2", "random"), ("HalfCheetah-v4", "Hopper-v4"), 10,
            STEPS, missing=missing,
        )  # fmt: skip
        _, _, caption, figure = next(kinds.made(Results(load(tmp_path / "d"))))
        bands, thin = zip(
            *((len(axis.collections), sum(line.get_lw() == 0.4 for line in axis.lines)) for axis in figure.axes),
            strict=True,
        )
        assert (bands, thin) == ((1, 1), (0, 3))
        assert "over 3 to 10 runs per variant and task. Thin lines are the runs, where they are fewer" in caption
        assert "Bands are 95% t intervals" in caption

    def test_incomplete_variants_are_named(self, tmp_path: Path) -> None:
        missing = [("clip_0.3", "Hopper-v4", seed) for seed in range(2)]
        names = ("clip_0.1", "clip_0.2", "clip_0.3", "random")
        invented.write(tmp_path / "d", np.random.default_rng(0), names, TASKS, 2, STEPS, missing=missing)
        made = {name: (caption, figure) for name, _, caption, figure in kinds.made(Results(load(tmp_path / "d")))}
        assert "Left out, for want of runs on every task: clip_0.3." in made["efficiency"][0]
        texts = {text.get_position(): text.get_text() for text in made["heatmap"][1].axes[0].texts}
        assert texts[0.5, 2.5] == texts[2.5, 2.5] == "–" != texts[1.5, 2.5]


class TestLegible:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_no_text_overlaps_another_or_leaves_the_canvas(self, shape: str, drawn) -> None:
        for name, figure in drawn(shape)[1].items():
            assert_legible(name, figure)


RENDER = """
import sys
from pathlib import Path
from analysis.figures import kinds, style
from analysis.dataset import load
from analysis.results import Results
for folder in sys.argv[2:]:
    for name, _, caption, figure in kinds.made(Results(load(Path(folder)))):
        (Path(sys.argv[1]) / f"{Path(folder).name}-{name}.txt").write_text(caption)
        style.save(figure, Path(sys.argv[1]) / f"{Path(folder).name}-{name}")
assert "matplotlib.pyplot" not in sys.modules
"""


def test_two_renders_are_the_same_bytes(folder, tmp_path: Path) -> None:
    processes = []
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        command = [
            sys.executable,
            "-c",
            RENDER,
            tmp_path / seed,
            folder("profiles"),
            folder("quick"),
        ]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}))
    assert [process.wait() for process in processes] == [0, 0]
    first, second = (sorted(path.glob("*")) for path in (tmp_path / "1", tmp_path / "2"))
    assert [path.name for path in first] == [path.name for path in second]
    assert sum(path.suffix in (".png", ".pdf") for path in first) == 18
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
        assert not re.search(rb"Matplotlib|CreationDate|Type3", a.read_bytes()), a.name
