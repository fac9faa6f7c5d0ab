"""What a launch would do, and cost: the text of dry_run=true."""

import heapq
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from experiments.jobs.launch import Launch
from experiments.jobs.packs import PlannedPack
from experiments.jobs.progress import clock
from experiments.jobs.site import Slurm
from experiments.jobs.slurm import array_script, parts_of

FILES_PER_RUN = 10  # config, provenance, done; an attempt's owner, heartbeat, three tables, two checkpoints
FILES_PER_MIRRORED_RUN = 5  # W&B's own, and the cursor


def describe(tasks: Sequence[Sequence[PlannedPack]]) -> str:
    """What each index runs."""
    lines = []
    for index, packs in enumerate(tasks):
        for pack in packs:
            variants = Counter(entry.variant for entry in pack.entries)
            runs = ", ".join(f"{name} × {count}" for name, count in variants.items())
            env = pack.entries[0].run.config.env.id
            lines.append(f"{index:>5}  {clock(pack.seconds)}  {env}, {len(pack.entries)} runs: {runs}")
    return "\n".join(["index  time", *lines])


def cost(tasks: Sequence[Sequence[PlannedPack]], places: int, mirrored: bool, gpus: bool, now: datetime) -> str:
    """Hours, end and files, for `places` tasks at once; a task lasts as long as its longest pack."""
    seconds = [max(pack.seconds for pack in packs) for packs in tasks]
    runs = sum(len(pack.entries) for packs in tasks for pack in packs)
    core_hours = sum(pack.seconds for packs in tasks for pack in packs) / 3600
    length = makespan(seconds, places)
    files = runs * (FILES_PER_RUN + FILES_PER_MIRRORED_RUN * mirrored) + len(tasks)
    hours = f"{core_hours:.2f} core-hours" + (f", {sum(seconds) / 3600:.2f} GPU-hours" if gpus else "")
    return (
        f"{runs} runs in {len(tasks)} tasks: {hours}, measured on this machine's CPU\n"
        f"{places} tasks at once: {clock(length)}, until {now + timedelta(seconds=length):%Y-%m-%d %H:%M}\n"
        f"about {files:,} files"
    )


def makespan(seconds: Sequence[float], places: int) -> float:
    """When the last of the tasks ends, started in this order on so many places."""
    free = [0.0] * max(places, 1)
    for duration in seconds:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def scripts(study: Path, tasks: int, options: Slurm, array_size: int) -> str:
    """The array scripts a launch would give to sbatch; its number and the job names' last part are not known yet."""
    launch = Launch(study / "launches" / "N")
    texts = [
        array_script(launch, part, options, str(study / "code" / "DIGEST"), sys.executable)
        for part in parts_of(study.name, "N", tasks, array_size)
    ]
    return "\n".join(texts)
