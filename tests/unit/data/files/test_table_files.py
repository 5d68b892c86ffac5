"""Tables of lists, and keys of any type."""

from __future__ import annotations

import polars as pl
import pytest

from genrec.data.files.table_files import TableFile


@pytest.mark.parametrize("kind", [pl.List(pl.Float64), pl.Array(pl.Float64, 2), pl.List(pl.Int32)])
def test_lists_hold_keys_as_columns_do(tmp_path, kind):
    """Integers that pandas keeps as floats name the same items in a list as in a column."""
    user = pl.Series("user", [7.0, 8.0])
    history = pl.Series("history", [[1, 2], [3, 4]], dtype=kind)
    pl.DataFrame([user, history]).write_parquet(tmp_path / "a.parquet")
    found = TableFile(tmp_path / "a.parquet").scan_lists("history", ["user"])
    assert found is not None
    assert found.collect().rows() == [(["1", "2"], "7"), (["3", "4"], "8")]
