"""The words of the synthetic shop and the items made of them.

All brands and series are invented; a likeness to a real one is chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["BRANDS", "CATEGORIES", "NEXT_WEIGHTS", "Category", "SampleItem", "make_items"]


@dataclass(frozen=True)
class Category:
    """A leaf of the category tree.

    Attributes:
        path: Department and names below it, joined by ``" > "``.
        price: Typical price, whole units of money.
        nouns: What a product of it is called.
        options: Sizes or kinds that tell its products apart.
    """

    path: str
    price: int
    nouns: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True)
class SampleItem:
    """One item of the shop.

    Attributes:
        key: The shop's own id.
        title: What it is called.
        brand: Index in :data:`BRANDS`.
        category: Index in :data:`CATEGORIES`.
        brand_name: The brand.
        category_path: Path of its category.
        price: With two decimals.
        weight: Mild popularity inside its brand and category.
    """

    key: str
    title: str
    brand: int
    category: int
    brand_name: str
    category_path: str
    price: str
    weight: float


#: After an item, how often the next category of its department comes, then the one after.
NEXT_WEIGHTS = (0.50, 0.30, 0.20)

#: Brand and its series; neighbours in this list share customers.
BRANDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Halvorsen", ("Fjell", "Drift", "Nord")),
    ("Pinecrest", ("Ranger", "Timber", "Creek")),
    ("Altamira", ("Sierra", "Cumbre", "Brisa")),
    ("Kestrel & Co", ("Swift", "Glide", "Hover")),
    ("Tarnwick", ("Fell", "Beck", "Moor")),
    ("Ostara", ("Dawn", "Bloom", "Solstice")),
    ("Grimsby Works", ("Anchor", "Harbour", "Tide")),
    ("Yamori", ("Kaze", "Mizu", "Yama")),
    ("Voltane", ("Pulse", "Arc", "Ion")),
    ("Bearpaw Supply", ("Grizzly", "Kodiak", "Cub")),
)

_COLOURS = ("Moss", "Slate", "Rust", "Navy", "Sand", "Charcoal", "Teal", "Plum", "Ochre", "Ivory")

#: Two lines a category: path, typical price and what its products are called, then the sizes or
#: kinds that tell them apart. People buy through a department's categories in this order.
_TABLE = """
Camping > Shelter > Tents | 210 | Dome Tent, Tunnel Tent, Trekking Tent, Family Tent
    1-Person, 2-Person, 3-Person, 4-Person
Camping > Sleeping > Sleeping Bags | 140 | Down Sleeping Bag, Mummy Sleeping Bag, Summer Quilt
    0 °C, -5 °C, -12 °C, Long
Camping > Sleeping > Sleeping Mats | 60 | Self-Inflating Mat, Foam Mat, Air Mattress
    Regular, Wide, 5 cm, 8 cm
Camping > Kitchen > Stoves | 55 | Gas Stove, Alcohol Stove, Multi-Fuel Stove
    Mini, 2-Burner, with Windshield, Piezo
Camping > Kitchen > Cookware | 35 | Titanium Pot, Frying Pan, Kettle, Nesting Cook Set
    0.7 L, 1.3 L, 2 L, Non-Stick
Hiking > Footwear > Boots | 150 | Hiking Boots, Trail Shoes, Winter Boots
    Mid, Low, Waterproof, Wide Fit
Hiking > Footwear > Socks | 18 | Merino Socks, Liner Socks, Cushioned Crew Socks
    2-Pack, 3-Pack, Light, Heavy
Hiking > Packs > Backpacks | 120 | Daypack, Trekking Backpack, Roll-Top Rucksack
    22 L, 35 L, 50 L, 65 L
Hiking > Clothing > Rain Jackets | 130 | Rain Jacket, Hardshell, Poncho
    Women's, Men's, Packable, 3-Layer
Hiking > Gear > Trekking Poles | 70 | Folding Poles, Telescopic Poles, Nordic Walking Poles
    Cork Grip, Carbon, Aluminium, 110-130 cm
Climbing > Footwear > Climbing Shoes | 110 | Climbing Shoes, Bouldering Shoes, Approach Shoes
    Velcro, Lace-Up, Slipper, Vegan
Climbing > Safety > Harnesses | 75 | Sport Harness, Alpine Harness, Full-Body Harness
    XS, S-M, L-XL, Adjustable
Climbing > Hardware > Carabiners | 30 | Locking Carabiner, Quickdraw Set, Wiregate Carabiner
    12 cm, 6-Pack, Anodised, HMS
Climbing > Ropes > Dynamic Ropes | 160 | Single Rope, Half Rope, Gym Rope
    40 m, 60 m, 70 m, Dry-Treated
Climbing > Accessories > Chalk | 15 | Chalk Bag, Loose Chalk, Liquid Chalk
    100 g, 250 g, with Belt, Refill
Cycling > Safety > Helmets | 85 | Road Helmet, Mountain Bike Helmet, Commuter Helmet
    S, M, L, with Visor
Cycling > Lighting > Bike Lights | 40 | Front Light, Rear Light, Light Set
    400 Lumen, 800 Lumen, USB-C, Daytime
Cycling > Bags > Panniers | 65 | Rear Pannier, Handlebar Bag, Frame Bag
    10 L, 20 L, Pair, Roll-Top
Cycling > Care > Tools | 28 | Multi-Tool, Floor Pump, Chain Cleaner
    12 Functions, 19 Functions, Digital, Compact
Cycling > Clothing > Gloves | 32 | Gel Gloves, Full-Finger Gloves, Thermal Gloves
    XS, S, M, XL
Water > Boats > Kayaks | 480 | Inflatable Kayak, Sit-On-Top Kayak, Packraft
    Solo, Tandem, River, Sea
Water > Boats > Paddles | 80 | Kayak Paddle, Canoe Paddle, Stand-Up Paddle
    210 cm, 230 cm, 3-Piece, Fibreglass
Water > Safety > Life Vests | 70 | Life Vest, Buoyancy Aid, Belt Pack
    50 N, 100 N, Junior, Slim
Water > Storage > Dry Bags | 25 | Dry Bag, Waterproof Duffel, Phone Pouch
    5 L, 20 L, 40 L, Clear
Water > Clothing > Wetsuits | 140 | Wetsuit, Neoprene Shorty, Paddling Top
    3/2 mm, 4/3 mm, Women's, Men's
"""


def _categories() -> Iterator[Category]:
    lines = iter(_TABLE.strip().splitlines())
    for head, options in zip(lines, lines, strict=True):
        path, price, nouns = head.split(" | ")
        yield Category(
            path, int(price), tuple(nouns.split(", ")), tuple(options.strip().split(", "))
        )


CATEGORIES = tuple(_categories())


def make_items(source: random.Random, *, per_brand: int = 4) -> list[SampleItem]:
    """Make the catalogue: every brand sells a few items in every category.

    Only the ``random`` method of ``source`` is called. The order is shuffled, so that an id says
    nothing about what it names.
    """
    rows: list[tuple[str, int, int, str, str, float]] = []
    for category_index, category in enumerate(CATEGORIES):
        for brand, (brand_name, series) in enumerate(BRANDS):
            titles: set[str] = set()
            while len(titles) < per_brand:
                title = (
                    f"{brand_name} {_pick(source, series)} {_pick(source, category.options)} "
                    f"{_pick(source, category.nouns)}, {_pick(source, _COLOURS)}"
                )
                if title in titles:
                    continue
                titles.add(title)
                cents = int(category.price * (60 + 80 * source.random()))
                weight = 1.0 / (1 + len(titles))
                price = f"{cents // 100}.{cents % 100:02d}"
                rows.append((title, brand, category_index, category.path, price, weight))
    for last in range(len(rows) - 1, 0, -1):  # Fisher-Yates
        other = int(source.random() * (last + 1))
        rows[last], rows[other] = rows[other], rows[last]
    return [
        SampleItem(
            key=f"G{index + 1:04d}",
            title=title,
            brand=brand,
            category=category,
            brand_name=BRANDS[brand][0],
            category_path=path,
            price=price,
            weight=weight,
        )
        for index, (title, brand, category, path, price, weight) in enumerate(rows)
    ]


def _pick(source: random.Random, choices: tuple[str, ...]) -> str:
    return choices[int(source.random() * len(choices))]
