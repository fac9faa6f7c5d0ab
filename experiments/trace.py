"""The exact trace: every bit of a few iterations of everything, in seconds, so that a refactor can show it moved none.

python -m experiments.trace --against REV    # REV and the present code, each in a checkout of its own
python -m experiments.trace --against REV --record    # and if they are the same: their finished runs count together
python -m experiments.trace --out FILE       # write the trace of this code
python -m experiments.trace --with FILE      # compare this code with a stored trace of this machine

Exit code 0: the same; 1: different, with the first quantity and iteration that differ, or a leak between the runs of a
pack; 2: a mistake.
"""

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ppo
from analysis import equal_codes
from analysis.equal_codes import Proof
from analysis.refusals import RecordError
from experiments.commands import command
from experiments.compose import CONF
from experiments.files import write_durably
from experiments.identity import NUMERIC_PACKAGES, package_version
from experiments.independence import leaks
from experiments.profiles import Sheet, read
from experiments.records.provenance import cpu_model
from experiments.runner import Interrupted, Interrupts
from experiments.trace_sides import Lines, Side, code_id_of, compare, packs_of, refuse_uncommitted, runs_of, two_sides
from ppo.config import SWITCHES, Algo, Env, RunConfig
from ppo.environments import Environments
from ppo.learners import OBJECTIVES
from ppo.pack import Pack
from ppo.refusals import UserError
from ppo.train import Iteration, train

ITERATIONS = 3
SMALL: dict[str, Any] = {"horizon": 64, "minibatch_size": 16, "epochs": 2, "stepsize": 1e-2}
"""A stepsize at which 8 minibatches make ratios leave 1 ± ε and β move both ways; the rest is each profile's own."""

SEPARATE: dict[str, Any] = {"value_fit": "separate", "shared_trunk": False}
ALGOS: dict[Algo, dict[str, Any]] = {
    Algo("unconstrained"): {},
    Algo("clip", epsilon=0.2): {},
    Algo("kl_fixed", beta=1.0): {},
    Algo("kl_adaptive", beta=1.0, kl_target=0.01): {},
    Algo("kl_adaptive", beta=1.0, kl_target=1.0): {},
    Algo("random"): {},
    Algo("initial"): {},
    Algo("clip", epsilon=0.2, advantage="n_step", n_step=5): {},
    Algo("clip", epsilon=0.2, advantage="rewards_to_go"): {},
    Algo("clip", epsilon=0.2, advantage="whole_return"): {},
    Algo("policy_gradient"): SEPARATE | {"stepsize_schedule": "kl", "stepsize_kl_target": 1e-3},
    Algo("policy_gradient", advantage="n_step", n_step=5): {"optimiser": "rmsprop_tensorflow", "rollouts": 2},
    Algo("projected", delta=1e-4, average_decay=0.9): {"optimiser": "rmsprop_torch"},
    Algo("trajectory_ratio"): {"segment": 8},
    Algo(
        "trust_region", delta=0.01, kl_accepted=1.5, backtracks=10, cg_iterations=10, cg_damping=0.1, fisher_every=5
    ): SEPARATE | {"value_stepsize": 1e-3},
    Algo("cem", candidates=2, elite_fraction=0.5, initial_variance=1.0, extra_std=0.1, extra_generations=3.0): {
        "actors": 1,
        "observation_filter": "per_step",
    },
}
"""Algorithms, and the settings of a profile that each needs; whatever else is declared joins them by its `tries`."""
ALGOS |= {Algo(each.name, **each.example): {} for each in OBJECTIVES.values()
          if each.name not in {algo.objective for algo in ALGOS}}  # fmt: skip

TASKS = {Env("InvertedPendulum-v4"): "envpool", Env("CartPole-v1"): "gymnasium", Env("Reacher-v4"): "envpool"}
"""Episodes that end early, discrete actions, several action dimensions with a time limit; and both backends."""

GAMES = {
    Env("BreakoutNoFrameskip-v4", max_episode_steps=40, frame_skip=4, frame_max=True, frame_stack=4, screen=84,
        noop_max=4, fire=True): "ale"
}  # fmt: skip
"""For profiles with convolutions: FIRE, and a time limit just after lives begin to be lost."""

SMALL_GAME: dict[str, Any] = {"horizon": 16, "actors": 2, "hidden_sizes": (32,)}
GAME_ALGOS = [
    algo for algo in ALGOS if (algo.objective, algo.advantage) in
    [("clip", "gae"), ("policy_gradient", "n_step"), ("projected", "gae")]
]  # fmt: skip

UNSHIPPED: dict[str, Any] = {"shared_trunk": True, "activation": "elu", "entropy_coef": 0.01, "actors": 3}
"""Switches that no profile sets: traced under the first profile, all at once. `lacking` tries others one by one."""


def grid(sheets: Sequence[Sheet]) -> dict[str, RunConfig]:
    """Runs by name: every profile × algorithm × task, of one seed; on frames, which are dear, a few."""
    runs = {}
    for sheet in sheets:
        of_numbers = sheet.profile.convolutions == "none"
        algos, tasks = (ALGOS, TASKS) if of_numbers else (GAME_ALGOS, GAMES)
        for algo, (task, backend) in product(algos, tasks.items()):
            profile = replace(sheet.profile, **SMALL | ALGOS[algo] | ({} if of_numbers else SMALL_GAME))
            run = RunConfig(algo, profile, task, backend, seed=0, env_steps=ITERATIONS * profile.steps)
            estimator = "" if algo.advantage == "gae" else f" {algo.advantage}"
            runs[f"{sheet.name} {algo.label}{estimator} {task.id} seed 0"] = run
    return runs


def profiles() -> list[Sheet]:
    """All of conf/profile, and the first of them with what none of them sets."""
    sheets = [read(path) for path in sorted((CONF / "profile").glob("*.yaml"))]
    first = next(sheet for sheet in sheets if sheet.profile.convolutions == "none")
    return [*sheets, replace(first, name="unshipped", profile=replace(first.profile, **UNSHIPPED))]


OF_THE_TASK = ("policy", "convolutions")
"""Switches that a task allows one value of."""


def lacking(runs: Mapping[str, RunConfig]) -> dict[str, RunConfig]:
    """Runs by name, so that with them each switch of a profile has all its choices, or two values if it has none.

    Each is the first run of the paper's clip, with one more of the values that the switch declares to try.
    """
    found = {}
    base = next(run for run in runs.values() if run.algo.objective == "clip" and run.profile.convolutions == "none")
    for name, declared in SWITCHES.items():
        known = {getattr(run.profile, name) for run in runs.values()}
        missing = [value for value in declared.tries if value not in known and name not in OF_THE_TASK]
        for value in missing if declared.choices else missing[: max(2 - len(known), 0)]:
            profile = replace(base.profile, **{**declared.under[0], name: value})
            run = replace(base, profile=profile, env_steps=ITERATIONS * profile.steps)
            found[f"unshipped {run.algo.label} {name}={value} {run.env.id} seed {run.seed}"] = run
    return found


def everything() -> dict[str, RunConfig]:
    """All that is traced, by name."""
    runs = grid(profiles())
    return runs | lacking(runs)


def collect(runs: Mapping[str, RunConfig]) -> Lines:
    """Train `runs` (by name) in as few packs as possible and keep every bit of what happens."""
    torch.set_num_threads(1)  # as train_runs does; the number of threads may change bytes
    lines: Lines = {}
    for named in packs_of(runs):
        names = {run: name for name, run in named.items()}
        pack = Pack(list(names))
        listener = Listener(pack.environments)
        for row, run in enumerate(pack.runs):
            lines[names[run], 0] = {"parameters": digest(pack.state_dict(row)["parameters"])}
        for iteration in train(pack):
            observations, actions, rewards, ends = listener.take(len(pack))
            for row, run in enumerate(pack.runs):
                lines[names[run], iteration.number] = {
                    "start": digest(observations[0, row]),
                    "first_action": digest(actions[0, row]),
                    "observations": digest(observations[:, row]),
                    "actions": digest(actions[:, row]),
                    "rewards": digest(rewards[:, row]),
                    "ends": digest(ends[:, row]),
                    **outcome(pack, iteration, row),
                }
    return lines


class Listener:
    """Stands between a pack and its backend and keeps what passes: raw observations, actions as they arrive there."""

    def __init__(self, environments: Environments):
        self.environments, self.backend, self.spaces = environments, environments.backend, environments.spaces
        self.steps: list[tuple[np.ndarray, ...]] = []
        environments.backend = self

    @property
    def lost(self) -> np.ndarray:
        return self.backend.lost

    def reset(self, ids: np.ndarray) -> np.ndarray:
        return self.backend.reset(ids)

    def skip(self, ids: np.ndarray) -> None:
        self.backend.skip(ids)

    def step(self, actions: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        seen = self.environments.observations.copy()
        answer = self.backend.step(actions, ids)
        _, rewards, terminated, truncated = answer
        self.steps.append((seen, actions, rewards, np.stack([terminated, truncated], axis=-1)))
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def take(self, runs: int) -> list[np.ndarray]:
        """Observations (T, R, N, D), actions (T, R, N, A) or (T, R, N), rewards (T, R, N), ends (T, R, N, 2) since the
        last call."""
        taken = [np.stack(steps) for steps in zip(*self.steps, strict=True)]
        taken = [array.reshape(len(array), runs, -1, *array.shape[2:]) for array in taken]
        self.steps.clear()
        return taken


def outcome(pack: Pack, iteration: Iteration, row: int) -> dict[str, str]:
    """An iteration's episodes and metrics exactly, and all that the run remembers after it: numbers or digests."""
    state = pack.state_dict(row)
    for each in state["environments"]:  # proofs of what is traced by itself: rewards, ends
        del each["earlier_actions"], each["handed_out_sha256"]
    episodes = iteration.episodes[row]
    return {
        "episode_ends": " ".join(str(episode.env_step) for episode in episodes),
        "episode_lengths": " ".join(str(episode.length) for episode in episodes),
        "episode_returns": " ".join(repr(episode.episode_return) for episode in episodes),
        **{name: repr(float(values[row])) for name, values in iteration.metrics.items()},
        "next_beta": repr(state.pop("beta")),
        "next_stepsize": repr(state.pop("stepsize")),
        **{name: repr(v) if isinstance(v, bool | int | float) else digest(v) for name, v in state.items()},
    }


def digest(value: Any) -> str:
    """12 hexadecimal digits over the bytes of a number, text, array or tensor, or of a mapping or list of them."""
    return "sha256:" + hashlib.sha256(b"".join(parts(value))).hexdigest()[:12]


def parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Mapping):
        for name in sorted(value):
            yield name.encode()
            yield from parts(value[name])
    elif isinstance(value, list):
        for each in value:
            yield from parts(each)
    else:
        yield np.asarray(value).tobytes()


def machine() -> dict[str, str]:
    """What the bytes depend on besides this project's code."""
    return {
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "platform": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip(),
        **{package: str(package_version(package)) for package in NUMERIC_PACKAGES},
    }


def text_of(lines: Lines, key: Mapping[str, str], leaking: Sequence[str] | None = None) -> str:
    """A head with `key`, `leaking` where it was looked for and a digest of everything, then the body."""
    body = body_of(lines)
    head = {"key": dict(key)} | ({} if leaking is None else {"leaks": list(leaking)})
    return json.dumps({**head, "sha256": seal(head, body)}) + "\n" + body


def body_of(lines: Lines) -> str:
    """A line of JSON per run and iteration, sorted."""
    return "".join(
        json.dumps({"run": run, "iteration": number, "quantities": dict(sorted(quantities.items()))}) + "\n"
        for (run, number), quantities in sorted(lines.items())
    )


def seal(head: Mapping[str, Any], body: str) -> str:
    """A digest of a trace; the head's key alone where it says nothing else, as in traces of older code."""
    said = {name: value for name, value in head.items() if name != "sha256"}
    text = json.dumps(said if len(said) > 1 else said["key"], sort_keys=True)
    return hashlib.sha256((text + body).encode()).hexdigest()


def parse(path: Path) -> tuple[Lines, dict[str, str], list[str]]:
    """A stored trace, its key and its leaks; UserError unless it is whole."""
    try:
        first, _, body = path.read_text().partition("\n")
        head = json.loads(first)
        if head["sha256"] == seal(head, body):
            rows = map(json.loads, body.splitlines())
            lines = {(row["run"], row["iteration"]): row["quantities"] for row in rows}
            return lines, head["key"], head.get("leaks", [])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise UserError(f"{path} is no whole trace: it was cut short or changed, or is something else; write it with --out")


def against_file(path: Path) -> int:
    stored, key, _ = parse(path)
    here = machine()
    if differing := [name for name in sorted({*key, *here}) if key.get(name) != here.get(name)]:
        raise UserError(
            f"{path} was written elsewhere ("
            + "; ".join(f"{name} {key.get(name)} there, {here.get(name)} here" for name in differing)
            + "), and bytes are promised on one machine with one set of versions only; --against REV runs both here"
        )
    runs = everything()
    lines = collect(runs)
    return verdict(stored, lines, (str(path), "this code"), leaks(runs, lines, collect))


def against_revision(revision: str, recorded: bool) -> int:
    if recorded:  # all that can be refused before the minutes of two traces
        refuse_uncommitted()
        equal_codes.read()
    with two_sides(revision) as (old, new):
        before, (lines, key, leaking) = parse(old.trace)[0], parse(new.trace)
        code = verdict(before, lines, (old.name, new.name), leaking)
        if recorded and code == 0 and runs_of(before) == runs_of(lines):
            print(record(old, new, lines, key))
        elif recorded:
            print("nothing was recorded, for only codes that are the same in everything count together")
        return code


def record(old: Side, new: Side, lines: Lines, key: Mapping[str, str]) -> str:
    """Append the proof that two codes are equal, whose traces both are `lines`; says what was done."""
    known = equal_codes.read()
    proof = Proof(
        code_ids=(code_id_of(old), code_id_of(new)),
        commits=(old.commit, new.commit),
        runs=len(runs_of(lines)),
        sha256=hashlib.sha256(body_of(lines).encode()).hexdigest(),
        machine=dict(key),
        date=datetime.now(UTC).date().isoformat(),
    )
    one, other = proof.code_ids
    if one == other:
        return f"nothing to record: both have code id {one}"
    if before := [each for each in known if {*each.code_ids} == {one, other} and each.machine == proof.machine]:
        return f"recorded already on {before[0].date}: codes {one} and {other} are equal"
    if not proof.is_whole():
        raise UserError(f"this proves nothing, and is not recorded: {proof.line().strip()}")
    write_durably(equal_codes.FILE, "".join(each.line() for each in [*known, proof]).encode())
    return f"recorded in {equal_codes.NAME}, to be committed: codes {one} and {other} are equal"


def verdict(there: Lines, here: Lines, names: tuple[str, str], leaking: Sequence[str]) -> int:
    """Say how the two compare, and what leaks `here`; returns the exit code.

    Runs that are traced `here` alone, such as those of a new objective, are no difference: nothing of them moved.
    """
    new = sorted(runs_of(here) - runs_of(there)) if runs_of(there) & runs_of(here) else []
    print(f"{names[0]} and {names[1]}, {len(runs_of(here)) - len(new)} runs of {ITERATIONS} iterations each:")
    found = compare(there, {line: here[line] for line in here if line[0] not in new}, names)
    print("\n".join(found) or "the same, byte for byte")
    if new:
        print(f"{len(new)} runs are traced in {names[1]} alone and were not compared: {new[0]}, …")
    print("\n".join(f"LEAK: {leak}" for leak in leaking) or "every run is the same alone and beside other seeds")
    return 1 if found or leaking else 0


def check_imports() -> None:
    """An editable install points at one checkout; here each must trace its own code."""
    own, package = Path(__file__).parent, Path(str(ppo.__file__)).parent
    present = Path.cwd() / "experiments" / "trace.py"
    if package.parent != own.parent or (present.exists() and not present.samefile(__file__)):
        raise UserError(f"{Path.cwd()} should be traced, but Python imports {own} and {package}; check PYTHONPATH")


@command(UserError, RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.trace", description="Has a refactor moved a bit?")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--against", metavar="REV", help="compare with a commit, branch or tag of this repository")
    what.add_argument("--with", metavar="FILE", type=Path, dest="stored", help="compare with a stored trace")
    what.add_argument("--out", metavar="FILE", type=Path, help="write the trace of this code")
    parser.add_argument("--record", action="store_true", help="of --against: if all is the same, let it be known")
    parser.add_argument("--alone", action="store_true", help="of --out: look for leaks between runs too")
    options = parser.parse_args(arguments)
    try:
        with Interrupts():
            check_imports()
            if options.against is not None:
                return against_revision(options.against, options.record)
            if options.record:
                raise UserError("--record goes with --against, which knows the commits of both codes")
            if options.stored is not None:
                return against_file(options.stored)
            runs = everything()
            lines = collect(runs)
            leaking = leaks(runs, lines, collect) if options.alone else None
            write_durably(options.out, text_of(lines, machine(), leaking).encode())
            print(f"{options.out}: {len(runs)} runs of {ITERATIONS} iterations each")
            return 0
    except Interrupted as interrupted:
        return 128 + interrupted.signum


if __name__ == "__main__":
    sys.exit(main())
