"""Names of people and places by named entity recognition: Presidio's recogniser over a spaCy model of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from fleming_sql.guardrails.base import BadConfig
from fleming_sql.guardrails.spans import Span

ENTITIES: Final = ("LOCATION", "NRP", "PERSON")
"""What it adds, by Presidio's names: places, people's nationality, religion or politics, and people."""
MODELS: Final = ("en_core_web_lg", "en_core_web_trf", "en_core_web_md", "en_core_web_sm", "xx_ent_wiki_sm")
"""spaCy's models, the first that is installed is taken. None is ever downloaded."""
_REMEDY: Final = "pip install 'fleming-sql[presidio]' and a spaCy model, as in python -m spacy download en_core_web_lg"


def load_model() -> Any:
    """Return the spaCy pipeline of a model that is installed.

    Raises:
        BadConfig: Presidio or a model is missing.
    """
    try:
        import presidio_analyzer
        import spacy
    except ImportError:
        raise BadConfig("the engine presidio needs presidio-analyzer, which is not installed", _REMEDY) from None
    del presidio_analyzer
    for name in MODELS:
        if spacy.util.is_package(name):
            return spacy.load(name)
    raise BadConfig(f"the engine presidio found none of the models {', '.join(MODELS)}", _REMEDY)


def recogniser(pipeline: Any, entities: Iterable[str]) -> Callable[[str], list[Span]]:
    """Return a function that finds names in a text.

    Args:
        pipeline: Of spaCy, with a component that sets `doc.ents`.
        entities: Which of ENTITIES are wanted.
    """
    from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    class Loaded(SpacyNlpEngine):  # type: ignore[misc, unused-ignore]  # presidio may not be installed
        """An engine over a pipeline that is there: its parent's `load` would download what is missing."""

        def load(self) -> None:
            self.nlp = {"en": pipeline}

    wanted = sorted(entities)
    engine = Loaded(ner_model_configuration=NerModelConfiguration())
    engine.load()
    spacy_recogniser = SpacyRecognizer(supported_entities=wanted)

    def find(text: str) -> list[Span]:
        artifacts = engine.process_text(text, "en")
        results = spacy_recogniser.analyze(text, wanted, artifacts)
        return sorted(Span(result.start, result.end, result.entity_type) for result in results)

    return find
