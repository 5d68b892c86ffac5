from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading

import gin
import numpy as np
import pytest

from genrec.data import prepare as prepare_module
from genrec.data.options import PrepareOptions
from genrec.data.prepared import is_prepared
from genrec.data.processed import RecDataset, default_processed_dir, load_or_prepare
from genrec.errors import ConfigError, DataError, MissingPathError

ITEMS = "item_id,title,brand\nb,Blue Cup,Ona\na,Red Cup,Ona\nc,Green Fork,Ulm\n"
EVENTS = "user_id,item_id,rating,timestamp\n" + "".join(
    f"u{user},{item},{rating},{time}\n"
    for time, (user, item, rating) in enumerate(
        [(1, "a", 5), (1, "b", 2), (1, "c", 4), (2, "c", 5), (2, "a", 3), (2, "b", 5)], start=100
    )
)


@pytest.fixture
def folder(tmp_path):
    base = tmp_path / "shop"
    base.mkdir()
    (base / "items.csv").write_text(ITEMS)
    (base / "interactions.csv").write_text(EVENTS)
    return base


@pytest.fixture
def preparations(monkeypatch):
    """Count how often something is really prepared."""
    calls = []
    original = prepare_module.prepare

    def counted(*arguments, **options):
        calls.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(prepare_module, "prepare", counted)
    return calls


def test_second_call_reuses_and_every_setting_counts(folder, tmp_path, preparations):
    def load(**settings):
        return load_or_prepare("tables", folder, processed_dir=tmp_path / "out", **settings)

    first = load()
    assert list(first.item_keys) == ["a", "b", "c"]
    assert first.sequence_items.tolist() == [0, 1, 2, 2, 0, 1]
    assert load().path == first.path
    assert len(preparations) == 1
    others = [
        load(encoder_model_name="tfidf:2"),
        load(options=PrepareOptions(min_rating=3.0)),
        load(reader_options={"text_template": "{brand}"}),
    ]
    os.utime(folder / "items.csv", ns=(1, 1))
    others.append(load())
    assert len({set_.path for set_ in [first, *others]}) == 5
    assert len(preparations) == 5
    load(force=True)
    assert len(preparations) == 6


def test_a_prepared_folder_is_opened_as_it_is(folder, tmp_path):
    first = load_or_prepare("tables", folder, processed_dir=tmp_path / "out")
    shutil.rmtree(folder)
    again = load_or_prepare("tables", first.path)
    assert again.fingerprint == first.fingerprint
    with pytest.warns(UserWarning, match="force has no effect"):
        load_or_prepare("tables", first.path, force=True)


def test_a_relative_folder_is_found(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load_or_prepare("tables", folder.name)
    assert loaded.num_items == 3
    assert loaded.path.is_relative_to("data/processed")


def test_a_damaged_set_is_prepared_again(folder, tmp_path, preparations):
    first = load_or_prepare("tables", folder, processed_dir=tmp_path / "out")
    (first.path / "train_ends.npy").unlink()
    again = load_or_prepare("tables", folder, processed_dir=tmp_path / "out")
    assert len(preparations) == 2
    assert again.fingerprint == first.fingerprint


def test_many_callers_prepare_once(folder, tmp_path, preparations):
    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(
                load_or_prepare("tables", folder, processed_dir=tmp_path / "out").fingerprint
            )
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert len(set(results)) == 1
    assert len(preparations) == 1


def test_failure_leaves_nothing_half_written(folder, tmp_path):
    np.save(tmp_path / "vectors.npy", np.zeros((2, 4)))
    with pytest.raises(DataError, match=r"one row an item, 3, got \(2, 4\)"):
        load_or_prepare(
            "tables",
            folder,
            encoder_model_name=str(tmp_path / "vectors.npy"),
            processed_dir=tmp_path / "out",
        )
    assert not any(is_prepared(path) for path in (tmp_path / "out").iterdir())
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".lock"] == []


def test_opening_needs_no_polars(folder, tmp_path):
    """A set can be prepared on one machine and trained from on another without polars."""
    path = load_or_prepare("tables", folder, processed_dir=tmp_path / "out").path
    code = (
        "import sys; sys.modules['polars'] = None; sys.modules['sklearn'] = None\n"
        "from genrec.data.processed import load_or_prepare\n"
        f"print(load_or_prepare('tables', {str(path)!r}).num_items)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"


def test_default_folder(monkeypatch):
    monkeypatch.setenv("GENREC_PROCESSED_DIR", "/somewhere")
    assert str(default_processed_dir()) == "/somewhere"
    monkeypatch.delenv("GENREC_PROCESSED_DIR")
    assert default_processed_dir().as_posix() == "data/processed"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("amazon", RecDataset.AMAZON),
        ("ML_1M", RecDataset.ML_1M),
        ("ml-latest-small", RecDataset.ML_LATEST_SMALL),
        (RecDataset.SAMPLE, RecDataset.SAMPLE),
    ],
)
def test_kinds_by_name(value, kind):
    assert RecDataset.parse(value) is kind


def test_kinds_are_gin_constants():
    assert gin.query_parameter("genrec.data.processed.RecDataset.ML_1M") is RecDataset.ML_1M


def test_errors(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"known kinds, got 'ml-1n'; did you mean ml-1m"):
        load_or_prepare("ml-1n", folder)
    with pytest.raises(MissingPathError, match=r"dataset folder must exist, got .*nowhere"):
        load_or_prepare("tables", tmp_path / "nowhere")
    (folder / "interactions.csv").unlink()
    with pytest.raises(MissingPathError, match=r"must hold interactions\.csv"):
        load_or_prepare("tables", folder)


def test_the_sample_needs_no_folder(tmp_path):
    data = load_or_prepare("sample", None, processed_dir=tmp_path)
    assert (data.num_items, data.num_users) == (1000, 2000)
    assert (tmp_path / "sample" / "interactions.csv").is_file()
    assert load_or_prepare("sample", None, processed_dir=tmp_path).path == data.path


def test_other_data_needs_a_folder(tmp_path):
    with pytest.raises(ConfigError, match="dataset_folder must be set for amazon, got none"):
        load_or_prepare("amazon", None, processed_dir=tmp_path)
