"""Secrets taken out of what is logged or shown: some servers repeat the key that they refuse."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote, quote_plus

from fleming_sql import jsontext

REDACTED: Final = "[REDACTED]"
SHORTEST: Final = 4
"""Shorter ones would show where they have been taken out."""
SHORTEST_IN_CONTENT: Final = 8
"""In requests and answers, where `EMPTY`, `local` or `test`, the dummy keys of local servers, are words like others."""


class Redactor:
    """Takes secrets out of texts, in whatever form servers write them: plain, escaped as JSON, or percent-encoded.

    Args:
        secrets: Their values.
        shortest: Those with fewer characters stay.

    Example:
        >>> Redactor(["sk-123456"]).clean("no such key: sk-123456")
        'no such key: [REDACTED]'
    """

    def __init__(self, secrets: Iterable[str], shortest: int = SHORTEST) -> None:
        forms = {form for secret in secrets if len(secret) >= shortest for form in _forms(secret)}
        self._forms = sorted(forms, key=len, reverse=True)  # an encoded form may hold the plain one

    def __bool__(self) -> bool:
        return bool(self._forms)

    def clean(self, text: str) -> str:
        """Return a text without the secrets."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, REDACTED)
        return text

    def clean_value(self, value: Any) -> Any:
        """Return a JSON value without the secrets in its texts; the names of its fields stay."""
        if isinstance(value, str):
            return self.clean(value)
        if isinstance(value, list):
            return [self.clean_value(item) for item in value]
        if isinstance(value, dict):
            return {key: self.clean_value(item) for key, item in value.items()}
        return value


def _forms(secret: str) -> Iterable[str]:
    return secret, jsontext.dumps(secret)[1:-1], quote(secret, safe=""), quote_plus(secret)
