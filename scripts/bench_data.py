"""Time the preparation of data beside the same steps written plainly in pandas.

Two generated sources: a log of the shape of MovieLens 32M (32,000,204 ratings of 87,585 movies
by 200,948 users, and two million tags), and a gzip of five million reviews of the shape of
Amazon 2023. Both sides read, drop duplicates, number, order, split, build the item texts and
write arrays. Item vectors are given, so that the text encoder, which would be the same library
on both sides, is not what is timed. Each side runs in a process of its own, one after another.

    python scripts/bench_data.py --json
    python scripts/bench_data.py --ratings 1000000 --reviews 200000
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_USERS, _MOVIES, _RATINGS, _TAGS = 200_948, 87_585, 32_000_204, 2_000_072
_REVIEWS = 5_000_000
_CHUNK = 2_000_000
_GENRES = ["Action", "Comedy", "Crime", "Drama", "Horror", "Romance", "Sci-Fi", "Thriller"]


def make_movielens(folder: Path, num_ratings: int) -> None:
    """Write ratings, movies and tags of the shape of MovieLens 32M, at any scale."""
    import polars as pl

    rng = np.random.default_rng(0)
    scale = num_ratings / _RATINGS
    users, movies = max(20, round(_USERS * scale)), max(50, round(_MOVIES * min(1, scale**0.5)))
    ids = np.sort(rng.choice(292_757, movies, replace=False) + 1).astype(np.int32)
    share = np.minimum(rng.pareto(1.1, users) + 0.2, 60)  # nobody rates most of the catalogue
    counts = np.maximum(1, np.floor(share / share.sum() * num_ratings * 1.25)).astype(np.int64)
    cumulated = np.cumsum(1 / (np.arange(movies) + 10) ** 0.9)
    rank = rng.permutation(movies)
    begin = rng.integers(789_652_009, 1_690_000_000, users)
    per_user = np.repeat(np.arange(users), counts)
    folder.mkdir(parents=True)
    written = 0
    with (folder / "ratings.csv").open("wb") as file:
        file.write(b"userId,movieId,rating,timestamp\n")
        for start in range(0, len(per_user), _CHUNK):
            user = per_user[start : start + _CHUNK]
            place = np.searchsorted(cumulated, rng.random(len(user)) * cumulated[-1])
            frame = pl.DataFrame(
                {
                    "userId": user + 1,
                    "movieId": ids[rank[place]],
                    "rating": rng.integers(1, 11, len(user)) / 2,
                    "timestamp": begin[user] + rng.integers(0, 7_000_000, len(user)),
                }
            )
            # As in the release: user after user, each user's movies by id, none twice.
            frame = frame.unique(["userId", "movieId"], keep="any").sort("userId", "movieId")
            frame = frame.head(num_ratings - written)
            frame.write_csv(file, include_header=False, float_precision=1)
            written += len(frame)
    if written < num_ratings:
        raise SystemExit(f"generator must reach {num_ratings} ratings, got {written}; draw more")
    title = [f"Story {k} of the {k % 977} ({1920 + k % 104})" for k in range(movies)]
    genres = ["|".join(sorted(set(rng.choice(_GENRES, 2)))) for _ in range(movies)]
    pl.DataFrame({"movieId": ids, "title": title, "genres": genres}).write_csv(
        folder / "movies.csv"
    )
    tags = round(_TAGS * scale)
    words = pl.Series([f"tag {k}" for k in range(30_000)])
    pl.DataFrame(
        {
            "userId": rng.integers(1, users + 1, tags),
            "movieId": ids[(rng.power(0.3, tags) * movies).astype(np.int64)],
            "tag": words.gather((rng.power(0.3, tags) * len(words)).astype(np.int64)),
            "timestamp": rng.integers(1_000_000_000, 1_690_000_000, tags),
        }
    ).write_csv(folder / "tags.csv")
    np.save(folder / "vectors.npy", rng.standard_normal((movies, 32)).astype(np.float32))
    # Vectors carry the movies' ids, since which movies are rated is up to chance.
    (folder / "vectors.keys.txt").write_text("\n".join(map(str, ids)))


def make_amazon(folder: Path, num_reviews: int) -> None:
    """Write reviews and metadata of the shape of Amazon 2023, packed with gzip."""
    import polars as pl

    rng = np.random.default_rng(1)
    users, items = max(50, num_reviews // 12), max(50, num_reviews // 40)
    words = np.array([f"{k:x}" for k in rng.integers(16, 2**24, 6_000)])
    texts = pl.Series([" ".join(rng.choice(words, n)) for n in rng.integers(3, 90, 5_000)])
    folder.mkdir(parents=True)
    with gzip.open(folder / "Video_Games.jsonl.gz", "wb", compresslevel=1) as file:
        for start in range(0, num_reviews, _CHUNK // 4):
            count = min(_CHUNK // 4, num_reviews - start)
            asin = _asin((rng.power(0.4, count) * items).astype(np.int64))
            user = pl.Series((rng.power(0.5, count) * users).astype(np.int64)).cast(pl.String)
            pl.DataFrame(
                {
                    "rating": rng.integers(1, 6, count).astype(np.float64),
                    "title": texts.gather(rng.integers(0, len(texts), count)).str.slice(0, 30),
                    "text": texts.gather(rng.integers(0, len(texts), count)),
                    "asin": asin,
                    "parent_asin": asin,
                    "user_id": "AE" + user.str.zfill(26),
                    "timestamp": rng.integers(946_684_800_000, 1_694_000_000_000, count),
                    "helpful_vote": rng.integers(0, 9, count),
                    "verified_purchase": rng.random(count) < 0.9,
                }
            ).write_ndjson(file)
    asin = _asin(np.arange(items)).to_list()
    with gzip.open(folder / "meta_Video_Games.jsonl.gz", "wt", compresslevel=1) as file:
        for k, key in enumerate(asin):
            title, text = texts[k % len(texts)][:60], texts[(7 * k) % len(texts)]
            record = {
                "main_category": "Video Games",
                "title": title,
                "store": f"Store {k % 3_000}",
                "categories": ["Video Games", _GENRES[k % 8], f"Shelf {k % 200}"],
                "description": [text],
                "details": {"Release": str(k)},
                "parent_asin": key,
            }
            file.write(json.dumps(record) + "\n")
    np.save(folder / "vectors.npy", rng.standard_normal((items, 32)).astype(np.float32))
    (folder / "vectors.keys.txt").write_text("\n".join(asin))


def _asin(numbers: np.ndarray) -> object:
    import polars as pl

    return "B0" + pl.Series(numbers).cast(pl.String).str.zfill(8)


def run_genrec(source: str, folder: Path, out: Path) -> None:
    """Prepare with this project's own reader and pipeline."""
    from genrec.data.options import PrepareOptions
    from genrec.data.prepare import prepare
    from genrec.data.readers.amazon import read_amazon
    from genrec.data.readers.movielens import read_movielens
    from genrec.data.text.vectors import PrecomputedEncoder

    raw = read_movielens(folder, "ml-32m") if source == "movielens" else read_amazon(folder)
    prepare(
        raw,
        out,
        encoder=PrecomputedEncoder(folder / "vectors.npy"),
        options=PrepareOptions(min_user_interactions=5, min_item_interactions=5),
    )


def run_pandas(source: str, folder: Path, out: Path) -> None:
    """Do the same steps with pandas, as one would write them down."""
    import pandas as pd

    if source == "movielens":
        log = pd.read_csv(folder / "ratings.csv")
        log = log.rename(columns={"userId": "user", "movieId": "item", "timestamp": "time"})
        items = pd.read_csv(folder / "movies.csv").rename(columns={"movieId": "item"})
        tags = pd.read_csv(folder / "tags.csv").rename(columns={"movieId": "item"})
        tags["tag"] = tags["tag"].str.lower().str.strip()
        counts = tags.groupby(["item", "tag"]).size().reset_index(name="count")
        counts = counts.sort_values(["item", "count", "tag"], ascending=[True, False, True])
        top = counts.groupby("item").head(10).groupby("item")["tag"].agg(", ".join)
        items = items.merge(top.rename("tags"), left_on="item", right_index=True, how="left")
        parts = items["title"].str.extract(r"^(.*\S)\s*\((\d{4})\)\s*$")
        items["text"] = (
            "Title: "
            + parts[0]
            + "; Year: "
            + parts[1]
            + "; Genres: "
            + items["genres"].str.replace("|", ", ")
            + ("; Tags: " + items["tags"]).fillna("")
        )
    else:
        fields = {"user_id": "user", "parent_asin": "item", "timestamp": "time", "rating": "rating"}
        chunks = pd.read_json(
            folder / "Video_Games.jsonl.gz", lines=True, chunksize=200_000, convert_dates=False
        )
        log = pd.concat([chunk[list(fields)].rename(columns=fields) for chunk in chunks])
        log = log.reset_index(drop=True)
        items = pd.read_json(folder / "meta_Video_Games.jsonl.gz", lines=True, convert_dates=False)
        items["text"] = (
            "Title: "
            + items["title"]
            + "; Brand: "
            + items["store"]
            + "; Categories: "
            + items["categories"].str.join(" > ")
        )
        items = items.rename(columns={"parent_asin": "item"})
    log = log.dropna(subset=["user", "item", "time"])
    log = log.drop_duplicates(["user", "item", "time"])
    while True:
        of_user = log.groupby("user")["item"].transform("size")
        of_item = log.groupby("item")["user"].transform("size")
        keep = (of_user >= 5) & (of_item >= 5)
        if keep.all():
            break
        log = log[keep]
    user_codes, user_keys = pd.factorize(log["user"], sort=True)
    item_codes, item_keys = pd.factorize(log["item"], sort=True)
    log = pd.DataFrame({"user": user_codes, "item": item_codes, "time": log["time"].to_numpy()})
    log = log.sort_values(["user", "time", "item"])
    lengths = log.groupby("user").size().to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    held_out = (lengths >= 3).astype(np.int64)
    texts = items.drop_duplicates("item").set_index("item")["text"].reindex(item_keys).fillna("")
    rows = pd.Series(np.load(folder / "vectors.npy").tolist(), _vector_keys(folder, item_keys))
    out.mkdir()
    np.save(out / "sequence_items.npy", log["item"].to_numpy().astype(np.int32))
    np.save(out / "sequence_offsets.npy", offsets)
    np.save(out / "train_ends.npy", offsets[1:] - 2 * held_out)
    np.save(out / "valid_ends.npy", offsets[1:] - held_out)
    np.save(out / "item_embeddings.npy", np.array(rows.reindex(item_keys).tolist(), np.float32))
    (out / "items.json").write_text(json.dumps([item_keys.astype(str).tolist(), texts.tolist()]))
    (out / "users.json").write_text(json.dumps(user_keys.astype(str).tolist()))


def _vector_keys(folder: Path, item_keys: object) -> list[object]:
    lines = (folder / "vectors.keys.txt").read_text().split("\n")
    return [int(line) for line in lines] if item_keys.dtype.kind == "i" else lines  # type: ignore[attr-defined]


def measure(side: str, source: str, folder: Path, out: Path) -> dict[str, float]:
    """Run one side in a process of its own; give its seconds and peak memory."""
    command = [sys.executable, __file__, "--run", side, source, str(folder), str(out)]
    environment = {**os.environ, "POLARS_MAX_THREADS": os.environ.get("POLARS_MAX_THREADS", "2")}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def compare(source: str, folder: Path, work: Path, rows: int) -> dict[str, float]:
    """Measure both sides and see that they made the same arrays."""
    ours = measure("genrec", source, folder, work / f"{source}-genrec")
    theirs = measure("pandas", source, folder, work / f"{source}-pandas")
    for name in ("sequence_items", "sequence_offsets", "train_ends", "valid_ends"):
        pair = [np.load(work / f"{source}-{side}" / f"{name}.npy") for side in ("genrec", "pandas")]
        if not np.array_equal(*pair):
            raise SystemExit(f"the two sides must make the same {name} of {source}, got others")
    return {
        "rows": rows,
        "seconds": round(ours["seconds"], 2),
        "pandas_seconds": round(theirs["seconds"], 2),
        "cpu_seconds": round(ours["cpu_seconds"], 2),
        "pandas_cpu_seconds": round(theirs["cpu_seconds"], 2),
        "rows_per_s": round(rows / ours["seconds"]),
        "pandas_rows_per_s": round(rows / theirs["seconds"]),
        "ratio": round(theirs["seconds"] / ours["seconds"], 2),
        "peak_mib": round(ours["peak_mib"]),
        "pandas_peak_mib": round(theirs["peak_mib"]),
    }


def main() -> None:
    """Generate, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--ratings", type=int, default=_RATINGS)
    parser.add_argument("--reviews", type=int, default=_REVIEWS)
    parser.add_argument("--work", type=Path, help="folder for the generated files, kept")
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        side, source, folder, out = options.run
        start = time.perf_counter()
        {"genrec": run_genrec, "pandas": run_pandas}[side](source, Path(folder), Path(out))
        seconds, cpu = time.perf_counter() - start, time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak}))
        return
    with tempfile.TemporaryDirectory(prefix="bench-data-") as temporary:
        work = Path(temporary)
        kept = options.work or work
        results = {}
        for source, make, rows in (
            ("movielens", make_movielens, options.ratings),
            ("amazon", make_amazon, options.reviews),
        ):
            if rows:
                folder = kept / f"{source}-{rows}"
                if not folder.is_dir():
                    make(folder, rows)
                results[source] = compare(source, folder, work, rows)
        first = next(iter(results.values()))
        report = {**first, "sources": results}
        if options.json:
            print(json.dumps(report))
            return
        for source, result in results.items():
            print(source)
            for name, value in result.items():
                print(f"  {name:18} {value:>14,}")


if __name__ == "__main__":
    main()
