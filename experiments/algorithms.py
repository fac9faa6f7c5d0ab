"""Every objective and advantage estimator, from their declarations: python -m experiments.algorithms [--write]

--write puts the tables between the two marks in ppo/README.md.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from analysis.documents import replaced
from experiments.commands import command
from experiments.files import write_durably
from ppo.advantages import ESTIMATORS
from ppo.declarations import Setting, parameters
from ppo.learners import LEARNERS

README = Path(__file__).parent.parent / "ppo" / "README.md"
MARK = "<!-- python -m experiments.algorithms --write -->\n"


def tables() -> str:
    """Two Markdown tables and the list of their settings."""
    objectives = [(each, learner.__name__) for learner, served in LEARNERS.items() for each in served]
    settings = [each.settings for each, _ in objectives] + [each.settings for each in ESTIMATORS.values()]
    declared = dict.fromkeys(setting for some in settings for setting in some)
    return "\n".join(
        [
            "| `algo.objective` | trained by | needs | reads | named in folders and tables |",
            "| :-- | :-- | :-- | :-- | :-- |",
            *(
                f"| {each.name} | {learner} | {words(s.name for s in each.settings)} | {words(each.reads)} | "
                f"{each.name if each.label is None else f'{each.name}_{{{each.label}}}'} |"
                for each, learner in objectives
            ),
            "",
            "| `algo.advantage` | needs | reads |",
            "| :-- | :-- | :-- |",
            *(
                f"| {each.name} | {words(s.name for s in each.settings)} | {words(parameters(each.function))} |"
                for each in ESTIMATORS.values()
            ),
            "",
            *map(said_of, declared),
            "",
        ]
    )


def words(names: Iterable[str]) -> str:
    return ", ".join(names) or "–"


def said_of(setting: Setting) -> str:
    """A line about a setting: its meaning, its range, whether runs of a pack may differ in it."""
    shared = "may differ within a pack" if setting.per_run else "the same in a pack"
    default = "" if setting.default is None else f"; {setting.default:g} where nothing is set"
    return f"- `algo.{setting.name}`: {setting.meaning}; {setting.range}; {shared}{default}"


def written(text: str) -> str:
    """The README's text with today's tables between the marks."""
    return replaced(text, MARK, tables())


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.algorithms", description="What can be trained.")
    parser.add_argument("--write", action="store_true", help="into ppo/README.md")
    if parser.parse_args(arguments).write:
        write_durably(README, written(README.read_text()).encode())
    else:
        print(tables())
    return 0


if __name__ == "__main__":
    sys.exit(main())
