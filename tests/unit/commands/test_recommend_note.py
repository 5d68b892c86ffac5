"""``genrec recommend`` says that it leaves out what users would take again."""

from __future__ import annotations

from genrec.commands.recommend import _say_what_is_left_out


def test_repeats_are_told_where_there_are_many(tmp_path, write_data, capsys) -> None:
    keys = [f"item {i}" for i in range(30)]
    often = [[i % 30, (i + 1) % 30, i % 30, (i + 2) % 30, i % 30, 5, 6] for i in range(20)]
    never = [[(i + step) % 30 for step in range(7)] for i in range(20)]
    _say_what_is_left_out(write_data(tmp_path / "often", keys, sequences=often))
    told = capsys.readouterr().err
    assert told.startswith("note: ")
    assert "% of what users take they have taken before" in told
    assert "--no-exclude-seen" in told
    _say_what_is_left_out(write_data(tmp_path / "never", keys, sequences=never))
    assert capsys.readouterr().err == ""
