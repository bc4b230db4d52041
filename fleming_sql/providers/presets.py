"""Reads `presets.csv`: the providers that speak OpenAI's wire format, one row each.

The columns are those of the table `fleming.providers`; only three are written shorter: `title` becomes the
description, `tasks` are words of `_TASKS`, and `quirks` are `key=value`, with blanks between. A quirk is one of

- `max_tokens_parameter`, `max_inputs_per_request`, `response_formats`: what the key of that name in `provider_config`
  is by default;
- `refused_parameters`: parameters that the server refuses or, worse, ignores, with `|` between;
- `think_tags=true`: models write what they think in front of the answer, between `<think>` and `</think>`;
- `header.<key>=<name>`: a header that carries the value of a key of `provider_config`.

A name in braces in `base_url` is a key of `provider_config` that an entity has to set.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fleming_sql.types import AGENT_CHAT, AGENT_RESPONSES, CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES

PRESETS: Final = Path(__file__).with_name("presets.csv")
_TASKS: Final[Mapping[str, tuple[str, ...]]] = {
    "chat": (CHAT, AGENT_CHAT),
    "completions": (COMPLETIONS,),
    "embeddings": (EMBEDDINGS,),
    "responses": (RESPONSES, AGENT_RESPONSES),
}
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Preset:
    """One row of `presets.csv`."""

    name: str
    title: str
    base_url: str
    credential_variable: str | None
    tasks: frozenset[str]
    quirks: Mapping[str, str]
    price_list: str | None
    documentation_url: str

    @property
    def url_keys(self) -> tuple[str, ...]:
        """Keys of `provider_config` that are parts of the address."""
        return tuple(_PLACEHOLDER.findall(self.base_url))

    @property
    def needs_credential(self) -> bool:
        """Whether its address answers nobody without a credential; servers on one's own machine do."""
        return self.credential_variable is not None and urlsplit(self.base_url).hostname not in _LOCAL


@cache
def read_presets(path: Path = PRESETS) -> Mapping[str, Preset]:
    """Return the rows of a file by name.

    Example:
        >>> read_presets()["groq"].base_url
        'https://api.groq.com/openai/v1'
    """
    with path.open(encoding="utf-8", newline="") as file:
        return {row["name"]: _preset(row) for row in csv.DictReader(file)}


def _preset(row: Mapping[str, str]) -> Preset:
    quirks = dict(quirk.split("=", 1) for quirk in row["quirks"].split())
    return Preset(
        row["name"],
        row["title"],
        row["base_url"],
        row["credential_variable"] or None,
        frozenset(task for word in row["tasks"].split() for task in _TASKS[word]),
        quirks,
        row["price_list"] or None,
        row["documentation_url"],
    )
