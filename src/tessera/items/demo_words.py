"""The words of the demo shop: what its products are for and where they go, and nothing of how they look.

A text tells a product's category, the pursuit it was made for and the room it belongs in. Maker, name, material and
the choice of sentences vary freely and tell nothing. No text names a colour or a pattern: those only pictures show.
"""

from typing import NamedTuple

import numpy as np


class Category(NamedTuple):
    """What a kind of product is called, made of and sold as; prices in dollars, lowest and highest."""

    shelf: str
    noun: str
    materials: tuple[str, ...]
    openings: tuple[str, ...]
    cares: tuple[str, ...]
    prices: tuple[int, int]


class Topic(NamedTuple):
    """What a pursuit or a room is called in a title, and the things that a description tells it by."""

    name: str
    things: tuple[str, ...]


CATEGORIES: dict[str, Category] = {
    "mug": Category(
        shelf="Mugs & Cups",
        noun="Mug",
        materials=("stoneware", "porcelain", "enamel"),
        openings=(
            "A mug of {material}, with a handle that is yours and nobody else's.",
            "This {material} mug has a handle on one side and everything else on the other.",
            "Our mug: {material}, a handle, and not much more.",
        ),
        cares=("Holds 350 ml.", "Safe in the dishwasher and the microwave."),
        prices=(9, 24),
    ),
    "poster": Category(
        shelf="Posters & Prints",
        noun="Poster",
        materials=("cotton", "matt", "bamboo"),
        openings=(
            "A poster on {material} paper, already framed.",
            "This poster is on {material} paper, and will never be seen other than framed.",
            "Our poster: {material} paper, framed by us and for you.",
        ),
        cares=("50 by 70 cm, with the frame.", "Hooks and a paper template are in the box."),
        prices=(18, 60),
    ),
    "lamp": Category(
        shelf="Table Lamps",
        noun="Lamp",
        materials=("fabric", "linen", "parchment"),
        openings=(
            "A lamp with a shade of {material}.",
            "This lamp has a {material} shade, which is the most of it.",
            "Our lamp: a shade in {material}, and everything under it.",
        ),
        cares=("Takes one E14 bulb, up to 25 watts.", "The cord is two metres long."),
        prices=(29, 95),
    ),
    "rug": Category(
        shelf="Rugs & Mats",
        noun="Rug",
        materials=("wool", "jute", "hemp"),
        openings=(
            "A rug of {material}, fringed on two sides.",
            "This {material} rug is fringed at both of its ends.",
            "Our rug: {material} throughout, and then fringed.",
        ),
        cares=("90 by 140 cm.", "Shake out, and wash by hand when it must be."),
        prices=(35, 140),
    ),
    "cushion": Category(
        shelf="Cushions & Throws",
        noun="Cushion",
        materials=("velvet", "corduroy", "canvas"),
        openings=(
            "A cushion in {material}, with a zip that cannot be seen.",
            "This cushion is {material}, down to the zip.",
            "Our cushion: {material} all over, but for the zip.",
        ),
        cares=("45 by 45 cm.", "The cover comes off for a wash at 30 degrees."),
        prices=(15, 45),
    ),
    "vase": Category(
        shelf="Vases & Jars",
        noun="Vase",
        materials=("earthenware", "terracotta", "majolica"),
        openings=(
            "A vase of {material}, with a neck for three or four.",
            "This {material} vase is thin at the neck and full everywhere else.",
            "Our vase: {material} from bottom to neck.",
        ),
        cares=("24 cm tall.", "Watertight to the rim."),
        prices=(16, 58),
    ),
    "notebook": Category(
        shelf="Notebooks & Journals",
        noun="Notebook",
        materials=("cloth", "leather", "cardboard"),
        openings=(
            "A notebook in {material}, its 160 pages still empty.",
            "This notebook has 160 pages, with {material} on both sides.",
            "Our notebook: {material} without, 160 pages within.",
        ),
        cares=("A5, with rounded corners.", "The paper takes fountain pens without bleeding."),
        prices=(8, 22),
    ),
    "clock": Category(
        shelf="Wall Clocks",
        noun="Clock",
        materials=("beech", "ash", "cork"),
        openings=(
            "A clock in {material}, with hands that are never in the way.",
            "This {material} clock has two hands, and so have you.",
            "Our clock: {material} around, hands in front.",
        ),
        cares=("30 cm across.", "Runs for a year on one AA battery."),
        prices=(24, 80),
    ),
}

#: In the order of a day: whoever bought for one pursuit next buys for the one after it, and after the last the first.
PURSUITS: dict[str, Topic] = {
    "coffee": Topic("Coffee", ("espresso", "roasters", "baristas", "beans", "milk foam", "cappuccino")),
    "cycling": Topic("Cycling", ("bicycles", "saddles", "pedals", "tailwind", "inner tubes", "hill climbs")),
    "gardening": Topic("Gardening", ("seedlings", "compost", "pruning", "trowels", "harvests", "watering cans")),
    "baking": Topic("Baking", ("sourdough", "flour", "yeast", "bread", "cakes", "rolling pins")),
    "tea": Topic("Tea", ("kettles", "teapots", "Darjeeling", "camomile", "infusions", "tea leaves")),
    "reading": Topic("Reading", ("novels", "chapters", "bookmarks", "libraries", "poetry", "footnotes")),
    "music": Topic("Music", ("vinyl", "jazz", "sonatas", "pianos", "songs", "cellos")),
    "stargazing": Topic("Stargazing", ("constellations", "telescopes", "comets", "planets", "Orion", "meteors")),
}

#: A shopper furnishes one of these, and mostly stays with it.
ROOMS: dict[str, Topic] = {
    "kitchen": Topic("Kitchen", ("stoves", "worktops", "spices", "saucepans", "aprons", "suppers")),
    "bedroom": Topic("Bedroom", ("pillows", "sheets", "slippers", "dreams", "wardrobes", "blankets")),
    "study": Topic("Study", ("desks", "deadlines", "cables", "folders", "shelves", "paperwork")),
    "hallway": Topic("Hallway", ("coats", "umbrellas", "keys", "doormats", "scarves", "guests")),
}

#: Sentences for three things each. They vary in words that search engines skip, so that a text is told by its things.
ON_PURSUITS = (
    "Made for {0}, {1} and {2}.",
    "For everyone who is never without {0}, {1} and {2}.",
    "First {0}, then {1}, then {2}: it is there throughout.",
    "Whoever has {0} must also have {1} and {2}, and then this.",
    "Nothing in it is against {0}, and everything is for {1} and {2}.",
    "It is for {0} and {1}, and most of all for {2}.",
    "Neither {0} nor {1} can do without it, and {2} least of all.",
    "Some have {0}, others {1}, a few even {2}; this is for all of them.",
)
ON_ROOMS = (
    "What would a {room} be without {0}, {1}, {2} and this?",
    "Somewhere between {0} and {1}, beside {2}, there is always a {room} for it.",
    "Every {room} has {0}, {1} and {2}; yours may now have this as well.",
    "Our own {room} has it next to {0}, behind {1} and across from {2}.",
    "Put it in a {room}, among {0}, {1} and {2}.",
    "A {room} is {0}, {1} and {2}, and then something that is only yours.",
)
THINGS_A_SENTENCE = 3

MAKERS = (
    "Alder & Finch",
    "Bramble Works",
    "Casa Lumo",
    "Dovetail",
    "Elm Street Goods",
    "Fjordhus",
    "Gable & Co.",
    "Harrow Mill",
    "Isola",
    "Juniper Lane",
)

#: What a maker calls a product.
NAMES = ("Alma", "Birk", "Cosmo", "Dita", "Esme", "Fjell", "Greta", "Halo", "Juno", "Lumi", "Momo", "Zeno")

TITLES = (
    "{name} {pursuit} {noun} for the {room}",
    "{noun} '{name}' for {pursuit}, {room}",
    "{room} {noun} '{name}' for {pursuit}",
    "{name}, a {pursuit} {noun} for the {room}",
)

PRAISE = ("Lovely", "Even better than expected", "Would buy again", "Five stars", "A happy find", "Made my week")
DOUBT = ("Fine", "It is all right", "Good, with reservations", "Does what it should")
BLAME = ("Not for me", "Arrived late", "Expected more", "Sent it back")
REMARKS = (
    "Well packed and quick to arrive.",
    "My sister has ordered one too.",
    "Exactly as shown.",
    "Bought it as a present and kept it.",
    "The quality is what one hopes for at this price.",
    "Smaller than I thought, but that is on me.",
    "I have had it for a month now.",
    "The shop answered my question within the hour.",
)
FIRST_NAMES = ("Ada", "Ben", "Chloe", "Dev", "Elif", "Finn", "Grace", "Hugo", "Ines", "Jonas", "Kofi", "Lena", "Mei")
#: The lowest rating that is praise, and the lowest that is doubt.
PRAISE_FROM, DOUBT_FROM = 4, 3


class Wording(NamedTuple):
    """A product as its maker words it."""

    title: str
    maker: str
    description: list[str]
    features: list[str]
    price: str


def word_product(*, category: str, pursuit: str, room: str, generator: np.random.Generator) -> Wording:
    """Return the title and the description of a product; what its three attributes leave open is drawn by lot."""
    kind, place = CATEGORIES[category], ROOMS[room]
    title = _one(TITLES, generator).format(
        name=_one(NAMES, generator), noun=kind.noun, pursuit=PURSUITS[pursuit].name, room=place.name
    )
    description = [
        _one(kind.openings, generator).format(material=_one(kind.materials, generator)),
        *_told(PURSUITS[pursuit], ON_PURSUITS, generator),
        *_told(place, ON_ROOMS, generator),
    ]
    price = int(generator.integers(*kind.prices, endpoint=True))
    return Wording(title, _one(MAKERS, generator), description, [_one(kind.cares, generator)], f"${price}.90")


def _told(topic: Topic, sentences: tuple[str, ...], generator: np.random.Generator) -> list[str]:
    """Return sentences that name all things of the topic, each once."""
    things = [topic.things[place] for place in generator.permutation(len(topic.things))]
    groups = [things[start : start + THINGS_A_SENTENCE] for start in range(0, len(things), THINGS_A_SENTENCE)]
    chosen = generator.permutation(len(sentences))
    return [
        sentences[place].format(*group, room=topic.name.lower()) for place, group in zip(chosen, groups, strict=False)
    ]


def word_review(*, rating: int, generator: np.random.Generator) -> tuple[str, str]:
    """Return the summary and the text of a review, which tell nothing of the product."""
    summaries = PRAISE if rating >= PRAISE_FROM else DOUBT if rating >= DOUBT_FROM else BLAME
    return _one(summaries, generator), _one(REMARKS, generator)


def word_reviewer(generator: np.random.Generator) -> str:
    """Return a reviewer's name, as in 'Ada K.'."""
    return f"{_one(FIRST_NAMES, generator)} {chr(ord('A') + int(generator.integers(26)))}."


def _one(choices: tuple[str, ...], generator: np.random.Generator) -> str:
    return choices[int(generator.integers(len(choices)))]
