"""Send records to a W&B server, now or again: python -m experiments.sync [RECORDS_OR_STUDY]

Complete and idempotent: the server is asked what it holds, and a run sent to its end is not touched again. Safe while
runs go on: what they have reached is sent, and what another mirror is sending is left to it. Made for a login node with
internet, after jobs without it.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from experiments.commands import command, leave
from experiments.files import read_lines
from experiments.tracking.mirror import Mirrors, summarise
from experiments.tracking.settings import Tracking
from experiments.tracking.wandb import drop_settings_of_others, target_of
from ppo.refusals import UserError, near_matches

AT_ONCE = 33  # W&B runs open together


def folders_of(place: str, records: Path) -> tuple[Path, list[Path]]:
    """The records root and the runs meant by a path or the name of a study."""
    studies = sorted(path.parent.name for path in records.glob("studies/*/manifest.jsonl"))
    if place in studies:
        wanted = {line["run_id"] for line in read_lines(records / "studies" / place / "manifest.jsonl")}
        found = [path.parent for path in records.glob("runs/*/*/config.json")]
        return records, sorted(folder for folder in found if folder.name.rpartition("-")[2] in wanted)
    folder = Path(place).resolve()  # the names above it count too
    if not folder.is_dir():
        raise UserError(f"{place} is neither a folder nor a study in {records}/studies{near_matches(place, studies)}")
    runs = sorted(path.parent for path in folder.rglob("config.json") if path.parent.parent.parent.name == "runs")
    if not runs:
        raise UserError(f"no run under {place}; name a records folder, something in it, or a study")
    return runs[0].parent.parent.parent, runs


@command(UserError)
def send() -> int:
    """What the command line asks for; returns the exit code."""
    defaults = Tracking()
    parser = argparse.ArgumentParser(prog="python -m experiments.sync", description="Send records to a W&B server.")
    parser.add_argument("place", nargs="?", help="folder of records, or a study (default: all of --records)")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where a study is looked up")
    parser.add_argument("--project", default=defaults.project)
    parser.add_argument("--entity", default=defaults.entity, help="user or team (default: the key's)")
    options = parser.parse_args()
    drop_settings_of_others()
    records, folders = folders_of(options.place or str(options.records), options.records)
    target = target_of(records, "online", options.project, options.entity)
    ended = Counter[str]()
    for first in range(0, len(folders), AT_ONCE):
        mirrors = Mirrors(folders[first : first + AT_ONCE], target, lambda line: print(line, file=sys.stderr))
        mirrors.keep_up(lambda _: True)
        ended.update(mirrors.ended)
        print(f"{min(first + AT_ONCE, len(folders))} of {len(folders)}: {summarise(ended)}", flush=True)
        if ended["FAILED"]:
            print("stopped; give the same command again to go on", file=sys.stderr)
            return 1
    return 0


def main() -> None:
    leave(send())


if __name__ == "__main__":
    main()
