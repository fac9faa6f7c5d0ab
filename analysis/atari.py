"""The paper's Atari experiments (section 6.4) beside ours: Tables 2 and 6, human-normalised scores, Figure 6.

python -m analysis.atari DATASET_OR_STUDY [--records records] [--out FOLDER]

    FOLDER/atari.md      what is printed
           *.csv         its tables, in full precision
           figure6.png
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import scores, statistics
from analysis.curves import EPISODE, fill, rows_of
from analysis.dataset import Dataset
from analysis.figures import captions, style
from analysis.figures.atari import figure6
from analysis.findings import LEVEL_NAME
from analysis.folders import building
from analysis.paper import published
from analysis.records import RecordError
from analysis.report import about, dataset_of, missing, provenance, title_of
from analysis.results import Results
from analysis.scores import UNTRAINED, Raw
from analysis.statistics import FEW, Array
from analysis.tables import Table, csv, frame, many, markdown, number, plain, returns, span
from experiments.commands import command
from experiments.records.schema import SCORE_EPISODES

PAPER = {"a2c": "A2C", "acer": "ACER", "ppo": "PPO"}
"""Columns of the published tables, and the paper's names."""

CRITERIA = {1: "all of training", 2: f"last {SCORE_EPISODES} episodes"}
"""What Table 2 takes the mean return over, by its `metric_id`: the first favours fast learning."""

AVERAGES = {"median": statistics.median, "mean": statistics.mean, "IQM": statistics.interquartile_mean}
NOT_OF_MEANS = "IQM"  # pools runs, and the paper prints means of three


def learning(dataset: Dataset) -> Results:
    """The runs that learn; RecordError if a task is none of the 57 games that have a human score."""
    results = Results(replace(dataset, runs=dataset.runs[~dataset.runs["variant"].isin(UNTRAINED)]))
    known = published.atari_human().index
    if unknown := [task for task in results.environments if task not in known]:
        raise RecordError(f"{', '.join(unknown)}: not among the {len(known)} Atari games, such as {known[0]}")
    return results


def shared(results: Results) -> list[str]:
    """The tasks on which every variant has runs: only there do averages and counts compare like with like."""
    return [task for task in results.environments if all(task in results.raw.get(v, {}) for v in results.variants)]


def over_training(results: Results) -> Raw:
    """Raw scores by Table 2's first criterion: the mean return of all of a run's episodes."""
    sums, counts = fill(rows_of(results.dataset, results.runs["run"], EPISODE), results.runs["budget"].to_numpy())
    totals, episodes = sums.sum(axis=1), counts.sum(axis=1)
    score = np.divide(totals, episodes, out=np.full_like(totals, np.nan), where=episodes > 0)
    return scores.raw_scores(results.runs.assign(score=score))


def games_won(results: Results, raw: Raw, tasks: Sequence[str]) -> pd.Series:
    """Of these tasks: how many each variant wins by its mean over seeds, and ties."""
    means = pd.DataFrame({variant: [raw[variant][task].mean() for task in tasks] for variant in results.variants})
    return published.games_won(means.round(9))  # the same returns in another order are a tie


def table2(results: Results) -> Table:
    """Games won by each of our variants, if there are two, beside those of the paper's algorithms."""
    tasks, printed = shared(results), published.table2()
    counted = published.games_won(published.table6()[list(PAPER)])
    ours: Mapping[int, Raw] = {1: over_training(results), 2: results.raw}
    found: list[tuple[str, str, pd.Series]] = []
    for metric, criterion in CRITERIA.items():
        if tasks and len(results.variants) > 1:
            found.append((criterion, "ours", games_won(results, ours[metric], tasks)))
        found.append((criterion, "paper, Table 2", printed.loc[metric, [*PAPER, "tie"]].rename(PAPER)))
    found.append((CRITERIA[2], "paper, counted from Table 6", counted.rename(PAPER)))
    rows, shown = [], []
    for criterion, source, won in found:
        wins = ", ".join(f"{name} {count}" for name, count in won.drop("tie").items())
        shown.append({"mean return over": criterion, "of": source, "games won": wins, "ties": str(won["tie"]),
                      "games": str(won.sum())})  # fmt: skip
        rows += [{"criterion": criterion, "source": source, "algorithm": name, "games": count}
                 for name, count in won.items()]  # fmt: skip
    ours_on = f"on the {many(len(tasks), 'game')} that all our variants have"
    caption = (
        "A game is won by the algorithm that alone has the highest mean over seeds. "
        f"Ours: {ours_on if len(results.variants) > 1 else 'not counted, for there is one variant'}. "
        "The paper's two counts differ by Pong, printed as 20.7 for both ACER and PPO: ACER's before rounding."
    )
    return Table("games_won", "Table 2, games won", caption, frame(shown), frame(rows))


def human_normalised(raw: Raw, tasks: Sequence[str]) -> dict[str, list[Array]]:
    """Per variant an array (runs,) per task: 0 is random play, 1 a human."""
    known = {variant: {task: cells[task] for task in tasks} for variant, cells in raw.items()}
    to = scores.human_references(published.atari_human(), tasks)
    return {variant: list(cells.values()) for variant, cells in scores.normalise(known, to).items()}


def human(results: Results) -> Table:
    """Averages over games of human-normalised scores, ours with intervals."""
    tasks, names = shared(results), published.atari_human()["game"]
    printed = published.table6()[list(PAPER)].rename(columns=PAPER)
    both = [task for task in tasks if names[task] in printed.index]
    theirs = {name: {task: np.array([column[names[task]]]) for task in both} for name, column in printed.items()}
    ours = human_normalised({variant: results.raw[variant] for variant in results.variants}, tasks)
    rows = [averages(variant, "ours", cells, results) for variant, cells in ours.items()]
    if both:
        rows += [averages(name, "paper", cells, results) for name, cells in human_normalised(theirs, both).items()]
    values = frame(rows)
    shown = values[["algorithm", "of"]].assign(games=values["games"].map(str))
    for name in AVERAGES:
        ends = zip(values[f"{name}_low"], values[f"{name}_high"], strict=True)
        shown[name] = values[name].map(number) + ["" if np.isnan(each[0]) else f" {span(*each)}" for each in ends]
    caption = (
        f"(score − random) / (human − random), of the mean return of a run's last {SCORE_EPISODES} episodes. Ours: on "
        "the games that all our variants have; the paper's: on those of them in its Table 6. Median and mean: over "
        f"games, of means over seeds. IQM: mean of the middle half of all runs. [{LEVEL_NAME} stratified bootstrap "
        "interval]"
        + ("; of so few seeds it is too short." if min(map(statistics.fewest, ours.values())) < FEW else ".")
    )
    return Table("human", "Human-normalised scores", caption, shown, values)


def averages(algorithm: str, whose: str, cells: Sequence[Array], results: Results) -> dict[str, object]:
    """A row of `human`: each average and, of several runs, the ends of its interval."""
    row: dict[str, object] = {"algorithm": algorithm, "of": whose, "games": len(cells)}
    for name, average in AVERAGES.items():
        known = whose == "ours" or name != NOT_OF_MEANS
        several = statistics.fewest(cells) > 1
        ends = statistics.bootstrap_interval(cells, average, results.rng()) if several else (np.nan, np.nan)
        row |= {name: float(average(cells)) if known else np.nan, f"{name}_low": ends[0], f"{name}_high": ends[1]}
    return row


def table6(results: Results) -> Table:
    """Final scores by game beside the published ones: a row per game that any of our variants was trained on."""
    printed, names = published.table6()[list(PAPER)], published.atari_human()["game"]
    odd = (results.runs["status"] == "diverged") | (results.runs["score_episodes"] < SCORE_EPISODES)
    flagged = set(zip(results.runs["variant"][odd], results.runs["env"][odd], strict=True))
    rows, shown = [], []
    for task in results.environments:
        theirs = printed.reindex([names[task]]).iloc[0]
        line = {"game": names[task]}
        for variant in results.variants:
            runs = results.raw.get(variant, {}).get(task, np.empty(0))
            several, flag = runs.size > 1, (variant, task) in flagged
            low, high = statistics.interval([runs], results.rng())[:2] if several else (np.nan, np.nan)
            mean = float(runs.mean()) if runs.size else np.nan
            share = human_normalised({variant: {task: runs}}, [task])[variant][0].mean() if runs.size else np.nan
            rows.append({"game": names[task], "env": task, "variant": variant, "runs": runs.size, "mean": mean,
                         "low": low, "high": high, "human_normalised": share, "flagged": flag, **theirs})  # fmt: skip
            ends = f" [{returns(low)}, {returns(high)}]" * several
            line[variant] = f"{returns(mean)}{ends} ({runs.size}){'†' * flag}" if runs.size else "–"
        shown.append(line | {PAPER[name]: number(score, 1) for name, score in theirs.items()})
    here = sum(names[task] in printed.index for task in results.environments)
    caption = (
        f"Mean return of the last {SCORE_EPISODES} episodes. Ours: mean over seeds [its {LEVEL_NAME} interval] "
        f"(seeds). The paper's: as printed, of 3 seeds. {here} of its {len(printed)} games: those that were trained."
        + f" † a run diverged and counts as the game's worst, or finished fewer than {SCORE_EPISODES} episodes."
        * bool(flagged)
    )
    return Table("table6", "Table 6, final scores", caption, frame(shown), frame(rows))


def tables(results: Results) -> list[Table]:
    """All that there are data for."""
    return [table2(results), *([human(results)] if shared(results) else []), table6(results)]


def section(results: Results, made: Sequence[Table]) -> str:
    """What there is to say, Markdown, with these tables."""
    parts = [
        "## Atari",
        f"{plain(about(results))}.",
        *(f"> **Partial.** {plain(line)}" for line in missing(results.dataset.note)),
        *(markdown(table) for table in made),
        "![Learning curves on Atari games](figure6.png)",
        f"*{plain(captions.figure6(results))}*",
        markdown(provenance(results)),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def picture(results: Results) -> Figure:
    """Figure 6, which says what its data lack."""
    figure = figure6(results)
    style.say_missing(figure, missing(results.dataset.note))
    return figure


def write(dataset: Dataset, out: Path) -> str:
    """All files, into a folder; returns the section."""
    results = learning(dataset)
    made = tables(results)
    text = section(results, made)
    style.use()
    figure = picture(results)
    with building(out) as new:
        (new / "atari.md").write_text(text)
        for table in made:
            (new / f"{table.name}.csv").write_text(csv(table))
        style.save(figure, new / "figure6", ["png"])
        out.mkdir(exist_ok=True)
        for path in sorted(new.iterdir()):
            path.replace(out / path.name)
    return text


@command(RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.atari", description="The paper's Atari tables, and ours.")
    parser.add_argument("name", metavar="DATASET_OR_STUDY", help="a dataset's folder, a study, or a folder of records")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where studies are looked up")
    parser.add_argument("--out", type=Path, help="folder of the files (default: reports/NAME-atari in the records)")
    options = parser.parse_args(arguments)
    out = options.out or options.records / "reports" / f"{title_of(options.name)}-atari"
    print(write(dataset_of(options.name, options.records, mark=True), out), end="")
    print(out, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
