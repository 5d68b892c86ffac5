"""The words of the synthetic shop and the items made of them.

All brands and series are invented; a likeness to a real one is chance.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = [
    "BRANDS",
    "DEPARTMENTS",
    "NEXT_WEIGHTS",
    "Category",
    "Department",
    "SampleItem",
    "make_items",
]


@dataclass(frozen=True)
class Category:
    """A leaf of the category tree.

    Attributes:
        path: Names below the department, outermost first.
        nouns: What a product of it is called.
        options: Sizes or kinds that tell its products apart.
        price: Typical price, whole units of money.
    """

    path: tuple[str, ...]
    nouns: tuple[str, ...]
    options: tuple[str, ...]
    price: int


@dataclass(frozen=True)
class Department:
    """A department, its categories in the order in which people buy through them.

    Attributes:
        name: First name of the category path.
        categories: Its leaves.
    """

    name: str
    categories: tuple[Category, ...]


@dataclass(frozen=True)
class SampleItem:
    """One item of the shop.

    Attributes:
        key: The shop's own id.
        title: What it is called.
        brand: Index in :data:`BRANDS`.
        category: Index of the category, counted over all departments.
        brand_name: The brand.
        category_path: Path joined by ``" > "``.
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

DEPARTMENTS: tuple[Department, ...] = (
    Department(
        "Camping",
        (
            Category(
                ("Shelter", "Tents"),
                ("Dome Tent", "Tunnel Tent", "Trekking Tent", "Family Tent"),
                ("1-Person", "2-Person", "3-Person", "4-Person"),
                210,
            ),
            Category(
                ("Sleeping", "Sleeping Bags"),
                ("Down Sleeping Bag", "Mummy Sleeping Bag", "Summer Quilt"),
                ("0 °C", "-5 °C", "-12 °C", "Long"),
                140,
            ),
            Category(
                ("Sleeping", "Sleeping Mats"),
                ("Self-Inflating Mat", "Foam Mat", "Air Mattress"),
                ("Regular", "Wide", "5 cm", "8 cm"),
                60,
            ),
            Category(
                ("Kitchen", "Stoves"),
                ("Gas Stove", "Alcohol Stove", "Multi-Fuel Stove"),
                ("Mini", "2-Burner", "with Windshield", "Piezo"),
                55,
            ),
            Category(
                ("Kitchen", "Cookware"),
                ("Titanium Pot", "Frying Pan", "Kettle", "Nesting Cook Set"),
                ("0.7 L", "1.3 L", "2 L", "Non-Stick"),
                35,
            ),
        ),
    ),
    Department(
        "Hiking",
        (
            Category(
                ("Footwear", "Boots"),
                ("Hiking Boots", "Trail Shoes", "Winter Boots"),
                ("Mid", "Low", "Waterproof", "Wide Fit"),
                150,
            ),
            Category(
                ("Footwear", "Socks"),
                ("Merino Socks", "Liner Socks", "Cushioned Crew Socks"),
                ("2-Pack", "3-Pack", "Light", "Heavy"),
                18,
            ),
            Category(
                ("Packs", "Backpacks"),
                ("Daypack", "Trekking Backpack", "Roll-Top Rucksack"),
                ("22 L", "35 L", "50 L", "65 L"),
                120,
            ),
            Category(
                ("Clothing", "Rain Jackets"),
                ("Rain Jacket", "Hardshell", "Poncho"),
                ("Women's", "Men's", "Packable", "3-Layer"),
                130,
            ),
            Category(
                ("Gear", "Trekking Poles"),
                ("Folding Poles", "Telescopic Poles", "Nordic Walking Poles"),
                ("Cork Grip", "Carbon", "Aluminium", "110-130 cm"),
                70,
            ),
        ),
    ),
    Department(
        "Climbing",
        (
            Category(
                ("Footwear", "Climbing Shoes"),
                ("Climbing Shoes", "Bouldering Shoes", "Approach Shoes"),
                ("Velcro", "Lace-Up", "Slipper", "Vegan"),
                110,
            ),
            Category(
                ("Safety", "Harnesses"),
                ("Sport Harness", "Alpine Harness", "Full-Body Harness"),
                ("XS", "S-M", "L-XL", "Adjustable"),
                75,
            ),
            Category(
                ("Hardware", "Carabiners"),
                ("Locking Carabiner", "Quickdraw Set", "Wiregate Carabiner"),
                ("12 cm", "6-Pack", "Anodised", "HMS"),
                30,
            ),
            Category(
                ("Ropes", "Dynamic Ropes"),
                ("Single Rope", "Half Rope", "Gym Rope"),
                ("40 m", "60 m", "70 m", "Dry-Treated"),
                160,
            ),
            Category(
                ("Accessories", "Chalk"),
                ("Chalk Bag", "Loose Chalk", "Liquid Chalk"),
                ("100 g", "250 g", "with Belt", "Refill"),
                15,
            ),
        ),
    ),
    Department(
        "Cycling",
        (
            Category(
                ("Safety", "Helmets"),
                ("Road Helmet", "Mountain Bike Helmet", "Commuter Helmet"),
                ("S", "M", "L", "with Visor"),
                85,
            ),
            Category(
                ("Lighting", "Bike Lights"),
                ("Front Light", "Rear Light", "Light Set"),
                ("400 Lumen", "800 Lumen", "USB-C", "Daytime"),
                40,
            ),
            Category(
                ("Bags", "Panniers"),
                ("Rear Pannier", "Handlebar Bag", "Frame Bag"),
                ("10 L", "20 L", "Pair", "Roll-Top"),
                65,
            ),
            Category(
                ("Care", "Tools"),
                ("Multi-Tool", "Floor Pump", "Chain Cleaner"),
                ("12 Functions", "19 Functions", "Digital", "Compact"),
                28,
            ),
            Category(
                ("Clothing", "Gloves"),
                ("Gel Gloves", "Full-Finger Gloves", "Thermal Gloves"),
                ("XS", "S", "M", "XL"),
                32,
            ),
        ),
    ),
    Department(
        "Water",
        (
            Category(
                ("Boats", "Kayaks"),
                ("Inflatable Kayak", "Sit-On-Top Kayak", "Packraft"),
                ("Solo", "Tandem", "River", "Sea"),
                480,
            ),
            Category(
                ("Boats", "Paddles"),
                ("Kayak Paddle", "Canoe Paddle", "Stand-Up Paddle"),
                ("210 cm", "230 cm", "3-Piece", "Fibreglass"),
                80,
            ),
            Category(
                ("Safety", "Life Vests"),
                ("Life Vest", "Buoyancy Aid", "Belt Pack"),
                ("50 N", "100 N", "Junior", "Slim"),
                70,
            ),
            Category(
                ("Storage", "Dry Bags"),
                ("Dry Bag", "Waterproof Duffel", "Phone Pouch"),
                ("5 L", "20 L", "40 L", "Clear"),
                25,
            ),
            Category(
                ("Clothing", "Wetsuits"),
                ("Wetsuit", "Neoprene Shorty", "Paddling Top"),
                ("3/2 mm", "4/3 mm", "Women's", "Men's"),
                140,
            ),
        ),
    ),
)


def make_items(source: random.Random, *, per_brand: int = 4) -> list[SampleItem]:
    """Make the catalogue: every brand sells a few items in every category.

    Args:
        source: Source of randomness; only its ``random`` method is called.
        per_brand: Items of one brand in one category.

    Returns:
        The items in a shuffled order, so that an id says nothing about what it names.
    """
    rows: list[tuple[str, int, int, str, str, float]] = []
    category_index = 0
    for department in DEPARTMENTS:
        for category in department.categories:
            path = " > ".join((department.name, *category.path))
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
                    rows.append((title, brand, category_index, path, price, weight))
            category_index += 1
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
