"""Precision and recall of anything that finds personal data, per entity, against the corpus."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.pii_corpus import Entity, Example

Find = Callable[[str], Sequence[Entity]]
"""Returns what it takes for personal data in a text."""


@dataclass(slots=True)
class Tally:
    """What was found of one entity."""

    labelled: int = 0
    found: int = 0
    """Labels that something of their entity overlaps."""
    exact: int = 0
    """Labels that something of their entity covers from the first character to the last and no further."""
    predicted: int = 0
    right: int = 0
    """Predictions that overlap a label of their entity."""

    @property
    def precision(self) -> float:
        """Return the share of predictions that are right; 1 where there are none."""
        return self.right / self.predicted if self.predicted else 1.0

    @property
    def recall(self) -> float:
        """Return the share of labels that were found; 1 where there are none."""
        return self.found / self.labelled if self.labelled else 1.0

    @property
    def exactness(self) -> float:
        """Return the share of labels that were found whose span is met exactly."""
        return self.exact / self.found if self.found else 1.0

    def add(self, other: Tally) -> None:
        """Count what another one has counted."""
        self.labelled += other.labelled
        self.found += other.found
        self.exact += other.exact
        self.predicted += other.predicted
        self.right += other.right


@dataclass(frozen=True, slots=True)
class Mistake:
    """A label that was missed, or a prediction that was wrong."""

    example: Example
    entity: Entity
    is_missed: bool


def score(examples: Iterable[Example], find: Find) -> tuple[dict[str, Tally], list[Mistake]]:
    """Return the tally of each entity, and what went wrong."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    mistakes: list[Mistake] = []
    for example in examples:
        mistakes += _score_one(example, find(example.text), tallies)
    return dict(tallies), mistakes


def total(tallies: Mapping[str, Tally]) -> Tally:
    """Return all entities as one (micro average)."""
    whole = Tally()
    for tally in tallies.values():
        whole.add(tally)
    return whole


def _score_one(example: Example, predictions: Sequence[Entity], tallies: dict[str, Tally]) -> Iterable[Mistake]:
    labels = [entity for entity in example.entities if not entity.optional]
    for label in labels:
        tally = tallies[label.type]
        tally.labelled += 1
        if any(_agree(label, prediction) for prediction in predictions):
            tally.found += 1
            tally.exact += any(prediction == label for prediction in predictions)
        else:
            yield Mistake(example, label, is_missed=True)
    for prediction in predictions:
        is_right = any(_agree(label, prediction) for label in labels)
        if not is_right and any(entity.optional and _overlap(entity, prediction) for entity in example.entities):
            continue
        tallies[prediction.type].predicted += 1
        tallies[prediction.type].right += is_right
        if not is_right:
            yield Mistake(example, prediction, is_missed=False)


def _agree(label: Entity, prediction: Entity) -> bool:
    return label.type == prediction.type and _overlap(label, prediction)


def _overlap(one: Entity, other: Entity) -> bool:
    return one.start < other.end and other.start < one.end
