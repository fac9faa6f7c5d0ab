"""Codes that an exact trace proved equal, byte for byte: their finished runs count together, and that is always said.

    python -m experiments.trace --against REV --record     # appends a proof to equal_codes.jsonl; commit that file

A run is trained again when `ppo/` changes, since its code id changes. A proof says that one such change moved no
number, on the machine and with the versions that it names. Proofs join: codes that are equal to a third one are equal.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from analysis.refusals import RecordError

FILE = Path(__file__).with_name("equal_codes.jsonl")
NAME = "analysis/equal_codes.jsonl"


@dataclass(frozen=True)
class Proof:
    """One line of the file."""

    code_ids: tuple[str, str]  # of the older code and of the newer
    commits: tuple[str, str]  # that they belong to
    runs: int  # that were traced
    sha256: str  # of the trace, without its head
    machine: Mapping[str, str]  # `cpu`, and what else the bytes depend on: platform, versions of packages
    date: str  # 2026-12-01

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    def is_whole(self) -> bool:
        """Whether all values are of the kind that a trace writes."""
        forms = [("[0-9a-f]{12}", self.code_ids), ("[0-9a-f]{40}", self.commits), ("[0-9a-f]{64}", [self.sha256])]
        return (
            all(re.fullmatch(form, text) for form, values in forms for text in values)
            and len({*self.code_ids}) == len(self.code_ids) == len(self.commits) == 2
            and type(self.runs) is int
            and self.runs > 0
            and "cpu" in self.machine
            and all(isinstance(word, str) for pair in self.machine.items() for word in pair)
            and date.fromisoformat(self.date).isoformat() == self.date
        )


def read() -> list[Proof]:
    """All proofs; RecordError for a line that is none."""
    try:
        lines = FILE.read_text().splitlines()
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise RecordError(f"{FILE} is no text; restore it") from error
    return [proof_of(line, f"{FILE}, line {number}") for number, line in enumerate(lines, 1)]


def proof_of(line: str | Mapping[str, Any], where: str) -> Proof:
    """A proof from its line, or from what a dataset's note keeps of it."""
    try:
        said = json.loads(line) if isinstance(line, str) else line
        proof = Proof(**{**said, "code_ids": tuple(said["code_ids"]), "commits": tuple(said["commits"])})
        if proof.is_whole():
            return proof
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise RecordError(f"{where} is no proof as experiments.trace --record writes it; restore it, or remove it")


def ways(code_id: str, proofs: Sequence[Proof]) -> dict[str, list[Proof]]:
    """The other codes that are equal to this one, nearest first, each with the proofs that join the two."""
    found: dict[str, list[Proof]] = {code_id: []}
    reached = [code_id]
    for here in reached:  # grows on the way
        for proof in proofs:
            if here in proof.code_ids:
                (there,) = {*proof.code_ids} - {here}
                if there not in found:
                    found[there] = [*found[here], proof]
                    reached.append(there)
    del found[code_id]
    return found


def one_name() -> dict[str, str]:
    """For every code of a proof, the one id by which it and all its equals can be known."""
    proofs = read()
    return {code: min([code, *ways(code, proofs)]) for proof in proofs for code in proof.code_ids}


def noted(code_ids: Iterable[str]) -> list[dict[str, Any]]:
    """What the note of a dataset with runs of these codes keeps: the proofs that join some of them."""
    proofs, known = read(), set(code_ids)
    used = [proof for one in known for other, way in ways(one, proofs).items() if other in known for proof in way]
    return [asdict(proof) for proof in proofs if proof in used]


def folders(runs: Path, code_id: str, proofs: Sequence[Proof]) -> dict[str, Path]:
    """The folders of a code's runs by their names. A run that it has not finished, and an equal code has, is that
    code's: a run is never continued by another code, but one that is done is done."""
    found = {path.name: path for path in (runs / code_id).glob("*")}
    for other in ways(code_id, proofs):
        for path in (runs / other).glob("*"):
            own = found.get(path.name)
            if (path / "done.json").exists() and not (own is not None and (own / "done.json").exists()):
                found[path.name] = path
    return found


def describe(counts: Mapping[str, int], code_id: str, proofs: Sequence[Proof], cpu: str | None = None) -> list[str]:
    """A sentence for each code that is equal to this one and has trained some runs: how many, and by which proof.

    `counts` are runs by code id; `cpu` is this machine's processor, which is said where a proof is of another one.
    """
    said = []
    for other, way in ways(code_id, proofs).items():
        if count := counts.get(other, 0):
            dates = " and ".join(dict.fromkeys(proof.date for proof in way))
            processors = list(dict.fromkeys(proof.machine["cpu"] for proof in way))
            runs, traces = "run was" if count == 1 else "runs were", "a trace" if len(way) == 1 else "traces"
            elsewhere = f"; the processor here is {cpu}" if cpu is not None and processors != [cpu] else ""
            said.append(
                f"{count} {runs} trained by code {other}, which {traces} of {dates} on {' and '.join(processors)} "
                f"proved equal to code {code_id} ({NAME}){elsewhere}"
            )
    return said


def describe_all(counts: Mapping[str, int], proofs: Sequence[Proof]) -> list[str]:
    """The same of all codes of a dataset, beside the one that most of its runs are of."""
    first: list[str] = []
    for code in sorted(counts, key=lambda code: (-counts[code], code)):
        if not any(code in ways(leader, proofs) for leader in first):
            first.append(code)
    return [line for leader in first for line in describe(counts, leader, proofs)]
