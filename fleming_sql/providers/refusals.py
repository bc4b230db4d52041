"""Whether an error answer says that this model will not, where another one might.

Codes come first: they are made for programs. Where a server has none, its own message is searched for the
phrases below, each with the servers that use it. Only message fields are read: servers echo what they were
sent in others, and a prompt about context windows is no reason to go elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from fleming_sql import jsontext
from fleming_sql.types import Refusal

_STATUSES: Final = frozenset({400, 403, 413, 422})
"""Where servers put such refusals. 401, 402, 404, 408, 429 and 5xx have their own treatment by status."""
_TOO_LARGE: Final = 413

_CODES: Final[dict[str, Refusal]] = {
    "contextlengthexceeded": "context_window",  # OpenAI, Groq, Together, Fireworks
    "contextwindowexceeded": "context_window",
    "modelcontextwindowexceeded": "context_window",
    "exceedcontextsizeerror": "context_window",  # llama.cpp
    "requesttoolarge": "context_window",  # Anthropic
    "contentfilter": "content_policy",  # Azure OpenAI, Moonshot
    "contentpolicyviolation": "content_policy",  # OpenAI, OpenRouter
    "responsibleaipolicyviolation": "content_policy",  # Azure OpenAI, as the inner error
    "moderationblocked": "content_policy",  # OpenAI
    "datainspectionfailed": "content_policy",  # Alibaba
    "inputguardrailtriggered": "content_policy",  # Databricks
    "outputguardrailtriggered": "content_policy",
}
"""By code without case, hyphens and underscores: `ContentFilter` is `content_filter`."""

_CODE_KEYS: Final = ("code", "type", "status", "error_code", "error_type", "finishReason")
_MESSAGE_KEYS: Final = ("message", "msg", "detail", "error", "error_message", "raw")
_INNER_KEYS: Final = ("error", "errors", "detail", "innererror", "inner_error", "metadata", "message", "raw")
_MAX_DEPTH: Final = 8
_MAX_ITEMS: Final = 16
_MAX_TEXTS: Final = 64
_MAX_TEXT: Final = 2_000
_MAX_JSON: Final = 100_000

# In lower case, as the messages are by then: several times as fast as IGNORECASE.
_CONTENT_POLICY: Final = re.compile(
    r"""content\ management\ policy                       # Azure OpenAI
    | rejected\ (?:as\ a\ result\ of|by)\ (?:our|the)\ safety\ system  # OpenAI
    | flagged\ as\ potentially\ violating                 # OpenAI, under the code invalid_prompt
    | blocked\ by\ (?:our\ )?content\ filter              # Anthropic, Bedrock
    | violates\ usage\ guidelines                         # xAI
    | requires\ moderation\b.*\bflagged                   # OpenRouter
    | input\ was\ flagged                                 # OpenRouter
    | content\ exists\ risk                               # DeepSeek
    | may\ contain\ inappropriate\ content                # Alibaba
    """,
    re.VERBOSE,
)
_CONTEXT_WINDOW: Final = re.compile(
    r"""maximum\ context\ (?:length|limit)                # OpenAI, vLLM, SGLang, Mistral, OpenRouter
    | (?:exceed|longer|larger|greater|overflow|too\ long|too\ large)[^\n]{0,80}\bcontext\ (?:window|length|size|limit)
                                                          # Anthropic, Ollama, llama.cpp, LM Studio, Together
    | \bcontext\ (?:window|length|size|limit)[^\n]{0,40}\bexceed  # MiniMax, Ollama
    | \b(?:prompt|input)\ (?:is\ )?too\ (?:long|large)\b  # Anthropic, Bedrock
    | \b(?:input|prompt)\ token\ count\b[^\n]{0,60}(?:exceed|\bbut\b)  # Gemini, Vertex AI, Databricks
    | \binput\ tokens\ exceed                             # OpenAI
    | exceeds\ the\ max(?:imum)?(?:\ allowed|\ number\ of)?\ input  # Bedrock, Poolside
    | too\ many\ input\ tokens                            # Bedrock
    | too\ many\ tokens:                                  # Cohere
    | maximum\ prompt\ length\ is                         # xAI
    | reduce\ the\ length\ of\ the\ (?:messages|prompt|input)  # Groq
    | longer\ than\ the\ maximum\ model\ length           # vLLM
    | exceeds?\ max_(?:model|seq)_len                     # vLLM and its kin
    | more\ than\ max\ tokens\ allowed                    # Zhipu
    | exceeded\ model\ token\ limit                       # Moonshot
    | range\ of\ input\ length\ should\ be                # Alibaba
    | \binputs?\b.{0,3}\ must\ have\ less\ than\ \d+\ tokens  # text-embeddings-inference, SiliconFlow
    | `inputs`\ tokens\ \+\ `max_new_tokens`\ must\ be    # text-generation-inference
    | invalid\ '(?:messages|input|prompt)[^']*':\ string\ too\ long  # OpenAI
    """,
    re.VERBOSE,
)


def read_refusal(status: int, payload: Any) -> Refusal | None:
    """Return what an error answer refuses, None where it is an error of another kind.

    A status of 413 is `context_window` whatever its text: too large for this server.

    Args:
        status: HTTP status.
        payload: The answer, parsed JSON or text if it is none.

    Example:
        >>> read_refusal(400, {"error": {"message": "…", "code": "context_length_exceeded"}})
        'context_window'
    """
    if status not in _STATUSES:
        return None
    told = [*islice(_texts(payload, _MAX_DEPTH), _MAX_TEXTS)]
    codes = (_bare(text) for is_code, text in told if is_code)
    found = next((_CODES[code] for code in codes if code in _CODES), None)
    if found is None:
        found = _from_messages([text for is_code, text in told if not is_code])
    return "context_window" if found is None and status == _TOO_LARGE else found


def _from_messages(messages: list[str]) -> Refusal | None:
    if any(_CONTENT_POLICY.search(message) for message in messages):
        return "content_policy"
    return "context_window" if any(_CONTEXT_WINDOW.search(message) for message in messages) else None


def _bare(code: str) -> str:
    return code.replace("_", "").replace("-", "").lower()


def _texts(value: Any, depth: int) -> Iterator[tuple[bool, str]]:
    """Yield codes (True) and messages (False) of an error answer, from the outside in."""
    if isinstance(value, str):
        yield from _told(value, depth)
    elif isinstance(value, list) and depth:
        for item in value[:_MAX_ITEMS]:
            yield from _texts(item, depth - 1)
    elif isinstance(value, dict) and depth:
        for key in _CODE_KEYS:
            if isinstance(value.get(key), str):
                yield True, value[key]
        for key in _MESSAGE_KEYS:
            if isinstance(value.get(key), str):
                yield from _told(value[key], depth - 1)
        for key in _INNER_KEYS:
            if isinstance(value.get(key), dict | list):
                yield from _texts(value[key], depth - 1)


def _told(text: str, depth: int) -> Iterator[tuple[bool, str]]:
    """Yield a message, or what is inside where a gateway has wrapped an answer as text."""
    if depth and text[:1] in ("{", "[") and len(text) <= _MAX_JSON:
        try:
            inner = jsontext.loads(text)
        except ValueError:
            inner = None
        if isinstance(inner, dict | list):
            yield from _texts(inner, depth - 1)
            return
    yield False, text[:_MAX_TEXT].lower()
