"""The README's pictures and its section "Table 1", from committed data alone: python -m analysis.pictures

Draws analysis/pictures/*.png, the same bytes from the same data, and prints the section.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import table1
from analysis.baseline import FOLDER
from analysis.dataset import Dataset, load, parts_of
from analysis.figures import gradients, style
from analysis.records import RecordError

PICTURES: dict[str, tuple[str, Callable[[Dataset], Figure]]] = {
    "table1": ("table1", table1.scores_picture),
    "curves": ("table1", table1.curves_picture),
}
"""By the name of its file: the dataset, a folder in analysis/baselines, and what draws it."""

ROAD = Path(__file__).with_name("road")
MEASURED: dict[str, Callable[[pd.DataFrame], Figure]] = {"gradients": gradients.gradients}
"""By the name of its file, and of the table in analysis/road that python -m experiments.gradients measured."""


def committed(name: str, baselines: Path) -> Dataset:
    """A dataset by its name; RecordError says how it is made."""
    folder = baselines / name
    if not (parts_of(folder)[0] / "dataset.json").exists():
        raise RecordError(
            f"there is no dataset {folder} yet; python -m analysis.parts {name} --out {folder} makes it of what is "
            "finished of the study"
        )
    return load(folder)


def draw(baselines: Path, out: Path) -> list[Path]:
    """Write every picture as a PNG; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    style.use()
    figures = {name: picture(committed(study, baselines)) for name, (study, picture) in PICTURES.items()}
    return [path for name, figure in figures.items() for path in style.save(figure, out / name, ["png"])]


def draw_measured(out: Path) -> list[Path]:
    """Write every picture of a measured table as a PNG; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    style.use()
    figures = {name: picture(pd.read_csv(ROAD / f"{name}.csv")) for name, picture in MEASURED.items()}
    return [path for name, figure in figures.items() for path in style.save(figure, out / name, ["png"])]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.pictures", description="What the README shows.")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("pictures"), help="folder of the pictures")
    parser.add_argument("--baselines", type=Path, default=FOLDER, help="where the datasets are stored")
    options = parser.parse_args(arguments)
    try:
        section = table1.section(committed("table1", options.baselines))
        written = [*draw(options.baselines, options.out), *draw_measured(options.out)]
    except (RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(section, end="")
    print(*written, sep="\n", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
