"""What a SLURM site is told: conf/cluster/slurm.yaml, checked before anything is submitted."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ppo.refusals import UserError, positive

ALLOWED = {
    "partition": r"[A-Za-z0-9_.,-]+",
    "account": r"[A-Za-z0-9_.-]+",
    "qos": r"[A-Za-z0-9_.-]+",
    "constraint": r"[A-Za-z0-9_.,&|*()\[\]-]+",
    "time": r"([0-9]+-)?[0-9]{1,3}(:[0-9]{2}){0,2}",
    "mem": r"[0-9]+[KMGT]?",
    "gres": r"[A-Za-z0-9_.,:-]+",
    "gpus": r"[A-Za-z0-9_:]+",
}
"""What each option may look like; whatever else would be shell or another option."""

OURS = (*ALLOWED, "job-name", "array", "output", "error", "signal", "dependency", "nodes", "ntasks", "cpus-per-task",
        "chdir", "open-mode", "requeue", "no-requeue", "clusters", "cluster", "wrap", "test-only", "wait",
        "parsable")  # fmt: skip
OURS_SHORT = "pAqCtmGJaoedNncDMW"
"""sbatch's options that the launcher sets, or that would hide a job from it: none for a line of `setup`."""

LEAST_MEMORY = 100  # MB; Python and torch alone need more
LONGEST_SIGNAL = 65_535  # seconds, as sbatch takes it


@dataclass(frozen=True)
class Slurm:
    """conf/cluster/slurm.yaml."""

    kind: str = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str = "04:00:00"
    cpus_per_task: int = 1
    mem: str | None = "2G"
    gres: str | None = None
    gpus: str | None = None
    signal_seconds: int = 120
    runs_per_pack: int = 33
    packs_per_task: int = 1
    throttle: int | None = None
    max_array_size: int = 1001
    max_tasks: int = 10_000
    requeue: bool = True
    follow_up: int = 0
    setup: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, pattern in ALLOWED.items():
            value = getattr(self, name)
            if value is not None and not re.fullmatch(pattern, str(value)):
                raise UserError(f"cluster.{name}={value!r} does not look like a {name}; it must match {pattern}")
        for name in ("cpus_per_task", "signal_seconds", "runs_per_pack", "packs_per_task", "throttle"):
            positive(f"cluster.{name}", getattr(self, name))
        for name in ("max_array_size", "max_tasks"):
            positive(f"cluster.{name}", getattr(self, name))
        positive("cluster.follow_up", self.follow_up, zero=True)
        check_setup(self.setup)
        self._check_together()

    def _check_together(self) -> None:
        if (limit := seconds_of(self.time)) == 0:
            raise UserError(f"cluster.time={self.time} is no limit at all to sbatch; say how long a task may take")
        if self.signal_seconds > LONGEST_SIGNAL:
            raise UserError(f"cluster.signal_seconds={self.signal_seconds} is more than sbatch takes, {LONGEST_SIGNAL}")
        if self.signal_seconds >= limit:
            raise UserError(
                f"cluster.signal_seconds={self.signal_seconds} before the end of cluster.time={self.time} ({limit} s) "
                "is the start of the task or earlier; take a longer time or a later signal"
            )
        if self.mem not in (None, "0") and megabytes(str(self.mem)) < LEAST_MEMORY:  # 0: all that a node has
            raise UserError(
                f"cluster.mem={self.mem} is {megabytes(str(self.mem)):g} megabytes, which Python and torch alone "
                "exceed; without a unit a number means megabytes, so say 2G"
            )
        if self.gpus is not None and re.search(r"(^|,)gpu(:|,|$)", self.gres or ""):
            raise UserError(f"cluster.gres={self.gres} and cluster.gpus={self.gpus} both ask for GPUs; leave one null")

    @property
    def places(self) -> int:
        """Packs are not cut smaller to fill a cluster; runs_per_pack says how small they shall be."""
        return 0


def seconds_of(time: str) -> int:
    """A time limit as sbatch reads it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not dash:
        parts = [0, *parts] if len(parts) < 3 else parts  # the first is minutes
    hours, minutes, seconds = [*parts, 0, 0][:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def megabytes(mem: str) -> float:
    unit = mem[-1] if mem[-1] in "KMGT" else "M"
    return float(mem.rstrip("KMGT")) * 1024.0 ** ("KMGT".index(unit) - 1)


def check_setup(lines: tuple[str, ...]) -> None:
    """Each is one line of shell, or, before all others, an option of sbatch that the launcher does not set itself."""
    shell_before = ""
    for line in lines:
        if control := re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line):
            what = "a line break" if control[0] == "\n" else f"the control character {control[0]!r}"
            raise UserError(f"cluster.setup: {line!r} holds {what}; make each shell line an item of its own")
        if line.startswith(("#PBS", "#BSUB")):
            raise UserError(f"cluster.setup: {line!r} is read by sbatch too; write it as #SBATCH, or as a comment")
        if not line.startswith("#SBATCH"):
            shell_before = shell_before or (line if line.strip() and not line.startswith("#") else "")
            continue
        if shell_before:
            raise UserError(
                f"cluster.setup: sbatch does not read {line!r} behind {shell_before!r}; put it before all shell lines"
            )
        for option in options_in(line):
            raise UserError(
                f"cluster.setup: {line!r} says {option}, which the launcher says itself; "
                "use the key cluster.… where there is one"
            )


def options_in(line: str) -> Iterator[str]:
    """The launcher's own options that a line of #SBATCH sets; sbatch takes the beginning of a long name too."""
    try:
        words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
    except ValueError as error:
        raise UserError(f"cluster.setup: {line!r} has a quote without its other half") from error
    for word in words:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and any(own.startswith(name) for own in OURS):
            yield f"--{name}"
        elif re.match(f"-[{OURS_SHORT}]", word):
            yield word[:2]
