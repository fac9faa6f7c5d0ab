"""A verdict about an idea: by hand, by SciPy, by simulation, and as a user asks for it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis import verdict
from analysis.dataset import load
from analysis.verdict import Difference, difference, level_of
from tests.analysis.invented import write

ZERO = {"a": 0.0, "b": -10.0}


def test_one_task_is_welchs_test_of_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(2.5, 1, 8), rng.normal(2, 0.5, 12)
    found = difference({"a": x}, {"a": y}, {"a": 1.0}, 0.975)
    span = y.mean() - 1.0
    theirs = stats.ttest_ind((x - 1) / span, (y - 1) / span, equal_var=False).confidence_interval(0.975)
    np.testing.assert_allclose((found.low, found.high), theirs)
    assert found.difference == pytest.approx((x.mean() - y.mean()) / span)
    assert found.above == pytest.approx(stats.mannwhitneyu(x, y).statistic / 96)


def test_tasks_weigh_the_same_whatever_their_unit_and_number_of_seeds() -> None:
    x = {"a": np.array([3.0, 3.0, 3.0]), "b": np.array([0.0, 10.0, -10.0, 0.0])}
    y = {"a": np.array([2.0, 2.0, 2.0]), "b": np.array([10.0, 10.0, 10.0])}
    found = difference(x, y, ZERO, 0.95)  # a: (3 − 2) / 2; b: (0 − 10) / 20
    assert found.difference == pytest.approx((0.5 - 0.5) / 2)
    assert found.low < 0 < found.high


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.5, "BETTER"),
        (0.001, 0.02, "BETTER"),
        (-0.5, -0.01, "WORSE"),
        (-0.09, 0.09, "SAME"),
        (-0.11, 0.05, "INCONCLUSIVE"),
        (-0.05, 0.11, "INCONCLUSIVE"),
        (-1.0, 1.0, "INCONCLUSIVE"),
    ],
)
def test_the_interval_decides(low: float, high: float, word: str) -> None:
    assert Difference((low + high) / 2, low, high, 0.5).verdict(0.1) == word


@pytest.mark.parametrize(
    ("seeds", "level"), [(3, 0.975), (10, 0.975), (19, 0.975), (20, 0.9875), (39, 0.9875), (40, 0.99375)]
)
def test_every_doubling_of_seeds_spends_half_of_what_is_left(seeds: int, level: float) -> None:
    assert level_of(seeds) == pytest.approx(level)


def test_who_looks_after_every_doubling_errs_in_at_most_one_of_twenty() -> None:
    """Of 1 000 ideas that change nothing: looks at 10, 20 and 40 seeds until one says BETTER or WORSE."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(1000):
        x, y = ({task: rng.gamma(2, 1, 40) for task in "ab"} for _ in range(2))
        words = [
            difference({t: r[:n] for t, r in x.items()}, {t: r[:n] for t, r in y.items()}, ZERO, level_of(n)).verdict(
                0.1
            )
            for n in (10, 20, 40)
        ]
        wrong += bool({"BETTER", "WORSE"} & {*words})
    assert 5 <= wrong <= 60  # 50 if all of the error were spent; three standard deviations are 21


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    variants = ("unconstrained", "clip_0.2", "random")
    return write(tmp_path_factory.mktemp("made") / "idea", np.random.default_rng(5), variants, seeds=4)


Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = verdict.main([str(each) for each in (*arguments, "--records", tmp_path)])
        return code, *capsys.readouterr()

    return call


def test_a_verdict_says_what_was_compared(dataset: Path, said: Said, tmp_path: Path) -> None:
    code, out, _ = said(dataset, "--candidate", "unconstrained", "--reference", "clip_0.2")
    word = out.splitlines()[0].removeprefix("## ").partition(":")[0]
    assert code == {"BETTER": 0, "SAME": 0, "WORSE": 1, "INCONCLUSIVE": 4}[word]
    assert "unconstrained of idea against clip_0.2 of idea" in out
    assert 'algo.epsilon null, reference 0.2; algo.objective "unconstrained", reference "clip"' in out
    assert "Hopper-v4, InvertedPendulum-v4 (200,000 env steps)" in out
    assert "score on Hopper-v4" in out and "area under the curve on InvertedPendulum-v4" in out
    folder = tmp_path / "verdicts" / "idea-unconstrained-clip_0.2"
    assert (folder / "summary.md").read_text() in out
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_logs_of_one_name_are_two_sources(said: Said, tmp_path: Path) -> None:
    """As datasets and as CSV they give the same rows, areas under the curves too: each is collected for itself."""
    rng = np.random.default_rng(8)
    made = [write(tmp_path / place / "idea", rng, ("clip_0.2", "random"), seeds=4) for place in ("a", "b")]
    asked = ("--candidate", "clip_0.2", "--reference", "clip_0.2", "--against")
    (_, there, _), (_, here, _) = said(made[0], *asked, made[1]), said(as_csv(made[0]), *asked, as_csv(made[1]))
    both = [[line.split("|")[2].strip().replace("−", "-") for line in text.splitlines() if line.startswith("| area")]
            for text in (there, here)]  # fmt: skip
    expected, found = ([*map(float, each)] for each in both)
    assert len(expected) == 2 and min(map(abs, expected)) > 0.05
    np.testing.assert_allclose(found, expected, atol=0.02)  # a log's budget is its last episode's end, so bins move


def as_csv(folder: Path) -> str:
    """The episodes of a dataset as a source of another library's."""
    dataset = load(folder)
    episodes = dataset.read("episodes").astype({"run": str})
    runs = dataset.runs[["run", "variant", "env", "seed"]]
    episodes.merge(runs, on="run").drop(columns="run").to_csv(folder / "mine.csv", index=False)
    return f"csv:{folder / 'mine.csv'}"


def test_the_reversed_question_has_the_reversed_answer(dataset: Path, said: Said) -> None:
    first, second = (
        said(dataset, "--candidate", one, "--reference", other)[1].splitlines()[0]
        for one, other in (("unconstrained", "clip_0.2"), ("clip_0.2", "unconstrained"))
    )
    reverse = {"BETTER": "WORSE", "WORSE": "BETTER", "INCONCLUSIVE": "INCONCLUSIVE", "SAME": "SAME"}
    assert reverse[first.split()[1].rstrip(":")] == second.split()[1].rstrip(":")


def test_a_variant_is_compared_with_its_equal_from_another_source(dataset: Path, said: Said, tmp_path: Path) -> None:
    other = shutil.copytree(dataset, tmp_path / "theirs")
    _, out, _ = said(dataset, "--candidate", "clip_0.2", "--reference", "clip_0.2", "--against", other)
    assert "| mean over tasks | 0.00 |" in out
    assert "probability 0.50" in out
    assert "clip_0.2 of idea against clip_0.2 of theirs" in out
    assert "what differs: no setting" in out
    assert f"0 is the random policy of {other}" in out


def test_runs_that_diverged_are_counted_and_have_their_tasks_worst_score(said: Said, tmp_path: Path) -> None:
    dead = {("unconstrained", "Hopper-v4", seed): 0.5 for seed in range(4)}
    made = write(tmp_path / "dead", np.random.default_rng(5), seeds=4, diverged=dead)
    _, out, _ = said(made, "--candidate", "unconstrained", "--reference", "clip_0.2")
    assert "diverged: 4 of 8 of the candidate's runs, 0 of 8 of the reference's" in out
    (row,) = [line for line in out.splitlines() if line.startswith("| score on Hopper-v4")]
    assert float(row.split("|")[2].replace("−", "-")) < 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--candidate", "clip_0.3", "--reference", "clip_0.2"], "no runs of clip_0.3; it has clip_0.2, random, uncon"),
        (["--candidate", "clip_0.2", "--reference", "clip_0.2"], "the same runs; name two variants, or two sources"),
        (["--candidate", "clip_0.2", "--reference", "unconstrained", "--margin", "2"], "between 0 and 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(
    dataset: Path, said: Said, arguments: list[str], words: str
) -> None:
    code, out, err = said(dataset, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and words in err and err.count("\n") == 1


def test_other_budgets_other_tasks_and_few_seeds_are_refused(dataset: Path, said: Said, tmp_path: Path) -> None:
    asked = ("--candidate", "clip_0.2", "--reference", "clip_0.2", "--against")
    shorter = write(tmp_path / "shorter", np.random.default_rng(5), ("clip_0.2",), env_steps=100_000)
    assert (
        "Hopper-v4: runs of 100,000 and of 200,000 env steps; train both sides as long"
        in said(dataset, *asked, shorter)[2]
    )
    elsewhere = write(tmp_path / "elsewhere", np.random.default_rng(5), ("clip_0.2",), ("Reacher-v4",))
    assert "they have no task in common" in said(dataset, *asked, elsewhere)[2]
    few = write(tmp_path / "few", np.random.default_rng(5), ("clip_0.2",), seeds=2)
    assert "fewer than 3 seeds with a score" in said(dataset, *asked, few)[2]
