"""Histories from files, recommendations into files, and runs that were stopped in between."""

from __future__ import annotations

import gzip
import json
import os

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from genrec.cli import build_app
from genrec.data.prepared import StringArray
from genrec.errors import ConfigError, DataError, MissingPathError
from genrec.rankers import Popularity
from genrec.serving import files
from genrec.serving.files import recommend_to_file
from genrec.serving.http.answers import Query, answer_all
from genrec.serving.recommender import Recommender
from genrec.serving.stock import NothingLeft

HISTORIES = {"u1": ["a1", "a2"], "7": ["c3"], "u3": []}


@pytest.fixture(scope="module")
def recommender(run) -> Recommender:
    return Recommender.from_pretrained(run, device="cpu")


def read(path) -> pl.DataFrame:
    if path.suffix == ".csv":
        return pl.read_csv(path, schema_overrides={"user_id": pl.String, "score": pl.Float32})
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_ndjson(path)


def write(path, lists: bool = True) -> None:
    users, histories = list(HISTORIES), list(HISTORIES.values())
    table = pl.DataFrame({"user_id": users, "history": histories})
    if not lists:
        table = table.explode("history").drop_nulls().rename({"history": "item_id"})
    if path.suffix == ".parquet":
        table.write_parquet(path)
    elif path.suffix == ".jsonl":
        table.write_ndjson(path)
    else:
        if lists:
            table = table.with_columns(pl.col("history").list.join(", "))
        table.write_csv(path)


@pytest.mark.parametrize("suffix", files.SUFFIXES)
@pytest.mark.parametrize("lists", [True, False])
def test_every_kind_of_file_gives_what_the_call_gives(recommender, tmp_path, suffix, lists):
    source, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write(source, lists)
    assert recommend_to_file(recommender, out, histories=source, k=4) == 2 + lists
    users = list(HISTORIES)[: 2 + lists]
    expected = recommender.recommend([HISTORIES[user] for user in users], k=4, users=users)
    found = read(out)
    assert found.columns == ["user_id", "item_id", "score", "rank", "popular"]
    assert found["user_id"].to_list() == expected.to_polars()["user_id"].to_list()
    assert found["item_id"].to_list() == [key for keys in expected.items for key in keys]
    assert np.allclose(found["score"], expected.flat_scores)
    assert found["popular"].to_list() == [False] * 8 + [True] * 4 * lists
    assert sorted(p.name for p in tmp_path.iterdir()) == [source.name, out.name]


def test_all_users_of_the_data_set(recommender, data, tmp_path):
    out = tmp_path / "out.parquet"
    assert recommend_to_file(recommender, out, k=3, chunk_size=7) == data.num_users
    found = pl.read_parquet(out)
    expected = recommender.recommend(users=list(data.user_keys), k=3).to_polars()
    assert found.drop("popular", "score").equals(expected.drop("score"))
    assert np.allclose(found["score"], expected["score"], atol=1e-5)


def test_what_was_done_is_not_done_again(recommender, data, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    recommend_to_file(recommender, whole, k=3, chunk_size=7)
    calls = []
    plain = Recommender.recommend

    def failing(self, *args, **options):
        calls.append(len(options["users"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self, *args, **options)

    monkeypatch.setattr(Recommender, "recommend", failing)
    with pytest.raises(KeyboardInterrupt):
        recommend_to_file(recommender, out, k=3, chunk_size=7)
    assert not out.exists()
    recommend_to_file(recommender, out, k=3, chunk_size=7)
    assert calls == [7, 7, 7, 7, 7, 2]  # the third one twice
    assert out.read_bytes() == whole.read_bytes()
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        recommend_to_file(recommender, out, k=3, chunk_size=7)
    recommend_to_file(recommender, out, k=2, chunk_size=7)  # another question: all anew
    assert calls[3:] == [7, 7, 7, 7, 2]


def test_lists_of_items_for_all_and_for_each(recommender, tmp_path):
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    write(source)
    (tmp_path / "allow.txt").write_text("a3\n\n b1 \na4\n")
    pl.DataFrame({"user_id": ["u1", "7"], "item_id": ["a3", "b1"]}).write_csv(tmp_path / "no.csv")
    recommend_to_file(
        recommender,
        out,
        histories=source,
        allow=tmp_path / "allow.txt",
        exclude=tmp_path / "no.csv",
        k=9,
    )
    found = pl.read_parquet(out).group_by("user_id").agg("item_id")
    assert {user: sorted(items) for user, items in found.iter_rows()} == {
        "u1": ["a4", "b1"],
        "7": ["a3", "a4"],
        "u3": ["a3", "a4", "b1"],
    }


def test_a_file_of_numbers_keeps_its_types(tmp_path):
    keys = StringArray.from_strings("123")
    recommender = Recommender(Popularity(keys, np.array([3, 2, 1])))
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pl.DataFrame({"user": [5, 5, 6], "item": [1, 2, 2], "time": [2, 1, 1]}).write_parquet(source)
    recommend_to_file(recommender, out, histories=source, k=3)
    found = pl.read_parquet(out)
    assert found.rows() == [(5, 3, 1.0, 1, False), (6, 1, 3.0, 1, False), (6, 3, 1.0, 2, False)]
    assert found.schema["item_id"] == pl.Int64


def test_numbers_of_the_data_set_and_of_csv_are_numbers(tmp_path, write_data):
    """As ``to_polars()`` gives them; what only looks like one stays a text."""
    keys = ["1", "20", "300"]
    data = write_data(tmp_path / "data", keys, sequences=[[0, 1, 2]], user_keys=["7"])
    recommender = Recommender(Popularity.fit(data), data=data)
    for suffix in (".parquet", ".csv"):
        out = tmp_path / f"out{suffix}"
        recommend_to_file(recommender, out, k=2, exclude_seen=False)
        found = read(out) if suffix == ".parquet" else pl.read_csv(out)
        expected = recommender.recommend(users=[7], k=2, exclude_seen=False).to_polars()
        assert found.drop("popular", "score").equals(
            expected.drop("score").cast({"rank": found.schema["rank"]})
        )
    (tmp_path / "in.csv").write_text("user_id,item_id\n7,1\n8,20\n")
    recommend_to_file(recommender, tmp_path / "of_csv.parquet", histories=tmp_path / "in.csv")
    found = pl.read_parquet(tmp_path / "of_csv.parquet")
    assert (found.schema["user_id"], found.schema["item_id"]) == (pl.Int64, pl.Int64)
    for odd in ("007", "9" * 19, "x"):
        (tmp_path / "in.csv").write_text(f"user_id,item_id\n{odd},1\n8,20\n")
        recommend_to_file(recommender, tmp_path / "odd.parquet", histories=tmp_path / "in.csv")
        assert pl.read_parquet(tmp_path / "odd.parquet")["user_id"].unique().to_list().count(odd)


SHOP = (
    "Kundennr;Artikelnr;Bestelldatum\nJürgen;a2;10.02.2024\nJürgen;a1;9.03.2024\nÄnne;c3;1.1.2024\n"
)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252", "utf-16"])
def test_a_shop_is_read_as_prepare_reads_it(recommender, tmp_path, capsys, encoding):
    """Semicolons, Excel's encodings, days of a month: times as text would turn the order round."""
    (tmp_path / "log.csv").write_bytes(SHOP.encode(encoding))
    (tmp_path / "allow.txt").write_bytes("a3\r\na4\r\n".encode(encoding))
    (tmp_path / "no.csv").write_bytes("Kunde;Artikel\nJürgen;a4\nÄnne;a3\n".encode(encoding))
    source = files.UserSource.read(tmp_path / "log.csv")
    assert source.chunk(0, 9).rows() == [("Jürgen", ["a2", "a1"]), ("Änne", ["c3"])]
    assert "taking user Kundennr, item Artikelnr, time Bestelldatum" in capsys.readouterr().err
    out = tmp_path / "out.parquet"
    recommend_to_file(
        recommender,
        out,
        histories=tmp_path / "log.csv",
        allow=tmp_path / "allow.txt",
        exclude=tmp_path / "no.csv",
    )
    assert pl.read_parquet(out).select("user_id", "item_id").rows() == [
        ("Jürgen", "a3"),
        ("Änne", "a4"),
    ]


def test_times_of_text_files_are_numbers(tmp_path):
    (tmp_path / "in.csv").write_text("user_id,item_id,time\nu,a,10\nu,b,9\nu,c,100\n")
    assert files.UserSource.read(tmp_path / "in.csv").chunk(0, 1).rows() == [("u", ["b", "a", "c"])]
    (tmp_path / "in.csv").write_text("user_id,item_id,time\nu,a,01/02/2024\nu,b,02/03/2024\n")
    with pytest.raises(DataError, match=r"^--input: times must .*; write them as 2024-"):
        files.UserSource.read(tmp_path / "in.csv")


def test_rows_that_cannot_be_used_are_told(tmp_path):
    (tmp_path / "in.csv").write_text("user_id,item_id\nu,a\n,b\nv,\nw,c\n")
    with pytest.warns(UserWarning, match=r"1 rows of --input .*: no (user|item)_id \(line [34]\)"):
        assert files.UserSource.read(tmp_path / "in.csv").count == 2


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_lists_of_texts_and_numbers_in_one_file(tmp_path, suffix):
    path = tmp_path / f"in{suffix}"
    rows = [{"user_id": 1, "history": [1, 20]}, {"user_id": 2, "history": None}]
    if suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    source = files.UserSource.read(path)
    assert source.chunk(0, 9).rows() == [("1", ["1", "20"]), ("2", [])]
    assert (source.user_type, source.item_type) == (pl.Int64, pl.Int64)
    if suffix == ".jsonl":
        with path.open("a") as stream:
            stream.write('{"user_id": "x", "history": ["007"]}\n')
        source = files.UserSource.read(path)
        assert source.chunk(2, 9).rows() == [("x", ["007"])]
        assert (source.user_type, source.item_type) == (pl.String, pl.String)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"out": "x.txt"}, ConfigError, r"--out must end in .parquet, .csv, .jsonl, got"),
        ({"histories": "no.csv"}, MissingPathError, "--input must be a file, got"),
        ({"histories": "bad.parquet"}, DataError, "--input must be a readable .parquet file"),
        ({"histories": "cols.csv"}, DataError, "--input must have user_id and item_id, or history"),
        ({"allow": "no.txt"}, MissingPathError, "--allow must be a file, got"),
        ({"exclude": "cols.csv"}, DataError, "--exclude must have a column item_id, got a, b in"),
        (
            {"histories": "unknown.csv"},
            DataError,
            r"--input \S+unknown.csv must hold items .* 'zz', 'yy', the first of user 'u2'; leave",
        ),
        (
            {"histories": "null.jsonl"},
            DataError,
            r"--input \S+null.jsonl must hold keys .*got None",
        ),
        ({"allow": "unknown.txt"}, DataError, r"--allow \S+unknown.txt must hold .* 'zz'; leave"),
    ],
)
def test_bad_files_are_one_line(recommender, tmp_path, given, error, message):
    (tmp_path / "bad.parquet").write_text("x")
    (tmp_path / "cols.csv").write_text("a,b\n1,2\n")
    (tmp_path / "unknown.csv").write_text('user_id,history\nu1,a1\nu2,"zz,a1,yy"\n')
    (tmp_path / "unknown.txt").write_text("a1\nzz\n")
    (tmp_path / "null.jsonl").write_text('{"user_id": "u1", "history": ["a1", null]}\n')
    paths = {name: tmp_path / value for name, value in {"out": "o.csv", **given}.items()}
    with pytest.raises(error, match=message):
        recommend_to_file(recommender, paths.pop("out"), **paths)


def call(*words: object):
    return CliRunner().invoke(build_app(), [str(word) for word in words])


def test_the_command_writes_files(run, recommender, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.csv"
    write(source)
    answer = call("recommend", run, "--input", source, "--out", out, "-k", 2, "--device", "cpu")
    assert (answer.exit_code, answer.stdout) == (0, f"wrote {out}: 3 users\n")
    assert len(read(out)) == 6


def test_the_command_takes_another_place_of_the_data(run, data, tmp_path):
    os.symlink(data.path, tmp_path / "moved")
    answer = call(
        "recommend",
        run,
        "--data",
        tmp_path / "moved",
        "--user",
        "user 3",
        "--json",
        "--device",
        "cpu",
    )
    (line,) = answer.stdout.splitlines()
    found = json.loads(line)
    assert (found["user"], len(found["recommended"]), found["popular"]) == ("user 3", 5, False)


@pytest.mark.parametrize("by", [("--history", "a1,a2"), ("--user", "user 3")])
def test_lists_of_items_count_on_the_screen_too(run, tmp_path, by):
    words = ("recommend", run, *by, "-k", 3, "--json", "--device", "cpu")

    def keys(*more: object) -> list[str]:
        answer = call(*words, *more)
        assert answer.exit_code == 0, answer.stderr
        return [item["key"] for item in json.loads(answer.stdout)["recommended"]]

    best, second, third = keys()
    (tmp_path / "few.txt").write_text(f"{third}\n{second}\n")
    assert keys("--allow", tmp_path / "few.txt") == [second, third]
    assert not {second, third} & set(keys("--exclude", tmp_path / "few.txt"))
    (tmp_path / "each.csv").write_text(f"user_id,item_id\nuser 3,{third}\nuser 4,{best}\n")
    if by[0] == "--user":
        assert keys("--allow", tmp_path / "each.csv") == [third]
    else:
        answer = call(*words, "--allow", tmp_path / "each.csv")
        assert answer.exit_code == 2
        assert "--allow must list items for everybody where no --user is named" in answer.stderr


def test_users_that_come_twice_are_told(recommender, tmp_path):
    rows = [{"user_id": user, "history": ["a1"]} for user in ("x", "y", "x")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(UserWarning, match="got 1 rows of users named before in"):
        recommend_to_file(recommender, tmp_path / "out.csv", histories=tmp_path / "in.jsonl")


def test_an_interrupted_file_says_that_it_goes_on(recommender, tmp_path, capsys):
    def stopped(chunks, todo):
        yield todo[0][0], chunks.part(*todo[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommend_to_file(recommender, tmp_path / "out.csv", chunk_size=10, compute=stopped)
    assert "stopped after 10 of 30 users; the same call goes on" in capsys.readouterr().err
    assert recommend_to_file(recommender, tmp_path / "out.csv", chunk_size=10) == 30


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--history", "zz"), "--history must hold items of the catalogue, got 1 that are not amo"),
        (("--history", "zz"), "leave them out, or set --on-unknown to ignore"),
        (
            ("--history", "a1", "--device", "cuda:9"),
            "--device must be one that PyTorch finds here, cpu",
        ),
        (("--history", "a1", "--on-unknown", "skip"), "--on-unknown must be raise, warn or ignore"),
        (("--history", "a1", "--out", "x.csv"), "--out must have --input or all users, got --hi"),
        (("--input", "x.csv"), "--input must have --out, got none"),
        (("--history", ""), "--history must hold item keys with commas between them, got ''; leav"),
        (("--history", " ,,"), "--history must hold item keys with commas between them, got ' ,,'"),
        (("--user", "nobody"), "--user must be a user of the data set, got 'nobody'"),
    ],
)
def test_mistakes_are_named_as_they_were_typed(run, words, message):
    answer = call("recommend", run, "--device", "cpu", *words)
    assert answer.exit_code == 2
    assert answer.stderr.startswith("error: ")
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1


def without_data(run, moved):
    """Link a run where its data set is not found any more."""
    meta = json.loads((run / "meta.json").read_text()) | {"prepared": "gone"}
    os.makedirs(moved)
    for path in run.iterdir():
        if path.name != "meta.json":
            os.symlink(path, moved / path.name)
    (moved / "meta.json").write_text(json.dumps(meta))
    return moved


def test_a_moved_run_names_the_option_for_its_data(run, data, tmp_path):
    moved = without_data(run, tmp_path / "moved")
    answer = call("recommend", moved, "--device", "cpu")
    assert answer.exit_code == 2
    assert "got none at gone; open the recommender with --data FOLDER, or give item keys wit" in (
        answer.stderr
    )
    answer = call("evaluate", moved)
    assert answer.exit_code == 2
    assert "must still be at its place, got none at gone; name it with --data" in answer.stderr
    answer = call("evaluate", moved, "--data", data.path, "--no-baselines", "-k", 5)
    assert (answer.exit_code, answer.stdout.count("generation, item level")) == (0, 2)


@pytest.fixture
def numbered(tmp_path, write_data) -> Recommender:
    data = write_data(
        tmp_path / "data", ["1", "20", "300"], sequences=[[0, 1], [0, 1, 2]], user_keys=["7", "8"]
    )
    return Recommender(
        Popularity.fit(data), item_titles=["a", "b", "c"], counts=[2, 2, 1], data=data
    )


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ({"histories": [[1]]}, True),
        ({"histories": [["1"]]}, False),
        ({"users": [7]}, True),
        ({"users": ["7"]}, False),
        ({"histories": [["1"]], "users": [7]}, False),
        ({"histories": [[1]], "users": ["7"]}, True),
        ({"histories": [[]], "users": [7]}, True),
        ({"histories": [[]]}, False),
        ({"histories": [[]], "allow": [300]}, True),
        ({"histories": [[]], "allow": ["300"]}, False),
        ({"histories": [[]], "exclude": [1]}, True),
        ({"histories": [[1, "20"]]}, False),
    ],
)
def test_numbers_and_texts_by_any_route(numbered, given, numbers):
    """What the caller wrote first decides, in a call and over HTTP alike."""
    found = numbered.recommend(**given)
    (items,) = found.items
    assert items
    assert {type(key) for key in items} == {int if numbers else str}
    (answer,) = answer_all(numbered.shelf, numbered.users, [Query(**given)])
    assert not isinstance(answer, Exception)
    (sent,) = answer.to_json()
    assert [item["item"] for item in sent["items"]] == items


def test_who_gets_nothing_is_told(numbered, tmp_path):
    with pytest.warns(NothingLeft, match="1 of 2 users get no item: nothing is left of allow for"):
        numbered.recommend([["1"], ["20"]], allow=["1"])
    with pytest.warns(NothingLeft, match="1 of 1 users get no item: no item of allow is known"):
        numbered.recommend(["1"], allow=["x"], on_unknown="ignore")
    with pytest.warns(NothingLeft, match="1 of 1 users get no item: nothing is left without what"):
        numbered.recommend(["1", "20", "300"])
    bare = Recommender(numbered.ranker)
    with pytest.warns(NothingLeft, match="does not know what is popular"):
        bare.recommend([[]])
    (tmp_path / "allow.txt").write_text("300\n")
    message = (
        r"1 of 2 users get no item and are not in the file: nothing known of --allow \S+ is left "
        "for them without what is excluded, removed or in the history; --no-exclude-seen"
    )
    with pytest.warns(NothingLeft, match=message) as said:
        recommend_to_file(numbered, tmp_path / "o.csv", allow=tmp_path / "allow.txt", chunk_size=1)
    assert len(said) == 1


def test_warnings_name_the_file_that_was_typed(numbered, tmp_path):
    (tmp_path / "in.csv").write_text("user_id,item_id\nu,1\nu,zz\n")
    with pytest.warns(UserWarning, match=r"^--input \S+in.csv must .*'zz', the first of user 'u'"):
        recommend_to_file(
            numbered, tmp_path / "o.csv", histories=tmp_path / "in.csv", on_unknown="warn"
        )


def test_the_screen_says_that_the_last_item_is_held_out(run):
    answer = call("recommend", run, "--device", "cpu", "--users", 1)
    assert answer.stdout.startswith("as of the test split: the last item of each user is held out")
    answer = call("recommend", run, "--device", "cpu", "--history", "a1")
    assert "held out" not in answer.stdout


def test_a_moved_run_names_input_where_a_file_is_written(run, tmp_path):
    moved = without_data(run, tmp_path / "moved")
    answer = call("recommend", moved, "--device", "cpu", "--out", tmp_path / "o.csv")
    assert answer.exit_code == 2
    assert "with --data FOLDER, or give item keys with --input" in answer.stderr


def test_the_result_is_no_file_that_is_read_and_no_folder(recommender, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("user_id,item_id\nu,a1\n")
    with pytest.raises(ConfigError, match="--out must be another file than --input"):
        recommend_to_file(recommender, source, histories=source)
    assert source.read_text() == "user_id,item_id\nu,a1\n"
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(ConfigError, match="--out must be a file, got the folder"):
        recommend_to_file(recommender, tmp_path / "out.csv", histories=source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_one_call_writes_a_file_at_a_time(recommender, tmp_path):
    out = tmp_path / "out.csv"

    def compute(chunks, todo):
        with pytest.raises(ConfigError, match="--out must not be written by another call"):
            recommend_to_file(recommender, out, k=2)
        return ((start, chunks.part(start, size)) for start, size in todo)

    recommend_to_file(recommender, out, k=2, compute=compute)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    recommend_to_file(recommender, out, k=2)


def test_parts_of_other_histories_are_made_anew(tmp_path, write_data):
    """The data set was prepared again, at the same place with the same items."""
    out, answers = tmp_path / "out.parquet", []
    for sequences in ([[0, 1], [1, 2]], [[2, 1], [0, 2]]):
        data = write_data(tmp_path / str(len(answers)), [*"abc"], sequences=sequences)
        counting = Popularity(data.item_keys, np.array([3, 2, 1]))
        recommender = Recommender(counting, data=data)

        def stops(chunks, todo):
            yield 0, chunks.part(0, 1)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            recommend_to_file(recommender, out, k=1, chunk_size=1, compute=stops)
        if answers:
            recommend_to_file(recommender, out, k=1, chunk_size=1)
        answers.append(None)
    assert pl.read_parquet(out)["item_id"].to_list() == ["a", "b"]


def test_events_of_one_time_stand_as_in_a_prepared_set(tmp_path):
    (tmp_path / "in.csv").write_text("user_id,item_id,time\nu,9,1\nu,10,1\nu,b,0\n")
    read = files.UserSource.read
    assert read(tmp_path / "in.csv").chunk(0, 1)["history"][0].to_list() == ["b", "10", "9"]
    whole = read(tmp_path / "in.csv", whole=True).chunk(0, 1)["history"][0]
    assert whole.to_list() == ["b", "9", "10"]
