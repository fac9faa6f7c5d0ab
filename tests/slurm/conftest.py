"""These tests need a SLURM: `make test-slurm` brings one up and sets PPO_TEST_SLURM. Anywhere else they are skipped."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm.submitted import Submitted


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PPO_TEST_SLURM" not in os.environ:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip("needs a SLURM: make test-slurm"))


@pytest.fixture
def submitted(tmp_path: Path) -> Iterator[Callable[..., Submitted]]:
    """Makes a study, by its name and settings; nothing of it is left on the cluster afterwards."""
    made: list[Submitted] = []

    def make(name: str, **settings: str) -> Submitted:
        made.append(Submitted(tmp_path, name, **settings))
        return made[-1]

    yield make
    for study in made:
        study.clean_up()
