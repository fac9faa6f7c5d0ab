"""A run's record: the folder it leaves, who may write in it, and when it counts as finished.

    runs/<code id>/<slug>-<run id>/
        config.json  provenance.json                      what the run is; where it was first trained
        schema.json                                       what the columns and keys of these files mean
        attempt-<n>/  owner.json  heartbeat               who claimed it; proof of life
                      episodes.csv  iterations.csv        the promise: the same bytes on every path
                      timing.csv                          wall clock, outside the promise
                      checkpoint-<iteration>.pt           the two newest
        done.json                                         created last, once: what finished means

An attempt is claimed by exclusive mkdir, continues from the highest older one and writes nowhere else. Whoever sees a
higher attempt than its own gives up: a node the scheduler gave up on may leave its task alive.
"""

import csv
import hashlib
import io
import json
import math
import os
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from experiments.compose import NamedRun
from experiments.files import as_json, create_once, numbered_in, read_json, write_durably
from experiments.identity import code_id, run_id, slug
from experiments.records import checkpoint, schema
from experiments.records.claims import owner
from experiments.records.provenance import provenance, task_code
from experiments.records.schema import COLUMNS, DIAGNOSTICS, FORMAT, SCORE_EPISODES, SPENT, Done, Head, seal
from ppo.pack import NotFinite
from ppo.refusals import UserError
from ppo.train import Iteration

PROMISED = ("episodes.csv", "iterations.csv")


class Fenced(Exception):
    """A higher attempt exists: this one has no business here any more."""


@dataclass(frozen=True)
class Start:
    """Where a run can go on: a checkpoint, or the beginning (`iteration` 0, no folder)."""

    iteration: int
    folder: Path | None = None


class Record:
    """One run's folder, read side: what is there, and whether someone is at work."""

    def __init__(self, records: Path, run: NamedRun):
        self.run = run
        self.id = run_id(run.config)
        self.folder = records / "runs" / code_id() / f"{slug(run.config)}-{self.id}"

    @property
    def identity(self) -> dict[str, str]:
        return {"run_id": self.id, "code_id": code_id()}

    def prepare(self) -> None:
        """Create the folder with its config, or check that the one there is ours."""
        head: Head = {
            "format": FORMAT,
            "run_id": self.id,
            "code_id": code_id(),
            "label": self.run.config.algo.label,
            "names": dict(self.run.names),
            "config": asdict(self.run.config),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        create_once(self.folder / "config.json", as_json(head))
        create_once(self.folder / "schema.json", schema.description())
        task = task_code(self.run.config)
        origin = as_json(provenance(self.run.config.device) | ({"task": task} if task else {}))
        if not create_once(self.folder / "provenance.json", origin) and not (self.folder / "done.json").exists():
            if self.attempts():
                check_task(self.folder, task)
            else:
                write_durably(self.folder / "provenance.json", origin)
        found = read_json(self.folder / "config.json")
        if not isinstance(found, dict) or found.get("run_id") != self.id or found.get("code_id") != code_id():
            other = found.get("run_id") if isinstance(found, dict) else "config.json is no record's"
            raise UserError(f"{self.folder} holds another run ({other}); move it away")
        if reason := schema.newer(found):
            raise UserError(f"{self.folder / 'config.json'} is of newer code: {reason}")
        if found.get("config") != json.loads(as_json(head["config"])):
            raise UserError(
                f"{self.folder / 'config.json'} was altered: its settings are not those of its run; remove it"
            )

    def done(self) -> Done | None:
        return read_done(self.folder)

    def attempts(self) -> list[int]:
        """Numbers of the attempts, highest first."""
        return numbered_in(self.folder, "attempt-")

    def attempt_folder(self, number: int) -> Path:
        return self.folder / f"attempt-{number}"

    def starts(self) -> list[Start]:
        """Every place to go on from, best first; the beginning is always one."""
        found = [
            Start(iteration, self.attempt_folder(number))
            for number in self.attempts()
            for iteration in checkpoint.iterations_in(self.attempt_folder(number))
        ]
        return [*sorted(found, key=lambda start: -start.iteration), Start(0)]

    def load(self, start: Start) -> checkpoint.Checkpoint:
        """The checkpoint's content; `Refused` if it is not whole, not ours, or its rows are gone or altered."""
        assert start.folder is not None
        file = checkpoint.path_of(start.folder, start.iteration)
        content = checkpoint.load(file, self.identity)
        lengths = content.get("lengths")
        if not isinstance(lengths, dict) or any(type(lengths.get(name)) is not int for name in COLUMNS):
            raise checkpoint.Refused(f"{file} is no checkpoint of a run: it does not say how long its rows are")
        digests = content.get("digests", {})  # checkpoints of older code have none
        for name, length in content["lengths"].items():
            path = start.folder / name
            if not path.exists() or path.stat().st_size < length:
                raise checkpoint.Refused(f"{path} is shorter than its checkpoint says")
            if name in digests and hashlib.sha256(read_head(start.folder, name, length)).hexdigest() != digests[name]:
                raise checkpoint.Refused(f"{path} was altered: its rows do not fit the digest in its checkpoint")
        return content


class Attempt:
    """The one place a process may write: appends rows, checkpoints, and finishes the run."""

    def __init__(self, record: Record, start: Start, lengths: Mapping[str, int] | None, after: int):
        """Claim the attempt after the one that was judged to be nobody's, carrying over the rows up to `start`.

        Raises Fenced if someone claimed it since: counting anew would take the run from its living trainer.
        """
        self.record = record
        self.number = after + 1
        self.folder = record.attempt_folder(self.number)
        try:
            self.folder.mkdir()
        except FileExistsError as error:
            raise Fenced(f"{self.folder} was claimed by someone else just now") from error
        write_durably(self.folder / "owner.json", as_json(owner()))
        self.digests = {}  # of all that stands in the file, the head carried over included
        for name, columns in COLUMNS.items():
            head = ",".join(columns) + "\n"
            content = head.encode() if lengths is None else read_head(start.folder, name, lengths[name])
            write_durably(self.folder / name, content)
            self.digests[name] = hashlib.sha256(content)
        self.files = {name: (self.folder / name).open("ab", buffering=0) for name in COLUMNS}
        self.boundary: tuple[int, checkpoint.Checkpoint] | None = None
        self.written = -1

    def append(self, iteration: Iteration, row: int, pack_size: int) -> None:
        """The rows of one iteration."""
        episodes = [(e.env_step, repr(e.episode_return), e.length) for e in iteration.episodes[row]]
        self._write("episodes.csv", episodes)
        metrics = [number(iteration.metrics[name][row]) if name in iteration.metrics else "" for name in DIAGNOSTICS]
        self._write("iterations.csv", [(iteration.number, iteration.env_steps, *metrics)])
        seconds = [f"{iteration.seconds[name]:.4f}" for name in SPENT]
        self._write("timing.csv", [(iteration.number, f"{time.time():.2f}", pack_size, *seconds)])

    def hold(self, iteration: int, state: Mapping[str, Any]) -> None:
        """Keep this boundary's state in memory, ready to be written at any moment."""
        lengths = {name: file.tell() for name, file in self.files.items()}
        digests = {name: digest.hexdigest() for name, digest in self.digests.items()}
        content: checkpoint.Checkpoint = {
            "run_id": self.record.id,
            "code_id": code_id(),
            "state": dict(state),
            "lengths": lengths,
            "digests": digests,
        }
        self.boundary = (iteration, content)

    def checkpoint(self) -> None:
        """Write the boundary held; gives up if a higher attempt exists."""
        if (newest := max(self.record.attempts(), default=0)) > self.number:
            raise Fenced(f"{self.folder}: attempt {newest} has taken over")
        if self.boundary is None or self.boundary[0] == self.written:
            return
        for file in self.files.values():
            os.fsync(file.fileno())
        checkpoint.save(self.folder, *self.boundary)
        self.written = self.boundary[0]

    def finish(self, alive: bool, env_steps: int, not_finite: NotFinite | None = None) -> Done:
        """done.json, created exclusively and last."""
        self.checkpoint()
        self.close()
        peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        write_durably(self.folder / "resources.json", as_json({"peak_mb": peak}))
        status = "complete" if alive else "diverged" if not_finite is None else not_finite.status
        done: Done = {
            "status": status,
            "run_id": self.record.id,
            "code_id": code_id(),
            "seed": self.record.run.config.seed,
            "attempt": self.number,
            "env_steps": env_steps,
            "score": schema.score(self.returns(), status),
            "episodes_sha256": self.digests["episodes.csv"].hexdigest(),  # of what was written, not of what is there
            "iterations_sha256": self.digests["iterations.csv"].hexdigest(),
            "config_sha256": hashlib.sha256((self.record.folder / "config.json").read_bytes()).hexdigest(),
        }
        if not_finite is not None:
            done["not_finite"] = {"quantity": not_finite.quantity, "env_step": not_finite.env_step}
        done["sha256"] = seal(done)
        if not create_once(self.record.folder / "done.json", as_json(done)):
            raise Fenced(f"{self.record.folder}: someone else finished this run")
        return done

    def returns(self) -> list[float]:
        """Of the last 100 episodes (fewer if there are no more), those before this attempt included."""
        with (self.folder / "episodes.csv").open() as file:
            return [float(row["return"]) for row in csv.DictReader(file)][-SCORE_EPISODES:]

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def _write(self, name: str, rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        data = text.getvalue().encode()
        self.digests[name].update(data)
        while data:
            data = data[self.files[name].write(data) :]


def check_task(folder: Path, task: Mapping[str, Any]) -> None:
    """UserError if a run was trained with other code of its task; records of older code do not say with which."""
    then = read_json(folder / "provenance.json").get("task", task)
    if changed := [name for name in sorted({*then, *task}) if then.get(name) != task.get(name)]:
        raise UserError(
            f"{folder} was begun with other code of its task: {', '.join(changed)} changed since, as the digest in its "
            "provenance.json shows; bring the old code back, or choose another folder with records="
        )


def why(done: Done) -> str:
    """What ended a run before its budget, in words; nothing for a whole one."""
    if (found := done.get("not_finite")) is None:
        return ""
    fault = "; an error of the environment, not of the policy" if done["status"] == "faulty" else ""
    return f": its {found['quantity']} are not finite at env step {found['env_step']:,}{fault}"


def read_done(folder: Path) -> Done | None:
    """A run's done.json, if it is finished; UserError unless it, config.json and the folder's name are of one run."""
    path = folder / "done.json"
    if not path.exists():
        return None
    done, config = read_json(path), folder / "config.json"
    head: Any = read_json(config) if config.exists() else None

    def refuse(reason: str) -> NoReturn:
        raise UserError(f"{path} is not as its run left it: {reason}; bring the file back, or train the run once more")

    if not all(isinstance(each, dict) for each in (done, head)):
        refuse("it or config.json is no table of names and values")
    if reason := schema.newer(head):
        raise UserError(f"{config} is of newer code: {reason}")
    if "sha256" in done and done["sha256"] != seal(done):
        refuse("its content does not fit its own digest")
    if "config_sha256" in done and done["config_sha256"] != hashlib.sha256(config.read_bytes()).hexdigest():
        refuse("config.json is not the one it was finished with")
    if missing := [name for name in Done.__annotations__ if name in Done.__required_keys__ - done.keys()]:
        refuse(f"{', '.join(missing)} is not in it")
    for name in ("run_id", "code_id"):
        if done[name] != head.get(name):
            refuse(f"its {name} is {done[name]}, that of config.json {head.get(name)}")
    if not folder.resolve().name.endswith(f"-{done['run_id']}"):
        refuse(f"it is of run {done['run_id']}, and its folder is called {folder.resolve().name}")
    settings = head.get("config")
    if "seed" in done and isinstance(settings, dict) and done["seed"] != settings.get("seed"):
        refuse(f"its seed is {done['seed']}, that of config.json {settings.get('seed')}")
    if type(done["attempt"]) is not int or type(done["env_steps"]) is not int:
        refuse(f"its attempt is {done['attempt']}, its env_steps {done['env_steps']}; both are whole numbers")
    reached = last_env_steps(folder / f"attempt-{done['attempt']}" / "iterations.csv")
    if reached not in (None, done["env_steps"]):
        refuse(f"its env_steps are {done['env_steps']}, those of its last iteration {reached}")
    return done


def last_env_steps(iterations: Path) -> int | None:
    """Of the last row; None where there is none."""
    try:
        with iterations.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1000))
            _, env_steps, *_ = file.read().decode().splitlines()[-1].split(",")
        return int(env_steps)
    except (OSError, ValueError, IndexError):
        return None


def number(value: float) -> str:
    """A diagnostic in text: nine digits tell every float32 from its neighbours; empty where there is none."""
    return "" if math.isnan(value) else f"{value:.9g}"


def read_head(folder: Path | None, name: str, length: int) -> bytes:
    assert folder is not None
    with (folder / name).open("rb") as file:
        return file.read(length)
