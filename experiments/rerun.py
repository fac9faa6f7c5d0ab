"""Make one run again, alone, and compare: python -m experiments.rerun RUN; exit code 0 only if the bytes are equal.

The record is left as it is; the new run goes to a scratch folder. Equal bytes are promised on the same machine, with
the same versions and code (numerics=exact), whatever pack the record's run was trained in.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from experiments.commands import command
from experiments.compose import NamedRun
from experiments.files import read_json
from experiments.identity import code_id, run_id
from experiments.jobs.progress import Progress
from experiments.manifest import config_from
from experiments.records.find import find_run
from experiments.records.provenance import task_code
from experiments.records.record import PROMISED, Record, check_task, read_done
from experiments.runner import Interrupted, train_runs
from ppo.refusals import UserError


def differences(one: Path, other: Path) -> list[str]:
    """One sentence per promised file that differs: its first differing line."""
    found = []
    for name in PROMISED:
        left, right = (lines_of(folder / name) for folder in (one, other))
        pairs = zip(left, right, strict=False)
        first = next((n for n, (a, b) in enumerate(pairs, 1) if a != b), min(len(left), len(right)) + 1)
        if left != right:
            there, here = (lines[first - 1] if first <= len(lines) else "nothing" for lines in (left, right))
            found.append(f"{name} differs first in line {first}: {there} in the record, {here} now")
    return found


def lines_of(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); there is nothing to compare with") from error


def rerun(folder: Path) -> list[str]:
    """Train the run of this record again, alone; returns how it differs, nothing if it does not."""
    head = read_json(folder / "config.json")
    if (done := read_done(folder)) is None:
        raise UserError(f"{folder} is not finished; there is nothing to compare with yet")
    if head["code_id"] != code_id():
        raise UserError(
            f"{folder} was computed by code {head['code_id']} and here is {code_id()}; check out the commit in its "
            "provenance.json, with its versions, and run this there"
        )
    run = NamedRun(config_from(head["config"]), head["names"])
    if run_id(run.config) != head["run_id"]:
        raise UserError(f"{folder / 'config.json'} was altered: its settings are not those of run {head['run_id']}")
    check_task(folder, task_code(run.config))
    with tempfile.TemporaryDirectory() as scratch, Progress() as progress:
        train_runs([run], Path(scratch), 1e9, progress)
        record = Record(Path(scratch), run)
        attempt = folder / f"attempt-{done['attempt']}"
        return differences(attempt, record.attempt_folder(1))


@command(UserError)
def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.rerun", description="Make one run again and compare.")
    parser.add_argument("run", help="a run's folder, or the beginning of its name or id")
    parser.add_argument("--records", type=Path, default=Path("records"))
    options = parser.parse_args()
    try:
        found = rerun(find_run(options.run, options.records))
    except Interrupted:
        return 130
    print("\n".join(found) or "equal, byte for byte")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
