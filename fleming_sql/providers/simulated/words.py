"""Made-up answers in plain text, and the few rules that make them look as if they were meant.

The rules, in order, where the entity sets no template:

1. A prompt that lists labels ("into one of: a, b or c", "one word: a, b or c", "as a, b or c") is answered
   with one of them: see `choose`.
2. A prompt that asks for a summary is answered with the first words of the text that follows.
3. Any other prompt is answered with a sentence that repeats its first words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from fleming_sql.providers.simulated.chance import pick

DEFAULT_TEMPLATE: Final = "This is a simulated answer to: {first_words}"
_SUMMARY_TEMPLATE: Final = "Simulated summary: {first_words}"
_FIELD: Final = re.compile(r"\{(prompt|first_words|words|model)\}")
_SUMMARY: Final = re.compile(r"\bsummar|\btl;?dr\b|\bin (?:one|a) sentence\b", re.IGNORECASE)
_LIST_AFTER_COLON: Final = re.compile(
    r"\b(?:one of|one word|labels?|categor(?:y|ies)|class(?:es)?|options?|choices?|into|answer|reply)\b"
    r"[^:\n,]{0,60}:\s*([^\n.;:?]+)",
    re.IGNORECASE,
)
_LIST_IN_SENTENCE: Final = re.compile(
    r"\b(?:classify|categori[sz]e|label|tag|rate|answer|reply|respond|say|return|decide|is)\b[^:\n.]{0,80}?"
    r"\b(?:as|into|with|either|whether it is|is it|one of)\s+(?:either\s+)?"
    r"((?:[\w'-]+(?: [\w'-]+)?,\s*)*[\w'-]+(?: [\w'-]+)?,?\s+or\s+[\w'-]+)",
    re.IGNORECASE,
)
_BETWEEN_LABELS: Final = re.compile(r"\s*(?:,\s*(?:or|and)\b|,|/|\||\bor\b|\band\b)\s*", re.IGNORECASE)
_AROUND_LABELS: Final = " \t\"'`*[](){}<>\u2018\u2019\u201c\u201d"
_LOOKED_AT: Final = 2000
_MAX_LABELS: Final = 30
_FALLBACKS: Final = ("neutral", "other", "unknown", "none", "general", "unclear")
_HINTS: Final[Mapping[str, re.Pattern[str]]] = MappingProxyType(
    {
        label: re.compile(rf"\b(?:{words})", re.IGNORECASE)
        for label, words in {
            "positive": "great|love|excellent|good|happy|thank|perfect|wonderful|amazing|recommend|fast",
            "negative": "bad|terribl|awful|broke|damag|late\\b|refund|angry|disappoint|worst|never|wrong",
            "cancel": "cancel|unsubscrib|terminate|k\u00fcndig|opzeg|annul|r\u00e9sili|disdi",
            "defect": "broke|defect|crack|scratch|dead\\b|kaputt|stopped|noise|leak|crash|error|times? out|not work",
            "feature": "feature|please add|would be (?:nice|great)|wish|suggest|could you add|support for",
            "privacy": "gdpr|dsgvo|rgpd|avg\\b|kvkk|personal data|privacy|datenschutz|delete (?:my|all)|erasure",
            "compla": "terribl|awful|broke|damag|angry|disappoint|worst|unaccept|complain|rude",
            "prais": "great|love|excellent|happy|thank|perfect|wonderful|amazing|compliment|super|bravo",
            "refund": "money back|refund|reimburs",
            "return": "send .{0,12}back|return|exchange",
            "deliver": "late\\b|arriv|ship|parcel|package|courier|deliver|track|paket|liefer|livrais|colis|entreg",
            "ship": "late\\b|arriv|ship|parcel|package|courier|deliver|track",
            "bill": "invoice|charg|payment|paid|card|bill|subscription|price|vat\\b|refund|rechnung|factur|fatt?ura",
            "payment": "invoice|charg|payment|paid|card|bill",
            "tech": "error|crash|bug|log ?in|password|install|app\\b|website|screen|does(?:n't| not) work",
            "bug": "error|crash|bug|does(?:n't| not) work|fail",
            "account": "account|log ?in|password|sign ?in|profile|e-?mail address|passwor|contrase|konto|cuenta",
            "product": "product|quality|size|colou?r|material|broke|defect",
            "urgent": "urgent|immediate|asap|right now|at once|today",
            "high": "urgent|immediate|asap|critical|outage|lawyer",
            "spam": "winner|prize|click here|free money|lottery|viagra",
            "question": "how do|how can|can you|what is|where|when will|\\?",
        }.items()
    }
)
"""What speaks for a label whose name begins with the key, beside the label's own name."""


def answer_text(template: str | None, model: str, asked: str, seed: int) -> str:
    """Return the answer to a prompt in plain text; it depends on the arguments alone.

    Example:
        >>> answer_text("{model}: {words} words", "m-1", "one two three", 0)
        'm-1: 3 words'
    """
    if template is not None:
        return _filled(template, model, asked)
    labels, rest = find_labels(asked)
    if labels:
        return choose(labels, rest, seed, model, asked)
    if _SUMMARY.search(asked, 0, _LOOKED_AT):
        return _filled(_SUMMARY_TEMPLATE, model, _after_instruction(asked), 25)
    return _filled(DEFAULT_TEMPLATE, model, asked)


def first_words(text: str, count: int = 8) -> str:
    """Return the first words of a text, with an ellipsis where there are more."""
    words = text[: count * 40].split(None, count)
    more = len(words) > count or len(text) > count * 40
    return " ".join(words[:count]) + ("…" if more else "")


def find_labels(asked: str) -> tuple[list[str], str]:
    """Return the labels that a prompt lists for its answer, and the prompt without that list.

    Example:
        >>> find_labels("Answer in one word: refund, praise or other. I love it")
        (['refund', 'praise', 'other'], 'Answer in one word: . I love it')
    """
    looked_at = asked if len(asked) <= 2 * _LOOKED_AT else f"{asked[:_LOOKED_AT]}\n{asked[-_LOOKED_AT:]}"
    for pattern in (_LIST_AFTER_COLON, _LIST_IN_SENTENCE):
        for found in pattern.finditer(looked_at):
            labels = _split(found[1])
            if labels:
                return labels, looked_at[: found.start(1)] + looked_at[found.end(1) :]
    return [], asked


def choose(labels: Sequence[str], text: str, *key: object) -> str:
    """Return the label that a text speaks for most.

    A label gets one point for each time its name occurs, and one for each word that hints at it. Where none
    has a point, a label such as `other` or `neutral` is taken if there is one; ties are decided by `key`.
    """
    points = [_points(label, text) for label in labels]
    best = max(points)
    if best == 0:
        fallback = [label for label in labels if label.lower() in _FALLBACKS]
        return fallback[0] if fallback else pick(labels, *key)
    return pick([label for label, found in zip(labels, points, strict=True) if found == best], *key)


def _points(label: str, text: str) -> int:
    lowered = label.lower()
    name = re.escape(lowered.replace("_", " "))
    points = len(re.findall(rf"\b{name}", text.replace("_", " "), re.IGNORECASE)) if lowered else 0
    for stem, pattern in _HINTS.items():
        if lowered.startswith(stem) or f"_{stem}" in lowered or f" {stem}" in lowered:
            points += len(pattern.findall(text))
    return points


def _split(listed: str) -> list[str]:
    labels = [label.strip(_AROUND_LABELS) for label in _BETWEEN_LABELS.split(listed.strip())]
    labels = [label for label in labels if label]
    if not 2 <= len(labels) <= _MAX_LABELS or any(len(label.split()) > 3 for label in labels[:-1]):
        return []
    # The text to classify may follow the list without a full stop.
    last = labels[-1].split()
    return [*labels[:-1], last[0] if len(last) > 3 else labels[-1]]


def _after_instruction(asked: str) -> str:
    """Return what follows the first colon or line break of a prompt, if anything does."""
    found = re.search(r"[:\n]\s*", asked[:300])
    return (asked[found.end() :] if found else "") or asked


def _filled(template: str, model: str, prompt: str, count: int = 8) -> str:
    def value(field: re.Match[str]) -> str:
        match field[1]:
            case "prompt":
                return prompt
            case "words":
                return str(len(prompt.split()))
            case "model":
                return model
        return first_words(prompt, count)

    return _FIELD.sub(value, template)
