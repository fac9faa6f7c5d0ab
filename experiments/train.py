"""One pack from the command line.

python -m experiments.train env=hopper algo=clip algo.epsilon=0.1 num_seeds=8
"""

import signal
import sys
from collections.abc import Callable

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.commands import leave, typed
from experiments.compose import CONF, build, check_arguments, check_first, fitted, folder_of, runs_of
from experiments.jobs.progress import Progress
from experiments.records.record import Record
from experiments.runner import Interrupted, train_runs
from experiments.tracking.settings import MirrorProcess, Tracking
from ppo.refusals import UserError, positive

BARE = (
    "say what to train, such as env=hopper algo=clip, which takes 1,000,000 env steps; env_steps=… shortens it, "
    "num_seeds=… repeats it, and --help tells the rest"
)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> None:
    try:
        runs = runs_of(cfg, HydraConfig.get().runtime.choices)
        seconds = fitted("checkpoint_seconds", cfg.checkpoint_seconds, float)
        positive("checkpoint_seconds", seconds, zero=True)
        records = folder_of("records", cfg.records)
        mirror = MirrorProcess(
            build(Tracking, cfg.tracking, "tracking."), records, [Record(records, run).folder for run in runs]
        )
        with Progress() as progress:
            progress.prepared = mirror.start
            outcome = train_runs(runs, records, seconds, progress)
    except UserError as error:
        stop(str(error))
    except Interrupted as interrupted:
        name = signal.Signals(interrupted.signum).name
        print(f"interrupted by {name}; the same command goes on from the last whole iteration", file=sys.stderr)
        leave(128 + interrupted.signum)
    except KeyboardInterrupt:
        print("interrupted before training began", file=sys.stderr)
        leave(128 + signal.SIGINT)
    if trouble := mirror.finish():
        print(trouble, file=sys.stderr)
    if outcome.already:
        print(f"{len(outcome.already)} of {len(runs)} runs were finished before; nothing to do for them")
    if outcome.done or outcome.already:
        print(f"records in {records}/runs; picture: {typed('analysis.plot', records)}")
    if outcome.elsewhere:
        leave(1)


def stop(sentence: str) -> None:
    """A user's mistake: one sentence, exit code 2."""
    print(f"error: {sentence}", file=sys.stderr)
    leave(2)


def begin(main: Callable[[], None], config: str = "config", bare: str = "") -> None:
    """Run a Hydra application, after a look at the command line's words; `bare` is said where there are none."""
    try:
        check_first(sys.argv[1:], bare)
        check_arguments(sys.argv[1:], config)
    except UserError as error:
        stop(str(error))
    main()


def run() -> None:
    begin(main, bare=BARE)


if __name__ == "__main__":
    run()
