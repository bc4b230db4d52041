from __future__ import annotations

import importlib.util

import pytest

from fleming_sql.guardrails.base import BadConfig, Surroundings
from fleming_sql.guardrails.pii import Pii, presidio

PRESIDIO = importlib.util.find_spec("presidio_analyzer") is not None
needs_presidio = pytest.mark.skipif(not PRESIDIO, reason="presidio-analyzer is not installed")


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a spaCy pipeline that knows two names in the place of a model."""
    spacy = pytest.importorskip("spacy")
    blank = spacy.blank("en")
    ruler = blank.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Ada Lovelace"}, {"label": "GPE", "pattern": "London"}])
    monkeypatch.setattr(presidio, "load_model", lambda: blank)


@needs_presidio
@pytest.mark.usefixtures("pipeline")
@pytest.mark.filterwarnings("ignore")
def test_the_engine_presidio_adds_names_and_places_to_what_patterns_find() -> None:
    text = "Ada Lovelace of London, ada@example.com"
    pii = Pii({"engine": "presidio"}, "mask", Surroundings())

    found = [(span.entity, text[span.start : span.end]) for span in pii.find(text)]

    assert found == [("PERSON", "Ada Lovelace"), ("LOCATION", "London"), ("EMAIL_ADDRESS", "ada@example.com")]


@needs_presidio
@pytest.mark.usefixtures("pipeline")
@pytest.mark.filterwarnings("ignore")
def test_only_the_names_asked_for_are_added() -> None:
    pii = Pii({"engine": "presidio", "entities": ["LOCATION"]}, "mask", Surroundings())

    assert [span.entity for span in pii.find("Ada Lovelace of London, ada@example.com")] == ["LOCATION"]


@pytest.mark.skipif(PRESIDIO, reason="presidio-analyzer is installed")
def test_without_presidio_the_engine_is_refused_with_what_to_install() -> None:
    with pytest.raises(BadConfig, match=r"fleming-sql\[presidio\]"):
        Pii({"engine": "presidio"}, "mask", Surroundings())


@needs_presidio
@pytest.mark.filterwarnings("ignore")
def test_without_a_model_the_engine_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presidio, "MODELS", ("xx_no_such_model",))

    with pytest.raises(BadConfig, match="python -m spacy download"):
        Pii({"engine": "presidio"}, "mask", Surroundings())


def test_names_need_the_engine_that_finds_them() -> None:
    with pytest.raises(BadConfig, match="PERSON"):
        Pii({"entities": ["PERSON"]}, "mask", Surroundings())
