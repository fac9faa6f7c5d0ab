"""Runs from what other tools leave, so that they can be compared. A source is one of

    sb3:FOLDER          *monitor.csv of Stable-Baselines3 and RL Zoo, one file per copy of a run's environment
    evaluations:FOLDER  evaluations.npz of Stable-Baselines3's EvalCallback
    tensorboard:FOLDER  event files of CleanRL, Stable-Baselines3 or RLlib
    csv:FILE            one row per finished episode: env_step, return and, where known, length, variant, env, seed

and may end in `,variant=NAME,env=ID,seed=N`, which goes before what the files say. Each folder that directly holds such
files is one run; in a CSV file each variant, env and seed is one, its rows in the order of env_step.

What the files leave open is taken from RL Zoo's args.yml, RLlib's params.json or the folders' names. Failing that, the
variant is the tool's name (with the algorithm's where that is known: `sb3_ppo`), and seeds are numbered 0, 1, 2 … in
the order of the folders' names, which `config` then says. No log says how its run ended: all count as complete, with a
budget of as many env steps as they show.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from analysis.records import LARGEST_JSON, RecordError, read_json, read_whole
from analysis.sources.logs import (
    MEANS,
    Log,
    episodes_of,
    one_line,
    parse_csv,
    read_evaluations,
    read_events,
    read_monitors,
)
from analysis.sources.records import EPISODES, Broken, Collected, score_of

TOOLS: dict[str, tuple[str, Callable[[Sequence[Path]], Log]]] = {
    "sb3": ("*monitor.csv", read_monitors),
    "evaluations": ("evaluations.npz", read_evaluations),
    "tensorboard": ("*tfevents*", read_events),
}
"""Files of a run's folder, and what reads them."""

OPTIONS = ",variant=NAME,env=ID,seed=N"
CSV = EPISODES | {"variant": pa.string(), "env": pa.string(), "seed": pa.int64()}
NO_ITERATIONS = pa.table({name: pa.array([], pa.int64()) for name in ("iteration", "env_steps")})

ENV = r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*-v\d+"
ALGO = "a2c|ars|ddpg|dqn|her|ppo|ppo_lstm|qrdqn|sac|td3|tqc|trpo"  # of RL Zoo
FOLDER_NAMES = (
    r"(?:^|/)(?P<env>(?:ALE/)?[^/]+)__(?P<algo>[^/]+)__(?P<seed>\d+)__\d+(?=/|$)",  # CleanRL: Hopper-v4__ppo__1__170000
    rf"(?P<algo>[^/]+)/(?P<env>{ENV})_\d+(?=/|$)",  # RL Zoo: ppo/Hopper-v3_1
    rf"(?:^|/)(?P<algo>{ALGO})-(?P<env>{ENV})(?=[_/]|$)",  # its published models: ppo-Hopper-v3
    r"(?:^|/)(?P<algo>[A-Za-z]*[A-Z][A-Z0-9]+)_\d+(?=/|$)",  # Stable-Baselines3's event files: PPO_1
    rf"(?<![A-Za-z0-9-])(?P<env>{ENV})(?![A-Za-z0-9-])",
    r"(?<![A-Za-z0-9])(?:seed|s)[_=-]?(?P<seed>\d+)(?![A-Za-z0-9])",
)
"""What folders' names may tell. Of two patterns the first counts, and of two places the deeper."""


def runs_of(source: str) -> Iterator[Collected | Broken] | None:
    """The runs of a source, read one after another; None if it is none of these. RecordError if nothing is there."""
    tool, colon, rest = source.partition(":")
    if not colon or tool not in (*TOOLS, "csv"):
        return None
    place, options = options_of(rest)
    path = Path(place)
    if tool == "csv":
        if not path.is_file():
            raise RecordError(f"{place} is no file; say csv:FILE, and after it no options but {OPTIONS}")
        return runs_in_csv(path, options)
    if not path.is_dir():
        raise RecordError(f"{place} is no folder; say {tool}:FOLDER, and after it no options but {OPTIONS}")
    pattern, _ = TOOLS[tool]
    folders = sorted({file.parent for file in path.rglob(pattern)})
    if not folders:
        raise RecordError(f"{place} holds no {pattern}, nor does a folder inside it; say where {tool} wrote its logs")
    return runs_in_folders(tool, path, folders, options)


def options_of(text: str) -> tuple[str, dict[str, str]]:
    """A place, which may itself have commas as Ray's folders do, and the options behind it."""
    place, *pairs = re.split(r",(?=(?:variant|env|seed)=[^,]*(?:,(?:variant|env|seed)=[^,]*)*$)", text)
    options = dict(pair.split("=", 1) for pair in pairs)
    if not all(options.values()) or len(options) < len(pairs):
        raise RecordError(f"{text} has an option that is empty or there twice; options are {OPTIONS}")
    if not re.fullmatch(r"[0-9]{1,18}", options.get("seed", "0")):
        raise RecordError(f"seed={options['seed']} is no whole number; options are {OPTIONS}")
    return place, options


def runs_in_folders(
    tool: str, root: Path, folders: Sequence[Path], options: dict[str, str]
) -> Iterator[Collected | Broken]:
    """Each folder's run."""
    pattern, read = TOOLS[tool]
    numbers: Counter[tuple[str, str]] = Counter()
    names: dict[tuple[str, str], str] = {}
    for folder in folders:
        files = sorted(folder.glob(pattern))
        try:
            log = read(files)
            told = told_by(folder, root) | ({"env": log.env} if log.env else {}) | options
            if "env" not in told:
                raise Broken(f"{folder} does not tell its environment; add ,env=ID to the source")
            variant = told.get("variant") or (f"{tool}_{told['algo']}" if "algo" in told else tool)
            name = variant, told["env"]
            if numbered := "seed" not in told:
                left = left_over(folder.relative_to(root).as_posix(), told)
                if (first := names.setdefault(name, left)) != left:
                    raise Broken(
                        f"{folder} tells no seed; its name has {left!r} where another of {name[0]} on {name[1]} has "
                        f"{first!r}: it may have other settings; give each folder as a source with ,variant=NAME,seed=N"
                    )
                told["seed"] = str(numbers[name])
                numbers[name] += 1
            config = config_of(tool, files, options, numbered) | ({"gaps": log.gaps} if log.gaps else {})
            yield collected(tool, log, (*name, int(told["seed"])), config, folder, digest_of(files))
        except Broken as broken:
            yield broken
        except (OSError, ValueError) as error:
            yield Broken(f"{folder} cannot be read: {one_line(error)}")


def left_over(name: str, told: Mapping[str, str]) -> str:
    """What is left of a folder's name without its algorithm, its task and a count at the end of a part."""
    for known in ("algo", "env"):
        name = name.replace(told.get(known) or "/", "/")
    return re.sub(r"(?:(?<![^/])|[_-]|(?<=run)|(?<=exp))\d+(?=/|$)", "", name).strip("/_-")


def runs_in_csv(file: Path, options: dict[str, str]) -> Iterator[Collected | Broken]:
    """Each variant, env and seed of the file; columns other than the six are ignored."""
    try:
        table = parse_csv(read_whole(file), CSV)
        frame = table.select([name for name in CSV if name in table.column_names]).to_pandas()
    except MemoryError:
        raise
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        yield Broken(f"{file} cannot be read: {one_line(error)}")
        return
    config = config_of("csv", [file], options, "seed" not in frame and "seed" not in options)
    defaults = {"variant": "csv", "seed": 0, "length": 0}
    frame = frame.assign(**{name: value for name, value in defaults.items() if name not in frame} | options)
    if missing := [name for name in ("env_step", "return", "env") if name not in frame]:
        yield Broken(f"{file} has no column {missing[0]}; add it" + ", or ,env=ID to the source" * (missing == ["env"]))
    elif not len(frame) or (frame[["variant", "env"]] == "").any(axis=None):
        yield Broken(f"{file} has no rows, or one without its variant or env")
    else:
        whole = digest_of([file])
        for (variant, env, seed), rows in frame.groupby(["variant", "env", "seed"]):
            name = f"{variant} on {env} seed {seed}"
            try:
                log = Log(episodes_of(rows["env_step"], rows["return"], rows["length"], f"{file}, {name},"))
                digest = hashlib.sha256(f"{whole} {name}".encode()).hexdigest()
                yield collected("csv", log, (variant, env, int(seed)), config, file, digest)
            except Broken as broken:
                yield broken


def told_by(folder: Path, root: Path) -> dict[str, str]:
    """algo, env and seed, as far as files beside the logs and the names of folders, up to the root's parent, tell."""
    told: dict[str, str] = {}
    path = "/".join(folder.resolve().parts[max(0, len(root.resolve().parts) - 2) :])
    for pattern in reversed(FOLDER_NAMES):
        for match in re.finditer(pattern, path):
            told |= match.groupdict()
    for file in folder.glob("*/args.yml"):  # matched by line: its tags would have Python objects made
        text = read_whole(file, LARGEST_JSON).decode(errors="replace")
        told |= dict(re.findall(r"^[ -]*(algo|env|seed)(?:: *|\s*\n *- )([A-Za-z0-9][\w./:-]*) *$", text, re.MULTILINE))
    if (file := folder / "params.json").exists():
        try:
            params = read_json(file)
            told |= {name: str(params[name]) for name in ("env", "seed") if isinstance(params.get(name), str | int)}
        except (ValueError, AttributeError, RecursionError):
            pass  # it is no file of RLlib's, and nothing hangs on it
    return {name: value for name, value in told.items() if name != "seed" or re.fullmatch(r"[0-9]{1,18}", value)}


def config_of(tool: str, files: Sequence[Path], options: Mapping[str, str], numbered: bool) -> dict[str, Any]:
    """All that is known of a run's settings."""
    config = {"tool": tool, "files": [file.name for file in files], "options": dict(options)}
    return config | {"seed": "numbered"} if numbered else config


def digest_of(files: Sequence[Path]) -> str:
    """Sha256 of the files' bytes."""
    sha = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while piece := handle.read(1 << 20):
                sha.update(piece)
    return sha.hexdigest()


def collected(
    tool: str, log: Log, name: tuple[str, str, int], config: Mapping[str, Any], source: Path, digest: str
) -> Collected:
    """The run of a variant, env and seed. Of running means the score is the last one; how many episodes finished is not
    known, and 0."""
    last = int(log.episodes["env_step"][-1].as_py())
    score = score_of(log.episodes)
    if log.measure == MEANS:
        score = {"episodes": 0, "score": log.episodes["return"][-1].as_py(), "score_episodes": log.window}
    row = {
        "run": f"{tool}-{digest[:12]}",
        "run_id": digest[:12],
        "code_id": tool,
        **dict(zip(("variant", "env", "seed"), name, strict=True)),
        "profile": tool,
        "status": "complete",
        "not_finite": "",
        "measure": log.measure,
        "budget": last,
        "env_steps": last,
        **score,
        "seconds": log.seconds,
        "peak_mb": math.nan,
        **dict.fromkeys(("backend", "numerics", "device", "commit", "host"), "unknown"),
        **dict.fromkeys(("cpu", "gpu"), ""),
        "config": json.dumps(config, sort_keys=True),
        "source": str(source),
    }
    return Collected(row, log.episodes, NO_ITERATIONS)
