"""Logs of other tools become runs that say what the raw files say; what is damaged or dangerous is refused in words."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools_read import SAMPLES, ZOO, broken, monitor, read, read_one, rows_of

from analysis.dataset import RUN_COLUMNS
from analysis.records import RecordError
from analysis.sources.records import Broken, Collected
from analysis.sources.tools import runs_of, told_by


class TestEvaluations:
    def test_a_real_run(self) -> None:
        run = read_one(f"evaluations:{SAMPLES}")
        rows = rows_of(run)
        assert len(rows) == 10 * 10
        assert rows[:4] == [(10_000, 241.0, 241), (10_000, 217.0, 217), (10_000, 239.0, 239), (10_000, 196.0, 196)]
        assert rows[-1] == (100_000, 500.0, 500)
        assert (run.row["variant"], run.row["seed"], run.row["budget"]) == ("evaluations_ppo", 1648070233, 100_000)
        assert run.row["score"] == pytest.approx(471.48)

    def test_files_without_lengths_have_lengths_0(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "evaluations.npz", timesteps=[10, 20], results=[[1.0, 2.0], [3.0, 4.0]])
        run = read_one(f"evaluations:{tmp_path},env=A-v1")
        assert rows_of(run) == [(10, 1.0, 0), (10, 2.0, 0), (20, 3.0, 0), (20, 4.0, 0)]

    def test_pickled_arrays_are_not_loaded(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "sprung",))

        np.savez(tmp_path / "evaluations.npz", timesteps=[10], results=np.array([[Trap()]], object), ep_lengths=[[1]])
        assert "pickled" in broken(f"evaluations:{tmp_path}")
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        "arrays",
        [
            {"timesteps": [10]},
            {"timesteps": [10, 20], "results": [[1.0]]},
            {"timesteps": [10], "results": [1.0]},
            {"timesteps": [10], "results": [[1.0, 2.0]], "ep_lengths": [[1]]},
            {"timesteps": [10.5], "results": [[1.0]]},
            {"timesteps": [10], "results": [["a"]]},
            {"timesteps": [10], "results": [[1j]]},
            {"timesteps": [10], "results": [[np.inf]]},
            {"timesteps": [20, 10], "results": [[1.0], [1.0]]},
            {"timesteps": np.zeros(0, int), "results": np.zeros((0, 5))},
        ],
    )
    def test_other_arrays_are_refused(self, tmp_path: Path, arrays: dict[str, Any]) -> None:
        np.savez(tmp_path / "evaluations.npz", **arrays)
        assert str(tmp_path) in broken(f"evaluations:{tmp_path},env=A-v1")

    def test_a_damaged_file_is_refused(self, tmp_path: Path) -> None:
        whole = (ZOO / "evaluations.npz").read_bytes()
        flipped = bytearray(whole)
        flipped[300] ^= 1
        for text in (b"", whole[:1000], bytes(flipped), b"\x93NUMPY"):
            (tmp_path / "evaluations.npz").write_bytes(text)
            assert "cannot be read" in broken(f"evaluations:{tmp_path},env=A-v1")


class TestCsv:
    TEXT = (
        "env,variant,seed,env_step,return,length,note\n"
        "A-v1,ours,0,10,1.5,10,x\nA-v1,theirs,7,12,9,12,\nA-v1,ours,0,25,2.5,15,x\nA-v1,ours,1,5,-1,5,x\n"
    )

    def test_each_variant_env_and_seed_is_a_run(self, tmp_path: Path) -> None:
        (tmp_path / "all.csv").write_text(self.TEXT)
        runs = read(f"csv:{tmp_path / 'all.csv'}")
        names = [(run.row["variant"], run.row["env"], run.row["seed"]) for run in runs]
        assert names == [("ours", "A-v1", 0), ("ours", "A-v1", 1), ("theirs", "A-v1", 7)]
        assert rows_of(runs[0]) == [(10, 1.5, 10), (25, 2.5, 15)]
        assert runs[0].row["score"] == 2.0
        assert len({run.row["run"] for run in runs}) == 3
        assert all(set(run.row) == set(RUN_COLUMNS) for run in runs)

    def test_two_columns_are_enough_with_options(self, tmp_path: Path) -> None:
        (tmp_path / "one.csv").write_text("env_step,return\n10,1.5\n20,2")
        run = read_one(f"csv:{tmp_path / 'one.csv'},env=A-v1,seed=3,variant=mine")
        assert rows_of(run) == [(10, 1.5, 0), (20, 2.0, 0)]
        assert (run.row["variant"], run.row["env"], run.row["seed"]) == ("mine", "A-v1", 3)
        assert "numbered" not in run.row["config"]
        assert json.loads(read_one(f"csv:{tmp_path / 'one.csv'},env=A-v1").row["config"])["seed"] == "numbered"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("env_step,return\n1,2\n", "no column env; add it, or ,env=ID to the source"),
            ("env,env_step\nA-v1,2\n", "no column return"),
            ("env,env_step,return\n", "no rows"),
            ("env,env_step,return\n,1,2\n", "without its variant or env"),
            ("env,env_step,return\nA-v1,5,2\nA-v1,4,2\n", "go back"),
            ("env,env_step,return\nA-v1,0,2\n", "below 1"),
            ("env,env_step,return\nA-v1,1,\n", "cannot be read"),
            ("env,env_step,return\nA-v1,1,inf\n", "not a finite number"),
            ("env,env_step,return,length\nA-v1,1,2,-1\n", "a length below 0"),
            ("env,env_step,return\nA-v1,1.5,2\n", "cannot be read"),
            ("env,env_step,return,length\nA-v1,1,2,3000000000\n", "cannot be read"),
            ("env,env,env_step,return\nA-v1,A-v1,1,2\n", "cannot be read"),
            ("env,env_step,return\nA-v1,1\n", "cannot be read"),
            ("", "cannot be read"),
        ],
    )
    def test_other_files_are_refused(self, tmp_path: Path, text: str, says: str) -> None:
        (tmp_path / "bad.csv").write_text(text)
        assert says in broken(f"csv:{tmp_path / 'bad.csv'}")


class TestNames:
    @pytest.mark.parametrize(
        ("path", "told"),
        [
            ("ppo/Hopper-v3_1", {"algo": "ppo", "env": "Hopper-v3"}),
            ("Hopper-v3_1", {"algo": "root", "env": "Hopper-v3"}),
            ("CartPole-v1/PPO_12", {"algo": "PPO", "env": "CartPole-v1"}),
            ("MiniGrid-Empty-5x5-v0/A2C_1", {"algo": "A2C", "env": "MiniGrid-Empty-5x5-v0"}),
            ("Hopper-v4__ppo__exact__3__1700", {"env": "Hopper-v4__ppo", "algo": "exact", "seed": "3"}),
            ("ALE/Pong-v5__ppo_atari__1__1700", {"env": "ALE/Pong-v5", "algo": "ppo_atari", "seed": "1"}),
            ("Hopper-v4/seed_3", {"env": "Hopper-v4", "seed": "3"}),
            ("seed1/Hopper-v4-s2", {"seed": "2"}),
            ("clip_Hopper-v4_s2", {"env": "Hopper-v4", "seed": "2"}),
            ("steps10/lr=0.1,num=3", {}),
            ("seed99999999999999999999", {}),
        ],
    )
    def test_folders(self, tmp_path: Path, path: str, told: dict[str, str]) -> None:
        root = tmp_path / "above" / "root"
        (root / path).mkdir(parents=True)
        assert told_by(root / path, root) == told

    def test_args_yml_is_read_and_never_run(self, tmp_path: Path) -> None:
        (tmp_path / "run" / "Hopper-v3").mkdir(parents=True)
        (tmp_path / "run" / "Hopper-v3" / "args.yml").write_text(
            f"!!python/object/apply:os.system ['touch {tmp_path / 'sprung'}']\n- - - algo\n    - trpo\n"
            "  - - env_kwargs\n    - null\n  - - seed\n    - 52924509\n  - - env\n    - Hopper-v3\n"
        )
        assert told_by(tmp_path / "run", tmp_path) == {"algo": "trpo", "seed": "52924509", "env": "Hopper-v3"}
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("seed: 3\nenv: ALE/Pong-v5\n", {"seed": "3", "env": "ALE/Pong-v5"}),
            ("- - seed\n  - -1\n", {}),
            ("seed: -1\n", {}),
            ("- - seed\n  - null\n", {}),
        ],
    )
    def test_other_forms_of_args_yml(self, tmp_path: Path, text: str, told: dict[str, str]) -> None:
        run = tmp_path / "above" / "root" / "run"
        (run / "x").mkdir(parents=True)
        (run / "x" / "args.yml").write_text(text)
        assert told_by(run, run.parent) == told

    @pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"seed": null, "env": {"a": 1}}', "\x00"])
    def test_other_forms_of_params_json_tell_nothing(self, tmp_path: Path, text: str) -> None:
        run = tmp_path / "above" / "root" / "run"
        run.mkdir(parents=True)
        (run / "params.json").write_text(text)
        assert told_by(run, run.parent) == {}

    def test_seeds_are_numbered_by_variant_and_env(self, tmp_path: Path) -> None:
        for place in ("ppo/A-v1_1", "ppo/A-v1_2", "ppo/B-v1_1", "a2c/A-v1_1"):
            monitor(tmp_path / place, f"1.0,{len(place)},1.0\n", env=place[-6:-2])
        runs = read(f"sb3:{tmp_path}")
        assert [(run.row["variant"], run.row["env"], run.row["seed"]) for run in runs] == [
            ("sb3_a2c", "A-v1", 0),
            ("sb3_ppo", "A-v1", 0),
            ("sb3_ppo", "A-v1", 1),
            ("sb3_ppo", "B-v1", 0),
        ]
        assert {json.loads(run.row["config"])["seed"] for run in runs} == {"numbered"}

    def test_published_models_of_rl_zoo_tell_their_algorithm(self, tmp_path: Path) -> None:
        for number, algo in enumerate(("a2c", "ppo", "sac")):
            monitor(tmp_path / f"{algo}-HalfCheetah-v3", f"1.0,{number + 1},1.0\n", env="HalfCheetah-v3")
        assert [run.row["variant"] for run in read(f"sb3:{tmp_path}")] == ["sb3_a2c", "sb3_ppo", "sb3_sac"]

    def test_folders_that_may_have_other_settings_are_refused(self, tmp_path: Path) -> None:
        for name in ("wide", "narrow"):
            monitor(tmp_path / name, f"1.0,{len(name)},1.0\n")
        runs = runs_of(f"sb3:{tmp_path}")
        assert runs is not None
        _, second = runs
        assert "'wide' where another of sb3 on A-v1 has 'narrow'" in str(second)

    def test_options_go_before_what_files_say(self) -> None:
        run = read_one(f"sb3:{ZOO},seed=2,env=CartPole-v9,variant=zoo")
        assert (run.row["variant"], run.row["env"], run.row["seed"]) == ("zoo", "CartPole-v9", 2)
        assert json.loads(run.row["config"])["options"] == {"seed": "2", "env": "CartPole-v9", "variant": "zoo"}

    def test_an_unknown_environment_is_asked_for(self, tmp_path: Path) -> None:
        monitor(tmp_path, "1.0,2,3.0\n", env="None")
        assert broken(f"sb3:{tmp_path}").endswith("add ,env=ID to the source")
        assert read_one(f"sb3:{tmp_path},env=Mine-v0").row["env"] == "Mine-v0"


class TestSources:
    @pytest.mark.parametrize("source", ["records", "table1", "sb3", "sb4:records", "", ":", "/a/b:c"])
    def test_others_are_left_to_others(self, source: str) -> None:
        assert runs_of(source) is None

    @pytest.mark.parametrize(
        ("source", "says"),
        [
            ("sb3:{}/nowhere", "nowhere is no folder"),
            ("csv:{}", "is no file"),
            ("sb3:{}", "holds no *monitor.csv"),
            ("evaluations:{}", "holds no evaluations.npz"),
            ("tensorboard:{}", "holds no *tfevents*"),
            ("sb3:{},sead=3", "no options but ,variant=NAME,env=ID,seed=N"),
            ("sb3:{},seed=x", "seed=x is no whole number"),
            ("sb3:{},seed=-1", "seed=-1 is no whole number"),
            ("sb3:{},seed=", "empty or there twice"),
            ("sb3:{},seed=1,seed=2", "empty or there twice"),
        ],
    )
    def test_what_is_not_there_is_said_at_once(self, tmp_path: Path, source: str, says: str) -> None:
        with pytest.raises(RecordError) as error:
            runs_of(source.format(tmp_path))
        assert says in str(error.value)

    def test_folders_may_have_commas(self, tmp_path: Path) -> None:
        monitor(tmp_path / "lr=0.1,seed=4,num=3", "1.0,2,3.0\n")
        run = read_one(f"sb3:{tmp_path}/lr=0.1,seed=4,num=3,variant=a=b")
        assert (run.row["variant"], run.row["seed"]) == ("a=b", 4)

    def test_runs_are_read_one_after_another(self, tmp_path: Path) -> None:
        monitor(tmp_path / "a", "1.0,2,3.0\n")
        monitor(tmp_path / "b", "nonsense\n")
        monitor(tmp_path / "c" / "seed1", "1.0,3,3.0\n")
        runs = runs_of(f"sb3:{tmp_path}")
        assert isinstance(runs, Iterator)
        assert [type(run) for run in runs] == [Collected, Broken, Collected]

    def test_equal_bytes_are_one_run(self, tmp_path: Path) -> None:
        for name in ("1", "2"):
            monitor(tmp_path / name, "1.0,2,3.0\n")
        first, second = read(f"sb3:{tmp_path}")
        assert first.row["run"] == second.row["run"]
        assert first.row["source"] != second.row["source"]
