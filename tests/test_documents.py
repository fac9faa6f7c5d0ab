"""The documents: every link and anchor leads somewhere, every command that they show is one that the code accepts."""

import argparse
import importlib
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from experiments.compose import CONF, check_arguments, known_keys, runs_of
from experiments.grammar import study_of
from experiments.manifest import expand
from experiments.profiles import shown
from ppo.config import SWITCHES, Profile
from ppo.refusals import UserError

ROOT = Path(__file__).parent.parent
OWN = ("conf", "ppo", "experiments", "analysis", "slurm", "tests", ".github")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in OWN for page in (ROOT / folder).rglob("*.md"))])
WRITTEN = [page for page in PAGES if page.parent.name != "tables" and page.name != "report.md"]  # by people

README_LINES = 150

NOT_PYTHON = {
    "source": "the shell's",
    "slurm/dev-cluster.sh": "it brings up a cluster; tests/slurm use it",
}
"""First words of commands that are not parsed, and why."""

OF_NO_PARSER = {
    "tests.planted.table": "it reads sys.argv itself; test_planted.py calls what it does",
    "pytest": "another program's",
}
"""Modules whose options are not parsed, and why."""

CALLED_OTHERWISE = ("clip_higher", "hill_climbing", "mysite", "advantage_clip")
"""Names of worked examples, which no file has until a reader adds it; tests/ppo/test_worked_examples.py runs these."""

RUN = {
    "python -m experiments.profiles",
    "python -m experiments.profiles atari_paper atari_ppo2",
    "python -m analysis.pilot analysis/baselines/pilot",
}
"""Commands that are carried out, since they take a second and change nothing."""


class Shown(NamedTuple):
    """A command as a document shows it, without its comment."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.text}"


class Accepted(BaseException):
    """A parser had no objection; nothing is carried out."""


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    bare = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", bare).replace(" ", "-")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"(?ms)^```.*?^```", "", text))


def anchors(text: str) -> set[str]:
    """Anchors of all headings; the second of a name ends in -1."""
    found: list[str] = []
    for heading in re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", text)):
        name = slug(heading)
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return set(found)


def dead_links(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead nowhere."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text)):
        place, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or ROOT not in (target, *target.parents):
            found.append(f"{link}: there is no {target}")
        elif (
            anchor and target.suffix == ".md" and anchor not in anchors(text if target == page else target.read_text())
        ):
            found.append(f"{link}: {target.name} has no such heading")
    return found


def commands(page: Path, text: str) -> Iterator[Shown]:
    """Commands in code blocks, fenced or indented by four, and in `code` that begins with python -m."""
    fence, before, start = None, "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fence = line[3:].strip() if fence is None else None
            continue
        if fence is None and not line.startswith("    "):
            yield from (Shown(page, number, code) for code in re.findall(r"`(python -m [^`]+)`", line))
            continue
        whole, start = before + line.strip(), start if before else number
        if whole.endswith("\\"):
            before = whole[:-1]
            continue
        before = ""
        for part in parts(whole):
            if fence == "bash" or re.match(r"(make|python|\S*/python|slurm/\S+) ", part):
                yield Shown(page, start, part)


def parts(line: str) -> list[str]:
    """The commands of a shell's line or of a step of a workflow, without comments and what is handed to others."""
    line = re.sub(r"^- run: ", "", line)
    line = re.sub(r"(^|\s+)# .*$", "", line)
    line = re.sub(r"^srun (--\S+ )*", "", line)
    return [part.strip() for part in re.split(r"&&|\|\||;", line) if part.strip()]


ALL = [command for page in WRITTEN for command in commands(page, page.read_text())]


def refusal(text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Why a command would be refused; empty if it would not, or is one of those that are not parsed."""
    words = shlex.split(text)
    first = words[0]
    if first == "make":
        known = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
        return "" if set(words[1:]) <= set(known) else f"the Makefile has no {' '.join(words[1:])}"
    if first in NOT_PYTHON:
        return ""
    if not re.fullmatch(r"(\S*/)?python3?", first) or words[1:2] != ["-m"]:
        return f"{first} is no command that is known here; see NOT_PYTHON"
    module, arguments = words[2], words[3:]
    if module in OF_NO_PARSER:
        return ""
    if importlib.util.find_spec(module) is None:
        return f"there is no module {module}"
    if arguments == ["--help"] or "…" in text or any(name in text for name in CALLED_OTHERWISE):
        return ""
    if module in ("experiments.train", "experiments.study", "experiments.benchmark", "experiments.comparable"):
        return composed(module, arguments)
    return parsed(module, arguments, monkeypatch)


def composed(module: str, arguments: Sequence[str]) -> str:
    """Why Hydra, or our checks after it, would refuse these words."""
    main = {"experiments.train": "config", "experiments.benchmark": "benchmark"}.get(module, "launch")
    arguments = arguments[module == "experiments.comparable" :]  # its first word is a baseline
    words = [word for word in arguments if "=" in word and word[:2] != "--"]
    try:
        check_arguments(arguments, main)
        with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            cfg = compose(main, overrides=list(words), return_hydra_config=True)
            plain = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
            if main == "launch":
                study = study_of(plain)  # one cell of it, since a grid takes seconds
                name, settings = next(iter(study.variants.items()))
                one = replace(study, variants={name: settings}, environments=study.environments[:1])
                expand(one, [word for word in words if word.split("=")[0] not in ("variants", "environments")])
            else:
                runs_of(plain, dict(cfg.hydra.runtime.choices))
    except UserError as error:
        return str(error)
    return ""


def parsed(module: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Why the module's argparse parser would refuse these words."""
    found = importlib.import_module(module)
    if hasattr(found, "__path__"):
        found = importlib.import_module(f"{module}.__main__")
    whole = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        whole(parser, args, namespace)
        raise Accepted

    said: list[str] = []

    def refuse(parser: argparse.ArgumentParser, message: str) -> None:
        said.append(message)
        raise Accepted

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", stop)
        patched.setattr(argparse.ArgumentParser, "error", refuse)
        patched.setattr(sys, "argv", [module, *arguments])
        with pytest.raises(Accepted):
            found.main()
    return "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page, page.read_text()) == []


def test_a_dead_link_and_a_dead_anchor_are_found() -> None:
    page = ROOT / "README.md"
    text = "# One two: three\n[a](ppo/gone.py) [b](#one-two-three) [c](#four) [d](ppo/README.md#add-nothing) `[e](f)`\n"
    assert [said.partition(":")[0] for said in dead_links(page, text)] == [
        "ppo/gone.py",
        "#four",
        "ppo/README.md#add-nothing",
    ]


def test_the_readme_can_be_read_in_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("page", [page for page in WRITTEN if page.parent != ROOT and ".github" not in page.parts],
                         ids=lambda page: str(page.relative_to(ROOT)))  # fmt: skip
def test_a_page_leads_back(page: Path) -> None:
    head = page.read_text().split("\n\n")[:3]
    assert any("[Back to" in part for part in head)


def test_every_command_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {command.text: command for command in reversed(ALL)}
    assert len(texts) > 80
    refused = {str(command): said for text, command in texts.items() if (said := refusal(text, monkeypatch))}
    assert refused == {}
    skipped = [*NOT_PYTHON, *OF_NO_PARSER, *CALLED_OTHERWISE]
    assert [name for name in skipped if not any(name in text for text in texts)] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("python -m analysis.report table1 --mising=mark", "unrecognized arguments: --mising=mark"),
        ("python -m experiments.train env=hoper", "hopper"),
        ("python -m experiments.train env=hopper --cgf job", "is not understood"),
        ("python -m experiments.study study=table1 'variants=[clip_2]'", "clip_2"),
        ("python -m experiments.comparable regression study=regresion", "regression"),
        ("python -m analysis.reprt table1", "there is no module analysis.reprt"),
        ("make regres", "the Makefile has no regres"),
        ("rm records", "rm is no command"),
    ],
)
def test_a_misspelled_command_is_found(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said in refusal(text, monkeypatch)


@pytest.mark.parametrize("text", sorted(RUN))
def test_quick_commands_run(text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert text in {command.text for command in ALL}
    monkeypatch.chdir(ROOT)
    _, _, module, *arguments = shlex.split(text)
    assert importlib.import_module(module).main(arguments) == 0
    assert capsys.readouterr().out


def test_the_rates_of_the_gates_are_the_measured_ones() -> None:
    planted = ROOT / "tests" / "planted"
    measured = re.search(
        r"random baselines: PASS ([\d.]+)%.* of (\d+) gates \(only (\d+) .* at most (\d+)%",
        (planted / "README.md").read_text(),
    )
    assert measured is not None
    passed, gates, apart, alarms = measured.groups()
    for page in (ROOT / "README.md", ROOT / "analysis" / "README.md"):
        words = " ".join(page.read_text().split())
        assert f"passes {passed} % of {gates} gates; only {apart} of these share no seed" in words
        assert f"the true rate of false alarms may be up to {alarms} %" in words
        assert "of twelve bugs planted" in words
    assert len(list(planted.glob("*.patch"))) == 12


def test_every_key_has_a_place() -> None:
    pages = (ROOT / "conf" / "README.md").read_text()
    wide = ("algo.", "profile.")  # lists of their own
    named = set(re.findall(r"`([\w.]+)`", pages))
    keys = {key for main in ("config", "launch") for key in known_keys(main) if not key.startswith(wide)}
    assert keys - named == set()


def test_every_switch_has_its_row() -> None:
    rows = re.findall(
        r"(?m)^\| `(\w+)` \| `([^`]+)` \| (.+?) \| (.+) \|$", (CONF / "profile" / "README.md").read_text()
    )
    documented = {name: (default, allowed) for name, default, allowed, _ in rows}
    assert [name for name, *_ in rows] == list(SWITCHES)
    plain = Profile()
    for name, declared in SWITCHES.items():
        default = getattr(plain, name)
        allowed = ", ".join(f"`{choice}`" for choice in declared.choices) or declared.range
        allowed = allowed or ("`true`, `false`" if isinstance(default, bool) else "a list")
        assert documented[name] == (shown(default), allowed)
    varying = {name for name, *_, meaning in rows if meaning.endswith("; per run")}
    assert varying == {name for name, declared in SWITCHES.items() if declared.per_run}
