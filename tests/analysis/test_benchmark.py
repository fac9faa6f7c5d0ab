"""What the benchmark of analysis invents is what analysis reads."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import benchmark
from analysis.collect import collect
from experiments.records.schema import COLUMNS


def test_invented_records_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "DISTINCT_SEEDS", 1)
    monkeypatch.setattr(benchmark, "BUDGET", benchmark.BUDGET_UNTRAINED)
    count = benchmark.invent(tmp_path / "records", 1, np.random.default_rng(0))
    runs = collect([str(tmp_path / "records")], tmp_path / "records", tmp_path / "dataset", [])
    assert len(runs) == count and runs["score"].notna().all()
    for name, columns in COLUMNS.items():
        table = pd.read_csv(next((tmp_path / "records" / "attempts").glob(f"*/{name}")))
        assert list(table) == list(columns)
