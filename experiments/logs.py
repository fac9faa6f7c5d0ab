"""The words of whoever trained a run: python -m experiments.logs RUN [--lines N]"""

import argparse
import sys
from pathlib import Path

from experiments.cluster.launch import launches_of
from experiments.records.find import find_run
from ppo.config import UserError


def logs_of(run_id: str, records: Path) -> list[Path]:
    """Logs of the tasks that had this run, newest last; the log of a task that has not begun is not there yet."""
    found = []
    for study in sorted(records.glob("studies/*")):
        for launch in launches_of(study):
            packs = [(index, pack) for index, task in enumerate(launch.tasks()) for pack in task]
            found += [launch.log(index) for index, pack in packs if run_id in pack]
    return sorted((path for path in found if path.exists()), key=lambda path: path.stat().st_mtime)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.logs", description="The log of a study's run.")
    parser.add_argument("run", help="a run's folder, or the beginning of its name or id")
    parser.add_argument("--records", type=Path, default=Path("records"))
    parser.add_argument("--lines", type=int, default=40, help="of the newest log's end (default: 40)")
    options = parser.parse_args()
    try:
        folder = find_run(options.run, options.records)
        logs = logs_of(folder.name.rpartition("-")[2], options.records.resolve())
        if not logs:
            raise UserError(f"{folder.name} was not trained by a study; experiments.train writes to its terminal")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(*logs, sep="\n", file=sys.stderr)
    print("\n".join(logs[-1].read_text(errors="replace").splitlines()[-options.lines :]))


if __name__ == "__main__":
    main()
