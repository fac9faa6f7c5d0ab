"""What the tests of collecting share: the study that was trained, and ways to damage what it left."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

VARIANTS = {"plain": ("algo=unconstrained",), "mine/clip": ("algo=clip",)}
OVERRIDES = ["profile.horizon=256", "profile.epochs=2"]
RUNS = 5  # four of the study, and one of somebody else's
ITERATIONS = 20  # of 256 env steps


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def folders_of(records: Path) -> list[Path]:
    return sorted(path.parent for path in records.glob("runs/*/*/config.json"))


def one_of(records: Path, name: str = "clip_0.2.s0") -> Path:
    (folder,) = (folder for folder in folders_of(records) if name in folder.name)
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Of a JSON file; `config__seed` is a part of `config`."""
    content = json.loads(path.read_text())
    for name, value in changes.items():
        *parts, last = name.split("__")
        inner = content
        for part in parts:
            inner = inner[part]
        inner[last] = value
    path.write_text(json.dumps(content))
    sign(path.parent)


def retrained(folder: Path, **changes: Any) -> Path:
    """The run as if it had been trained with these changes of config.json, under a name of somebody's own."""
    folder = folder.rename(folder.with_name(folder.name[:-13]))
    edit(folder / "config.json", **changes)
    head = json.loads((folder / "config.json").read_text())
    edit(folder / "done.json", code_id=head["code_id"], seed=head["config"]["seed"])
    return folder


def sign(folder: Path) -> None:
    """Make the digests in done.json fit again, where it has such, as if the run had been written so."""
    try:
        done = json.loads((folder / "done.json").read_text())
    except (OSError, ValueError):
        return
    if "config_sha256" in done:
        done["config_sha256"] = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    if done.pop("sha256", None) is not None:
        text = json.dumps(done, sort_keys=True, separators=(",", ":"))
        done["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "done.json").write_text(json.dumps(done))


def rewrite(folder: Path, name: str, lines: list[str], **done: Any) -> None:
    """One of a run's tables, as if it had been trained so."""
    text = "".join(f"{line}\n" for line in lines).encode()
    (folder / "attempt-1" / f"{name}.csv").write_bytes(text)
    edit(folder / "done.json", **{f"{name}_sha256": hashlib.sha256(text).hexdigest()}, **done)


def lines_of(folder: Path, name: str) -> list[dict[str, str]]:
    """A run's table by the csv module alone."""
    with (folder / "attempt-1" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def unfinish(folder: Path, rows: int = ITERATIONS) -> None:
    """As it stood after so many iterations, in the middle of writing the next."""
    (folder / "done.json").unlink()
    for name in ("episodes", "iterations", "timing"):
        path = folder / "attempt-1" / f"{name}.csv"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[: rows + 1]) + "17,")
