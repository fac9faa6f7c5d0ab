"""Seeds needed agree with textbooks and with simulation."""

from pathlib import Path

import numpy as np
import pytest
from pools import dataset, pool

from analysis import power
from analysis.records import RecordError
from analysis.scores import raw_scores
from analysis.statistics import Array, mean


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def with_std(std: float, runs: int = 40, environments: int = 1, seed: int = 0) -> list[Array]:
    """Normal runs whose sample standard deviation is `std`."""
    draws = rng(seed).standard_normal((environments, runs))
    return list(std * (draws - draws.mean(1, keepdims=True)) / draws.std(1, ddof=1, keepdims=True))


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 64), (0.8, 26), (1.0, 17)])
def test_the_textbook_s_numbers(effect: float, seeds: int) -> None:
    """Two groups of equal spread, alpha 0.05, power 0.8 (Cohen 1988, table 2.4.1)."""
    runs = with_std(1)
    assert power.seeds_needed(lambda n: power.power_by_formula(runs, runs, effect, n), 0.8) == seeds


def test_simulation_and_formula_agree_on_normal_runs() -> None:
    a, b = with_std(1, 200, 3), with_std(2, 200, 3, seed=1)
    for seeds in (4, 10, 25):
        formula = power.power_by_formula(a, b, 1, seeds)
        assert power.power_by_simulation(a, b, 1, seeds, rng()) == pytest.approx(formula, abs=0.04)


def test_without_difference_power_is_alpha() -> None:
    runs = with_std(1, 200)
    assert power.power_by_formula(runs, runs, 1e-9, 10, alpha=0.1) == pytest.approx(0.1)
    assert power.power_by_simulation(runs, runs, 0, 10, rng(), alpha=0.1) == pytest.approx(0.1, abs=0.03)


def test_more_environments_need_fewer_seeds() -> None:
    one, seven = (power.plan(with_std(1, 40, n), with_std(1, 40, n), rng(), 0.5) for n in (1, 7))
    assert seven.seeds_by_formula == pytest.approx(64 / 7, abs=1.5)
    assert one.seeds_by_simulation == pytest.approx(64, abs=6)
    assert one.power < 0.8 < seven.power


def test_where_runs_collapse_the_formula_is_too_hopeful() -> None:
    steady, risky = [rng().standard_normal(10)], [np.array([0.0] * 9 + [-10.0])]
    found = power.plan(steady, risky, rng(), 2.0)
    assert found.seeds_by_formula is not None
    assert found.seeds_by_simulation is not None
    assert found.seeds_by_formula < found.seeds_by_simulation < 1.5 * found.seeds_by_formula


def test_what_no_number_of_seeds_shows() -> None:
    runs = with_std(1)
    assert power.plan(runs, runs, rng(), 0.01).seeds_by_formula is None
    assert power.plan(runs, runs, rng(), 0.01).seeds_by_simulation is None
    with pytest.raises(RecordError, match="difference of 0"):
        power.plan(runs, runs, rng())


def test_without_spread_two_seeds_do() -> None:
    solved, half = [np.full(5, 1.0)], [np.full(5, 0.5)]
    assert power.plan(solved, half, rng())[2:] == (1, 2, 2)


def test_the_default_difference_is_the_observed_one() -> None:
    a, b = with_std(1), [runs + 0.7 for runs in with_std(1)]
    assert power.plan(a, b, rng()).difference == pytest.approx(float(mean(b)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset(tmp_path_factory.mktemp("power") / "dataset", pool({"clip_0.2": 0.8, "kl_fixed_1": 0.6}, 10))


class TestCommand:
    def test_a_row_per_environment_and_their_mean(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert power.main([str(folder), "--variants", "clip_0.2", "kl_fixed_1"]) == 0
        said = capsys.readouterr().out
        assert "mean over environments" in said
        assert "observed" in said
        assert said.count("-v4") == 7

    def test_differences_are_shares_of_the_baseline_s_span(self) -> None:
        raw = raw_scores(pool({"a": 0.5, "b": 0.4}, 50))
        a = power.selected(raw, ["a", "b"], None, in_returns=False)["a"]
        assert [runs.mean() for runs in a.values()] == pytest.approx([1] * 7)
        assert np.mean([runs.std(ddof=1) for runs in a.values()]) == pytest.approx(0.15 / 0.5, rel=0.1)

    def test_returns_are_not_averaged_over_environments(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = [str(folder), "--variants", "clip_0.2", "clip_0.2", "--raw", "--difference", "500"]
        assert power.main([*command, "--environments", "Hopper-v4", "Walker2d-v4"]) == 0
        said = capsys.readouterr().out
        assert "mean over" not in said
        assert said.count("-v4") == 2

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--variants", "clip_0.2", "clip"], "no run of clip; there are clip_0.2"),
            (["--variants", "clip_0.2", "kl_fixed_1", "--power", "1.5"], "probabilities"),
            (["--variants", "clip_0.2", "clip_0.2"], "difference of 0"),
            (["--variants", "clip_0.2", "kl_fixed_1", "--difference", "nan"], "difference of nan cannot be seen"),
            (["--variants", "clip_0.2", "kl_fixed_1", "--difference", "inf"], "difference of inf cannot be seen"),
            (["--variants", "clip_0.2", "kl_fixed_1", "--environments", "Ant-v4"], "no run on Ant-v4; there"),
            (["--variants", "clip_0.2", "kl_fixed_1", "--profile", "mine"], "choose one profile of ppo1_2017_08"),
        ],
    )
    def test_mistakes_are_one_sentence(
        self, folder: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert power.main([str(folder), *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert says in error
        assert len(error.splitlines()) == 1
