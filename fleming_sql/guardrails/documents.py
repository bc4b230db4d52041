"""The texts of requests and answers: taken out for guardrails to look at, put back where they were changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from fleming_sql import jsontext
from fleming_sql.types import ModelRequest, Phase

_MEDIA: Final = ("image_url", "image", "input_image", "input_audio", "audio", "file", "input_file", "video_url")
"""Types of the parts of a message that are no text."""
_TEXTS: Final = frozenset({"role", "content", "text"})
"""Fields that no such part has: with one of them it is looked at, whatever its type says."""
_STRUCTURE: Final = frozenset({"role", "type", "id", "tool_call_id", "index", "cache_control"})
"""Fields of a message that say what it is, not what is in it."""
_VALUES: Final = frozenset({"arguments", "input", "output"})
"""Fields of a message that may hold a value of any form, in which no field is structure."""
_SWITCHES: Final = frozenset(
    {"reasoning_effort", "service_tier", "tool_choice", "verbosity", "modalities", "encoding_format", "truncation"}
)
"""Parameters whose texts are names of choices."""

_SCALARS: Final = (int, float, bool, type(None))


class Part(NamedTuple):
    """One text of a document."""

    text: str
    path: str
    """Where it stands, such as `messages[0].content`."""
    role: str
    """Of the message: `system`, `user`, `assistant`, `tool`; `parameter` and `input` for what is no message."""
    run: int = 0
    """Parts with the same number are read one after the other, as one text."""
    arguments: str | None = None
    """What is called with the text among its arguments, as JSON; None for text that is none of a call's arguments."""
    is_number: bool = False
    """Whether it is a number of a JSON value. It goes on in no other part: digits side by side find much."""


@dataclass(frozen=True, slots=True)
class Document:
    """All texts of one request, or of one answer."""

    phase: Phase
    parts: tuple[Part, ...]
    media: int = 0
    """How many pictures and other files stand beside the texts, which no guardrail looks at."""
    before: tuple[Part, ...] = ()
    """Of an answer: the texts of the request."""

    @property
    def texts(self) -> list[str]:
        """The texts of all parts."""
        return [part.text for part in self.parts]

    def with_texts(self, texts: Sequence[str]) -> Document:
        """Return the document with other texts in its parts."""
        return replace(
            self, parts=tuple(part._replace(text=text) for part, text in zip(self.parts, texts, strict=True))
        )


def read_request(request: ModelRequest) -> Document:
    """Return the texts of a request: of all messages, tools and their arguments, inputs and fields.

    Example:
        >>> read_request(ModelRequest("llm/v1/chat", {}, messages=({"role": "user", "content": "Hi"},))).texts
        ['Hi']
    """
    if not request.inputs and request.fields is None and not _has_texts(request.parameters):
        parts = _plain_parts(request.messages)
        if parts is not None:
            return Document("input", parts)
    reader = _Reader()
    _walk_request(request, reader)
    return Document("input", tuple(reader.parts), reader.media)


def write_request(request: ModelRequest, texts: Sequence[str]) -> ModelRequest:
    """Return a request with other texts in the places where `read_request` found them."""
    messages, inputs, fields, parameters = _walk_request(request, _Writer(texts))
    return replace(request, messages=messages, inputs=inputs, fields=fields, parameters=parameters)


def read_answer(content: Any, request: Document | None = None) -> Document:
    """Return the texts of an answer: a text, or all those in a JSON value.

    Args:
        content: As in `types.Answer`.
        request: What it answers.
    """
    reader = _Reader()
    _walk(content, reader, _Place("answer", "assistant"))
    return Document("output", tuple(reader.parts), before=request.parts if request else ())


def write_answer(content: Any, texts: Sequence[str]) -> Any:
    """Return an answer's content with other texts in the places where `read_answer` found them."""
    return _walk(content, _Writer(texts), _Place("answer", "assistant"))


class _Place(NamedTuple):
    """Where in a request a value stands."""

    path: str
    role: str
    run: int = 0
    arguments: str | None = None
    is_number: bool = False

    def inside(self, step: str) -> _Place:
        return _Place(self.path + step, self.role, self.run, self.arguments)


class _Reader:
    """Takes the texts down and leaves them as they are."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.media = 0

    def __call__(self, text: str, place: _Place) -> str:
        self.parts.append(Part(text, *place))
        return text


class _Writer:
    """Gives each text its successor, in the order in which a reader took them down."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = iter(texts)
        self.media = 0

    def __call__(self, text: str, place: _Place) -> str:
        return next(self._texts)


_Visitor = _Reader | _Writer
_Texts = tuple[tuple[Mapping[str, Any], ...], tuple[str, ...], Any, Mapping[str, Any]]
"""Messages, inputs, fields and parameters of a request."""


def _has_texts(parameters: Mapping[str, Any]) -> bool:
    return any(not isinstance(value, _SCALARS) for value in parameters.values()) if parameters else False


def _plain_parts(messages: Sequence[Mapping[str, Any]]) -> tuple[Part, ...] | None:
    """Return what a reader would take down, sooner; None where a message is more than a role and a text."""
    parts = []
    for position, message in enumerate(messages):
        content = message.get("content")
        if len(message) != 2 or not isinstance(content, str) or "role" not in message:
            return None
        parts.append(Part(content, f"messages[{position}].content", str(message["role"])))
    return tuple(parts)


def _walk_request(request: ModelRequest, visit: _Visitor) -> _Texts:
    """Visit all texts of a request in an order that is always the same, and return it with what the visits returned."""
    messages = tuple(
        [
            _walk_message(message, visit, _Place(f"messages[{position}]", str(message.get("role", "user"))))
            for position, message in enumerate(request.messages)
        ]
    )
    inputs = request.inputs and tuple(
        visit(text, _Place(f"inputs[{position}]", "input", 1 + position))
        for position, text in enumerate(request.inputs)
    )
    run = 1 + len(inputs)
    fields = request.fields
    if fields is not None:
        known = jsontext.dumps(fields) if isinstance(visit, _Reader) and isinstance(fields, Mapping) else None
        fields = _walk(fields, visit, _Place("fields", "input", run, known))
    parameters = request.parameters and {
        name: value
        if isinstance(value, _SCALARS) or name in _SWITCHES
        else _walk_parameter(value, visit, _Place(name, "parameter", run + 1 + position))
        for position, (name, value) in enumerate(request.parameters.items())
    }
    return messages, inputs, fields, parameters


def _walk_message(message: Mapping[str, Any], visit: _Visitor, place: _Place) -> Mapping[str, Any]:
    content = message.get("content")
    if len(message) == 2 and isinstance(content, str) and "role" in message:  # nearly all
        return {**message, "content": visit(content, place.inside(".content"))}
    if message.get("type") in _MEDIA:
        visit.media += 1
        if _TEXTS.isdisjoint(message):
            return message
    changed: dict[str, Any] = {}
    for name, value in message.items():
        known = _as_json(value) if name == "arguments" else place.arguments
        inner = place._replace(path=f"{place.path}.{name}", arguments=known)
        if name in _STRUCTURE:
            changed[name] = value
        elif isinstance(value, Mapping) and name not in _VALUES:
            changed[name] = _walk_message(value, visit, inner)
        elif isinstance(value, list) and name not in _VALUES:
            changed[name] = [
                _walk_message(item, visit, inner.inside(f"[{position}]"))
                if isinstance(item, Mapping)
                else _walk(item, visit, inner.inside(f"[{position}]"))
                for position, item in enumerate(value)
            ]
        else:
            changed[name] = _walk(value, visit, inner)
    return changed


def _as_json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else jsontext.dumps(arguments)


def _walk_parameter(value: Any, visit: _Visitor, place: _Place) -> Any:
    """Visit the strings of a parameter, less the types that tools and schemas name."""
    if isinstance(value, str):
        return visit(value, place)
    if isinstance(value, Mapping):
        return {
            key: inner
            if key == "type" and isinstance(inner, str)
            else _walk_parameter(inner, visit, place.inside(f".{key}"))
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        items = (_walk_parameter(inner, visit, place.inside(f"[{position}]")) for position, inner in enumerate(value))
        return type(value)(items)
    return value


def _walk(value: Any, visit: Callable[[str, _Place], str], place: _Place) -> Any:
    """Visit the texts of a JSON value: strings, keys, and numbers, which may be those of a card.

    A number that comes back as another text becomes that text.
    """
    if isinstance(value, str):
        return visit(value, place)
    if isinstance(value, Mapping):
        changed: dict[Any, Any] = {}
        for key, inner in value.items():
            seen = _free_key(visit(str(key), place.inside(f".{key}#")), key, changed)
            changed[seen] = _walk(inner, visit, place.inside(f".{key}"))
        return changed
    if isinstance(value, list | tuple):
        return type(value)(_walk(inner, visit, place.inside(f"[{position}]")) for position, inner in enumerate(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    text = jsontext.dumps(value)
    seen = visit(text, place._replace(is_number=True))
    return value if seen == text else seen


def _free_key(seen: str, key: Any, taken: Mapping[Any, Any]) -> Any:
    """Return the key that was made of `key`, numbered where another key became the same."""
    if seen == str(key) and key not in taken:
        return key
    free, number = seen, 1
    while free in taken:
        number += 1
        free = f"{seen} ({number})"
    return free
