"""Every command of the suite, by family: ppo, without a word, prints them; ppo --version says what is installed."""

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.commands import command
from experiments.identity import installed
from ppo.refusals import UserError


class Command(NamedTuple):
    """A console command: the module that `python -m` runs too, and what it is for."""

    module: str
    purpose: str


FAMILIES: Mapping[str, Mapping[str, Command]] = {
    "Train": {
        "ppo-train": Command("experiments.train", "train runs of one task together"),
        "ppo-study": Command("experiments.study", "train a whole study, here or as jobs of SLURM"),
        "ppo-status": Command("experiments.status", "how a study stands"),
        "ppo-logs": Command("experiments.logs", "what a run's process printed"),
        "ppo-cancel": Command("experiments.cancel", "stop a study; what was trained stays"),
        "ppo-rerun": Command("experiments.rerun", "make one run again and compare its bytes"),
    },
    "Look": {
        "ppo-plot": Command("analysis.plot", "learning curves of runs, as a picture"),
        "ppo-watch": Command("experiments.watch", "a run's agent at play, in a window or a film"),
        "ppo-film": Command("experiments.side_by_side", "a study's agents at play, side by side"),
        "ppo-sync": Command("experiments.sync", "send records to a W&B server"),
    },
    "Report": {
        "ppo-report": Command("analysis.report", "tables, figures and one page of a study"),
        "ppo-collect": Command("analysis.collect", "make a dataset of runs, ours or others'"),
        "ppo-parts": Command("analysis.parts", "a study's finished cells, as a dataset that only grows"),
        "ppo-replicate": Command("analysis.replicate", "is the paper's Table 1 reproduced?"),
        "ppo-atari": Command("analysis.atari", "the paper's Atari tables, beside ours"),
        "ppo-power": Command("analysis.power", "how many seeds show a difference"),
    },
    "Judge a change": {
        "ppo-trace": Command("experiments.trace", "has a change moved a single bit?"),
        "ppo-regress": Command("analysis.regress", "is a changed algorithm as good as its baseline?"),
        "ppo-verdict": Command("analysis.verdict", "is one variant better than another?"),
        "ppo-bless": Command("analysis.bless", "make a study a baseline"),
    },
    "Know": {
        "ppo-doctor": Command("experiments.doctor", "what this machine offers, and what is missing"),
        "ppo-algorithms": Command("experiments.algorithms", "every objective and advantage, with its settings"),
        "ppo-profiles": Command("experiments.profiles", "implementation details, profiles side by side"),
        "ppo-benchmark": Command("experiments.benchmark", "speed and memory on this machine"),
    },
}


def overview() -> str:
    """All commands with their purpose, one a line, and how to go on from there."""
    commands = {name: each for family in FAMILIES.values() for name, each in family.items()}
    width, modules = max(map(len, commands)), max(len(each.module) for each in commands.values())
    lines = ["PPO, replicated and judged. Each command explains itself with --help; python -m MODULE is the same."]
    for family, members in FAMILIES.items():
        lines += ["", family]
        lines += [f"  {name:<{width}}  {each.module:<{modules}}  {each.purpose}" for name, each in members.items()]
    lines += ["", "A first run, of a few seconds: ppo-train env=cartpole env_steps=20_480 tracking=none"]
    return "\n".join(lines)


@command(UserError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ppo", description="Print all commands.")
    parser.add_argument("--version", action="store_true", help="what is installed, and the id of its code")
    options, words = parser.parse_known_args(arguments)
    if words:
        name, *rest = words
        known = [each for family in FAMILIES.values() for each in family]
        if f"ppo-{name}" in known:
            raise UserError(f"ppo {name} is one word: {' '.join([f'ppo-{name}', *rest])}")
        raise UserError(f"ppo {name}: there is no such command; ppo alone prints them all")
    print(installed() if options.version else overview())
    return 0
