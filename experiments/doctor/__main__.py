"""What this machine offers, one line per check: what was found, and the cure where something is not.

python -m experiments.doctor [--records DIR]

`missing` is what training needs (exit code 1), `note` what it can do without.
"""

import argparse
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.doctor import checks, surroundings
from experiments.doctor.checks import Finding

WIDTH = 120  # columns

CHECKS: tuple[Callable[[], Finding], ...] = (
    checks.python, checks.packages, checks.backends, checks.mujoco, checks.gpu, checks.compiler, checks.rendering,
    checks.pygame, surroundings.cores, surroundings.wandb, surroundings.slurm,
)  # fmt: skip

NEEDED = ("python", "packages", "backends", "records")
"""The checks without which there is no training."""


def examine(chosen: Mapping[str, Callable[[], Finding]]) -> dict[str, Finding]:
    """All checks at once; one that itself fails becomes a line, `missing` if training needs what it looked for."""

    def guarded(name: str) -> Finding:
        try:
            return chosen[name]()
        except Exception as error:
            said = f"the check itself failed: {type(error).__name__}: {error}"
            return Finding("missing" if name in NEEDED else "note", said)

    with ThreadPoolExecutor(len(chosen)) as pool:
        return dict(zip(chosen, pool.map(guarded, chosen), strict=True))


def table(findings: Mapping[str, Finding]) -> str:
    """One line per finding, its cure below, at most 120 columns; the last line is the verdict."""
    margin = " " * (max(map(len, findings)) + 11)
    lines = []
    for name, finding in findings.items():
        lines += wrapped(f"{name:<{len(margin) - 9}}{finding.status:<9}{finding.found}", margin)
        lines += wrapped(f"{margin}→ {finding.cure}", f"{margin}  ") if finding.cure else []
    absent = [name for name, finding in findings.items() if finding.status == "missing"]
    verdict = f"training cannot run here: {', '.join(absent)}" if absent else "training can run here"
    return "\n".join([*lines, "", verdict])


def wrapped(text: str, margin: str) -> list[str]:
    """Lines of at most 120 columns; what can be typed stays whole."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.doctor", description="What this machine offers.")
    parser.add_argument("--records", type=Path, default=Path("records"), help="folder of records (default: records)")
    folder = parser.parse_args(arguments).records.absolute()
    if sys.stderr.isatty():
        print("examining this machine; a trial compilation takes about 20 s", file=sys.stderr)
    here = {"records": lambda: surroundings.records(folder), "space": lambda: surroundings.space(folder)}
    findings = examine({check.__name__: check for check in CHECKS} | here)
    print(table(findings))
    return int(any(finding.status == "missing" for finding in findings.values()))


if __name__ == "__main__":
    sys.exit(main())
