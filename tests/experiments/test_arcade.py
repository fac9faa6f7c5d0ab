"""Watching an agent play Atari."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ppo.environments import Environments
from ppo.randomness import MAX_SEED, generator
from tests.conftest import small_game, train
from tests.experiments.conftest import assert_refused


def test_a_game_of_atari_is_played_and_filmed_as_the_agent_sees_it(said: Any, tmp_path: Path) -> None:
    run = small_game(iterations=1)
    train([run], tmp_path / "records")
    out = tmp_path / "breakout.gif"
    answer = said("Breakout", "--records", tmp_path / "records", "--episodes", 2, "--sample", "--out", out)
    assert answer.code == 0
    assert len(answer.results) == 2
    film = Image.open(out)
    assert (film.n_frames, film.size) == (sum(length for _, length in answer.results), (320, 320))
    game = Environments(run.env, "ale", [int(generator(0, "watch environment", 0).integers(MAX_SEED))])
    game.reset()
    shown = np.asarray(film.convert("L").resize((84, 84)), dtype=float)
    assert np.abs(shown - game.observations[0, -1]).mean() < 8


def test_a_game_in_a_window_is_refused(said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    train([small_game(iterations=1)], tmp_path / "records")
    answer = said("Breakout", "--records", tmp_path / "records", "--window")
    assert_refused(answer, "games of Atari are filmed", "--out")
