"""A user of the data set, whose history a request may hold."""

from __future__ import annotations

import numpy as np

from genrec.serving.http.settings import MAX_HISTORY


def test_only_the_newest_of_a_long_history(tmp_path, write_data, write_sasrec, open_service):
    walk = np.arange(MAX_HISTORY + 9) % 7
    data = write_data(tmp_path / "data", list("abcdefg"), None, [walk, [0], [1, 2]])
    user = open_service(write_sasrec(tmp_path / "run", data)).random_user()
    assert user["user"] == "user 0"  # nothing is held out of the others
    expected = [data.item_keys[item] for item in walk[-MAX_HISTORY - 1 :]]
    assert [item["item"] for item in [*user["history"], user["next"]]] == expected
