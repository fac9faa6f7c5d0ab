"""Stateless randomness: every draw has a name, so none has to be saved.

A draw is named by (run seed, purpose, iteration). Members of a pack cannot disturb each other, a resumed run needs no
generator state, and variants with the same seed share their draws.
"""

import hashlib

import numpy as np

MAX_SEED = 2**31 - 1  # below which simulators take their seeds


def generator(seed: int, purpose: str, iteration: int = 0) -> np.random.Generator:
    """The Philox stream of one name: the key is (seed, digest of purpose), the counter's high word the iteration."""
    digest = hashlib.blake2b(purpose.encode(), digest_size=8).digest()
    key = np.array([seed, int.from_bytes(digest, "little")], dtype=np.uint64)
    counter = np.array([0, 0, 0, iteration], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
