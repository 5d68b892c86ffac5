from __future__ import annotations

import collections
import csv

import numpy as np
import pytest

from genrec.data.sample import SampleShop, main

_LIMIT_BYTES = 1 << 20
_LAWS = 800  # the generator's exact law is slow to write out


@pytest.fixture(scope="module")
def shop():
    shop = SampleShop()
    histories = collections.defaultdict(list)
    for event in shop.events():
        histories[event.user].append(event)
    return shop, list(histories.values())


def test_regenerating_gives_the_shipped_bytes(tmp_path, repository, capsys):
    main(["--out", str(tmp_path)])
    assert "items.csv" in capsys.readouterr().out
    total = 0
    for name in ("items.csv", "interactions.csv"):
        shipped = (repository / "data" / "sample" / name).read_bytes()
        assert (tmp_path / name).read_bytes() == shipped, f"{name}: run genrec.data.sample again"
        total += len(shipped)
    assert total < _LIMIT_BYTES


def test_another_seed_is_another_shop(tmp_path, repository):
    main(["--out", str(tmp_path), "--seed", "1", "--users", "20"])
    shipped = (repository / "data" / "sample" / "items.csv").read_bytes()
    assert (tmp_path / "items.csv").read_bytes() != shipped
    with (tmp_path / "interactions.csv").open() as file:
        assert len({row["user_id"] for row in csv.DictReader(file)}) == 20


def test_catalogue(shop):
    items = shop[0].items
    assert len(items) == 1_000
    assert len({item.title for item in items}) == 1_000
    assert len({item.key for item in items}) == 1_000
    assert len({item.brand_name for item in items}) == 10
    assert len({item.category_path for item in items}) == 25


def test_histories_are_in_time_order_without_repeats(shop):
    for history in shop[1]:
        times = [event.time_s for event in history]
        assert times == sorted(set(times))
        items = [event.item for event in history]
        assert len(set(items)) == len(items)
        assert 6 <= len(items) <= 14


def test_stated_law_is_the_one_that_is_drawn_from(shop):
    """Probabilities are calibrated: the mean of p(next) is the sum of p squared."""
    generator, histories = shop
    drawn, expected, variance = 0.0, 0.0, 0.0
    for history in histories[:150]:
        items = [event.item for event in history]
        for position, event in enumerate(history):
            law = generator.next_weights(event.taste, event.previous, items[:position])
            values = np.array(list(law.values()))
            assert values.sum() == pytest.approx(1.0)
            drawn += law[event.item]
            expected += (values**2).sum()
            variance += (values**3).sum() - (values**2).sum() ** 2
    assert abs(drawn - expected) < 4 * variance**0.5


def test_sequence_beats_popularity_and_co_occurrence(shop):
    """The shop is worth learning: what a model may reach is far above what counting reaches."""
    generator, histories = shop
    popularity = np.zeros(1_000)
    following = np.zeros((1_000, 1_000))
    for history in histories:
        items = [event.item for event in history[:-2]]
        np.add.at(popularity, items, 1)
        np.add.at(following, (items[:-1], items[1:]), 1)
    hits = collections.Counter()
    popular = set(np.argsort(-popularity, kind="stable")[:10])
    for history in histories:
        *bought, target = (event.item for event in history)
        after = following[bought[-1]] + popularity * 1e-6
        hits["popularity"] += target in popular
        hits["co-occurrence"] += target in set(np.argsort(-after, kind="stable")[:10])
    recall = {name: count / len(histories) for name, count in hits.items()}
    for history in histories[:_LAWS]:
        *bought, target = (event.item for event in history)
        law = generator.next_weights(history[-1].taste, bought[-1], bought)
        # Taste as it shows in the history: the brand bought most, recent purchases first.
        brands = collections.Counter()
        for age, item in enumerate(reversed(bought)):
            brands[generator.items[item].brand] += 0.85**age
        seen = generator.next_weights(brands.most_common(1)[0][0], bought[-1], bought)
        hits["history"] += target in sorted(seen, key=seen.__getitem__)[-10:]
        hits["oracle"] += target in sorted(law, key=law.__getitem__)[-10:]
    recall |= {name: hits[name] / _LAWS for name in ("history", "oracle")}
    assert recall["popularity"] < 0.03
    assert recall["co-occurrence"] < 0.17
    assert recall["history"] > 2.5 * recall["co-occurrence"]
    assert recall["oracle"] > 0.45
