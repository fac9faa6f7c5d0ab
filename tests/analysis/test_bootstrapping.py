"""The drawing of bootstrapping: its numbers against sums written out here, its words, and the same bytes each time."""

import csv
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from legible import assert_legible
from matplotlib.figure import Figure

from analysis.figures import bootstrapping, style
from analysis.records import RecordError

ROOT = Path(__file__).parents[2]
FILE = ROOT / "analysis" / "road" / "rollout.csv"
GAMMA, LAMBDA = 0.99, 0.95
FALL, LIMIT, LAST = 309, 809, 1023  # the last env steps before the first fall, the time limit, and the rollout's end


@pytest.fixture(autouse=True)
def look() -> None:
    style.use()


def lines() -> list[dict[str, float]]:
    with FILE.open() as file:
        next(file)
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def n_step(rows: list[dict[str, float]], t: int, n: int) -> float:
    """n rewards, then V: fewer where the pole falls, and then no V."""
    total = 0.0
    for k in range(n):
        total += GAMMA**k * rows[t + k]["reward"]
        if rows[t + k]["terminated"]:
            return total
    return total + GAMMA**n * rows[t + n - 1]["next_value"]


def gae(rows: list[dict[str, float]], t: int) -> float:
    """Eq. 11 and 12 of the paper as they stand there: the sum of discounted residuals, plus V."""
    total, decay = rows[t]["value"], 1.0
    for row in rows[t:]:
        following = 0.0 if row["terminated"] else row["next_value"]
        total += decay * (row["reward"] + GAMMA * following - row["value"])
        if row["terminated"] or row["truncated"]:
            break
        decay *= GAMMA * LAMBDA
    return total


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_the_committed_rollout_has_one_of_each_cut() -> None:
    rows = lines()
    assert [t for t, row in enumerate(rows) if row["terminated"]] == [FALL]
    assert [t for t, row in enumerate(rows) if row["truncated"]] == [LIMIT]
    assert len(rows) == LAST + 1
    assert {row["reward"] for row in rows} == {1.0}
    assert all(now["next_value"] == after["value"] for now, after in pairwise(rows)
               if not now["terminated"] and not now["truncated"])  # fmt: skip


def test_the_four_estimates_by_hand() -> None:
    rows, figure = lines(), bootstrapping.drawing()
    t = FALL - 40
    wanted = [n_step(rows, t, 41), n_step(rows, t, 5), n_step(rows, t, 1), gae(rows, t)]
    assert wanted[0] == pytest.approx((1 - GAMMA**41) / (1 - GAMMA))
    totals = [text for axis in figure.axes if axis.get_title().startswith("what it") for text in axis.texts]
    assert [text.get_text() for text in totals] == [f"{each:.1f}" for each in wanted]
    (axis,) = {text.axes for text in totals}
    ends = [sum(bar.get_width() for bar in axis.patches if round(bar.get_y() + 0.25) == row) for row in range(4)]
    assert ends == pytest.approx(wanted)
    assert f"now: V = {rows[t]['value']:.1f}" in texts(figure)
    assert "the pole falls" in texts(figure)


def test_every_length_and_place_by_hand() -> None:
    """Where the pole falls, at a time limit, at the rollout's end, and far from all of them."""
    rows, rollout = lines(), bootstrapping.read()
    for t, length in ((FALL, 1), (FALL - 1, 2), (LIMIT, 1), (LIMIT - 6, 7), (LAST, 1), (LAST - 9, 10), (100, 210)):
        estimates = bootstrapping.mixtures(length, LAMBDA)
        found = [bootstrapping.mean_of(rollout, t, weights).total for weights in estimates.values()]
        wanted = [n_step(rows, t, length), n_step(rows, t, min(5, length)), n_step(rows, t, 1), gae(rows, t)]
        assert found == pytest.approx(wanted), t


def test_the_areas_before_each_cut_by_hand() -> None:
    rows, figure = lines(), bootstrapping.drawing()
    cut = {axis.get_title(): axis for axis in figure.axes if axis.get_title().endswith(("follows", "stands in"))}
    for axis, end in zip(cut.values(), (FALL, LIMIT, LAST), strict=True):
        seen, with_v = (collection.get_paths()[0].vertices for collection in axis.collections)
        for t in (end - 79, end - 30, end):
            rewards = sum(GAMMA**k for k in range(end - t + 1))
            assert seen[seen[:, 0] == t][:, 1].max() == pytest.approx(rewards)
            total = n_step(rows, t, end - t + 1)
            assert with_v[with_v[:, 0] == t][:, 1].max() == pytest.approx(total)
            assert total == pytest.approx(rewards) if end == FALL else total > rewards + 20
    assert list(cut) == [
        "The episode is over: nothing follows", "A time limit cuts it: V stands in", "The rollout ends: V stands in",
    ]  # fmt: skip
    assert [word for word in texts(figure) if word.startswith("V = ")] == [
        f"V = {rows[end]['next_value']:.1f}" for end in (LIMIT, LAST)
    ]


def test_every_word_can_be_read() -> None:
    assert_legible("bootstrapping", bootstrapping.drawing())


def test_two_drawings_and_the_committed_one_are_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from analysis.figures import bootstrapping, style; style.use(); "
        "style.save(bootstrapping.drawing(), Path(sys.argv[1]), ['png'])"
    )
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, str(tmp_path / seed)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": seed}, cwd=ROOT)
    first, second = ((tmp_path / f"{seed}.png").read_bytes() for seed in ("1", "2"))
    assert first == second
    stored = ROOT / "analysis" / "pictures" / "bootstrapping.png"
    assert stored.read_bytes() == first, "bootstrapping.png is of other numbers: run analysis.pictures"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("nonsense", "run"),
        ("# run=A-clip.s0 env_steps=1 gamma=0.9 gae_lambda=0.9\nt,reward\n0,1\n", "value"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "other.csv").write_text(content)
    with pytest.raises(RecordError, match=f"no rollout that experiments.rollout_numbers wrote: .*{words}"):
        bootstrapping.drawing(tmp_path / "other.csv")


def test_a_rollout_without_a_time_limit_is_refused(tmp_path: Path) -> None:
    short = FILE.read_text().splitlines()[: 2 + 500]
    (tmp_path / "short.csv").write_text("\n".join(short))
    with pytest.raises(RecordError, match="cannot show “A time limit cuts it"):
        bootstrapping.drawing(tmp_path / "short.csv")
