"""What the logs of other tools say of one run: its episodes or, where only those were kept, running means."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import ArrayLike

from analysis.records import LARGEST, read_whole
from analysis.sources.records import EPISODES, Broken
from analysis.sources.tensorboard import scalars
from analysis.statistics import Array

MEANS = "running means"
LARGEST_ARRAYS = 1 << 28  # bytes that evaluations.npz may unpack to
TAGS = (
    ("charts/episodic_return", "charts/episodic_length", "training episodes", 0),
    ("rollout/ep_rew_mean", "rollout/ep_len_mean", MEANS, 100),
    ("ray/tune/env_runners/episode_return_mean", "ray/tune/env_runners/episode_len_mean", MEANS, 0),
    ("ray/tune/env_runners/episode_reward_mean", "ray/tune/env_runners/episode_len_mean", MEANS, 0),
    ("ray/tune/episode_reward_mean", "ray/tune/episode_len_mean", MEANS, 0),
)
"""Of CleanRL, Stable-Baselines3 and RLlib: returns, lengths, what they are, and over how many episodes a mean runs
(Stable-Baselines3's `stats_window_size` unless a run changed it; RLlib's varies). Their step is the env step."""

MONITOR = {"r": pa.float64(), "l": pa.int64(), "t": pa.float64()}


@dataclass(frozen=True)
class Log:
    """What one run's files say. `window` is the number of episodes that a running mean is of, 0 if unknown."""

    episodes: pa.Table
    measure: str = "training episodes"
    env: str | None = None
    seconds: float = float("nan")
    window: int = 0
    gaps: str = ""  # what was left out of it


def read_monitors(files: Sequence[Path]) -> Log:
    """monitor.csv of each copy of a run's environment (stable_baselines3/common/monitor.py).

    The copies step together, so an episode that ends at its copy's k-th step ends at env step k x copies. An episode
    that was cut by an early reset is in no file, and later ones then seem that much earlier than they were. On Atari
    the files are written beneath the frame skip: their steps are frames.
    """
    names = {file.name for file in files}
    alone = len(files) == 1 and not files[0].name[0].isdigit()
    if not alone and names != {f"{number}.monitor.csv" for number in range(len(files))}:
        raise Broken(
            f"{files[0].parent} holds {', '.join(sorted(names))}: the copies of one run's environment are "
            "0.monitor.csv, 1.monitor.csv, … without a gap, and other files belong in other folders"
        )
    envs, tables = zip(*map(read_monitor, files), strict=True)
    if len(set(envs)) > 1:
        raise Broken(
            f"{files[0].parent} holds monitor files of several tasks: {', '.join(sorted(map(str, set(envs))))}"
        )
    steps = np.concatenate([len(files) * np.cumsum(table["l"]) for table in tables])
    order = np.argsort(steps, kind="stable")
    rows = pa.concat_tables(tables).take(order)
    episodes = episodes_of(steps[order], rows["r"], rows["l"], files[0].parent)
    return Log(episodes, env=envs[0], seconds=max(rows["t"].to_pylist()))


def read_monitor(file: Path) -> tuple[str | None, pa.Table]:
    """The environment's id, if told, and r, l, t: return, length, and seconds since the environment was made. The last
    line may be half written."""
    try:
        text = read_whole(file)
    except ValueError as error:
        raise Broken(one_line(error)) from error
    head, _, rows = text[: text.rfind(b"\n") + 1].partition(b"\n")
    try:
        env = str(json.loads(head.removeprefix(b"#"))["env_id"])
        if b"\n#" not in rows:
            table = parse_csv(rows, MONITOR).select(list(MONITOR))
    except (ValueError, TypeError, KeyError, RecursionError, pa.ArrowException) as error:
        raise Broken(f"{file} is no monitor file of Stable-Baselines3: {one_line(error)}") from error
    if b"\n#" in rows or (np.diff(table["t"]) < 0).any():
        raise Broken(f"{file} holds several sessions one after another; their env steps are not known: split it")
    if len(table) and min(table["l"].to_pylist()) < 1:
        raise Broken(f"{file} has an episode shorter than one step")
    return None if env == "None" else env, table


def read_evaluations(files: Sequence[Path]) -> Log:
    """evaluations.npz: timesteps (E,), results (E, n), ep_lengths (E, n), which old ones lack
    (stable_baselines3/common/callbacks.py, EvalCallback)."""
    (file,) = files
    try:
        with ZipFile(file) as archive:  # its sizes are what it unpacks to
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > LARGEST_ARRAYS:
            raise ValueError(
                f"it unpacks to {unpacked >> 20:,} MiB, and more than {LARGEST_ARRAYS >> 20:,} are not read"
            )
        with np.load(file, allow_pickle=False) as stored:
            steps, returns = stored["timesteps"], stored["results"]
            lengths = stored["ep_lengths"] if "ep_lengths" in stored else np.zeros(returns.shape, int)
    except MemoryError:
        raise
    except Exception as error:  # damaged zip files raise almost anything
        raise Broken(f"{file} cannot be read (and pickled or ragged arrays are not): {one_line(error)}") from error
    if returns.ndim != 2 or steps.shape != returns.shape[:1] or lengths.shape != returns.shape:
        raise Broken(
            f"{file} has timesteps {steps.shape}, results {returns.shape} and ep_lengths {lengths.shape}, and not "
            "(E,), (E, n) and (E, n)"
        )
    if not all(map(np.can_cast, (steps.dtype, lengths.dtype, returns.dtype), (np.int64, np.int64, np.float64))):
        raise Broken(f"{file} has timesteps or ep_lengths that are not whole numbers, or results that are no numbers")
    begun = steps != 0  # at env step 0 the untrained policy was evaluated, before all training
    steps, returns, lengths = steps[begun], returns[begun], lengths[begun]
    episodes = episodes_of(steps.repeat(returns.shape[1]), returns.ravel(), lengths.ravel(), file)
    gaps = "" if begun.all() else "the evaluation at env step 0, of the untrained policy, is left out"
    return Log(episodes, "evaluation episodes", gaps=gaps)


def read_events(files: Sequence[Path]) -> Log:
    """Event files, one after another; several of one run continue each other."""
    if (size := sum(file.stat().st_size for file in files)) > LARGEST:
        raise Broken(
            f"{files[0].parent} has event files of {size >> 20:,} MiB; more than {LARGEST >> 20:,} are not read"
        )
    found = scalars(files, {tag for names in TAGS for tag in names[:2]})
    if not (known := [names for names in TAGS if names[0] in found]):
        raise Broken(f"the event files in {files[0].parent} have none of {', '.join(names[0] for names in TAGS)}")
    tag, tag_of_lengths, measure, window = known[0]
    steps, returns = map(np.array, found[tag])
    lengths = lengths_at(steps, *map(np.array, found.get(tag_of_lengths, ([], []))))
    known_number = ~np.isnan(returns)
    if measure == MEANS:  # NaN until the first episode has finished, which is no gap
        begun = known_number.cumsum() > 0
        steps, returns, lengths, known_number = (values[begun] for values in (steps, returns, lengths, known_number))
    lost = steps[~known_number]
    steps, returns, lengths = steps[known_number], returns[known_number], lengths[known_number]
    gaps = f"{len(lost)} values of {tag} are no number, the first at env step {lost[0]}" if len(lost) else ""
    return Log(episodes_of(steps, returns, lengths, files[0].parent), measure, window=window, gaps=gaps)


def lengths_at(steps: Array, steps_of_lengths: Array, lengths: Array) -> Array:
    """Lengths, rounded, of the returns logged at the same steps in the same order; 0 where there is none."""
    both = min(len(steps), len(lengths))
    found = np.zeros(len(steps), int)
    same = steps[:both] == steps_of_lengths[:both]
    found[:both][same] = np.rint(np.nan_to_num(lengths[:both][same], posinf=0, neginf=0))
    return found


def parse_csv(text: bytes, types: Mapping[str, pa.DataType]) -> pa.Table:
    """A CSV file with a line of names; an empty cell is no number. Raises pyarrow.ArrowException."""
    return pa.csv.read_csv(io.BytesIO(text), convert_options=pa.csv.ConvertOptions(column_types=types, null_values=[]))


def episodes_of(steps: ArrayLike, returns: ArrayLike, lengths: ArrayLike, place: object) -> pa.Table:
    """A run's episodes; Broken unless there are some, in the order of their env steps, with returns that are numbers
    and no length below 0."""
    steps, returns, lengths = np.asarray(steps), np.asarray(returns), np.asarray(lengths)
    if not len(steps):
        raise Broken(f"{place} has no finished episode")
    if steps[0] < 1 or (np.diff(steps) < 0).any():
        raise Broken(f"{place} has env steps that go back or begin below 1; it may hold several runs, or one resumed")
    if not np.isfinite(returns).all() or (lengths < 0).any():
        raise Broken(f"{place} has a return that is not a finite number, or a length below 0")
    try:
        columns = zip(EPISODES.items(), (steps, returns, lengths), strict=True)
        return pa.table({name: pa.array(values).cast(kind) for (name, kind), values in columns})
    except (pa.ArrowException, OverflowError) as error:
        raise Broken(f"{place} has an env step or a length that is too large: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
