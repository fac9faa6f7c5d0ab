"""The documents' pictures and tables of results, from committed data alone: python -m analysis.pictures [--write]

Draws analysis/pictures/*.png, the same bytes from the same data, and prints the section "Table 1"; names what has no
data yet. --write puts that section and two tables between their marks in analysis/reports/*.md.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from analysis import findings, table1
from analysis.baseline import FOLDER
from analysis.dataset import Dataset, load, parts_of
from analysis.documents import replaced
from analysis.figures import atari, bootstrapping, figure3, gradients, ladder, pilot, style
from analysis.pilot import ranked, table
from analysis.records import RecordError
from analysis.report import missing
from analysis.results import Results
from analysis.tables import markdown
from experiments.commands import command, typed

DOCUMENTS = Path(__file__).with_name("reports")


def said_if_partial(drawing: Callable[[Results], Figure]) -> Callable[[Dataset], Figure]:
    """A drawing that tells on its face which cells of its study are not there."""

    def drawn(dataset: Dataset) -> Figure:
        figure = drawing(Results(dataset))
        style.say_missing(figure, missing(dataset.note))
        return figure

    return drawn


PICTURES: dict[str, tuple[str, Callable[[Dataset], Figure]]] = {
    "table1": ("table1", table1.scores_picture),
    "curves": ("table1", table1.curves_picture),
    "figure3": ("figure3", said_if_partial(figure3.figure3)),
    "ladder": ("ladder", said_if_partial(ladder.ladder)),
    "pilot": ("pilot", pilot.pilot),
    "paper_match": ("paper_match", table1.scores_picture),
    "pong": ("pong", said_if_partial(atari.beside_others)),
}
"""By the name of its file: the dataset, a folder in analysis/baselines, and what draws it."""

BLOCKS: dict[str, tuple[str, Callable[[Dataset], str]]] = {
    "table1": ("README.md", table1.section),
    "pilot": ("which_implementation.md", lambda dataset: markdown(table(ranked(dataset.runs)))),
    "paper_match": (
        "which_implementation.md",
        lambda dataset: markdown(findings.table1(Results(table1.comparable(dataset)))),
    ),
}
"""By dataset: the document of analysis/reports that shows it, and the Markdown between its marks there."""

DRAWINGS: dict[str, Callable[[], Figure]] = {"bootstrapping": bootstrapping.drawing, "gradients": gradients.drawing}
"""By the name of its file: what draws it from numbers of its own, in analysis/road."""


def committed(name: str, baselines: Path) -> Dataset | None:
    """A dataset by its name, None if there is none yet."""
    folder = baselines / name
    return load(folder) if (parts_of(folder)[0] / "dataset.json").exists() else None


def absent(baselines: Path) -> list[str]:
    """How to make each dataset that is not there."""
    return [
        f"there is no dataset {baselines / name} yet; "
        f"{typed('analysis.parts', name, '--out', baselines / name)} makes it of what is "
        "finished of the study"
        for name in dict.fromkeys(name for name, _ in PICTURES.values())
        if committed(name, baselines) is None
    ]


def rewritten(documents: Path, baselines: Path) -> dict[Path, str]:
    """Today's text of each document whose datasets are there."""
    texts: dict[Path, str] = {}
    for name, (document, block) in BLOCKS.items():
        if (dataset := committed(name, baselines)) is not None:
            path = documents / document
            text = texts.get(path) or path.read_text()
            texts[path] = replaced(text, f"<!-- {name}: python -m analysis.pictures --write -->\n", block(dataset))
    return texts


def draw(baselines: Path, out: Path) -> list[Path]:
    """Write every picture that there are data for as a PNG; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    style.use()
    figures = {name: drawing() for name, drawing in DRAWINGS.items()}
    for name, (study, picture) in PICTURES.items():
        if (dataset := committed(study, baselines)) is not None:
            figures[name] = picture(dataset)
    return [path for name, figure in sorted(figures.items()) for path in style.save(figure, out / name, ["png"])]


@command(RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.pictures", description="What the documents show.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("pictures"), help="folder of the pictures")
    parser.add_argument("--baselines", type=Path, default=FOLDER, help="where the datasets are stored")
    parser.add_argument("--write", action="store_true", help="put the tables into analysis/reports/*.md")
    options = parser.parse_args(arguments)
    replication = committed("table1", options.baselines)
    section = "" if replication is None else table1.section(replication)
    written = draw(options.baselines, options.out)
    print(section, end="")
    if options.write:
        for path, text in rewritten(DOCUMENTS, options.baselines).items():
            path.write_text(text)
    print(*absent(options.baselines), *written, sep="\n", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
