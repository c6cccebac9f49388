"""Names, nouns and irrelevant sentences for word problems."""

from __future__ import annotations

PEOPLE: tuple[tuple[str, str], ...] = tuple(
    (name, pronoun)
    for pronoun, names in (
        ("he", "Adam Ahmed Andre Ben Carlos Daniel David Diego Emeka Ethan Felix George Hassan Henry Hiro Ivan Jack Jamal "
               "James Jorge Kofi Leo Liam Luca Marcus Mateo Max Mohammed Nathan Noah Omar Oscar Pablo Peter Rahul Ravi "
               "Ryan Sam Samir Tariq Theo Thomas Tom Victor Wei Will Yusuf Zach"),
        ("she", "Aisha Alice Amara Amy Anna Ayesha Bella Carmen Chloe Clara Dina Elena Emma Fatima Freya Grace Hana "
                "Hannah Ines Ingrid Isabel Jane Jasmine Julia Kate Keiko Laila Leah Lena Lily Lucia Maria Maya Mei Mia "
                "Nadia Nina Nora Olga Olivia Priya Rosa Ruth Sana Sara Sofia Tara Uma Vera Yara Zoe"),
    )
    for name in names.split()
)  # fmt: skip

NOUNS: dict[str, tuple[str, ...]] = {
    "fruit": ("apples", "oranges", "pears", "peaches", "plums", "mangoes", "lemons", "bananas", "apricots", "kiwis"),
    "vegetable": ("carrots", "potatoes", "onions", "tomatoes", "peppers", "beets", "cucumbers", "turnips", "leeks"),
    "toy": ("marbles", "stickers", "toy cars", "trading cards", "beads", "balloons", "building blocks", "yo-yos", "kites"),
    "snack": ("cookies", "muffins", "pretzels", "brownies", "crackers", "cupcakes", "waffles", "biscuits", "pastries"),
    "animal": ("chickens", "goats", "sheep", "ducks", "rabbits", "cows", "horses", "turkeys", "pigs"),
    "flower": ("roses", "tulips", "daisies", "lilies", "sunflowers", "violets", "orchids", "irises", "poppies"),
    "supply": ("pencils", "notebooks", "erasers", "folders", "markers", "rulers", "crayons", "pens", "envelopes"),
    "craft": ("bracelets", "candles", "scarves", "mugs", "baskets", "lanterns", "picture frames", "wooden bowls", "hats"),
    "reading": ("novels", "comic books", "magazines", "atlases", "cookbooks", "poetry books", "textbooks", "guidebooks"),
    "place": ("school", "the library", "the market", "the park", "the harbor", "the museum", "the workshop", "the gym"),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "sport": ("basketball", "soccer", "tennis", "hockey", "volleyball", "rugby", "badminton", "cricket"),
    "relative": ("brother", "sister", "cousin", "uncle", "aunt", "grandmother", "grandfather", "neighbor"),
    "color": ("red", "blue", "green", "yellow", "white", "black", "orange", "purple"),
    "vehicle": ("bus", "train", "truck", "van", "car", "ferry", "motorbike"),
    "drink": ("lemonade", "apple juice", "iced tea", "milk", "cocoa", "orange juice", "ginger ale"),
    "dish": ("soup", "stew", "curry", "salad", "porridge", "chili", "risotto"),
}

OPENINGS: dict[str, tuple[str, ...]] = {
    "corpus": ("Last week", "On a rainy day", "This spring", "Before lunch", "Early one morning", "In the fall"),
    "task": ("Yesterday", "One summer", "After breakfast", "During the holidays", "Last month", "At the weekend"),
}
ASIDES: dict[str, tuple[str, ...]] = {
    "corpus": (
        "{A} is wearing {his} favorite {color} jacket.",
        "{B} <watches from the window|is busy elsewhere|is asleep>.",
        "The {vehicle} to {place} is late.",
        "{A} likes {sport} a lot.",
        "It is <a windy|a sunny|a cold|a warm> <morning|afternoon|evening>.",
        "{B} brought some {drink}.",
        "{His} {relative} <says hello|waves|helps a little>.",
    ),
    "task": (
        "{B} prefers {color} to {color2}.",
        "{A} hums a <song|tune> all along.",
        "Nobody at {place} <notices|minds>.",
        "{B} would rather play {sport}.",
        "<Outside|In the street>, a {vehicle} goes by.",
        "{A} had {dish} for <lunch|dinner>.",
        "<The weather|The day> is <fine|dull|mild>.",
    ),
}
"""Irrelevant sentences, too short to form an overlap of thirteen words alone."""

NUMBER_WORDS = dict(
    zip(
        range(2, 13),
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
        strict=True,
    )
)
