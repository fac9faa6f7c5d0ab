"""The package as others install it: its commands, its wheel, what it declares, and the files around it."""

import importlib
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from experiments import overview

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS: dict[str, str] = PROJECT["scripts"]
COMMANDS = {name: each for family in overview.FAMILIES.values() for name, each in family.items()}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_console_command_answers_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, function = SCRIPTS[name].partition(":")
    start = getattr(importlib.import_module(module), function)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    try:
        code = start()
    except SystemExit as left:
        code = left.code
    assert code in (0, None)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert len(printed.out.splitlines()) >= 4 and "Hydra" not in printed.out


def test_the_overview_names_every_console_command_and_what_it_runs() -> None:
    modules = {name: entry.partition(":")[0].removesuffix(".__main__") for name, entry in SCRIPTS.items()}
    assert modules == {"ppo": overview.__name__, **{name: each.module for name, each in COMMANDS.items()}}
    text = overview.overview()
    for name, each in COMMANDS.items():
        assert [line.split(maxsplit=2) for line in text.splitlines() if line.startswith(f"  {name} ")] == [
            [name, each.module, each.purpose]
        ]
    assert list(overview.FAMILIES) == [line for line in text.splitlines()[1:-1] if line and not line.startswith(" ")]
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "env=hopper"], "error: ppo train is one word: ppo-train env=hopper\n"),
        (["trian"], "error: ppo trian: there is no such command; ppo alone prints them all\n"),
    ],
)
def test_a_word_after_ppo_is_refused_with_what_to_type(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert overview.main(words) == 2
    assert capsys.readouterr().err == said
