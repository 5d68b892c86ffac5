"""Hashes of user keys, by which models with user tokens know users; without torch.

Shape legend: U = users.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from genrec.data.prepared import StringArray

__all__ = ["hash_users"]


def hash_users(keys: StringArray) -> npt.NDArray[np.int64]:
    """Hash user keys, the same on every machine and in every process.

    Args:
        keys: The source's user ids, ``U``.

    Returns:
        All 64 bits of each user's hash, shape ``(U,)``, int64; half of them are negative. A model
        takes what it needs of them with :func:`~genrec.data.sequence_dataset.user_buckets`.

    Source:
        A polynomial over the bytes of the key, modulo 2^64, then the finaliser of SplitMix64.
        Python's ``hash`` differs between processes.
    """
    offsets = np.asarray(keys.offsets)
    lengths = np.diff(offsets)
    data = np.asarray(keys.data[: offsets[-1]]).astype(np.uint64) + np.uint64(1)
    powers = np.ones(int(lengths.max(initial=0)) + 1, dtype=np.uint64)
    powers[1:] = np.uint64(0x100000001B3)
    powers = np.multiply.accumulate(powers)
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)  # of bytes in their key
    with np.errstate(over="ignore"):
        terms = data * powers[places]
        total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
        mixed = total[offsets[1:]] - total[offsets[:-1]] + lengths.astype(np.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return (mixed ^ (mixed >> np.uint64(31))).view(np.int64)
