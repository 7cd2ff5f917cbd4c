"""A permutation of which any place is computed by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
_ONE, _BITS = np.uint64(1), np.uint64(64)


def keys_of(draw: np.random.Generator) -> NDArray[np.uint64]:
    """What decides a permutation."""
    return draw.integers(2**63, size=ROUNDS, dtype=np.uint64)


def permuted(places: NDArray[np.int64], keys: NDArray[np.uint64], examples: int) -> NDArray[np.int64]:
    """What a permutation of 0, ..., examples - 1, which the keys decide, has at these places.

    A Feistel network (Luby and Rackoff 1988) permutes the numbers of so many bits; one that leads beyond the
    examples is followed until it leads back (Black and Rogaway 2002)."""
    low = np.uint64((examples - 1).bit_length() // 2)
    high = np.uint64((examples - 1).bit_length()) - low

    def network(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = numbers >> low, numbers & ((_ONE << low) - _ONE)
        for one, two in zip(keys[::2], keys[1::2], strict=True):
            left ^= _mixed(right, one) >> (_BITS - high)
            right ^= _mixed(left, two) >> (_BITS - low)
        return (left << low) | right

    found = network(places.astype(np.uint64))
    while len(beyond := np.flatnonzero(found >= examples)):
        found[beyond] = network(found[beyond])
    return found.astype(np.int64)


def _mixed(numbers: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """64 bits of which the upper ones depend on every bit of both (multipliers of SplitMix64)."""
    mixed = (numbers ^ key) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0x94D049BB133111EB)
    return mixed
