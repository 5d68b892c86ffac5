from __future__ import annotations

import json

import numpy as np
import pytest

from genrec.data.text.vectors import PrecomputedEncoder
from genrec.errors import DataError, MissingPathError

VECTORS = np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "vectors.npy"
    np.save(path, VECTORS)
    return path


def test_rows_in_the_order_of_the_items(file):
    encoder = PrecomputedEncoder(file)
    assert np.array_equal(encoder.encode(["a", "b", "c"]), VECTORS)
    assert not encoder.cacheable


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_precision_is_kept_and_not_read_into_memory(tmp_path, dtype):
    np.save(tmp_path / "v.npy", VECTORS.astype(dtype))
    vectors = PrecomputedEncoder(tmp_path / "v.npy").encode(["a", "b", "c"])
    assert vectors.dtype == dtype
    assert isinstance(vectors, np.memmap)


def test_float64_becomes_float32(tmp_path):
    np.save(tmp_path / "v.npy", VECTORS.astype(np.float64))
    assert PrecomputedEncoder(tmp_path / "v.npy").encode(["a"] * 3).dtype == np.float32


@pytest.mark.parametrize("kind", ["list", "txt", "json", "beside"])
def test_keys_put_rows_in_the_order_of_the_items(file, tmp_path, kind):
    keys = ["x", "y", "z"]
    given = keys
    if kind in ("txt", "beside"):
        given = tmp_path / ("keys.txt" if kind == "txt" else "vectors.keys.txt")
        given.write_text("\n".join(keys) + "\n")
    elif kind == "json":
        given = tmp_path / "keys.json"
        given.write_text(json.dumps(keys))
    encoder = PrecomputedEncoder(file, keys=None if kind == "beside" else given)
    assert encoder.encode(["", ""], item_keys=["z", "x"]).tolist() == [[5, 6], [1, 2]]
    assert encoder.num_unused == 1


@pytest.mark.parametrize(
    ("keys", "item_keys", "message"),
    [
        (["x", "y"], ["x"], r"as many as the rows of .*, 3, got 2"),
        (["x", "y", "x"], ["x"], "must be unique, got 1 that repeat"),
        (["x", "y", "z"], ["x", "q", "r"], "got 2 items without one in .*, the first 'q'"),
        (["x", "y", "z"], None, "must be asked for with item_keys"),
    ],
)
def test_key_errors(file, keys, item_keys, message):
    with pytest.raises(DataError, match=message):
        PrecomputedEncoder(file, keys=keys).encode(["t"], item_keys=item_keys)


def test_row_count_must_fit(file):
    with pytest.raises(DataError, match=r"one row an item, 2, got \(3, 2\)"):
        PrecomputedEncoder(file).encode(["a", "b"])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(3), r"floating point of shape \(items, dim\), got int64"),
        (np.zeros(3), r"got float64 of shape \(3,\)"),
        (np.zeros((3, 0)), r"got float64 of shape \(3, 0\)"),
    ],
)
def test_kind_and_shape_must_fit(tmp_path, array, message):
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(DataError, match=message):
        PrecomputedEncoder(tmp_path / "v.npy").encode(["a"] * 3)


def test_values_that_are_not_finite(tmp_path):
    array = VECTORS.copy()
    array[0, 1], array[2] = np.nan, np.inf
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(DataError, match=r"finite, got 3 values NaN or Inf in 2 rows of .*replace"):
        PrecomputedEncoder(tmp_path / "v.npy").encode(["a"] * 3)
    encoder = PrecomputedEncoder(tmp_path / "v.npy", replace_non_finite=True)
    assert encoder.encode(["a"] * 3).tolist() == [[1, 0], [3, 4], [0, 0]]
    assert encoder.num_replaced == 3


def test_files_that_are_no_arrays(tmp_path):
    with pytest.raises(MissingPathError, match="embeddings file must exist, got"):
        PrecomputedEncoder(tmp_path / "none.npy")
    (tmp_path / "bad.npy").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"must be a \.npy array, got"):
        PrecomputedEncoder(tmp_path / "bad.npy").encode(["a"])
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"must be a \.npy array, got"):  # pickles are not read
        PrecomputedEncoder(tmp_path / "objects.npy").encode(["a"])


@pytest.mark.parametrize(
    ("content", "message"), [("{}", "must hold a JSON list, got dict"), ("[", "must be JSON, got")]
)
def test_key_files_that_are_no_lists(file, tmp_path, content, message):
    (tmp_path / "k.json").write_text(content)
    with pytest.raises(DataError, match=message):
        PrecomputedEncoder(file, keys=tmp_path / "k.json").encode(["a"], item_keys=["x"])
    with pytest.raises(MissingPathError, match="file of item keys must exist"):
        PrecomputedEncoder(file, keys=tmp_path / "no.txt").encode(["a"], item_keys=["x"])
