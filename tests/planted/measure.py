"""How often do the gates see a bug that is there? python -m tests.planted.measure [--work FOLDER] [--traces]

NAME.patch ──▶ a clone with that bug ──▶ the three gates, as a user runs them ──▶ gates.csv     ┐
                                     ──▶ seeds for further gates              ──▶ runs.parquet  ┴──▶ tests.planted.table

Hours. All that is finished is kept in the work folder, so the same command goes on where the last one ended. --traces
asks the exact trace of today's code alone, in minutes, and leaves what was trained as it is.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import pandas as pd

from analysis.bless import SEEDS_PER_LOOK
from analysis.collect import collect
from analysis.dataset import load
from analysis.regress import EXIT, learning_runs, measured

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
GATES = 3  # per bug
UNCHANGED_GATES = 11  # of unchanged code, beside the baseline's seeds
UNCHANGED = "unchanged"


def bugs() -> list[str]:
    return sorted(patch.stem for patch in HERE.glob("*.patch"))


def called(folder: Path, *command: str) -> tuple[int, str]:
    """Exit code and output of a Python module in a checkout."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True)
    if done.returncode == 2:
        raise SystemExit(f"{folder.name}: {' '.join(command)}: {done.stderr.strip()}")
    return done.returncode, done.stdout


def checkout(name: str, work: Path) -> Path:
    """A clone of the last commit with the patch of that name as one commit more."""
    folder = work / "code" / name
    if not folder.exists():
        with TemporaryDirectory(dir=work) as beside:
            fresh = Path(beside, name)
            git = ["git", "-C", str(fresh), "-c", "user.name=planted", "-c", "user.email=planted@localhost"]
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(fresh)], check=True)
            if name != UNCHANGED:
                subprocess.run([*git, "apply", str(HERE / f"{name}.patch")], check=True)
                subprocess.run([*git, "commit", "--quiet", "--all", "--message", name], check=True)
            folder.parent.mkdir(exist_ok=True)
            fresh.rename(folder)
    return folder


def trace(folder: Path) -> str:
    """What the exact trace says first of the bug in a checkout: the run, the quantity, how many runs differ."""
    said = called(folder, "experiments.trace", "--against", "HEAD~1")[1]
    return said.splitlines()[1]  # after the line that names both sides


def traces_of_today() -> None:
    """Ask the exact trace again, of every bug in today's commit, and write its words to gates.csv."""
    table = pd.read_csv(HERE / "gates.csv").set_index("bug")
    for name in bugs():
        with TemporaryDirectory() as fresh:
            table.loc[name, "trace"] = trace(checkout(name, Path(fresh)))
        print(name, table.loc[name, "trace"], flush=True)
        table.reset_index().to_csv(HERE / "gates.csv", index=False)


def gated(name: str, work: Path) -> None:
    """Everything about one bug, or about unchanged code: its runs, and in NAME.json what the three gates said."""
    folder, records = checkout(name, work), f"records={work / 'records'}"
    study = ["experiments.study", "study=regression", "variants=clip_0.2", f"name={name}", "tracking=none", records]
    said = work / f"{name}.json"
    if not said.exists():
        began = perf_counter()
        called(folder, *study, f"num_seeds={SEEDS_PER_LOOK}")
        code, _ = called(folder, "analysis.regress", "--candidate", name, "--records", str(work / "records"))
        seconds = perf_counter() - began
        traced = "" if name == UNCHANGED else trace(folder)
        verdict = {code: verdict for verdict, code in EXIT.items()}[code]
        said.write_text(json.dumps({"bug": name, "verdict": verdict, "seconds": round(seconds), "trace": traced}))
    more = SEEDS_PER_LOOK * (UNCHANGED_GATES if name == UNCHANGED else GATES)
    called(folder, *study, f"num_seeds={more}", "extend=true")


def endpoints(study: str, records: Path) -> pd.DataFrame:
    """What the gates read of a study: a row per task, seed and stretch of iterations."""
    with TemporaryDirectory() as beside:
        collect([study], records, Path(beside, "runs"), ())
        dataset = load(Path(beside, "runs"))
        found = measured(dataset, learning_runs(dataset))
    runs = found.runs[["run", "seed", "status", "score"]]
    return found.quantities.reset_index().merge(runs, on="run").drop(columns="run").assign(bug=study)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.planted.measure")
    parser.add_argument("--work", type=Path, default=ROOT / "records" / "planted", help="kept between calls")
    parser.add_argument("--traces", action="store_true", help="only what the exact trace says of today's code")
    options = parser.parse_args(arguments)
    if options.traces:
        return traces_of_today()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    names = [UNCHANGED, *bugs()]
    for name in names:
        gated(name, work)
        print(name, json.loads((work / f"{name}.json").read_text())["verdict"], flush=True)
    found = pd.concat([endpoints(name, work / "records") for name in names], ignore_index=True)
    floats = {name: "float32" for name in found.select_dtypes("float64") if name != "score"}
    found.astype({**floats, "bug": "category"}).to_parquet(HERE / "runs.parquet", compression="zstd", index=False)
    gates = pd.DataFrame([json.loads((work / f"{name}.json").read_text()) for name in names])
    gates.to_csv(HERE / "gates.csv", index=False)
    return None


if __name__ == "__main__":
    main()
