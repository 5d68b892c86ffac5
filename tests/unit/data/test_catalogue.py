"""The catalogue of a run: written whole, read back, damage named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from genrec.data.catalogue import Catalogue
from genrec.data.prepared import StringArray
from genrec.errors import ArtifactError


def catalogue(titles=("Lamp", "", "Tæppe")) -> Catalogue:
    return Catalogue(StringArray.from_strings("abc"), StringArray.from_strings(titles))


def test_save_and_load(tmp_path):
    assert Catalogue.load(tmp_path) is None
    catalogue().save(tmp_path)
    again = Catalogue.load(tmp_path)
    assert (list(again.item_keys), list(again.item_titles)) == ([*"abc"], ["Lamp", "", "Tæppe"])
    assert (again.num_items, again.codes, again.groups) == (3, None, None)
    assert again.items_fingerprint == catalogue().items_fingerprint
    Catalogue(*[StringArray.from_strings(["x"])] * 2).save(tmp_path)
    assert list(Catalogue.load(tmp_path).item_keys) == ["x"]


def test_it_is_that_of_the_data_set(tiny_data):
    data = tiny_data([[0, 1, 2]], 3)
    found = Catalogue.from_data(data)
    assert (found.num_items, found.items_fingerprint) == (3, data.items_fingerprint)


def test_damage_is_named(tmp_path):
    catalogue(["too", "few"]).save(tmp_path)
    with pytest.raises(ArtifactError, match=r"and 3 keys and titles, got .*train the run again"):
        Catalogue.load(tmp_path)
    catalogue().save(tmp_path)
    meta = tmp_path / "catalogue" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"version": 9}))
    with pytest.raises(ArtifactError, match="format genrec-catalogue version 1"):
        Catalogue.load(tmp_path)
    catalogue().save(tmp_path)
    (tmp_path / "catalogue" / "item_titles.npy").unlink()
    with pytest.raises(ArtifactError, match=r"as it was written, got .*item_titles\.npy"):
        Catalogue.load(tmp_path)
    shutil.rmtree(tmp_path / "catalogue")
    assert Catalogue.load(tmp_path) is None


def test_vectors_are_kept_as_sketches(tmp_path, write_data):
    vectors = np.array([[1, 0], [0, 2], [1, 0]], dtype=np.float32)
    data = write_data(tmp_path / "data", [*"abc"], vectors, [[0, 1, 2]])
    found = Catalogue.from_data(data)
    assert np.array_equal(found.sketch[0], found.sketch[2])
    assert not np.isclose(found.sketch[0], found.sketch[1]).any()
    more = found.extended(["d"], ["D"], vectors[1:2]).extended(["e"], ["E"])
    more.save(tmp_path)
    again = Catalogue.load(tmp_path).sketch
    assert np.array_equal(again[3], again[1])
    assert np.isnan(again[4]).all()
    older = replace(more, sketch=more.sketch[:, :8])  # of a run that kept fewer numbers
    older.save(tmp_path)
    added = Catalogue.load(tmp_path).extended(["f"], ["F"], vectors[:1]).sketch
    assert np.array_equal(added[5], again[0, :8])
    np.save(tmp_path / "catalogue" / "sketch.npy", again[:, :3])
    (tmp_path / "catalogue" / "meta.json").write_text(
        '{"format": "genrec-catalogue", "version": 1, "num_items": 5}'
    )
    with pytest.raises(ArtifactError, match=r"sketch of a catalogue must be 5 values of float32"):
        Catalogue.load(tmp_path)
