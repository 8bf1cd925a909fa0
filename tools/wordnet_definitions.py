"""Writes `kerastl/data/wordnet/definitions.csv`: definitions of nouns from WordNet 3.0, each under the kind of thing that it describes.

    apt-get install wordnet-base
    python tools/wordnet_definitions.py --wordnet /usr/share/wordnet

WordNet's lexicographers keep nouns in one file a kind ("nouns denoting animals"), and the files are the classes. Names of single
persons and places are left out, and so are definitions that stand under two words, and those of abuse, sex and peoples, which have
no place in a demo. Of the rest a digest decides which are taken, so that the same ones are taken everywhere.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

OUTPUT = Path("kerastl/data/wordnet/definitions.csv")
# Numbers of lexicographer files: `man 5WN lexnames`.
CLASSES = {
    5: "animal", 6: "artifact", 8: "body", 10: "communication", 12: "feeling", 13: "food", 15: "location", 18: "person",
    20: "plant", 28: "time",
}  # fmt: skip
PER_CLASS = 300
FEWEST_CHARACTERS, MOST_CHARACTERS = 20, 120
INSTANCE = "@i"
LEFT_OUT = re.compile(
    r"\b(offens|slur|derog|disparag|contemptuous|obscen|vulgar|taboo|profan|sex|homosex|lesbian|coit|copulat|erotic|genital|penis|vagina|"
    r"prostitut|brothel|rape|rapist|racial|races?\b|racist|ethnic|negr|slave|nazi|jew(s|ish)?\b|gyps(y|ies)|muslim|religion|"
    r"members? of .*\bpeople\b|effemin|castrat|deform|illiterate|loathsome|scold|ugly|stupid|feces|excre|urin|murder|suicid)",
    re.IGNORECASE,
)


def nouns(folder: Path) -> Iterator[tuple[int, str]]:
    """Lexicographer file and definition of each noun that names a kind, not one single thing."""
    with (folder / "data.noun").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("  "):  # the licence
                continue
            entry, _, gloss = line.partition(" | ")
            fields = entry.split(" ")
            definition = gloss.strip().split('; "')[0]  # examples of use follow it
            if INSTANCE not in fields and FEWEST_CHARACTERS <= len(definition) <= MOST_CHARACTERS:
                yield int(fields[1]), definition


def in_drawn_order(texts: list[str]) -> list[str]:
    """The texts by their digests."""
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())


def chosen(folder: Path) -> dict[str, list[str]]:
    """The definitions of each class."""
    pairs = list(nouns(folder))
    times = Counter(text for _, text in pairs)
    found = {}
    for number, name in CLASSES.items():
        texts = [
            text for file, text in pairs if file == number and times[text] == 1 and not LEFT_OUT.search(text)
        ]
        found[name] = in_drawn_order(texts)[:PER_CLASS]
    return found


def others(folder: Path) -> list[str]:
    """All definitions of nouns but those that are shipped, in an order of their own."""
    shipped = {text for texts in chosen(folder).values() for text in texts}
    return in_drawn_order(list({text for _, text in nouns(folder)} - shipped))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with data.noun")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    asked = parser.parse_args()
    asked.output.parent.mkdir(exist_ok=True)
    rows = [(text, name) for name, texts in chosen(asked.wordnet).items() for text in texts]
    with asked.output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("text", "label"), *rows])
    digest = hashlib.sha256(asked.output.read_bytes()).hexdigest()
    print(
        f"{asked.output}: {len(rows):,} definitions, {asked.output.stat().st_size:,} bytes, SHA-256 {digest}"
    )


if __name__ == "__main__":
    main()
