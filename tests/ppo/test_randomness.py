import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ppo
from ppo.randomness import generator

DRAWS = 4096


def words(seed=0, purpose="action", iteration=0):
    return generator(seed, purpose, iteration).integers(2**64, size=DRAWS, dtype=np.uint64)


def counter(seed, purpose, iteration):
    """Position in the Philox sequence, in blocks of four 64-bit words."""
    limbs = generator(seed, purpose, iteration).bit_generator.state["state"]["counter"]
    return sum(int(limb) << (64 * i) for i, limb in enumerate(limbs))


def test_the_same_name_is_the_same_stream():
    np.testing.assert_array_equal(words(3, "action", 5), words(3, "action", 5))


def test_the_same_name_is_the_same_stream_in_another_process():
    code = "from ppo.randomness import generator; print(generator(3, 'action', 5).random(4).tolist())"
    root = Path(ppo.__file__).parents[1]
    output = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True, text=True).stdout
    assert json.loads(output) == generator(3, "action", 5).random(4).tolist()


def test_the_iteration_is_zero_unless_named():
    np.testing.assert_array_equal(generator(3, "weights").random(8), generator(3, "weights", 0).random(8))


def test_draws_of_one_stream_leave_another_where_it_was():
    one, other = generator(0, "action", 1), generator(0, "action", 2)
    one.random(1000)
    np.testing.assert_array_equal(other.random(8), generator(0, "action", 2).random(8))


@pytest.mark.parametrize("name", [(1, "action", 0), (0, "minibatch", 0), (0, "action", 1), (1, "action", 1)])
def test_streams_of_different_names_share_no_word(name):
    assert np.intersect1d(words(), words(*name)).size == 0


def test_streams_of_different_names_are_uncorrelated():
    names = [
        (seed, purpose, i) for seed in range(3) for purpose in ("action", "minibatch", "weights") for i in range(3)
    ]
    draws = np.stack([generator(*name).standard_normal(DRAWS) for name in names])
    correlations = np.corrcoef(draws)[np.triu_indices(len(names), 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(DRAWS)


def test_iterations_lie_too_far_apart_to_overlap():
    starts = [counter(0, "action", iteration) for iteration in range(100)]
    assert min(np.diff(np.array(starts, dtype=object))) >= 2**128


def test_iterations_are_stretches_of_one_key_and_other_names_have_other_keys():
    def key(*name):
        return tuple(generator(*name).bit_generator.state["state"]["key"].tolist())

    assert key(0, "action", 0) == key(0, "action", 7)
    names = [(seed, purpose) for seed in range(4) for purpose in ("action", "environment", "minibatch", "weights")]
    assert len({key(*name) for name in names}) == len(names)
