"""No leak on real Beauty: what is trained on is compared with the release's own file."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.data.batching import TrainingBatches
from genrec.data.sequence_dataset import SeqData


@pytest.fixture(scope="module")
def held_out(shared_data) -> np.ndarray:
    """Last and second last item of every user as (user, item), read from the file itself."""
    lines = (shared_data / "amazon" / "beauty" / "sequential_data.txt").read_text().splitlines()
    pairs = []
    for line in lines:
        user, *items = (int(word) - 1 for word in line.split())
        pairs += [(user, items[-1]), (user, items[-2])]
    return np.array(pairs)


def keys(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    return users.astype(np.int64) * 100_000 + items


def test_the_split_is_that_of_the_file(beauty, held_out):
    test, valid = SeqData(beauty, "test"), SeqData(beauty, "valid")
    assert np.array_equal(np.stack([test.users, test.targets], axis=1), held_out[0::2])
    assert np.array_equal(np.stack([valid.users, valid.targets], axis=1), held_out[1::2])


@pytest.mark.parametrize("mode", ["bucketed", "packed", "padded"])
def test_no_training_batch_shows_a_held_out_item(beauty, held_out, mode):
    data = SeqData(beauty, "train", max_history=20)
    loader = TrainingBatches(data, batch_size=512, mode=mode)
    targets, seen = [], []
    for batch in loader.batches(0):
        users = batch.user_ids.numpy()
        for found, items in ((targets, batch.targets), (seen, batch.history)):
            row, column = np.nonzero(items.numpy() >= 0)
            found.append(keys(users[row], items.numpy()[row, column]))
    trained = np.concatenate(targets)
    forbidden = keys(held_out[:, 0], held_out[:, 1])
    # No user repeats an item, so (user, item) is one interaction.
    assert len(np.unique(trained)) == len(trained)
    left_out = 131_413 - len(trained)
    assert 0 <= left_out < 512 * (1 if mode != "packed" else 20)
    assert not np.isin(trained, forbidden).any()
    assert not np.isin(np.concatenate(seen), forbidden).any()
