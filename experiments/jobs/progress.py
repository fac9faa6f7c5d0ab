"""What a person sees while a pack trains: a live table on a terminal, plain lines elsewhere."""

import time
from collections import deque
from collections.abc import Mapping

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from experiments.records.record import Record, why
from experiments.records.schema import SCORE_EPISODES, Done
from experiments.runner import Watcher
from ppo.pack import Pack
from ppo.train import Iteration

PLAIN_SECONDS = 5.0  # between plain lines


class Progress(Watcher):
    """Env steps, steps/s, mean return of the last 100 episodes of every run, ETA."""

    def __init__(self) -> None:
        super().__init__(self._say, self._started, self._moved, self._finished)
        self.console = Console()
        self.live: Live | None = None
        self.last_line = 0.0

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self.live = Live(console=self.console, refresh_per_second=2)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _started(self, pack: Pack, returns: Mapping[int, list[float]]) -> None:
        self.recent = [deque(returns.get(row, []), maxlen=SCORE_EPISODES) for row in range(len(pack))]
        self.began, self.first = time.monotonic(), pack.iteration
        where = f"from env step {pack.env_steps:,}" if pack.iteration else "from the start"
        size = f"{pack.iterations} iterations of {pack.profile.steps} env steps"
        self._say(f"{pack.runs[0].env.id}: a pack of {len(pack)}, {size}, {where}")

    def _moved(self, pack: Pack, iteration: Iteration) -> None:
        for recent, episodes in zip(self.recent, iteration.episodes, strict=True):
            recent.extend(episode.episode_return for episode in episodes)
        elapsed = time.monotonic() - self.began
        fresh = iteration.number - self.first
        rate = fresh * pack.profile.steps * len(pack) / elapsed
        eta = elapsed / fresh * (pack.iterations - iteration.number)
        if self.live:
            self.live.update(self._table(pack, iteration, rate, eta))
        elif time.monotonic() - self.last_line > PLAIN_SECONDS or iteration.number == pack.iterations:
            self.last_line = time.monotonic()
            means = [float(np.mean(recent)) for recent in self.recent if recent]
            returns = (
                f"return {np.mean(means):.1f} ({min(means):.1f} to {max(means):.1f})" if means else "no return yet"
            )
            steps = f"{iteration.env_steps:>9,} of {pack.iterations * pack.profile.steps:,} env steps"
            self._say(f"{steps}  {rate:,.0f} steps/s  {returns}  ETA {clock(eta)}")

    def _table(self, pack: Pack, iteration: Iteration, rate: float, eta: float) -> Group:
        steps = f"{iteration.env_steps:,} env steps ({iteration.number / pack.iterations:.0%})"
        title = f"{pack.runs[0].env.id}  {steps}  {rate:,.0f} steps/s  ETA {clock(eta)}"
        table = Table()
        for heading in ("seed", "objective", f"return (last {SCORE_EPISODES} episodes)", "KL", "entropy"):
            table.add_column(heading, justify="left" if heading == "objective" else "right")
        for row, run in enumerate(pack.runs):
            mean = f"{np.mean(self.recent[row]):.1f}" if self.recent[row] else "–"
            if (ended := iteration.not_finite[row]) is not None:
                mean = ended.status
            seen = iteration.metrics
            diagnostics = [f"{seen[name][row]:.4f}" if name in seen else "–" for name in ("kl", "entropy")]
            table.add_row(str(run.seed), run.algo.objective, mean, *diagnostics)
        return Group(title, table)

    def _finished(self, record: Record, done: Done) -> None:
        none = "no score" if done["status"] == "faulty" else "no episode finished"
        score = none if done["score"] is None else f"score {done['score']:.1f}"
        self._say(f"{done['status']}: {record.folder.name}  {score}{why(done)}")


def clock(seconds: float) -> str:
    """3723 → 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
