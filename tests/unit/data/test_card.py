from __future__ import annotations

import pytest

from genrec.data.card import DataCard, format_card


@pytest.mark.parametrize(("rejected", "said"), [(50, "50 %"), (6, "11 %"), (2, None), (0, None)])
def test_many_rejected_rows_are_warned_of(rejected, said):
    step = {"step": "read", "interactions": 50, "users": 5, "items": 9, "dropped": 0}
    entry = {"rows": rejected, "file": "log.csv", "reason": "no time", "first_lines": [3]}
    card = {"name": "shop", "source": "log.csv", "steps": [step], "rejected": [entry]}
    last = format_card(card).splitlines()[-1]
    assert last.startswith(f"warning: {said} of the rows were rejected" if said else "  ")


def test_what_is_empty_says_so():
    assert "columns not used: none" in format_card(
        {"name": "x", "source": "y", "steps": [], "columns_not_used": {}}
    )


@pytest.mark.parametrize(("year", "warned"), [("1970", True), ("2024", False)])
def test_days_that_were_taken_for_seconds_are_told(year, warned):
    span = ["1970-01-01 12:34:54 UTC", f"{year}-01-01 12:41:00 UTC"]
    text = format_card({"name": "n", "source": "s", "steps": [], "time_span": span})
    assert ("warning: all times lie in 1970" in text) == warned
    assert "1970: numbers" not in format_card({"name": "n", "source": "s", "steps": []})


@pytest.mark.parametrize(("texts", "warned"), [(9, True), (300, False), (None, False)])
def test_a_card_warns_where_texts_tell_few_items_apart(texts, warned):
    card = DataCard("shop", "somewhere")
    card.step("read", interactions=1000, users=80, items=405)
    if texts is not None:
        card.note(different_texts=texts)
    text = format_card(card.as_dict())
    assert ("warning: 9 different texts for 405 items" in text) == warned
