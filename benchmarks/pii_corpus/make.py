"""Writes corpus.jsonl from the templates and the texts written by hand: python -m benchmarks.pii_corpus.make."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from random import Random
from typing import Final

from benchmarks.pii_corpus import CORPUS, Entity, Example
from benchmarks.pii_corpus.filling import Filler
from benchmarks.pii_corpus.obfuscation import obfuscated

SEED: Final = 20260503
OBFUSCATED: Final = 176
_FOLDER: Final = Path(__file__).parent
_TRIES: Final = 20
"""How often a template is filled anew before its text is given up as one that is there already."""


def make() -> list[Example]:
    """Return the corpus, which is the same each time."""
    random = Random(SEED)  # noqa: S311  made-up values, not secrets
    filler = Filler(random)
    held_out = Filler(Random(SEED + 1))  # noqa: S311  made-up values, not secrets
    parts = (
        _by_hand(filler, "hand"),
        _generated(random, filler),
        obfuscated(random, OBFUSCATED),
        _by_hand(held_out, "held_out"),
    )
    by_text: dict[str, Example] = {}
    for example in chain(*parts):
        by_text.setdefault(example.text, example)
    return list(by_text.values())


def write(examples: list[Example], path: Path = CORPUS) -> None:
    """Write the corpus, one text a line."""
    path.write_text("".join(f"{_line(example)}\n" for example in examples), "utf-8")


def _by_hand(filler: Filler, name: str) -> Iterator[Example]:
    for line in (_FOLDER / f"{name}.txt").read_text("utf-8").splitlines():
        text, entities = filler.fill(line)
        yield Example(text, entities, name, name)


def _generated(random: Random, filler: Filler) -> Iterator[Example]:
    fillers = (_FOLDER / "templates" / "filler.txt").read_text("utf-8").splitlines()
    for name in ("with_pii.txt", "clean.txt"):
        for topic, count, templates in _sections(_FOLDER / "templates" / name):
            seen: set[str] = set()
            for number in range(count):
                for _ in range(_TRIES):
                    template = _extended(random, templates[number % len(templates)], fillers)
                    text, entities = filler.fill(template)
                    if text not in seen:
                        seen.add(text)
                        yield Example(text, entities, "generated", topic)
                        break


def _sections(path: Path) -> Iterator[tuple[str, int, list[str]]]:
    """Yield each section of a file of templates: its topic, how many texts to make, the templates."""
    for section in path.read_text("utf-8").split("## ")[1:]:
        head, *templates = section.splitlines()
        topic, count = head.rsplit(" ", 1)
        yield topic, int(count), templates


def _extended(random: Random, template: str, fillers: list[str]) -> str:
    """Return a template, now and then with a sentence before or after; logs, CSV and code stay as they are."""
    is_prose = template[0].isalpha() and template[-1] in ".!?。" and "\\n" not in template
    chance = random.random()
    if not is_prose or chance < 0.4:
        return template
    sentence = random.choice(fillers)
    return f"{sentence} {template}" if chance < 0.6 else f"{template} {sentence}"


def _line(example: Example) -> str:
    labels = [_label(entity) for entity in example.entities]
    rest = json.dumps({"entities": labels, "source": example.source, "topic": example.topic}, ensure_ascii=False)
    return f'{{"text": "{_escaped(example)}", {rest[1:]}'


def _label(entity: Entity) -> dict[str, object]:
    label: dict[str, object] = {"type": entity.type, "start": entity.start, "end": entity.end}
    return {**label, "optional": True} if entity.optional else label


def _escaped(example: Example) -> str:
    """Return the text as in JSON, the first character of keys as an escape, so that no scanner takes them for real."""
    starts = {entity.start for entity in example.entities if entity.type == "API_KEY"}
    return "".join(
        f"\\u{ord(character):04x}" if position in starts else _plain(character)
        for position, character in enumerate(example.text)
    )


def _plain(character: str) -> str:
    # Marks that cannot be seen are written out, or an editor would lose them.
    return json.dumps(character, ensure_ascii=not character.isprintable())[1:-1]


if __name__ == "__main__":
    write(make())
