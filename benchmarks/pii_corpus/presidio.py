"""Presidio's pattern recognisers, to put beside ours, with their context words; no model for names and places.

The only module that imports presidio_analyzer and spaCy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, Final

from benchmarks.pii_corpus import Entity

THRESHOLD: Final = 0.4
"""Below the lowest score of a phone number, above that of any nine digits without a word beside them."""
_RECOGNIZERS: Final = (
    "CreditCard", "Crypto", "DeFuehrerschein", "DePassport", "Email", "EsPassport", "Iban", "InPassport", "Ip",
    "ItDriverLicense", "ItPassport",
    "KrPassport", "MacAddress", "Phone", "UkDrivingLicence", "UkPassport", "UsBank", "UsLicense", "UsPassport", "UsSsn",
)  # fmt: skip


def is_installed() -> bool:
    """Return whether Presidio can be put beside."""
    return find_spec("presidio_analyzer") is not None


def version() -> str:
    """Return its version."""
    return metadata.version("presidio_analyzer")


def make_find() -> Callable[[str], list[Entity]]:
    """Return Presidio's analyzer as something that finds.

    Of two finds that overlap it keeps the surer, as Presidio's anonymizer does.
    """
    analyzer = _analyzer()

    def find(text: str) -> list[Entity]:
        kept: list[Entity] = []
        results = analyzer.analyze(text=text, language="en", score_threshold=THRESHOLD)
        for result in sorted(results, key=lambda one: (-one.score, one.start - one.end)):
            entity = Entity(_name(result.entity_type), result.start, result.end)
            if not any(other.start < entity.end and entity.start < other.end for other in kept):
                kept.append(entity)
        return kept

    return find


def _analyzer() -> Any:
    import presidio_analyzer
    from presidio_analyzer import predefined_recognizers

    tldextract: Any = import_module("tldextract")
    # The list of domains that comes with it: without a network, waiting for a newer one takes seconds.
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=())
    recognizers = [
        getattr(predefined_recognizers, f"{name}Recognizer")(supported_language="en") for name in _RECOGNIZERS
    ]
    registry = presidio_analyzer.RecognizerRegistry(recognizers=recognizers, supported_languages=["en"])
    return presidio_analyzer.AnalyzerEngine(registry=registry, nlp_engine=_nlp_engine(), supported_languages=["en"])


def _nlp_engine() -> Any:
    """Return what cuts a text into words, for the context words; it knows no names and needs no model."""
    import spacy
    from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine

    nlp = spacy.blank("en")

    class Blank(NlpEngine):  # type: ignore[misc, unused-ignore]
        def load(self) -> None:
            pass

        def is_loaded(self) -> bool:
            return True

        def process_text(self, text: str, language: str) -> Any:
            document = nlp(text)
            words = [token.text.lower() for token in document]
            return NlpArtifacts([], document, [token.idx for token in document], words, self, language)

        def process_batch(self, texts: Iterable[str], language: str, **_: Any) -> Iterator[tuple[str, Any]]:
            return ((text, self.process_text(text, language)) for text in texts)

        def is_stopword(self, word: str, language: str) -> bool:
            return bool(nlp.vocab[word].is_stop)

        def is_punct(self, word: str, language: str) -> bool:
            return bool(nlp.vocab[word].is_punct)

        def get_supported_entities(self) -> list[str]:
            return []

        def get_supported_languages(self) -> list[str]:
            return ["en"]

    return Blank()


def _name(entity: str) -> str:
    """Return our name of an entity of Presidio's: the passports and licences of all countries are one each."""
    if "PASSPORT" in entity:
        return "PASSPORT"
    return "DRIVER_LICENSE" if "DRIV" in entity or "FUEHRERSCHEIN" in entity else entity
