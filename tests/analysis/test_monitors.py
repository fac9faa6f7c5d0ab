"""Stable-Baselines3's monitor files become runs that say what they say; what is damaged is refused in words."""

import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from tools_read import SAMPLES, ZOO, Rows, broken, monitor, raw_monitors, read_one, rows_of, stepped

from analysis.dataset import RUN_COLUMNS


class TestMonitors:
    def test_a_real_run(self) -> None:
        run = read_one(f"sb3:{SAMPLES / 'rl-trained-agents'}")
        expected = stepped(raw_monitors(ZOO))
        assert rows_of(run) == expected
        assert len(expected) == 38 + 40 + 38 + 41 + 41 + 40 + 38 + 40
        digest = hashlib.sha256(b"".join((ZOO / f"{n}.monitor.csv").read_bytes() for n in range(8))).hexdigest()[:12]
        assert (
            run.row
            == {
                "run": f"sb3-{digest}",
                "run_id": digest,
                "code_id": "sb3",
                "variant": "sb3_ppo",
                "env": "CartPole-v1",
                "profile": "sb3",
                "seed": 1648070233,  # of args.yml
                "status": "complete",
                "not_finite": "",
                "measure": "training episodes",
                "budget": 8 * 12372,  # copy 6 took the most steps
                "env_steps": 8 * 12372,
                "episodes": 316,
                "score": pytest.approx(np.mean([row[1] for row in expected[-100:]])),
                "score_episodes": 100,
                "seconds": 93.249519,  # the last line of 6.monitor.csv
                "peak_mb": math.nan,
                "config": json.dumps(
                    {"files": [f"{n}.monitor.csv" for n in range(8)], "options": {}, "tool": "sb3"}, sort_keys=True
                ),
                "source": str(ZOO),
                **dict.fromkeys(("backend", "numerics", "device", "commit", "host"), "unknown"),
                "cpu": "",
                "gpu": "",
            }
        )
        assert set(run.row) == set(RUN_COLUMNS)
        assert run.iterations.column_names == ["iteration", "env_steps"]
        assert len(run.iterations) == 0

    def test_what_stable_baselines3_itself_saw(self, tmp_path: Path) -> None:
        torch.set_num_threads(1)
        seen: Rows = []

        class Watch(BaseCallback):
            def _on_step(self) -> bool:
                ended = [info["episode"] for info in self.locals["infos"] if "episode" in info]
                seen.extend((self.num_timesteps, episode["r"], episode["l"]) for episode in ended)
                return True

        copies = make_vec_env("CartPole-v1", 3, seed=5, monitor_dir=str(tmp_path / "seed5"))
        judge = make_vec_env("CartPole-v1", 1, seed=6)
        evaluations = EvalCallback(
            judge, n_eval_episodes=4, eval_freq=128, log_path=str(tmp_path / "seed5"), verbose=0, deterministic=False
        )
        PPO("MlpPolicy", copies, n_steps=128, batch_size=128, n_epochs=1, device="cpu").learn(
            1500, CallbackList([Watch(), evaluations])
        )
        run = read_one(f"sb3:{tmp_path}")
        assert len(seen) > 30
        assert rows_of(run) == seen
        assert (run.row["variant"], run.row["env"], run.row["seed"]) == ("sb3", "CartPole-v1", 5)

        judged = read_one(f"evaluations:{tmp_path},env=CartPole-v1")
        assert judged.episodes["env_step"].to_pylist() == [step for step in (384, 768, 1152, 1536) for _ in range(4)]
        assert judged.episodes["return"].to_pylist() == np.ravel(evaluations.evaluations_results).tolist()
        assert judged.episodes["length"].to_pylist() == np.ravel(evaluations.evaluations_length).tolist()
        assert judged.row["score"] == pytest.approx(np.mean(evaluations.evaluations_results))
        assert judged.row["measure"] == "evaluation episodes"
        assert judged.row["score_episodes"] == 16

    def test_a_torn_last_line_is_left_out(self, tmp_path: Path) -> None:
        text = (ZOO / "0.monitor.csv").read_bytes()
        (tmp_path / "monitor.csv").write_bytes(text[:-3])
        assert rows_of(read_one(f"sb3:{tmp_path}")) == stepped(raw_monitors(ZOO)[:1])[:-1]

    @pytest.mark.parametrize("second", ['#{"t_start": 2, "env_id": "A-v1"}\nr,l,t\n3.0,4,1.0\n', "3.0,4,1.0\n"])
    def test_two_sessions_in_one_file_are_refused(self, tmp_path: Path, second: str) -> None:
        monitor(tmp_path, "1.0,2,5.0\n" + second)
        assert "several sessions one after another" in broken(f"sb3:{tmp_path}")

    @pytest.mark.parametrize("missing", [0, 3, 7])
    def test_a_missing_copy_is_refused(self, tmp_path: Path, missing: int) -> None:
        folder = shutil.copytree(ZOO, tmp_path / "run")
        (folder / f"{missing}.monitor.csv").unlink()
        if missing == 7:  # nothing tells that there ever was an eighth
            assert rows_of(read_one(f"sb3:{folder}"))[-1][0] == 7 * 12372
        else:
            assert "without a gap" in broken(f"sb3:{folder}")

    def test_files_that_are_no_copies_are_refused(self, tmp_path: Path) -> None:
        for name in ("train", "eval"):
            monitor(tmp_path, "1.0,2,5.0\n", f"{name}.monitor.csv")
        assert "eval.monitor.csv, train.monitor.csv" in broken(f"sb3:{tmp_path}")

    def test_a_lone_copy_of_several_is_refused(self, tmp_path: Path) -> None:
        monitor(tmp_path, "1.0,2,5.0\n", "3.monitor.csv")
        assert "without a gap" in broken(f"sb3:{tmp_path}")

    def test_copies_of_several_tasks_are_refused(self, tmp_path: Path) -> None:
        monitor(tmp_path, "1.0,2,5.0\n", "0.monitor.csv", "A-v1")
        monitor(tmp_path, "1.0,2,5.0\n", "1.monitor.csv", "B-v1")
        assert "A-v1, B-v1" in broken(f"sb3:{tmp_path}")

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"#",
            b"r,l,t\n1,2,3\n",
            b"#[]\nr,l,t\n1,2,3\n",
            b'#{"env_id": "A-v1"}\n',
            b'#{"env_id": "A-v1"}\nr,l,t\n',
            b'#{"env_id": "A-v1"}\nr,l\n1,2\n',
            b'#{"env_id": "A-v1"}\nr,l,t\n1,2\n',
            b'#{"env_id": "A-v1"}\nr,l,t\n1,x,3\n',
            b'#{"env_id": "A-v1"}\nr,l,t\n1,2.5,3\n',
            b'#{"env_id": "A-v1"}\nr,l,t\n,2,3\n',
            b'#{"env_id": "A-v1"}\nr,l,t\nnan,2,3\n',
            b'#{"env_id": {}}\nr,l,t\n1,2\n',
            b'#{"env_id": "A-v1"}\nr,l,t\n1,0,3\n',
            b'#{"env_id": "A-v1"}\nr,l,t\n1,4294967296,3\n',
            b"#" + b"[" * 100_000 + b"\nr,l,t\n1,2,3\n",
            b'#{"env_id": "A-v1"}\nr,l,t\n\xff\xfe,2,3\n',
        ],
    )
    def test_an_altered_file_is_refused(self, tmp_path: Path, text: bytes) -> None:
        (tmp_path / "monitor.csv").write_bytes(text)
        assert str(tmp_path) in broken(f"sb3:{tmp_path}")

    def test_extra_columns_are_let_be(self, tmp_path: Path) -> None:
        (tmp_path / "monitor.csv").write_text('#{"env_id": "A-v1"}\nr,l,t,is_success\n1.5,2,3,True\n2.5,3,4,False\n')
        assert rows_of(read_one(f"sb3:{tmp_path}")) == [(2, 1.5, 2), (5, 2.5, 3)]
