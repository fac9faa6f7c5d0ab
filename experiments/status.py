"""How a study stands: python -m experiments.status NAME [--json] [--watch]; exit code 0 only when it is complete."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments.commands import command
from experiments.jobs.standing import COMPLETE, Standing
from experiments.jobs.survey import counts, look_anyway, study_folder, summarise
from experiments.manifest import Entry
from ppo.refusals import UserError

WATCH_SECONDS = 5.0
SHOWN = 20  # of the runs that want a person's eye
PIPED_WIDTH = 200  # columns


def table(study: str, stands: Sequence[tuple[Entry, Standing]], note: str = "") -> Group:
    """Per environment × variant how many of its runs are done, and what is not; then what wants a person's eye."""
    entries = [entry for entry, _ in stands]
    environments = list(dict.fromkeys(entry.env for entry in entries))
    variants = list(dict.fromkeys(entry.variant for entry in entries))
    grid = Table(title=f"{study}: {summarise(counts(stand for _, stand in stands))}", title_justify="left")
    grid.add_column("variant")
    for env in environments:
        grid.add_column(env, justify="right")
    for variant in variants:
        cells = []
        for env in environments:
            here = [stand for entry, stand in stands if (entry.variant, entry.env) == (variant, env)]
            finished = sum(stand.state in COMPLETE for stand in here)
            rest = counts(stand for stand in here if stand.state != "done")
            cells.append(f"{finished}/{len(here)}" + (f" ({summarise(rest)})" if rest else ""))
        grid.add_row(variant, *cells)
    lines = [
        f"{stand.state}: {entry.folder_name} at {stand.iteration / entry.run.config.iterations:.0%}, {stand.note}"
        for state in ("faulty", "failed", "stopped", "missing", "running", "queued")
        for entry, stand in stands
        if stand.state == state and stand.note
    ]
    more = [f"… and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return Group(grid, *map(Text, filter(None, [note, *lines[:SHOWN], *more])))


@command(UserError)
def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.status", description="How a study stands.")
    parser.add_argument("name", help="the study's name")
    parser.add_argument("--records", type=Path, default=Path("records"))
    parser.add_argument("--json", action="store_true", help="one JSON object with counts and every run")
    parser.add_argument("--watch", action="store_true", help="until it is complete")
    options = parser.parse_args()
    study = study_folder(options.name, options.records.resolve())
    stands, note = look_anyway(study)
    if options.json:
        print(as_text(stands, note))
    elif not options.watch:
        console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
        console.print(table(options.name, stands, note), highlight=False)
    else:
        with Live(table(options.name, stands, note), console=Console()) as live:
            while not complete(stands):
                time.sleep(WATCH_SECONDS)
                stands, note = look_anyway(study)
                live.update(table(options.name, stands, note))
    return 0 if complete(stands) else 1


def complete(stands: Sequence[tuple[Entry, Standing]]) -> bool:
    return all(stand.state in COMPLETE for _, stand in stands)


def as_text(stands: Sequence[tuple[Entry, Standing]], note: str = "") -> str:
    """The JSON answer."""
    runs = [
        {"run_id": entry.run_id, "variant": entry.variant, "env": entry.env, "seed": entry.run.config.seed,
         "state": stand.state, "note": stand.note,
         "iteration": stand.iteration, "iterations": entry.run.config.iterations}
        for entry, stand in stands
    ]  # fmt: skip
    return json.dumps({"counts": counts(stand for _, stand in stands), "note": note, "runs": runs})


if __name__ == "__main__":
    sys.exit(main())
