"""From runs to tables, figures and one page: python -m analysis.report NAME

NAME is a study or a folder of records, collected again each time, or the folder of a dataset. Nothing is drawn or
written that the same dataset would not give again, byte for byte.

    records/reports/NAME/index.html          everything, in one file
                         report.md           summary and tables
                         tables/*.{md,csv,tex}
                         figures/*.{png,pdf}
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import equal_codes, findings, replicate
from analysis.collect import collect
from analysis.dataset import Dataset, load
from analysis.figures import kinds, style
from analysis.folders import building
from analysis.page import Page, Picture, render
from analysis.paper import published
from analysis.records import RecordError
from analysis.results import LONG, Options, Results
from analysis.scores import UNTRAINED, Scaling
from analysis.sources.datasets import is_dataset
from analysis.statistics import FEW
from analysis.tables import FORMATS, Table, frame, many, markdown, number, plain
from experiments.commands import command, typed
from experiments.records.schema import SCORE_EPISODES

SHOWN = 8  # names of what is missing


def summary(results: Results) -> list[str]:
    """What was found, in sentences."""
    said = []
    if results.normalised:
        means = {v: float(np.mean([runs.mean() for runs in results.cells(v)])) for v in results.complete}
        best = max(means, key=means.__getitem__)
        said.append(
            f"Highest normalised score, over all our runs: {best}, {number(means[best])}"
            + (
                f" (lowest: {min(means, key=means.__getitem__)}, {number(min(means.values()))})."
                if len(means) > 1
                else "."
            )
        )
    else:
        said.append(f"Raw scores only: {results.why_raw}.")
        random = published.mujoco_random().reset_index()
        if known := sorted(set(results.environments) & set(random["env"] + "-" + random["env_version"])):
            said.append(f"Returns of a random policy on {', '.join(known)} stand in analysis/paper/mujoco_random.csv.")
    if results.paper_rows:
        printed = published.table1()["score"][results.paper_rows]
        places = replicate.places(printed, results.reruns)
        ranks = replicate.agreement(printed, results.reruns)
        said += replicate.verdict(places, ranks, results.reruns)
    if results.why_no_reruns:
        said.append(f"Not set beside the paper's Table 1: {results.why_no_reruns}.")
    return said + doubts(results)


def doubts(results: Results) -> list[str]:
    """What a reader has to bear in mind."""
    own = results.runs[results.runs["measure"] == "training episodes"]
    short, diverged = (
        int((own["score_episodes"] < SCORE_EPISODES).sum()),
        int((results.runs["status"] == "diverged").sum()),
    )
    fixed = any(interval.method == "fixed" for interval in results.intervals.values())
    tails = [variant for variant, interval in results.intervals.items() if interval.heavy_tailed]
    learn = results.runs[results.runs["variant"].isin(results.trained)]
    kinds = sorted(learn["measure"].unique())
    long = results.shares[results.shares > LONG]
    numbered = len(results.dataset.note.get("numbered", ()))
    told = {
        "1 seed: no intervals; differences mean nothing yet.": results.seeds == 1,
        f"{findings.how_many(results, 'seed')}: intervals are Student's t and wide; read small differences as none.": (
            1 < results.seeds < FEW
        ),
        faults(results): len(results.faulty),
        f"{many(short, 'run')} finished fewer than {SCORE_EPISODES} episodes and count what they had.": short,
        f"{many(diverged, 'run')} diverged, and each counts as its task's worst{when(results)}.": diverged,
        f"Budgets differ: {budgets(results)}. A score is of the end of a run, so differences there are not of the "
        "variants alone; heights of curves are compared up to the shortest budget.": results.unequal,
        f"In {many(len(long), 'run')} of {len(results.shares)} the episodes of the score span more than "
        f"{LONG:.0%} of the run, at most {long.max():.0%}: such scores are of much of training, not of its end "
        "(‡).": len(long),
        "In some resamples no variant is better than the policy that scores 0: intervals take the returns that score "
        "0 and 1 for exact.": fixed,
        f"The means of {', '.join(tails)} hinge on one run: their intervals may be too narrow.": tails,
        f"Not all runs were measured alike: some scores are of {' and others of '.join(kinds)}; none are averaged "
        "together, but they are compared.": len(kinds) > 1,
        f"All scores are of {' '.join(kinds)}.": len(kinds) == 1 and kinds != ["training episodes"],
        f"The seeds of {many(numbered, 'run')} were numbered by their position in the source, which does not name "
        "them.": numbered,
        f"Several simulators or kinds of numerics: {', '.join(ways(results))}.": len(ways(results)) > 1,
    }
    return [sentence for sentence, holds in told.items() if holds] + codes_joined(results)


def codes_joined(results: Results) -> list[str]:
    """Which codes trained the runs, where a proof in the dataset's note says that they are equal."""
    noted = results.dataset.note.get("equal_codes", [])
    proofs = [equal_codes.proof_of(proof, f"{results.dataset.folder}/dataset.json") for proof in noted]
    return [f"{line}." for line in equal_codes.describe_all(results.runs["code_id"].value_counts().to_dict(), proofs)]


def faults(results: Results) -> str:
    """Which runs their environment spoilt, and when."""
    count = len(results.faulty)
    return (
        f"{many(count, 'run')} {'is' if count == 1 else 'are'} faulty, for the environment handed out what is "
        f"not finite, and count{'s' * (count == 1)} in no mean: {listed(results.faulty)}. Means of these cells are "
        "over fewer runs."
    )


def listed(runs: pd.DataFrame) -> str:
    """Runs by variant, task and seed, with what was not finite, and when, if that is known."""
    names = [
        f"{run['variant']} on {run['env']}, seed {run['seed']}" + f" ({run['not_finite']})" * bool(run["not_finite"])
        for _, run in runs.iterrows()
    ]
    return "; ".join(names[:SHOWN]) + f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)


def when(results: Results) -> str:
    """Of the diverged runs that tell what was not finite, and when: which they are."""
    tell = results.runs[(results.runs["status"] == "diverged") & (results.runs["not_finite"] != "")]
    return f": {listed(tell)}" * bool(len(tell))


def budgets(results: Results) -> str:
    """Tasks whose runs had different budgets, and those of their variants."""
    said = []
    for task, (low, high) in results.unequal.items():
        of = results.budgets[task]
        shortest, longest = min(of, key=of.__getitem__), max(of, key=of.__getitem__)
        said.append(f"{task} from {low:,} ({shortest}) to {high:,} env steps ({longest})")
    return "; ".join(said[:SHOWN]) + f" and {len(said) - SHOWN} more" * (len(said) > SHOWN)


def ways(results: Results) -> list[str]:
    return sorted(set((results.runs["backend"] + " " + results.runs["numerics"]).str.strip()))


def notes(results: Results) -> list[str]:
    """What to know of the published numbers beside ours."""
    if not results.paper_rows:
        return []
    return [
        "The paper's Table 1 does not say whether its random policy draws uniform actions or is the untrained network, "
        "nor whether its best result is a variant's mean or a single run; --random and --best choose.",
    ]


def missing(note: Mapping[str, Any]) -> list[str]:
    """What a partial dataset has to say on its face."""
    said = []
    for kind, names in note["left_out"].items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        said.append(f"Left out, {kind}: {'; '.join(names[:SHOWN])}{more}.")
    return said


def provenance(results: Results) -> Table:
    """What trained the runs, and what it cost."""
    rows = []
    keys = ["code_id", "commit", "cpu", "gpu"]
    told = results.runs.assign(**{key: results.runs[key].fillna("") for key in keys})
    for (code, commit, cpu, gpu), group in told.groupby(keys):
        rows.append({"code id": code, "commit": commit, "machine": " ".join(filter(None, (cpu, gpu))),
                     "runs": len(group), "env steps": int(group["env_steps"].sum()),
                     "core-hours": float(group["seconds"].sum() / 3600)})  # fmt: skip
    values = frame(rows)
    shown = values.assign(
        **{"core-hours": values["core-hours"].map(number)},
        **{name: values[name].map("{:,}".format) for name in ("runs", "env steps")},
    )
    caption = "Core-hours: wall time of each run's pack, divided by the runs in it; one core per pack."
    return Table("provenance", "Provenance and compute", caption, shown, values)


def commands(dataset: Dataset, options: argparse.Namespace) -> list[str]:
    """What to type to have it again."""
    studies = dataset.note.get("studies") or [study for study in [dataset.note.get("study")] if study]
    left_out = list(dataset.note["left_out"])
    train = [["experiments.study", *study["overrides"]] for study in studies]
    gather = ["analysis.collect", *dataset.note["sources"], "--out", "DATASET"]
    gather += ["--leave-out", *left_out] * bool(left_out)
    write = ["analysis.report", "DATASET", "--random", options.random, "--best", options.best]
    for flag, names in (("variants", options.variants), ("tasks", options.tasks)):
        write += [f"--{flag}", *names] if names else []
    write += ["--reference", options.reference] if options.reference else []
    write += ["--seed", options.seed] + ["--missing", "mark"] * bool(left_out)
    return [typed(*words) for words in (*train, gather, write)]


def title_of(name: str) -> str:
    """What a dataset, a study or a folder is called, without the folders above it."""
    return Path(name).resolve().name


def dataset_of(name: str, records: Path, mark: bool) -> Dataset:
    """The dataset of a folder, or of a study or records, collected now; one that lacks runs only if `mark` says so."""
    folder = Path(name)
    if not is_dataset(folder):
        folder = records / "datasets" / title_of(name)
        collect([name], records, folder, ("missing", "partial") if mark else ())
    dataset = load(folder)
    if (left := missing(dataset.note)) and not mark:
        raise RecordError(f"{' '.join(left)} --missing=mark reports without them, and says so")
    return dataset


def chosen(dataset: Dataset, variants: Sequence[str] | None, tasks: Sequence[str] | None) -> Dataset:
    """The dataset's runs of these variants, and of the policies that do not learn, on these tasks."""
    runs = dataset.runs
    for column, what, names in (("variant", "variants", variants), ("env", "tasks", tasks)):
        there = sorted(runs[column].unique())
        if unknown := sorted(set(names or ()) - set(there)):
            raise RecordError(f"--{what}: no runs of {', '.join(unknown)}; there are {', '.join(there)}")
        if names:
            runs = runs[runs[column].isin([*names, *UNTRAINED])]
    return replace(dataset, runs=runs)


def write(results: Results, title: str, options: argparse.Namespace, out: Path) -> None:
    """All files of the report, in a folder that holds nothing else afterwards."""
    with building(out) as new:
        build(results, title, options, new)
        old = out.with_name(f".{out.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.replace(old)
        new.replace(out)
        shutil.rmtree(old, ignore_errors=True)


def build(results: Results, title: str, options: argparse.Namespace, new: Path) -> None:
    """All files of the report, in an empty folder."""
    for folder in ("tables", "figures"):
        (new / folder).mkdir()
    tables = list(findings.made(results))
    for table in tables:
        for ending, as_text in FORMATS.items():
            (new / "tables" / f"{table.name}.{ending}").write_text(as_text(table))
    pictures = []
    for name, heading, caption, figure in kinds.made(results):
        style.save(figure, new / "figures" / name)
        pictures.append(Picture(name, heading, caption, new / "figures" / f"{name}.png"))
    page = Page(
        title=title,
        about=about(results),
        partial=missing(results.dataset.note),
        summary=summary(results),
        tables=tables,
        pictures=pictures,
        notes=notes(results),
        commands=commands(results.dataset, options),
        provenance=provenance(results),
    )
    (new / "index.html").write_text(render(page))
    (new / "report.md").write_text(as_markdown(page))


def about(results: Results) -> str:
    variants, tasks = len(results.trained), len(results.environments)
    learn = int(results.runs["variant"].isin(results.trained).sum())
    others = len(results.runs) - learn
    return (
        f"{many(learn, 'run')}: {many(variants, 'variant')} on {many(tasks, 'task')}, "
        f"{findings.how_many(results)} a cell"
        + f"; {many(others, 'run')} of policies that do not learn" * bool(others)
        + f"; {many(len(results.faulty), 'faulty run')}" * bool(len(results.faulty))
        + f"; {results.runs['env_steps'].sum():,} env steps"
    )


def as_markdown(page: Page) -> str:
    """Summary and short tables, for a terminal or a pull request."""
    parts = [f"# {plain(page.title)}", plain(page.about), *(f"> **Partial.** {plain(line)}" for line in page.partial)]
    parts.append("\n".join(f"- {plain(line)}" for line in (*page.summary, *page.notes)))
    parts += [markdown(table) for table in page.tables if table.name != "runs"]
    return "\n\n".join(parts) + "\n"


@command(RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description="Tables, figures and a page.")
    parser.add_argument("name", metavar="NAME", help="a study, a folder of records, or a dataset's folder")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where studies are looked up")
    parser.add_argument("--out", type=Path, help="folder of the report (default: reports/NAME in the records)")
    parser.add_argument(
        "--missing", choices=["refuse", "mark"], default="refuse", help="what to do when runs are missing"
    )
    parser.add_argument("--random", choices=["random", "initial"], default="random", help="policy that scores 0")
    parser.add_argument("--variants", nargs="+", metavar="VARIANT", help="what is reported (default: all)")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="on which tasks (default: all)")
    parser.add_argument("--reference", metavar="VARIANT", help="what the others are compared with")
    parser.add_argument("--best", choices=["variant", "run"], default="variant", help="result that scores 1")
    parser.add_argument("--seed", type=int, default=0, help="of resamples and drawn tables")
    options = parser.parse_args(arguments)
    title = title_of(options.name)
    out = options.out or options.records / "reports" / title
    if out.exists() and not (out / "index.html").exists():
        raise RecordError(f"--out {out} is there and is no report; give a folder of its own")
    dataset = dataset_of(options.name, options.records, options.missing == "mark")
    dataset = chosen(dataset, options.variants, options.tasks)
    results = Results(dataset, Options(Scaling(options.random, options.best), options.seed, options.reference))
    write(results, title, options, out)
    print("\n".join([*(f"PARTIAL: {line}" for line in missing(dataset.note)), *summary(results)]))
    print(out / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
