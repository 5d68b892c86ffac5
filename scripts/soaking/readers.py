"""What the fuzzing feeds: loaders, gin, run and prepared folders, codes, Recommender, service."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from genrec.atomic import read_json
from genrec.config import configure
from genrec.data.fetch.unpack import unpack
from genrec.data.options import PrepareOptions
from genrec.data.prepare import prepare
from genrec.data.readers.amazon import read_amazon
from genrec.data.readers.amazon_p5 import read_p5
from genrec.data.readers.movielens import read_movielens
from genrec.data.readers.own_tables import TableColumns, read_tables
from genrec.data.readers.recbole import read_recbole
from genrec.data.tables import RawTables
from genrec.data.text.tfidf import TfidfSvdEncoder
from genrec.data.text.vectors import PrecomputedEncoder
from genrec.metric_rows import metric_rows
from genrec.reporting.diagnose import diagnose_run
from genrec.serving.recommender import Recommender
from genrec.stages import STAGES
from genrec.tokenizer.index_json import read_index_json
from genrec.tokenizer.semantic_id import SemanticIdTokenizer
from soaking.artefacts import artefacts, plain
from soaking.fuzz import Reader, bend
from soaking.service import service_readers
from soaking.shop import RQVAE, Shop

__all__ = ["readers"]

_VALUES: list[Any] = [None, True, -1, 0, 1, 2.5, 1e30, float("nan"), "", "i01", "nothing", b"x", [],
           ["i01"], [["i01"]], [["i01"], "i02"], [None], [1.5], {}, {"i01"}, {"a": 1}, object(),
           np.arange(3), np.zeros((2, 2)), "\ud800", [[]], (("i01",), ("i02", "i03")), range(3),
           [["i01"] * 500], 10**30, ["i01", ["i02"]], [b"i01"], pl.Series(["i01"])]  # fmt: skip
_TEXTS = [
    "None",
    "True",
    "-1",
    "0",
    "1e30",
    "1e400",
    "nan",
    "'a'",
    "[]",
    "[[]]",
    "{}",
    "{'a':[1]}",
    "@train",
    "@train()",
    "%nothing",
    "[",
    "'",
    "...",
    "b'x'",
    "%gin.REQUIRED",
    "(1,'a')",
    "__import__('os')",
    "[None]",
    "lambda:1",
]


def readers(shop: Shop) -> list[Reader]:
    """List them, each with what it reads undamaged from the shop."""
    sources: dict[str, tuple[Mapping[str, bytes], Callable[[Path], RawTables]]] = {
        **_own_tables(shop),
        **_releases(shop),
    }
    found = [Reader(name, _of_files(files, read)) for name, (files, read) in sources.items()]
    for name, (source, opener) in artefacts(shop).items():
        rare = 0.2 if name in ("whole run", "encoder") else 0.6
        found.append(Reader(f"folder: {name}", _of_folder(source, opener), rare))
    recommender = Recommender.from_pretrained(shop.decoder)
    found += [
        Reader("gin", _gin, 3.0),
        Reader("index.json", _index_json, 2.0),
        Reader("npy of codes", _npy(lambda path: SemanticIdTokenizer.from_npy(path), np.int32)),
        Reader("npy of vectors", _npy(lambda path: PrecomputedEncoder(path).encode(["a"] * 6),
                                      np.float32)),
        Reader("zip", _zip),
        Reader("JSON", lambda draw, folder: read_json(
            _write(folder / "a.json", bend(b'{"a": [1, {"b": null}], "c": "d"}', draw)))),
        Reader("metrics.jsonl", lambda draw, folder: metric_rows(
            _write(folder / "m.jsonl", bend((shop.rqvae / "metrics.jsonl").read_bytes(), draw)))),
        Reader("diagnose", _of_folder(shop.rqvae, diagnose_run), 0.2),
        Reader("Recommender", lambda draw, folder: _recommend(recommender, draw), 3.0),
    ]  # fmt: skip
    return found + service_readers(shop)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _of_files(
    files: Mapping[str, bytes], read: Callable[[Path], RawTables]
) -> Callable[[random.Random, Path], object]:
    """Damage one of a source's files; now and then prepare what was read."""

    def feed(draw: random.Random, folder: Path) -> None:
        chosen = draw.choice(sorted(files))
        for name, content in files.items():
            _write(folder / name, bend(content, draw) if name == chosen else content)
        raw = read(folder)
        if draw.random() < 0.05:
            options = PrepareOptions(split_rule=draw.choice(["leave-one-out", "global-time"]))
            prepare(raw, folder / "out", encoder=TfidfSvdEncoder(dim=4), options=options)

    return feed


def _own_tables(shop: Shop) -> dict[str, tuple[Mapping[str, bytes], Callable[[Path], RawTables]]]:
    items, log = (pl.read_csv(shop.tables / f"{name}.csv") for name in ("items", "interactions"))
    log = log.head(120).with_columns(rating=pl.int_range(pl.len()) % 5 + 0.5)
    columns = TableColumns(user="user_id", item="item_id", time="timestamp", item_key="item_id")

    def read(suffix: str) -> Callable[[Path], RawTables]:
        return lambda folder: read_tables(
            items=folder / f"items.{suffix}",
            interactions=folder / f"log.{suffix}",
            name="fuzzed",
            columns=columns,
        )

    def written(frame: pl.DataFrame, suffix: str) -> bytes:
        buffer = io.BytesIO()
        if suffix.startswith(("csv", "tsv")):
            frame.write_csv(buffer, separator="\t" if suffix == "tsv" else ",")
        elif suffix.startswith("jsonl"):
            frame.write_ndjson(buffer)
        else:
            frame.write_parquet(buffer)
        content = buffer.getvalue()
        return gzip.compress(content) if suffix.endswith(".gz") else content

    suffixes = ("csv", "tsv", "jsonl", "parquet", "csv.gz", "jsonl.gz")
    return {
        f"tables: {suffix}": (
            {f"items.{suffix}": written(items, suffix), f"log.{suffix}": written(log, suffix)},
            read(suffix),
        )
        for suffix in suffixes
    }


def _releases(shop: Shop) -> dict[str, tuple[Mapping[str, bytes], Callable[[Path], RawTables]]]:
    """Make the files of each release that is known, with a few rows each."""
    rows = [(u, (u + k) % 12, 1000 * u + k) for u in range(8) for k in range(5)]
    reviews = [{"reviewerID": f"u{u}", "asin": f"i{i}", "overall": 4.0, "unixReviewTime": t}
               for u, i, t in rows]  # fmt: skip
    new = [{"user_id": f"u{u}", "parent_asin": f"i{i}", "rating": 4.0, "timestamp": t}
           for u, i, t in rows]  # fmt: skip
    meta = [{"asin": f"i{i}", "title": f"thing {i}", "categories": [["a", "b"]], "brand": "c"}
            for i in range(12)]  # fmt: skip
    literal = "\n".join(map(repr, meta)).encode()
    maps = {
        "user2id": {f"u{u}": u + 1 for u in range(8)},
        "item2id": {f"i{i}": i + 1 for i in range(12)},
    }
    sequences = "".join(
        f"{u + 1} {' '.join(str((u + k) % 12 + 1) for k in range(5))}\n" for u in range(8)
    )
    movies = [f"{i}::Thing {i} (199{i % 10})::Drama|War\n" for i in range(12)]
    ratings = [f"{u}::{i}::{i % 5 + 1}::{t}\n" for u, i, t in rows]

    def lines(objects: list[dict[str, Any]]) -> bytes:
        return "\n".join(map(json.dumps, objects)).encode()

    def csv(header: str, body: list[str]) -> bytes:
        return (header + "\n" + "".join(body).replace("::", ",")).encode()

    return {
        "Amazon 2014": ({"reviews_Toys_5.json": lines(reviews), "meta_Toys.json": literal},
                        read_amazon),
        "Amazon 2023": ({"Toys.jsonl": lines(new), "meta_Toys.jsonl": lines(
            [{"parent_asin": row["asin"], **row} for row in meta])}, read_amazon),
        "Amazon P5": ({"sequential_data.txt": sequences.encode(), "datamaps.json":
                       json.dumps(maps).encode(), "meta.json.gz": gzip.compress(literal)}, read_p5),
        "MovieLens 1M": ({"movies.dat": "".join(movies).encode(),
                          "ratings.dat": "".join(ratings).encode()},
                         lambda folder: read_movielens(folder, "ml-1m")),
        "MovieLens 100K": ({"u.item": "".join(
            f"{i}|Thing {i} (1990)|1-1-1990||a|{'|'.join('01' * 9)}|1\n" for i in range(12)
        ).encode(), "u.data": "".join(ratings).replace("::", "\t").encode()},
            lambda folder: read_movielens(folder, "ml-100k")),
        "MovieLens latest": ({"movies.csv": csv("movieId,title,genres", movies),
                              "ratings.csv": csv("userId,movieId,rating,timestamp", ratings),
                              "tags.csv": csv("userId,movieId,tag,timestamp",
                                              [f"1::{i}::good::5\n" for i in range(12)])},
                             lambda folder: read_movielens(folder, "ml-latest-small")),
        "RecBole": ({"x.item": ("item_id:token\ttitle:token_seq\n" + "".join(
            f"i{i}\tthing {i}\n" for i in range(12))).encode(),
            "x.inter": ("user_id:token\titem_id:token\ttimestamp:float\n" + "".join(
                f"u{u}\ti{i}\t{t}\n" for u, i, t in rows)).encode()}, read_recbole),
    }  # fmt: skip


def _of_folder(source: Path, opener: Callable[[Path], Any]) -> Callable[[random.Random, Path], Any]:
    """Damage a file of an artefact, or lose it, and open it; digests off as often as on."""
    import os

    def feed(draw: random.Random, folder: Path) -> None:
        target = folder / source.name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        files = (
            [target] if target.is_file() else sorted(p for p in target.rglob("*") if p.is_file())
        )
        file = draw.choice(files)
        if target.is_dir() and draw.random() < 0.1:
            file.unlink()
        else:
            file.write_bytes(bend(file.read_bytes(), draw))
        os.environ["GENREC_SKIP_DIGESTS"] = draw.choice("01")
        try:
            plain(opener(target))
        finally:
            os.environ.pop("GENREC_SKIP_DIGESTS")

    return feed


def _gin(draw: random.Random, folder: Path) -> None:
    """A setting with an odd value, or a damaged recipe."""
    stage = STAGES[draw.choice(["rqvae", "decoder", "sasrec"])]
    name = draw.choice(sorted(stage.settings.__dataclass_fields__))
    binding = f"train.{name}={draw.choice(_TEXTS)}"
    if draw.random() < 0.5:
        configure(stage.settings, None, [binding])
        return
    lines = "\n".join(f"train.{name} = {value!r}" for name, value in RQVAE.items()).encode()
    config = _write(folder / "a.gin", bend(lines, draw))
    configure(STAGES["rqvae"].settings, config, [])


def _index_json(draw: random.Random, folder: Path) -> None:
    table = {str(i): [f"<a_{i % 4}>", f"<b_{i % 3}>", f"<c_{i}>"] for i in range(12)}
    path = _write(folder / "a.index.json", bend(json.dumps(table).encode(), draw))
    keys = draw.choice([None, [f"i{i}" for i in range(12)], [str(i) for i in range(12)]])
    read_index_json(path, item_keys=keys, keyed_by=draw.choice(["auto", "row", "key"]))


def _npy(read: Callable[[Path], object], kind: Any) -> Callable[[random.Random, Path], object]:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(18, dtype=kind).reshape(6, 3))
    return lambda draw, folder: read(_write(folder / "a.npy", bend(buffer.getvalue(), draw)))


def _zip(draw: random.Random, folder: Path) -> None:
    buffer = io.BytesIO()
    method = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA,
                          zipfile.ZIP_BZIP2])  # fmt: skip
    with zipfile.ZipFile(buffer, "w", method) as packed:
        packed.writestr("a/b.csv", "x,y\n1,2\n" * 40)
        packed.writestr("a/c.csv", "z\n")
    path = _write(folder / "a.zip", bend(buffer.getvalue(), draw))
    unpack(path, folder / "out", max_bytes=1 << 20)


def _recommend(recommender: Recommender, draw: random.Random) -> None:
    """Call methods with odd values in place of good ones."""
    method = draw.choice(["recommend", "recommend", "recommend", "similar_items", "remove_items",
                          "titles", "rows"])  # fmt: skip
    first = draw.choice([*_VALUES, [["i01", "i02"], ["i03"]], ["i01"]])
    names = [
        "k",
        "users",
        "exclude_seen",
        "exclude",
        "allow",
        "on_unknown",
        "num_beams",
        "batch_size",
    ]
    chosen = draw.sample(names, draw.choice((0, 1, 1, 2))) if method == "recommend" else []
    if method == "remove_items":  # what worked once would leave less and less
        recommender = Recommender.from_pretrained(recommender.path or "")
    getattr(recommender, method)(first, **{name: draw.choice(_VALUES) for name in chosen})
