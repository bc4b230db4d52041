"""The input tokens of a request before it is sent: counted where a vocabulary is at hand, estimated where none is.

A vocabulary is at hand if the optional package bpe-openai is installed, which carries it, or if tiktoken is installed
and its own cache folder holds the file. Nothing is ever downloaded. Both packages count alike; bpe-openai comes first
because it is the faster one. Both are imported by this module only, on first use.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from fleming_sql import jsontext
from fleming_sql.policies.tokens import estimate_tokens
from fleming_sql.types import ModelRequest

DEFAULT_VOCABULARY: Final = "o200k_base"
"""Counts for models whose own vocabulary is not public: wrong by some per cent, and nearer than characters / 4."""

MESSAGE_TOKENS: Final = 3
NAME_TOKENS: Final = 1
REPLY_TOKENS: Final = 3
"""What the chat format adds per message, per `name` and per request, on gpt-3.5-turbo to gpt-4o; later models may
differ by a few. Source: OpenAI Cookbook, How to count tokens with tiktoken, section 6,
https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken
"""

IMAGE_TOKENS: Final = 765
LOW_DETAIL_IMAGE_TOKENS: Final = 85
"""An image, whatever its size: OpenAI's figure for 1024 x 1024 pixels, 85 + 4 tiles of 170, and that of `low` detail.
Source: https://platform.openai.com/docs/guides/images-vision, calculating costs, gpt-4o.
"""

COUNTED_CHARACTERS: Final = 50_000
"""A longer request is counted up to here and scaled, so that it holds the event loop for a few milliseconds at most.
It also keeps below the 200,000 tokens beyond which bpe-openai refuses, as a character has at most four.
"""

_MODELS: Final = re.compile(
    r"(?:.*/)?(?:ft:)?(?:"
    r"(?P<o200k_base>(?:chat)?gpt-4o|gpt-4\.[15]|gpt-5(?:\.\d+)?|o[134])|"
    r"(?P<cl100k_base>gpt-4|gpt-3\.?5|text-embedding-3|text-embedding-ada-002|davinci-002|babbage-002)"
    r")(?![\w.])",
    re.IGNORECASE,
)
"""Models and their vocabularies, as tiktoken/model.py lists them."""


class _CachedFile(NamedTuple):
    name: str
    """What tiktoken calls it in its cache: the SHA-1 of the address that it would download from."""
    sha256: str


_CACHED_FILES: Final = MappingProxyType(
    {
        "cl100k_base": _CachedFile(
            "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
            "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        ),
        "o200k_base": _CachedFile(
            "fb374d419588a4632f3f557e76b4b70aebbca790",
            "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        ),
    }
)

_Encode = Callable[[str], Sequence[int]]


def vocabulary_of(model: str) -> str | None:
    """Return the vocabulary of an OpenAI model, None for a model whose vocabulary is not known.

    A provider's prefix is passed over, as in `openai/gpt-4o`.

    Example:
        >>> vocabulary_of("gpt-4o-mini"), vocabulary_of("text-embedding-3-small"), vocabulary_of("llama-4")
        ('o200k_base', 'cl100k_base', None)
    """
    known = _MODELS.match(model)
    return known.lastgroup if known else None


class TokenCounter:
    """Counts the tokens of a request's texts; exact where a vocabulary is at hand, else estimated.

    A vocabulary is loaded when it is first needed, which takes up to half a second.
    """

    def __init__(self) -> None:
        self._encoders: dict[str, _Encode | None] = {}

    def count(self, request: ModelRequest, model: str) -> int:
        """Return the input tokens of a request to `model`. Never raises for what a text holds.

        Counted are messages, inputs and fields, and what is sent beside them: tools and the schema of the answer.
        """
        texts = list(_texts(request))
        encode = self._encoder(vocabulary_of(model) or DEFAULT_VOCABULARY)
        if encode is None:
            return _framing(request.messages) + estimate_tokens(sum(map(len, texts)))
        return _framing(request.messages) + _counted(texts, encode)

    def count_text(self, text: str, model: str) -> int:
        """Return the tokens of one text. Never raises for what it holds."""
        encode = self._encoder(vocabulary_of(model) or DEFAULT_VOCABULARY)
        return estimate_tokens(len(text)) if encode is None else _counted([text], encode)

    def load(self, model: str) -> None:
        """Load what counting for `model` needs, from whichever thread."""
        self._encoder(vocabulary_of(model) or DEFAULT_VOCABULARY)

    def is_exact(self, model: str) -> bool:
        """Return whether texts for `model` are counted with its own vocabulary.

        Images, tools, schemas and requests of more than `COUNTED_CHARACTERS` are approximate even then.
        """
        vocabulary = vocabulary_of(model)
        return vocabulary is not None and self._encoder(vocabulary) is not None

    def _encoder(self, vocabulary: str) -> _Encode | None:
        if vocabulary not in self._encoders:
            self._encoders[vocabulary] = _from_bpe_openai(vocabulary) or _from_tiktoken(vocabulary)
        return self._encoders[vocabulary]


def _counted(texts: Sequence[str], encode: _Encode) -> int:
    characters = sum(map(len, texts))
    if characters <= COUNTED_CHARACTERS:
        return sum(len(encode(text)) for text in texts)
    tokens, left = 0, COUNTED_CHARACTERS
    for text in texts:
        if not left:
            break
        tokens += len(encode(text[:left]))
        left -= min(left, len(text))
    return tokens * characters // COUNTED_CHARACTERS


def _texts(request: ModelRequest) -> Iterator[str]:
    yield from request.inputs
    for value in chain.from_iterable(message.values() for message in request.messages):
        for part in value if isinstance(value, list) else (value,):
            if not _is_image(part):
                yield _text(part)
    yield _text(request.fields)
    for name in ("tools", "functions"):
        yield _text(request.parameters.get(name))
    if request.response_format is not None:
        yield _text(request.response_format.schema)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and value.get("type") == "text" and isinstance(value.get("text"), str):
        return str(value["text"])
    try:
        return jsontext.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return ""  # what is no JSON is refused where the request is written, and costs no tokens


def _framing(messages: Sequence[Mapping[str, Any]]) -> int:
    if not messages:
        return 0
    return REPLY_TOKENS + sum(
        MESSAGE_TOKENS + NAME_TOKENS * (message.get("name") is not None) + _images(message.get("content"))
        for message in messages
    )


def _images(content: Any) -> int:
    if not isinstance(content, list):
        return 0
    return sum(_image_tokens(part["image_url"]) for part in content if _is_image(part))


def _image_tokens(image: Any) -> int:
    low = isinstance(image, Mapping) and image.get("detail") == "low"
    return LOW_DETAIL_IMAGE_TOKENS if low else IMAGE_TOKENS


def _is_image(part: Any) -> bool:
    return isinstance(part, Mapping) and "image_url" in part


def _from_bpe_openai(vocabulary: str) -> _Encode | None:
    # Python 3.11 and 3.12 deprecate the way it reads its files; where warnings are errors, that would fail a request.
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        try:
            from bpe_openai import get_encoding
        except ImportError:
            return None
        encoding = get_encoding(vocabulary)
    # Unlike `encode` it reads "<|endoftext|>" as the text that it is, and does not raise for it.
    encode: _Encode = encoding.encode_ordinary
    return encode


def _from_tiktoken(vocabulary: str) -> _Encode | None:
    if not _is_cached(_CACHED_FILES[vocabulary]):
        return None  # tiktoken would download it
    try:
        import tiktoken
    except ImportError:
        return None
    if _release(version("tiktoken")) < (0, 13):
        return None  # its time grew with the square of a run of one character: 0.7 s for 50,000 spaces
    return tiktoken.get_encoding(vocabulary).encode_ordinary


def _is_cached(file: _CachedFile) -> bool:
    """Look where tiktoken will look. A file with another content does not count: tiktoken would fetch it anew."""
    default = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
    if not folder:
        return False  # empty switches the cache off
    try:
        data = Path(folder, file.name).read_bytes()
    except (OSError, ValueError):
        return False
    return hashlib.sha256(data).hexdigest() == file.sha256


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])
