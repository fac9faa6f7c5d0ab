"""What a user gets without writing code: a study of their own, and Stable-Baselines3 beside it."""

import csv
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pandas as pd
import pytest
import stable_baselines3
from stable_baselines3.common.monitor import Monitor

STUDY = """
env_steps: 8_192
seeds: [0, 1, 2]
environments: [cartpole]
variants:
  cautious: [algo=clip, algo.epsilon=0.05]
  short-sighted: [algo=clip, algo.epsilon=0.2, algo.gae_lambda=0.5]
"""


def command(module: str, *words: object) -> str:
    done = subprocess.run([sys.executable, "-m", module, *map(str, words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of the study above, trained by the command."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "conf" / "study").mkdir(parents=True)
    (folder / "conf" / "study" / "mine.yaml").write_text(STUDY)
    records = folder / "records"
    command(
        "experiments.study", f"--config-dir={folder / 'conf'}", "study=mine", f"records={records}",
        "profile.horizon=512", "tracking=none",
    )  # fmt: skip
    return records


def last_100(records: Path, variant_epsilon: str) -> list[float]:
    """The scores of a variant's runs, by the csv module alone."""
    scores = []
    for file in sorted(records.glob(f"runs/*/*clip_{variant_epsilon}*/attempt-1/episodes.csv")):
        returns = [float(row["return"]) for row in csv.DictReader(file.open())]
        scores.append(float(np.mean(returns[-100:])))
    return scores


def test_a_study_of_ones_own(records: Path) -> None:
    said = command("analysis.report", "mine", "--records", records)
    report = records / "reports" / "mine"
    assert said.splitlines()[-1] == str(report / "index.html")
    raw = pd.read_csv(report / "tables" / "raw.csv").set_index("variant")
    assert sorted(raw.index) == ["cautious", "short-sighted"]
    for variant, epsilon in (("cautious", "0.05"), ("short-sighted", "0.2")):
        assert raw.loc[variant, "mean"] == pytest.approx(np.mean(last_100(records, epsilon)))
        assert raw.loc[variant, "runs"] == 3
    assert (report / "figures" / "curves.pdf").stat().st_size > 5000
    page = (report / "index.html").read_text()
    assert "Against cautious" in page
    assert "study=mine" in page


def test_beside_stable_baselines3(records: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = tmp_path / "logs" / f"seed{seed}"
        folder.mkdir(parents=True)
        environment = Monitor(gymnasium.make("CartPole-v1"), str(folder / "0.monitor.csv"))
        stable_baselines3.PPO("MlpPolicy", environment, n_steps=512, seed=seed, device="cpu").learn(4096)
    dataset, report = tmp_path / "dataset", tmp_path / "report"
    command("analysis.collect", "mine", f"sb3:{tmp_path / 'logs'}", "--records", records, "--out", dataset)
    said = command("analysis.report", dataset, "--out", report)
    raw = pd.read_csv(report / "tables" / "raw.csv").set_index("variant")
    assert sorted(raw.index) == ["cautious", "sb3", "short-sighted"]
    scores = []
    for file in sorted(tmp_path.glob("logs/*/0.monitor.csv")):
        rows = list(csv.DictReader(file.open().read().splitlines()[1:]))
        scores.append(np.mean([float(row["r"]) for row in rows][-100:]))
    assert raw.loc["sb3", "mean"] == pytest.approx(np.mean(scores))
    assert raw.loc["sb3", "runs"] == 2
    assert "short-sighted" in said or "Raw scores only" in said
    curves = (report / "figures" / "curves.png").read_bytes()
    assert curves.startswith(b"\x89PNG")
