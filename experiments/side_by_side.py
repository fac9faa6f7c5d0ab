"""The agents of a study at play side by side in one film, each after the same training:

python -m experiments.side_by_side ladder --env invertedpendulum --seed 0 --out ladder.gif
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.agent import Agent, Moment, episode, open_environment, say_other_code
from experiments.commands import command
from experiments.files import read_json
from experiments.film import ENCODING, Film, check_ending
from experiments.grammar import picked
from experiments.jobs.standing import COMPLETE
from experiments.jobs.survey import counts, look, study_folder, summarise
from ppo.refusals import UserError, positive

PANEL, GAP, LINE, MOST_COLUMNS = 198, 8, 18, 4  # pixels, pixels, pixels, panels: README pages are 830 pixels wide
MARGIN = 5  # pixels above and below all that moves
PAUSE = 1.5  # seconds that the last picture stands
FADED = 0.65  # share of white in a panel whose episode is over
PAPER, INK, GREY, RED = "#ffffff", "#222222", "#6a6a6a", "#b3261e"
FONT = ImageFont.load_default(13)
# Of its final size, and a palette for the whole film, whose frames are few: what stands still is then stored once.
GRID = {".gif": ["-vf", "split[a][b];[a]palettegen=max_colors=64[p];[b][p]paletteuse=dither=none"]}


class Shot(NamedTuple):
    """A moment of an episode and its picture."""

    picture: Image.Image
    now: Moment


def agents_of(study: str, records: Path, env: str, seed: int) -> dict[str, Agent]:
    """Every variant's agent on one task, by the variant's name; UserError unless all have finished training."""
    folder = study_folder(study, records)
    stands = look(folder)
    picked("--env", env, list(dict.fromkeys(entry.env for entry, _ in stands)))
    stands = [(entry, stand) for entry, stand in stands if entry.env == env]
    seeds = sorted({entry.run.config.seed for entry, _ in stands})
    picked("--seed", seed, list(map(str, seeds)))
    stands = [(entry, stand) for entry, stand in stands if entry.run.config.seed == seed]
    if any(stand.state not in COMPLETE for _, stand in stands):
        numbers = summarise(counts(stand for _, stand in stands))
        raise UserError(f"{study} has unfinished runs on {env}, seed {seed}: {numbers}; film it when all are done")
    own = read_json(folder / "study.json")["code_id"]
    runs = {entry.variant: records / "runs" / (stand.code or own) / entry.folder_name for entry, stand in stands}
    if kept := [run.name for run in runs.values() if not (run / "done.json").exists()]:
        raise UserError(f"only parts hold {', '.join(kept)}, and parts hold no networks; train them without parts=")
    agents = {variant: Agent(run) for variant, run in runs.items()}
    if len(tasks := sorted({agent.run.env.id for agent in agents.values()})) > 1:
        raise UserError(f"{study} has different tasks under the name {env}: {', '.join(tasks)}")
    return agents


def shoot(agent: Agent, env: gymnasium.Env[Any, Any], seed: int, sample: bool, every: int, most: int) -> list[Shot]:
    """The agent's first episode, a picture each so many of its first `most` env steps, and one of its end."""
    agent.enter(env, sample)
    shots = []
    for now in islice(episode(agent, env, seed, 0), most + 1):
        if now.ended or now.length % every == 0:
            frame = Image.fromarray(np.asarray(env.render()))
            size = PANEL, round(frame.height * PANEL / frame.width)
            shots.append(Shot(frame.resize(size, Image.Resampling.LANCZOS), now))
    return shots


def moving_rows(pictures: Sequence[Image.Image]) -> tuple[int, int]:
    """The first and last row in which anything ever moves, and a margin: the rest need not be shown."""
    first = np.asarray(pictures[0])
    moves = np.zeros(len(first), dtype=bool)
    for picture in pictures:
        moves |= (np.asarray(picture) != first).any(axis=(1, 2))
    rows = np.flatnonzero(moves) if moves.any() else np.arange(len(first))
    return max(int(rows[0]) - MARGIN, 0), min(int(rows[-1]) + 1 + MARGIN, len(first))


def grid(shots: Mapping[str, Shot], rows: tuple[int, int], heading: Sequence[str]) -> np.ndarray:
    """One frame of the film: (height, width, 3) uint8."""
    columns = min(len(shots), MOST_COLUMNS)
    height = rows[1] - rows[0]
    across, down = PANEL + GAP, height + 2 * LINE + GAP
    top = LINE * len(heading) + 2 * GAP
    size = (columns * across + GAP, top + math.ceil(len(shots) / columns) * down)
    canvas = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(heading):
        pen.text((GAP, GAP + number * LINE), line, GREY if number else INK, FONT)
    for number, (name, (picture, now)) in enumerate(shots.items()):
        x, y = GAP + number % columns * across, top + number // columns * down
        cut = picture.crop((0, rows[0], PANEL, rows[1]))
        canvas.paste(Image.blend(cut, Image.new("RGB", cut.size, PAPER), FADED) if now.ended else cut, (x, y + LINE))
        pen.text((x, y), fitting(name), INK, FONT)
        pen.text((x, y + LINE + height + 2), score(now), RED if now.ended else GREY, FONT)
    return np.asarray(canvas)


def fitting(name: str) -> str:
    """As much of a name as a panel's width holds."""
    length = next(n for n in range(len(name), 0, -1) if FONT.getlength(name[:n]) <= PANEL)
    return name[:length]


def score(now: Moment) -> str:
    total = f"{now.total:.1f}".removesuffix(".0")
    return f"over at step {now.length}: return {total}" if now.ended else f"return {total}"


def heading(agents: Mapping[str, Agent], seed: int) -> list[str]:
    """What all panels share, in words."""
    trained = sorted({agent.env_steps for agent in agents.values()})
    steps = " to ".join(f"{count:,}" for count in dict.fromkeys((trained[0], trained[-1])))
    manners = sorted({agent.actor.manner for agent in agents.values()})
    task = next(iter(agents.values())).run.env.id
    return [
        f"{task} after {steps} env steps of training, seed {seed}",
        f"One episode from the same start, {' or '.join(manners)} actions",
    ]


def film_side_by_side(study: str, env: str, seed: int, records: Path, sample: bool, seconds: float, out: Path) -> None:
    """Film every variant's first episode; UserError for what does not fit."""
    positive("--seconds", seconds)
    check_ending(out)
    agents = agents_of(study, records.resolve(), env, seed)
    say_other_code(next(iter(agents.values())))
    stage = open_environment(next(iter(agents.values())).run.env, film=True, window=False)
    fps = stage.metadata.get("render_fps", 30)
    most = round(seconds * fps)
    film = Film(out, fps, {**ENCODING, **GRID})
    try:
        # In turn, since MuJoCo draws for one environment at a time.
        reels = {name: shoot(agent, stage, seed, sample, film.every, most) for name, agent in agents.items()}
    finally:
        stage.close()
    rows = moving_rows([shot.picture for reel in reels.values() for shot in reel])
    title, manner = heading(agents, seed)
    try:
        for number in range(max(map(len, reels.values()))):
            shots = {name: reel[min(number, len(reel) - 1)] for name, reel in reels.items()}
            step = max(shot.now.length for shot in shots.values())
            frame = grid(shots, rows, [title, f"{manner}: env step {step}"])
            film.show(frame)
        for _ in range(round(PAUSE * film.fps)):
            film.show(frame)
    finally:
        film.close()
    for name, reel in reels.items():
        print(f"{name}: {score(reel[-1].now)}")


@command(UserError, OSError, gymnasium.error.Error)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.side_by_side", description="A study's agents at play, in one film."
    )
    parser.add_argument("study", help="its name: all of its variants are shown")
    parser.add_argument("--env", required=True, help="one of its tasks, by the name in conf/env")
    parser.add_argument("--seed", type=int, default=0, help="of the runs, and of the episode that all of them play")
    parser.add_argument("--records", type=Path, default=Path("records"))
    parser.add_argument("--sample", action="store_true", help="sample actions as in training (default: the likeliest)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of play, at most (default: 8)")
    parser.add_argument("--out", type=Path, required=True, help="FILE.gif or FILE.mp4")
    film_side_by_side(**vars(parser.parse_args(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
