"""What is refused, in one sentence each."""

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any


class UserError(Exception):
    """A mistake in what was asked for: one clear sentence, shown without a traceback."""


def near_matches(word: str, known: Sequence[str]) -> str:
    """', did you mean A or B?' or nothing."""
    near = get_close_matches(word, known, n=3, cutoff=0.6)
    return f", did you mean {' or '.join(near)}?" if near else ""


def choose(name: str, value: Any, choices: Any) -> None:
    if value not in choices:
        raise UserError(f"{name}={value} is unknown; choose one of {', '.join(choices)}")


def finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise UserError(f"{name}={value} is not a finite number; null switches a setting off, where it can be off")


def positive(name: str, value: float | None, zero: bool = False) -> None:
    if value is None:
        return
    finite(name, value)
    if value < 0 or (value == 0 and not zero):
        raise UserError(f"{name}={value} must be {'at least' if zero else 'above'} 0")


def names_draws(said: str, seed: int) -> None:
    """Refuse what cannot be the key of a stream (randomness.generator)."""
    if not 0 <= seed < 2**63:
        raise UserError(f"{said} is not a seed; seeds are whole numbers from 0 to 2^63 - 1")


def within_one(name: str, value: float | None) -> None:
    if value is not None and not 0 <= value <= 1:
        raise UserError(f"{name}={value} must lie between 0 and 1")
