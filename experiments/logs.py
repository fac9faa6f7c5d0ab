"""The words of whoever trained a run: python -m experiments.logs RUN [--lines N]"""

import argparse
import sys
from pathlib import Path

from experiments.commands import command
from experiments.jobs.launch import launches_of
from experiments.manifest import read_manifest
from experiments.records.find import find_run
from ppo.refusals import UserError


def logs_of(run_id: str, records: Path, code_id: str | None) -> list[Path]:
    """Logs of the tasks that had this run, newest last; the log of a task that has not begun is not there yet.

    With a code id, of the tasks that trained it with that code.
    """
    found = []
    for study in sorted(records.glob("studies/*")):
        for launch in launches_of(study):
            if code_id not in (None, launch.head()["code_id"]):
                continue
            packs = [(index, pack) for index, task in enumerate(launch.tasks()) for pack in task]
            found += [launch.log(index) for index, pack in packs if run_id in pack]
    return sorted((path for path in found if path.exists()), key=lambda path: path.stat().st_mtime)


def planned(name: str, records: Path) -> str | None:
    """The id of the one run of studies that `name` begins, or whose id it begins; None if that one has a folder."""
    manifests = records.glob("studies/*/manifest.jsonl")
    known = {entry.folder_name for path in manifests for entry in read_manifest(path.parent)}
    whole = {own for own in known if name in (own, *own.rpartition("-")[::2])}  # …s1 is not also …s10
    found = whole or {own for own in known if own.startswith(name) or own.rpartition("-")[2].startswith(name)}
    if len(found) != 1 or any(records.glob(f"runs/*/{min(found)}")):
        return None
    return min(found).rpartition("-")[2]


def logs_meant(name: str, records: Path) -> list[Path]:
    """Logs of the run meant by `name`; a run whose task failed before it began has no folder but may have a log."""
    try:
        folder = find_run(name, records).resolve()
    except UserError:
        if (run := planned(name, records)) is None or not (logs := logs_of(run, records, None)):
            raise
        return logs
    records = folder.parents[2]  # its own, whatever --records says
    logs = logs_of(folder.name.rpartition("-")[2], records, folder.parent.name)
    if not logs:
        raise UserError(
            f"{folder.name}: no study in {records}/studies has a log of it; experiments.train writes to its terminal"
        )
    return logs


@command(UserError)
def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.logs", description="The log of a study's run.")
    parser.add_argument("run", help="a run's folder, or the beginning of its name or id")
    parser.add_argument("--records", type=Path, default=Path("records"))
    parser.add_argument("--lines", type=int, default=40, help="of the newest log's end (default: 40)")
    options = parser.parse_args()
    logs = logs_meant(options.run, options.records.resolve())
    print(*logs, sep="\n", file=sys.stderr)
    print("\n".join(logs[-1].read_text(errors="replace").splitlines()[-options.lines :]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
