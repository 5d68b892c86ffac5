from __future__ import annotations

import polars as pl
import pytest

from genrec.data.processed import RecDataset
from genrec.data.readers import registry
from genrec.data.readers.reader import Reader
from genrec.data.readers.registry import READERS, detect_kind, open_source
from genrec.data.tables import RawTables
from genrec.errors import ConfigError, MissingPathError

LAYOUTS = {
    "p5": (["beauty/sequential_data.txt", "beauty/datamaps.json", "beauty/meta.json.gz"], "amazon"),
    "2014": (["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"], "amazon"),
    "2023": (["Video_Games.jsonl", "meta_Video_Games.jsonl"], "amazon"),
    "100k": (["u.data", "u.item"], "ml-100k"),
    "1m": (["ratings.dat", "movies.dat"], "ml-1m"),
    "ml-32m": (["ratings.csv", "movies.csv", "tags.csv"], "ml-32m"),
    "some": (["ratings.csv", "movies.csv"], "ml-latest-small"),
    "recbole": (["a.inter", "a.item"], "recbole"),
    "tables": (["items.parquet", "interactions.csv.gz"], "tables"),
    "shop": (["products.jsonl", "events.tsv"], "tables"),
}


def make(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kinds_are_told_by_files(tmp_path, layout):
    names, kind = LAYOUTS[layout]
    folder = make(tmp_path / layout, names)
    split = "beauty" if layout in ("p5", "2014") else None
    assert detect_kind(folder, split) == kind
    files = open_source(kind, folder, split=split).files
    assert {path.name for path in files} <= {name.rpartition("/")[2] for name in names}
    assert all(path.is_file() for path in files)


def test_a_folder_of_nothing_known(tmp_path):
    with pytest.raises(MissingPathError, match=r"got .* with nothing; name the kind"):
        detect_kind(tmp_path)
    make(tmp_path, ["notes.md"])
    with pytest.raises(MissingPathError, match=r"got .* with notes\.md; name the kind"):
        detect_kind(tmp_path)


def test_a_wrong_split_of_p5_is_named_as_such(tmp_path):
    make(tmp_path, LAYOUTS["p5"][0])
    with pytest.raises(MissingPathError, match=r"got 'beuty'; did you mean beauty\?"):
        open_source("amazon", tmp_path, split="beuty")


def test_every_kind_has_a_reader_and_every_reader_a_kind(tmp_path):
    assert {kind for reader in READERS for kind in reader.kinds} == {k.value for k in RecDataset}
    for kind in RecDataset:
        with pytest.raises(MissingPathError):
            open_source(kind.value, tmp_path)


def test_an_unknown_kind_is_an_error_and_no_movielens(tmp_path):
    make(tmp_path, LAYOUTS["some"][0])
    with pytest.raises(ConfigError, match=r"dataset must be one of .*, got 'ml-3m'; did you mean"):
        open_source("ml-3m", tmp_path)


def test_a_new_reader_is_one_line(tmp_path, monkeypatch):
    toy = Reader(
        kinds=("toy",),
        matches=lambda folder, split: "toy" if (folder / "toy.txt").is_file() else None,
        find=lambda request: (request.folder / "toy.txt",),
        read=lambda request: RawTables(
            name=request.kind,
            source="a toy",
            interactions=pl.DataFrame(),
            items=pl.DataFrame(),
            text_template="",
        ),
    )
    monkeypatch.setattr(registry, "READERS", (*READERS, toy))
    make(tmp_path, ["toy.txt"])
    assert detect_kind(tmp_path) == "toy"
    source = open_source("toy", tmp_path)
    assert source.files == (tmp_path / "toy.txt",)
    assert source.read().name == "toy"


@pytest.mark.parametrize(
    ("layout", "kind"), [("tables", "tables"), ("1m", "ml-1m"), ("2014", "amazon")]
)
def test_options_that_a_reader_does_not_have(tmp_path, layout, kind):
    folder = make(tmp_path, LAYOUTS[layout][0])
    with pytest.raises(
        ConfigError, match=r"reader options must be among .*, got 'colour'; leave it out"
    ):
        open_source(kind, folder, reader_options={"colour": "red"})


def test_tables_by_name(tmp_path):
    make(tmp_path, ["things.csv", "happened.csv", "items.csv"])
    options = {"items": "things.csv", "interactions": "happened.csv"}
    files = open_source("tables", tmp_path, reader_options=options).files
    assert files == (tmp_path / "things.csv", tmp_path / "happened.csv")
    with pytest.raises(MissingPathError, match=r"must hold interactions\.csv"):
        open_source("tables", tmp_path, reader_options={"items": "things.csv"})
