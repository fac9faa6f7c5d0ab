"""No test depends on how fast this machine is today."""

import re
from pathlib import Path

from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent
LEAST_PATIENCE = 100  # seconds; what waits for another process waits so long at least, and fails no sooner


def test_examples_of_properties_have_no_deadline_and_are_the_same_each_time() -> None:
    assert settings.default is not None
    assert settings.default.deadline is None and settings.default.derandomize
    assert HealthCheck.too_slow in settings.default.suppress_health_check


def test_whoever_waits_is_patient() -> None:
    """A time limit is for what hangs; under load, a start of Python takes a minute."""
    found = []
    for path in sorted(HERE.rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            limits = re.findall(r"(?:\btimeout=|\.wait\(|\bseconds: float = |deadline=)([0-9.]+)", line)
            found += [f"{path.name}:{number}: {line.strip()}" for limit in limits if float(limit) < LEAST_PATIENCE]
    assert found == []
