"""The prepared data set: round trips, fingerprints, contradictions."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.prepared import PreparedDataset, StringArray, is_prepared, write_prepared
from genrec.errors import ArtifactError, DataError, MissingPathError


def arguments(**changes) -> dict:
    """Three items, two users: the first trains on [0, 1], is validated on 2, tested on 0."""
    base = {
        "name": "tiny",
        "source": "by hand",
        "split_rule": "leave-one-out",
        "encoder": "none",
        "item_keys": ["B00A", "B00B", "B00C"],
        "item_titles": ["Cup", "", "Gabel für zwei 🍴"],
        "item_texts": ["Title: Cup", "", "Title: Gabel"],
        "item_embeddings": np.arange(6, dtype=np.float16).reshape(3, 2),
        "user_keys": ["u1", "u2"],
        "sequence_items": [0, 1, 2, 0, 1],
        "sequence_offsets": [0, 4, 5],
        "train_ends": [2, 5],
        "valid_ends": [3, 5],
        "card": {"users": 2},
    }
    base |= changes
    for name in ("sequence_items", "sequence_offsets", "train_ends", "valid_ends"):
        base[name] = np.array(base[name])
    return base


@given(st.lists(st.text(max_size=12), max_size=20))
@settings(max_examples=100, deadline=None)
def test_strings_of_any_alphabet_come_back(strings):
    packed = StringArray.from_strings(strings)
    assert list(packed) == strings
    assert [packed[i] for i in range(len(packed))] == strings
    assert packed[1:5] == strings[1:5]
    assert packed.take(np.arange(len(strings))[::-1]) == strings[::-1]
    assert len(packed) == len(strings)
    if strings:
        assert packed[-1] == strings[-1]
    for beyond in (len(strings), -len(strings) - 1):
        with pytest.raises(IndexError, match="index must be below"):
            packed[beyond]


@pytest.mark.parametrize("strings", [[], [""], ["", "a", ""], ["Ünï", "🍴"]])
def test_strings_survive_the_disk(tmp_path, strings):
    packed = StringArray.from_strings(strings)
    packed.save(tmp_path, "keys")
    loaded = StringArray.load(tmp_path, "keys")
    assert list(loaded) == strings
    assert loaded.digest() == packed.digest()


def test_digests_see_where_strings_end():
    digests = {
        StringArray.from_strings(strings).digest()
        for strings in (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], ["ab", "c", ""])
    }
    assert len(digests) == 5
    assert StringArray.from_strings(["B00A", "B00B"]).digest() == "c35b83034f1b4eb8"


def test_round_trip_keeps_values_types_and_maps_them(tmp_path):
    given_ = arguments()
    written = write_prepared(tmp_path / "tiny", **given_)
    data = PreparedDataset.load(str(tmp_path / "tiny"))
    assert (data.num_items, data.num_users, data.num_interactions, data.embedding_dim) == (
        3,
        2,
        5,
        2,
    )
    for name in ("item_keys", "item_titles", "item_texts", "user_keys"):
        assert list(getattr(data, name)) == given_[name]
    for name in ("sequence_items", "sequence_offsets", "train_ends", "valid_ends"):
        assert getattr(data, name).tolist() == given_[name].tolist()
        assert isinstance(getattr(data, name), np.memmap)
    assert data.sequence_items.dtype == np.int32
    assert data.item_embeddings.dtype == np.float16
    assert np.array_equal(data.item_embeddings, given_["item_embeddings"])
    assert data.meta["card"] == {"users": 2}
    assert data.fingerprint == written.fingerprint
    assert data.items_fingerprint == StringArray.from_strings(given_["item_keys"]).digest()


def test_embeddings_of_other_types_become_float32(tmp_path):
    values = np.array([[1, 2], [3, 4], [5, 6]])
    data = write_prepared(tmp_path / "tiny", **arguments(item_embeddings=values))
    assert data.item_embeddings.dtype == np.float32
    assert np.array_equal(data.item_embeddings, values)


CHANGES = {
    "item_keys": ["B00A", "B00B", "B00D"],
    "item_titles": ["Cup", "x", "Gabel"],
    "item_texts": ["Title: Cup", "x", "Title: Gabel"],
    "user_keys": ["u1", "u3"],
    "item_embeddings": np.ones((3, 2), dtype=np.float16),
    "sequence_items": [0, 1, 2, 1, 1],
    "sequence_offsets": [0, 3, 5],
    "train_ends": [1, 5],
    "valid_ends": [2, 5],
}


def test_the_fingerprint_sees_every_array(tmp_path):
    first = write_prepared(tmp_path / "a", **arguments())
    assert write_prepared(tmp_path / "b", **arguments()).fingerprint == first.fingerprint
    others = {
        name: write_prepared(tmp_path / name, **arguments(**{name: value}))
        for name, value in CHANGES.items()
    }
    assert len({other.fingerprint for other in others.values()} | {first.fingerprint}) == 10
    changed = {n for n, o in others.items() if o.items_fingerprint != first.items_fingerprint}
    assert changed == {"item_keys"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_keys": ["a", "b", "a"]}, r"item_keys must be unique, got 'a' 2 times"),
        ({"item_titles": ["Cup"]}, r"item_titles must have one entry an item, 3, got 1"),
        ({"item_texts": ["Cup"] * 4}, r"item_texts must have one entry an item, 3, got 4"),
        ({"item_embeddings": np.zeros((2, 2))}, r"must have shape \(3, dim\), got \(2, 2\)"),
        ({"item_embeddings": np.zeros(3)}, r"must have shape \(3, dim\), got \(3,\)"),
        ({"sequence_offsets": [0, 5]}, r"must rise from 0 to 5 in 3 steps, got 2"),
        ({"sequence_offsets": [0, 4, 4]}, r"must rise from 0 to 5"),
        ({"sequence_items": [0, 1, 2, 3, 1]}, r"must lie in \[0, 3\), got 0 to 3"),
        ({"sequence_items": [0, 1, -1, 0, 1]}, r"must lie in \[0, 3\), got -1 to 1"),
        ({"train_ends": [4, 5]}, "train_ends and valid_ends must lie in order"),
        ({"valid_ends": [5, 5]}, "train_ends and valid_ends must lie in order"),
        ({"train_ends": [2]}, "train_ends and valid_ends must lie in order"),
    ],
)
def test_contradictions_are_refused_and_leave_nothing(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        write_prepared(tmp_path / "tiny", **arguments(**changes))
    assert list(tmp_path.iterdir()) == []


def test_a_new_set_replaces_the_old_one_as_a_whole(tmp_path):
    write_prepared(tmp_path / "tiny", **arguments())
    with pytest.raises(DataError):
        write_prepared(tmp_path / "tiny", **arguments(item_titles=["Cup"]))
    assert PreparedDataset.load(tmp_path / "tiny").item_titles[0] == "Cup"
    write_prepared(tmp_path / "tiny", **arguments(item_titles=["Tea", "", ""]))
    assert PreparedDataset.load(tmp_path / "tiny").item_titles[0] == "Tea"


def test_what_is_no_prepared_set_is_said(tmp_path):
    assert not is_prepared(tmp_path)
    with pytest.raises(MissingPathError, match=r"folder with meta\.json, got .*`genrec prepare`"):
        PreparedDataset.load(tmp_path)


def test_damaged_and_newer_sets_are_refused(tmp_path):
    folder = tmp_path / "tiny"
    write_prepared(folder, **arguments())
    (folder / "item_texts.npy").unlink()
    with pytest.raises(
        ArtifactError, match=r"as it was written, got .*another item_texts\.npy; prep"
    ):
        PreparedDataset.load(folder)
    write_prepared(folder, **arguments())
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"version": 99}))
    with pytest.raises(ArtifactError, match="version 1, got genrec-dataset version 99"):
        PreparedDataset.load(folder)


def test_reading_needs_neither_torch_nor_polars(tmp_path):
    write_prepared(tmp_path / "tiny", **arguments())
    code = (
        "import sys\nfrom genrec.data.prepared import PreparedDataset\n"
        "assert PreparedDataset.load(sys.argv[1]).num_items == 3\n"
        "print([m for m in ('torch', 'polars', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tiny")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_the_fingerprint_of_the_log_sees_neither_texts_nor_vectors(tmp_path):
    def digest(number: int, **changes) -> str:
        return write_prepared(tmp_path / str(number), **arguments(**changes)).log_fingerprint

    plain = digest(0)
    texts = {"item_titles": ["", "", ""], "item_texts": ["x", "y", "z"]}
    assert digest(1, **texts, item_embeddings=np.ones((3, 5))) == plain
    assert digest(2, sequence_items=[0, 1, 2, 1, 1]) != plain
    assert digest(3, user_keys=["u1", "u3"]) != plain
    assert digest(4, valid_ends=[4, 5]) != plain


def test_strings_that_are_no_text_are_refused_where_no_digest_tells(tmp_path):
    StringArray.from_strings(["red", "blue"]).save(tmp_path, "names")
    content = (tmp_path / "names.npy").read_bytes()
    (tmp_path / "names.npy").write_bytes(content[:-1] + b"\xff")
    names = StringArray.load(tmp_path, "names")
    assert names[0] == "red"
    with pytest.raises(ArtifactError, match="strings of an artefact must be UTF-8"):
        names[1]
    with pytest.raises(ArtifactError, match="strings of an artefact must be UTF-8"):
        list(names)
