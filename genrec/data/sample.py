"""A small synthetic shop: believable items and a log with structure worth learning.

The project ships what this module writes (``data/sample``), so that the main job runs with
no network. Every customer has a taste (a brand) that shows in recent purchases and drifts;
purchases follow one another along a workflow (a tent, then a sleeping bag, then a mat).
Exact item pairs are rare, so counting them tells little; categories and brands recur, and
they stand in the items' text, so a model over text-derived codes can generalise.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path

from genrec.atomic import atomic_file
from genrec.data.sample_catalogue import BRANDS, CATEGORIES, NEXT_WEIGHTS, SampleItem, make_items
from genrec.errors import ConfigError

__all__ = ["Event", "SampleShop", "main", "write_sample"]

#: Share of purchases that follow the customer's taste; the others are of any brand.
_ON_TASTE = 0.60
#: How often, before a purchase, the taste moves to a neighbouring brand.
_DRIFT = 0.05
#: How often a purchase leaves the workflow for a category chosen at random.
_WANDER = 0.08
_FIRST_TIME = 1_577_836_800  # 2020-01-01
_HOUR = 3_600


@dataclass(frozen=True)
class Event:
    """One purchase, with what the generator knew when it drew it.

    Attributes:
        user: Index of the customer.
        item: Index of the item.
        time_s: Seconds since 1970, UTC.
        rating: 1 to 5 stars.
        taste: Brand index that the customer liked at that moment.
        previous: Index of the item bought before, or -1.
    """

    user: int
    item: int
    time_s: int
    rating: int
    taste: int
    previous: int


class SampleShop:
    """The generator: a catalogue, and customers who buy from it.

    Only ``random.Random.random`` is drawn from, the one stream that Python promises to keep
    between versions, and weights are plain products: a seed gives the same bytes anywhere.

    Args:
        seed: Seed of catalogue and customers.
        num_users: How many customers.

    Attributes:
        items: The catalogue.
    """

    def __init__(self, *, seed: int = 0, num_users: int = 2_000) -> None:
        self._random = random.Random(seed)
        self.num_users = num_users
        self.items: list[SampleItem] = make_items(self._random)
        self._successors = _successors()
        self._by_category: dict[int, list[int]] = {}
        for index, item in enumerate(self.items):
            self._by_category.setdefault(item.category, []).append(index)
        self._by_brand = {
            (category, brand): [i for i in members if self.items[i].brand == brand]
            for category, members in self._by_category.items()
            for brand in range(len(BRANDS))
        }

    def events(self) -> Iterator[Event]:
        """Draw every customer's purchases, one customer after another, in time order."""
        for user in range(self.num_users):
            yield from self._customer(user)

    def next_weights(self, taste: int, previous: int, bought: Sequence[int]) -> dict[int, float]:
        """Give the exact probability of each item as the next purchase.

        Args:
            taste: Brand index that the customer likes before the purchase.
            previous: Item bought last, or -1.
            bought: Items that the customer has; nobody buys an item twice.

        Returns:
            Probabilities by item, summing to 1.
        """
        owned = set(bought)
        weights: dict[int, float] = {}
        for brand, brand_share in self._tastes_after(taste):
            branch: dict[int, float] = {}
            for category, share in self._categories_after(previous):
                liked, all_of_it = self._by_brand[category, brand], self._by_category[category]
                for members, part in ((liked, _ON_TASTE), (all_of_it, 1 - _ON_TASTE)):
                    popularity = sum(self.items[i].weight for i in members)
                    for item in members:
                        gain = share * part * self.items[item].weight / popularity
                        branch[item] = branch.get(item, 0.0) + gain
            left = sum(weight for item, weight in branch.items() if item not in owned)
            for item, weight in branch.items():
                if item not in owned:
                    weights[item] = weights.get(item, 0.0) + brand_share * weight / left
        return weights

    def _customer(self, user: int) -> Iterator[Event]:
        taste = int(self._random.random() * len(BRANDS))
        length = 6 + int(self._random.random() * 5) + int(self._random.random() * 5)
        time_s = _FIRST_TIME + int(self._random.random() * 365 * 24) * _HOUR
        previous, bought = -1, []  # type: int, list[int]
        for _ in range(length):
            brands, shares = zip(*self._tastes_after(taste), strict=True)
            taste_before, taste = taste, brands[self._draw(shares)]
            item = self._purchase(taste, previous, bought)
            bought.append(item)
            time_s += (6 + int(self._random.random() * 21 * 24)) * _HOUR
            time_s += int(self._random.random() * _HOUR)
            stars = 5 if self.items[item].brand == taste else 4
            rating = max(1, stars - int(self._random.random() * self._random.random() * 4))
            yield Event(user, item, time_s, rating, taste_before, previous)
            previous = item

    def _purchase(self, taste: int, previous: int, bought: list[int]) -> int:
        """Draw an item that the customer does not have, from the law of ``next_weights``."""
        while True:
            categories, shares = zip(*self._categories_after(previous), strict=True)
            category = categories[self._draw(shares)]
            members = self._by_brand[category, taste]
            if self._random.random() >= _ON_TASTE:
                members = self._by_category[category]
            item = members[self._draw([self.items[i].weight for i in members])]
            if item not in bought:
                return item

    def _tastes_after(self, taste: int) -> list[tuple[int, float]]:
        """Tastes before the next purchase: the same, or one of the two neighbours."""
        count = len(BRANDS)
        return [
            (taste, 1 - _DRIFT),
            ((taste + 1) % count, _DRIFT / 2),
            ((taste - 1) % count, _DRIFT / 2),
        ]

    def _categories_after(self, previous: int) -> list[tuple[int, float]]:
        count = len(self._successors)
        if previous < 0:
            return [(category, 1 / count) for category in range(count)]
        shares = dict.fromkeys(range(count), _WANDER / count)
        for category, weight in self._successors[self.items[previous].category]:
            shares[category] += (1 - _WANDER) * weight
        return list(shares.items())

    def _draw(self, weights: Sequence[float]) -> int:
        cumulated = list(accumulate(weights))
        point = self._random.random() * cumulated[-1]
        return next((i for i, edge in enumerate(cumulated) if point < edge), len(cumulated) - 1)


def _successors() -> list[list[tuple[int, float]]]:
    """List, for each category, what is bought next: the following ones in its department."""
    result: list[list[tuple[int, float]]] = []
    for _, group in groupby(CATEGORIES, key=lambda category: category.path.partition(" > ")[0]):
        start, count = len(result), len(list(group))
        result += [
            [(start + (place + step) % count, w) for step, w in enumerate(NEXT_WEIGHTS, start=1)]
            for place in range(count)
        ]
    return result


def write_sample(folder: str | Path, *, seed: int = 0, num_users: int = 2_000) -> None:
    """Write ``items.csv`` and ``interactions.csv`` into a folder, made when missing.

    Raises:
        ConfigError: If there are such files with another content.
    """
    shop = SampleShop(seed=seed, num_users=num_users)
    items = [["item_id", "title", "brand", "categories", "price"]]
    for item in shop.items:
        items.append([item.key, item.title, item.brand_name, item.category_path, item.price])
    events = [["user_id", "item_id", "rating", "timestamp"]]
    for event in shop.events():
        key = shop.items[event.item].key
        events.append([f"c{event.user + 1:04d}", key, str(event.rating), str(event.time_s)])
    files = {
        Path(folder) / "items.csv": _csv(items),
        Path(folder) / "interactions.csv": _csv(events),
    }
    for path, content in files.items():
        if path.exists() and path.read_bytes() != content:
            raise ConfigError(
                f"FOLDER must have no {path.name} of another shop, got {folder}; name another"
            )
    for path, content in files.items():
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)


def _csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``python -m genrec.data.sample --out FOLDER``; None takes ``sys.argv``."""
    parser = argparse.ArgumentParser(description="Write the synthetic sample shop.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--users", type=int, default=2_000)
    options = parser.parse_args(arguments)
    write_sample(options.out, seed=options.seed, num_users=options.users)
    print(f"wrote {options.out / 'items.csv'} and {options.out / 'interactions.csv'}")


if __name__ == "__main__":
    main()
