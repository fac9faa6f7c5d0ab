"""The two sides of an exact trace: each made by its own code in a checkout of its own, then compared."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

from experiments.records.provenance import ROOT
from ppo.config import RunConfig, pack_key
from ppo.refusals import UserError

Lines = dict[tuple[str, int], dict[str, str]]
"""By run and iteration (0: before training), each quantity by name: its exact value or a digest."""

CAUSAL = (
    "start", "first_action", "observations", "actions", "rewards", "ends", "environments",
    "episode_ends", "episode_lengths", "episode_returns", "episode_length", "episode_return",
    "reward_scale", "explained_variance", "filter", "stepsize", "epsilon", "beta",
    "policy_loss", "value_loss", "entropy", "kl", "kl_k1", "kl_k3", "clip_fraction", "std", "update_norm",
    "optimisers", "average", "search", "parameters", "next_beta", "next_stepsize", "alive",
)  # fmt: skip
"""Quantities of one iteration, causes before effects; whatever is not listed comes last."""

TRACED = ("ppo", "experiments", "conf")
"""What a trace is made of: an uncommitted README does not matter to it."""

GIT_OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
"""Set where a hook runs this; a worktree made under them would write into the index being committed."""


@dataclass(frozen=True)
class Side:
    """A code, and its trace of itself."""

    name: str  # for people
    commit: str
    tree: Path  # where it is checked out, for now
    trace: Path


def compare(there: Lines, here: Lines, names: tuple[str, str]) -> list[str]:
    """How two traces differ, in sentences: the first difference, then what only one side has; none if they are equal.

    First is the earliest iteration, then the earliest cause within it, then the first run by name.
    """
    differing = [
        (iteration, rank(quantity), run, quantity)
        for run, iteration in there.keys() & here.keys()
        for quantity in there[run, iteration].keys() & here[run, iteration].keys()
        if there[run, iteration][quantity] != here[run, iteration][quantity]
    ]
    found = []
    if differing:
        iteration, _, run, quantity = min(differing)
        old, new = shown(there[run, iteration][quantity], here[run, iteration][quantity])
        share = f"{len({run for _, _, run, _ in differing})} of {len(runs_of(there) & runs_of(here))}"
        found.append(
            f"{run}, iteration {iteration}: {quantity} {old} became {new}; {share} runs differ, this one first"
        )
    for one, other, name in ((there, here, names[0]), (here, there, names[1])):
        found += [f"only in {name}: {what}" for what in lacking(one, other)]
    return found


def packs_of(runs: Mapping[str, RunConfig]) -> list[dict[str, RunConfig]]:
    """Runs, by name, as few packs as possible."""
    packs: dict[Any, dict[str, RunConfig]] = {}
    for name, run in runs.items():
        packs.setdefault(pack_key(run), {})[name] = run
    return list(packs.values())


def runs_of(lines: Lines) -> set[str]:
    return {run for run, _ in lines}


def rank(quantity: str) -> tuple[int, str]:
    return (CAUSAL.index(quantity) if quantity in CAUSAL else len(CAUSAL), quantity)


def shown(old: str, new: str) -> tuple[str, str]:
    """Two differing values as short as they can be told apart, from 4 digits on."""
    try:
        numbers = float(old), float(new)
    except ValueError:
        return old or "nothing", new or "nothing"
    short = (tuple(f"{number:.{digits}g}" for number in numbers) for digits in range(4, 18))
    return next(((one, other) for one, other in short if one != other), (old, new))


def lacking(one: Lines, other: Lines) -> list[str]:
    """What `other` lacks of `one`: whole runs, iterations of the runs it has, quantities of those."""
    common = runs_of(one) & runs_of(other)
    quantities = {name for line in one.keys() & other.keys() for name in one[line].keys() - other[line].keys()}
    return [
        *sorted(runs_of(one) - common),
        *sorted(f"{run}, iteration {n}" for run, n in one.keys() - other.keys() if run in common),
        *sorted(f"the quantity {name}" for name in quantities),
    ]


@contextmanager
def two_sides(revision: str) -> Iterator[tuple[Side, Side]]:
    """`revision` and the present code, whose traces, in files of a temporary folder, are made side by side.

    The present code is a clean checkout too, or the working tree as it is where it has uncommitted changes. Raises
    UserError where there is no such revision, no repository, or code that cannot be traced.
    """
    top = git("rev-parse", "--show-toplevel", otherwise=f"{ROOT} is not in a git repository, so there is no {revision}")
    if Path(top).resolve() != ROOT.resolve():
        raise UserError(f"{ROOT} is not the top of a git repository, so there is no {revision} of it")
    commit, head = commit_of(revision), commit_of("HEAD")
    with ExitStack() as stack:
        there = stack.enter_context(checkout(commit))
        if not (there / "experiments" / "trace.py").exists():
            raise UserError(f"{revision} ({commit[:7]}) is older than experiments/trace.py and cannot be traced")
        if git("status", "--porcelain", "--", *TRACED):
            here, present = ROOT, "the working tree with uncommitted changes"
        else:
            here, present = stack.enter_context(checkout(head)), f"the present commit {head[:7]}"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trace-")))
        old = Side(f"{revision} ({commit[:7]})", commit, there, folder / "there")
        new = Side(present, head, here, folder / "here")
        started = [  # older code knows no --alone
            (stack.enter_context(tracing(side, options)), side) for side, options in ((old, []), (new, ["--alone"]))
        ]
        for process, side in started:
            _, words = process.communicate()
            if process.returncode:
                last = (words.splitlines() or [f"exit code {process.returncode}"])[-1]
                raise UserError(f"{side.name} cannot be traced: {last.removeprefix('error: ')}")
        yield old, new


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A clean worktree at `commit` in a temporary folder, removed again whatever happens."""
    with tempfile.TemporaryDirectory(prefix="trace-") as folder:
        tree = Path(folder) / commit
        try:
            git("-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", str(tree), commit)
            yield tree
        finally:
            rmtree(tree, ignore_errors=True)  # first, for git refuses to remove one that an interrupt left half made
            with suppress(UserError):  # it never came to be; why is on its way already
                git("worktree", "remove", "--force", "--force", str(tree))


@contextmanager
def tracing(side: Side, options: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    """A code, tracing itself; stopped when left early."""
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.trace", "--out", str(side.trace), *options],
        cwd=side.tree,
        env=importing(side.tree),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def importing(tree: Path) -> dict[str, str]:
    """This process's environment, for one that imports the code of `tree`."""
    path = os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def code_id_of(side: Side) -> str:
    """As that code reckons it: under this id its runs are found."""
    asked = [sys.executable, "-c", "from experiments.identity import code_id; print(code_id())"]
    done = subprocess.run(asked, cwd=side.tree, env=importing(side.tree), capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{side.name} does not say its code id: {(done.stderr.splitlines() or ['no words'])[-1]}")
    return done.stdout.strip()


def refuse_uncommitted() -> None:
    """UserError unless what is traced is all of one commit, so that a proof can name it."""
    if changed := git("status", "--porcelain", "--", *TRACED):
        raise UserError(
            f"--record is for commits, and {changed.splitlines()[0].split()[-1]} has uncommitted changes; commit first"
        )


def commit_of(revision: str) -> str:
    found = f"{revision}: this repository has no such commit, branch or tag"
    return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", otherwise=found)


def git(*arguments: str, otherwise: str | None = None) -> str:
    """Git's answer about this checkout; where it refuses, UserError with the sentence `otherwise`, or its own words."""
    environment = {name: value for name, value in os.environ.items() if name not in GIT_OF_A_HOOK}
    try:
        # A session of its own: Ctrl-C reaches this process alone, which then ends git, its children too, and cleans up.
        with subprocess.Popen(
            ["git", *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        ) as process:  # fmt: skip
            try:
                out, words = process.communicate()
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
    except OSError as error:
        raise UserError(f"git cannot be run: {error.strerror}") from error
    if process.returncode:
        raise UserError(otherwise or f"git {arguments[0]} failed: {' '.join(words.split())}")
    return out.strip()
