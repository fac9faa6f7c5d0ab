"""Could this study be judged by that baseline? python -m experiments.comparable BASELINE study=regression […]

Takes the study command's words, before anything is trained: analysis.regress refuses other settings, and other versions
of the simulators, only when all runs are there.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_dir

from analysis.baseline import FOLDER, NUMERICS, SIMULATORS, differences, read_baseline
from analysis.records import RecordError
from experiments.commands import command
from experiments.compose import CONF, check_arguments
from experiments.grammar import study_of
from experiments.identity import package_version
from experiments.manifest import expand
from ppo.refusals import UserError


def odd(name: str, overrides: Sequence[str], baselines: Path = FOLDER) -> list[str]:
    """Why the study of these words could not be judged by the baseline of this name; empty if it could."""
    check_arguments(overrides, "launch")
    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        entries = expand(study_of(compose("launch", overrides=list(overrides))), overrides)
    runs = pd.DataFrame([
        {"variant": entry.variant, "env": entry.run.config.env.id, "config": json.dumps(asdict(entry.run.config))}
        for entry in entries
    ])  # fmt: skip
    versions = {package: str(package_version(package)) for package in (*SIMULATORS, *NUMERICS)}
    try:
        return differences(runs, versions, read_baseline(name, baselines))
    except RecordError as error:
        raise UserError(str(error)) from error


@command(UserError)
def main() -> int:
    if len(sys.argv) < 3:
        raise UserError("say a baseline and a study: python -m experiments.comparable regression study=regression")
    name, *overrides = sys.argv[1:]
    if found := odd(name, overrides):
        raise UserError(f"this study could not be judged by baseline {name}: {'; '.join(found)}; nothing was trained")
    return 0


if __name__ == "__main__":
    sys.exit(main())
