"""Event files: their bytes, written here by hand, and the tags of CleanRL, Stable-Baselines3 and RLlib."""

import csv
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools_read import CLEANRL, RAY, SB3, broken, raw_monitors, read_one, rows_of, stepped

from analysis.sources.records import Broken
from analysis.sources.tensorboard import LONGEST, masked_crc, scalars


def bitwise_crc(data: bytes) -> int:
    """CRC-32C without a table, masked as event files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % (1 << 32)


def record(body: bytes) -> bytes:
    length = struct.pack("<Q", len(body))
    return length + struct.pack("<I", bitwise_crc(length)) + body + struct.pack("<I", bitwise_crc(body))


def event(value: bytes, step: bytes = b"\x10\x07") -> bytes:
    """An event at step 7 with one value of the tag `a`; all lengths are below 128."""
    value = b"\x0a\x01a" + value
    summary = b"\x0a" + bytes([len(value)]) + value
    return record(b"\x09" + bytes(8) + step + b"\x2a" + bytes([len(summary)]) + summary)


PLAIN = b"\x15" + struct.pack("<f", 1.5)
VALUES = {
    "plain": PLAIN,
    "packed floats": b"\x42\x08\x08\x01\x2a\x04" + struct.pack("<f", 1.5),
    "one float": b"\x42\x07\x08\x01\x2d" + struct.pack("<f", 1.5),
    "content": b"\x42\x0a\x08\x01\x12\x00\x22\x04" + struct.pack("<f", 1.5),
    "content of a double": b"\x42\x0c\x08\x02\x22\x08" + struct.pack("<d", 1.5),
    "doubles": b"\x42\x0c\x08\x02\x32\x08" + struct.pack("<d", 1.5),
}


class TestEventFiles:
    def test_the_check_is_crc_32c(self) -> None:
        known = {b"123456789": 0xE3069283, bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43}  # RFC 3720, B.4
        for data, crc in known.items():
            masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
            assert masked_crc(data) == bitwise_crc(data) == masked

    @pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
    def test_values_by_hand(self, tmp_path: Path, value: bytes) -> None:
        file = tmp_path / "x.tfevents"
        file.write_bytes(event(value) + event(PLAIN, b"\x10\xac\x02") + event(PLAIN, b""))
        assert scalars([file], ["a"]) == {"a": ([7, 300, 0], [1.5, 1.5, 1.5])}
        assert scalars([file], ["b"]) == {}

    def test_a_torn_file_is_read_as_far_as_it_goes(self, tmp_path: Path) -> None:
        file, one = tmp_path / "x.tfevents", event(PLAIN)
        for size in range(3 * len(one)):
            file.write_bytes((3 * one)[:size])
            assert scalars([file], ["a"]) == ({"a": ([7] * n, [1.5] * n)} if (n := size // len(one)) else {})

    def test_any_flipped_bit_is_seen(self, tmp_path: Path) -> None:
        file, one = tmp_path / "x.tfevents", event(PLAIN)
        for bit in range(8 * len(one)):
            altered = bytearray(one)
            altered[bit // 8] ^= 1 << bit % 8
            file.write_bytes(altered)
            with pytest.raises(Broken, match=r"damaged"):
                scalars([file], ["a"])

    def test_a_huge_record_is_not_read(self, tmp_path: Path) -> None:
        length = struct.pack("<Q", LONGEST + 1)
        (tmp_path / "x.tfevents").write_bytes(length + struct.pack("<I", bitwise_crc(length)) + bytes(100))
        assert "67,108,865 bytes" in broken(f"tensorboard:{tmp_path}")

    @pytest.mark.parametrize(
        "body",
        [
            b"\x2a\x7f",  # longer than the record
            b"\x28\x01",  # a summary that is a number
            b"\x10" + b"\xff" * 9 + b"\x01" + b"\x2a\x0a\x0a\x08\x0a\x01a" + PLAIN,  # step -1
            b"\x10" + b"\x81" * 50,
            b"\x2a\x05\x0a\x03\x0a\x01a",  # no value
            b"\x2a\x07\x0a\x05\x0a\x01a\x42\x00",  # a tensor of nothing
            b"\x2a\x0d\x0a\x0b\x0a\x01a\x42\x06\x08\x07\x22\x02xy",  # of strings
            b"\x13",  # a wire type of old
        ],
    )
    def test_a_malformed_event_is_refused(self, tmp_path: Path, body: bytes) -> None:
        (tmp_path / "x.tfevents").write_bytes(record(body))
        with pytest.raises(Broken, match="damaged"):
            scalars([tmp_path / "x.tfevents"], ["a"])

    @settings(deadline=None)
    @given(st.binary(max_size=60), st.integers(0, 40))
    def test_no_bytes_lead_to_anything_else(self, tmp_path_factory: Any, body: bytes, at: int) -> None:
        file = tmp_path_factory.getbasetemp() / "any.tfevents"
        good = event(PLAIN)[12:-4]
        for altered in (body, good[:at] + body, good[:at] + body + good[at + len(body) :]):
            file.write_bytes(record(altered))
            try:
                scalars([file], ["a"])
            except Broken:
                pass


class TestTensorBoard:
    @pytest.mark.parametrize("seed", [3, 4])
    def test_cleanrl_s_episodes(self, seed: int) -> None:
        run = read_one(f"tensorboard:{CLEANRL / f'Hopper-v4__ppo_continuous_action__{seed}__1700000000'}")
        with (CLEANRL / "written.csv").open() as file:
            written = [(int(r["env_step"]), float(r["return"]), int(r["length"])) for r in csv.DictReader(file)]
        found = rows_of(run)
        assert [(step, length) for step, _, length in found] == [(step, length) for step, _, length in written]
        np.testing.assert_allclose([row[1] for row in found], [row[1] for row in written], rtol=1e-7)
        expected = {
            "variant": "tensorboard_ppo_continuous_action",
            "env": "Hopper-v4",
            "seed": seed,
            "measure": "training episodes",
            "episodes": 12,
            "score_episodes": 12,
            "score": pytest.approx(np.mean([row[1] for row in written])),
            "budget": written[-1][0],
        }
        assert run.row.items() >= expected.items()
        assert np.isnan(run.row["seconds"])

    def test_stable_baselines3_s_means_are_those_of_its_monitor_files(self) -> None:
        run = read_one(f"tensorboard:{SB3}")
        episodes = stepped(raw_monitors(SB3))
        points = rows_of(run)
        assert [step for step, _, _ in points] == list(range(128, 1025, 128))
        for step, mean, length in points:
            finished = [row for row in episodes if row[0] <= step][-100:]
            assert mean == pytest.approx(np.mean([row[1] for row in finished]), rel=1e-6)
            assert length == round(np.mean([row[2] for row in finished]))
        expected = {"variant": "tensorboard_PPO", "env": "CartPole-v1", "measure": "running means"}
        assert run.row.items() >= (expected | {"score": points[-1][1], "score_episodes": 100}).items()

    def test_rllib_s_means(self) -> None:
        run = read_one(f"tensorboard:{RAY}")
        assert [(step, length) for step, _, length in rows_of(run)] == [(512_000 + 102_400 * n, 1000) for n in range(4)]
        told = [-330.4188218075807, -338.04792669997255, -338.04792669997255, -338.04792669997255]  # its progress CSV
        np.testing.assert_allclose(run.episodes["return"], told, rtol=1e-7)
        assert run.row["score"] == pytest.approx(told[-1], rel=1e-7)
        expected = {"env": "HalfCheetah-v2", "measure": "running means", "episodes": 0, "score_episodes": 0, "seed": 0}
        assert run.row.items() >= expected.items()
        assert json.loads(run.row["config"])["seed"] == "numbered"

    def test_a_return_whose_length_was_torn_off_stays(self, tmp_path: Path) -> None:
        file = next(CLEANRL.glob("*__3__*/*"))
        (tmp_path / file.name).write_bytes(file.read_bytes()[:-200])
        rows = rows_of(read_one(f"tensorboard:{tmp_path},env=Hopper-v4"))
        whole = rows_of(read_one(f"tensorboard:{file.parent}"))
        assert 8 <= len(rows) < 12
        assert [row[:2] for row in rows] == [row[:2] for row in whole[: len(rows)]]
        assert {row[2] for row in rows} <= {row[2] for row in whole} | {0}

    def test_several_files_continue_each_other(self, tmp_path: Path) -> None:
        (tmp_path / "1.tfevents").write_bytes(tagged("charts/episodic_return", 5))
        (tmp_path / "2.tfevents").write_bytes(tagged("charts/episodic_return", 9))
        assert [row[0] for row in rows_of(read_one(f"tensorboard:{tmp_path},env=A-v1"))] == [5, 9]
        (tmp_path / "3.tfevents").write_bytes(tagged("charts/episodic_return", 8))
        assert "env steps that go back" in broken(f"tensorboard:{tmp_path},env=A-v1")

    def test_rllib_s_tags_of_the_new_interface(self, tmp_path: Path) -> None:
        (tmp_path / "1.tfevents").write_bytes(tagged("ray/tune/env_runners/episode_return_mean", 5))
        assert rows_of(read_one(f"tensorboard:{tmp_path},env=A-v1")) == [(5, 1.5, 0)]

    def test_a_value_that_is_no_number_is_named_and_the_rest_read(self, tmp_path: Path) -> None:
        tag = "rollout/ep_rew_mean"
        lost = b"\x15" + struct.pack("<f", np.nan)
        (tmp_path / "1.tfevents").write_bytes(tagged(tag, 5) + tagged(tag, 7, lost) + tagged(tag, 9))
        run = read_one(f"tensorboard:{tmp_path},env=A-v1")
        assert [row[0] for row in rows_of(run)] == [5, 9]
        assert json.loads(run.row["config"])["gaps"] == f"1 values of {tag} are no number, the first at env step 7"

    def test_other_tags_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "1.tfevents").write_bytes(tagged("eval/reward", 5))
        assert "none of charts/episodic_return, rollout/ep_rew_mean" in broken(f"tensorboard:{tmp_path},env=A-v1")


def tagged(tag: str, step: int, number: bytes = PLAIN) -> bytes:
    value = b"\x0a" + bytes([len(tag)]) + tag.encode() + number
    summary = b"\x0a" + bytes([len(value)]) + value
    return record(b"\x10" + bytes([step]) + b"\x2a" + bytes([len(summary)]) + summary)
