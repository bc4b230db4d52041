"""The texts of requests and answers: taken out for guardrails to look at, put back where they were changed.

Nothing that a model may read is passed over, but for the payload of media. Names that an API or JSON Schema gives a
meaning to, such as `properties`, hold nothing of anybody and are left out; they would only be noise to a judge.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from fleming_sql import jsontext
from fleming_sql.guardrails.splicing import FreeKeys
from fleming_sql.types import ModelRequest, Phase, ResponseFormat

_MEDIA: Final = ("image_url", "image", "input_image", "input_audio", "audio", "file", "input_file", "video_url")
"""Types of the parts of a message that are no text."""
_TEXTS: Final = frozenset({"role", "content", "text"})
"""Fields whose value is text, whatever the type of the part says."""
_DATA_URL: Final = re.compile(
    r"data:[\w.+-]{1,64}/[\w.+-]{1,64}(?:;[\w.+=-]{1,64}){0,4};base64,[A-Za-z0-9+/_-]*+={0,2}"
)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{128,}+={0,2}")
"""Longer than a name or a number is, and shorter than any sound or file."""
_PAYLOADS: Final = frozenset({"data", "file_data"})
"""Fields of media whose base64 stands by itself."""
_STRUCTURE: Final = frozenset({"role", "type", "id", "tool_call_id", "index", "ttl"})
"""Fields of a message that say what it is, not what is in it, where they hold an identifier."""
_MEDIA_STRUCTURE: Final = frozenset({"media_type", "mime_type", "format", "file_id"})
_DETAILS: Final = ("auto", "low", "high")
_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_VALUES: Final = frozenset({"arguments", "input", "output"})
"""Fields of a message that may hold a value of any form, in which no field is structure."""
_SWITCHES: Final = frozenset(
    {"reasoning_effort", "service_tier", "tool_choice", "verbosity", "modalities", "encoding_format", "truncation"}
)
"""Parameters whose texts are names of choices, where they are identifiers."""
_NAMES: Final = frozenset({
    # of messages and their parts
    "role", "content", "type", "text", "id", "tool_call_id", "index", "cache_control", "name", "function", "arguments",
    "tool_calls", "function_call", "refusal", "audio", "annotations", "input", "output", "image_url", "image", "url",
    "detail", "file", "filename", "file_data", "file_id", "input_file", "input_image", "input_audio", "video_url",
    "data", "format", "source", "media_type", "mime_type", "alt_text", "thinking", "signature", "reasoning_content",
    "reasoning", "summary", "citations", "is_error", "tool_use_id", "ttl",
    # of tools and other parameters
    "parameters", "strict", "input_schema", "json_schema", "schema", "budget_tokens", "effort", "include_usage",
    "include_obfuscation",
    # of JSON Schema
    "$schema", "$id", "$ref", "$defs", "definitions", "description", "title", "default", "examples", "enum", "const",
    "properties", "required", "items", "prefixItems", "additionalProperties", "patternProperties", "propertyNames",
    "anyOf", "oneOf", "allOf", "not", "if", "then", "else", "nullable", "pattern", "minLength", "maxLength", "minimum",
    "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "uniqueItems",
    "minProperties", "maxProperties",
})  # fmt: skip
"""Names of fields that an API or JSON Schema gives a meaning to. Any other is looked at like a text."""
_TYPES: Final = frozenset({
    "object", "string", "number", "integer", "boolean", "array", "null", "function", "tool", "text", "json_object",
    "json_schema", "auto", "any", "none", "enabled", "disabled", "ephemeral",
})  # fmt: skip
"""What a field `type` in a parameter says, as an API or JSON Schema has it. Anything else is looked at."""
_WHOLE: Final = re.compile(r"inputs\[\d+\]|[^.\[#]*")
"""The beginning of a path. Inputs are apart from each other, messages are not."""
_LONGEST_PATH: Final = 256
"""Characters of a path, more or less: without an end to it, long names in deep values would fill the memory."""
_LONGEST_STEP: Final = 64
_DEFAULT_NAME: Final = "response"

_SCALARS: Final = (int, float, bool, type(None))
_LEAVES: Final = (str, *_SCALARS)


class Part(NamedTuple):
    """One text of a document."""

    text: str
    path: str
    """Where it stands, such as `messages[0].content`; less what lies very deep."""
    role: str
    """Of the message: `system`, `user`, `assistant`, `tool`; `parameter` and `input` for what is no message."""
    run: int = 0
    """Parts with the same number are read one after the other, as one text."""
    arguments: str | None = None
    """What is called with the text among its arguments, as JSON; None for text that is none of a call's arguments."""
    is_number: bool = False
    """Whether it is a number of a JSON value. It goes on in no other part: digits side by side find much."""

    @property
    def whole(self) -> str:
        """What it is of: `messages`, `inputs[0]`, `fields`, `answer`, or a parameter."""
        return _WHOLE.match(self.path)[0]  # type: ignore[index]  # it matches anything


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
    """Return the texts of a request: of all messages, tools and their arguments, inputs, fields and the answer's form.

    A value may be nested to any depth.

    Example:
        >>> read_request(ModelRequest("llm/v1/chat", {}, messages=({"role": "user", "content": "Hi"},))).texts
        ['Hi']
    """
    if not (request.inputs or request.response_format) and request.fields is None and _is_plain(request.parameters):
        parts = _plain_parts(request.messages)
        if parts is not None:
            return Document("input", parts)
    reader = _Reader()
    _walk_request(request, reader)
    return Document("input", tuple(reader.parts), reader.media)


def write_request(request: ModelRequest, texts: Sequence[str]) -> ModelRequest:
    """Return a request with other texts in the places where `read_request` found them."""
    return _walk_request(request, _Writer(texts))


def read_answer(content: Any, request: Document | None = None) -> Document:
    """Return the texts of an answer: a text, or all those in a JSON value.

    Args:
        content: As in `types.Answer`.
        request: What it answers.
    """
    reader = _Reader()
    _walk_value(content, reader, _Place("answer", "assistant"))
    return Document("output", tuple(reader.parts), before=request.parts if request else ())


def write_answer(content: Any, texts: Sequence[str]) -> Any:
    """Return an answer's content with other texts in the places where `read_answer` found them."""
    return _walk_value(content, _Writer(texts), _Place("answer", "assistant"))


class _Place(NamedTuple):
    """Where in a request a value stands."""

    path: str
    role: str
    run: int = 0
    arguments: str | None = None
    is_number: bool = False

    def inside(self, step: str, run: int | None = None) -> _Place:
        path = self.path + step[:_LONGEST_STEP] if len(self.path) < _LONGEST_PATH else self.path
        return _Place(path, self.role, self.run if run is None else run, self.arguments)


class _Visitor:
    """Called for each text, in an order that is always the same."""

    def __init__(self) -> None:
        self.media = 0
        self._run = 0

    def __call__(self, text: str, place: _Place) -> str:
        raise NotImplementedError

    def next_run(self) -> int:
        """Return the number of a run that nothing else is of."""
        self._run += 1
        return self._run


class _Reader(_Visitor):
    """Takes the texts down and leaves them as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Part] = []

    def __call__(self, text: str, place: _Place) -> str:
        self.parts.append(Part(text, *place))
        return text


class _Writer(_Visitor):
    """Gives each text its successor, in the order in which a reader took them down."""

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__()
        self._texts = iter(texts)

    def __call__(self, text: str, place: _Place) -> str:
        return next(self._texts)


_Walk = Generator["_Walk", Any, Any]
"""The walk of one value: it gives the walks of the values inside, and gets what those return."""


def _finish(walk: _Walk) -> Any:
    """Return what a walk returns. Walks wait in a list: JSON may be deeper than Python's stack."""
    waiting, result = [walk], None
    while waiting:
        try:
            inner = waiting[-1].send(result)
        except StopIteration as end:
            waiting.pop()
            result = end.value
        else:
            waiting.append(inner)
            result = None
    return result


def _is_plain(parameters: Mapping[str, Any]) -> bool:
    """Return whether no text is among parameters."""
    return not parameters or all(
        isinstance(value, _SCALARS) and name.isidentifier() for name, value in parameters.items()
    )


def _plain_parts(messages: Sequence[Mapping[str, Any]]) -> tuple[Part, ...] | None:
    """Return what a reader would take down, sooner; None where a message is more than a role and a text."""
    parts = []
    for position, message in enumerate(messages):
        if not _is_plain_message(message):
            return None
        parts.append(Part(message["content"], f"messages[{position}].content", message["role"]))
    return tuple(parts)


def _is_plain_message(message: Mapping[str, Any]) -> bool:
    """Return whether a message is a role and a text, as nearly all are."""
    role = message.get("role")
    return len(message) == 2 and isinstance(message.get("content"), str) and isinstance(role, str) and role in _ROLES


def _walk_request(request: ModelRequest, visit: _Visitor) -> ModelRequest:
    """Visit all texts of a request in an order that is always the same, and return it with what the visits returned."""
    messages = tuple(
        [
            _finish(_walk_message(message, visit, _Place(f"messages[{position}]", str(message.get("role", "user")))))
            if not _is_plain_message(message)
            else {
                **message,
                "content": visit(message["content"], _Place(f"messages[{position}].content", message["role"])),
            }
            for position, message in enumerate(request.messages)
        ]
    )
    inputs = request.inputs and tuple(
        [visit(text, _Place(f"inputs[{at}]", "input", visit.next_run())) for at, text in enumerate(request.inputs)]
    )
    fields = request.fields
    if fields is not None:
        known = _as_json(fields) if isinstance(visit, _Reader) and isinstance(fields, Mapping) else None
        fields = _walk_value(fields, visit, _Place("fields", "input", visit.next_run(), known))
    parameters = request.parameters and _walk_parameters(request.parameters, visit)
    wanted = request.response_format and _walk_format(request.response_format, visit)
    return replace(
        request, messages=messages, inputs=inputs, fields=fields, parameters=parameters, response_format=wanted
    )


def _walk_parameters(parameters: Mapping[str, Any], visit: _Visitor) -> Mapping[str, Any]:
    changed: dict[str, Any] = {}
    keys = FreeKeys()
    for name, value in parameters.items():
        place = _Place(name[:_LONGEST_STEP], "parameter")
        seen = name if name.isidentifier() else visit(name, place.inside("#", visit.next_run()))
        is_left = isinstance(value, _SCALARS) or (name in _SWITCHES and _is_choice(value))
        new = value if is_left else _walk_value(value, visit, place.inside("", visit.next_run()), has_names=True)
        changed[keys.free(name, seen)] = new
    return changed


def _walk_format(wanted: ResponseFormat, visit: _Visitor) -> ResponseFormat:
    """Visit the name and the schema of what is asked for; what the caller gets it as in SQL stays."""
    place = _Place("response_format", "parameter")
    name, schema = wanted.name, wanted.schema
    if name != _DEFAULT_NAME:
        name = visit(name, place.inside(".name", visit.next_run()))
    if schema is not None:
        schema = _walk_value(schema, visit, place.inside(".schema", visit.next_run()), has_names=True)
    if name == wanted.name and _is_same(schema, wanted.schema):
        return wanted
    return replace(wanted, name=name, schema=schema)


def _is_same(one: Any, other: Any) -> bool:
    return True if one is other else _as_json(one) == _as_json(other)  # comparing them needs Python's stack


def _walk_message(message: Mapping[str, Any], visit: _Visitor, place: _Place, in_media: bool = False) -> _Walk:
    """Visit the texts of a message, or of a part of one."""
    is_media = message.get("type") in _MEDIA
    visit.media += is_media
    changed: dict[str, Any] = {}
    keys = FreeKeys()
    for name, value in message.items():
        inner = place.inside(f".{name}")
        if name == "arguments" and isinstance(visit, _Reader):
            inner = inner._replace(arguments=_as_json(value))
        seen = name if name in _NAMES else visit(name, place.inside(f".{name}#", visit.next_run()))
        is_opaque = (is_media or in_media) and name not in _TEXTS
        if _is_structure(name, value, is_opaque):
            new = value
        elif isinstance(value, _LEAVES):
            new = value if is_opaque and _is_payload(name, value) else _walk_leaf(value, visit, inner)
        elif name in _VALUES or not isinstance(value, Mapping | list):
            new = yield _walk(value, visit, inner)
        elif isinstance(value, Mapping):
            new = yield _walk_message(value, visit, inner, is_opaque)
        else:
            new = yield _walk_contents(name, value, visit, inner, is_opaque)
        changed[keys.free(name, seen)] = new
    return changed


def _walk_contents(name: str, values: Sequence[Any], visit: _Visitor, place: _Place, in_media: bool) -> _Walk:
    """Visit the texts of a list of parts of a message."""
    changed = []
    for position, value in enumerate(values):
        inner = place.inside(f"[{position}]")
        if isinstance(value, Mapping):
            new = yield _walk_message(value, visit, inner, in_media)
        else:
            new = value if in_media and _is_payload(name, value) else (yield _walk(value, visit, inner))
        changed.append(new)
    return changed


def _is_structure(name: str, value: Any, in_media: bool) -> bool:
    if name in _STRUCTURE or (in_media and name in _MEDIA_STRUCTURE):
        return isinstance(value, _SCALARS) or (isinstance(value, str) and _IDENTIFIER.fullmatch(value) is not None)
    return in_media and name == "detail" and value in _DETAILS


def _is_choice(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(one, str) and _IDENTIFIER.fullmatch(one) for one in values)


def _is_payload(name: str, value: Any) -> bool:
    """Return whether a field of media holds what is no text: bytes, as base64."""
    if not isinstance(value, str):
        return False
    if value.startswith("data:"):
        return _DATA_URL.fullmatch(value) is not None
    return name in _PAYLOADS and _BASE64.fullmatch(value) is not None


def _is_type(name: str, value: Any) -> bool:
    if name != "type":
        return False
    return all(isinstance(one, str) and one in _TYPES for one in (value if isinstance(value, list) else [value]))


def _walk_value(value: Any, visit: _Visitor, place: _Place, *, has_names: bool = False) -> Any:
    """Visit the texts of a JSON value, and return it with what the visits returned.

    Args:
        value: The value.
        visit: Is called for strings, keys, and numbers, which may be those of a card. A number that comes back as
            another text becomes that text.
        place: Where the value stands. Strings of one list are read as one text; keys, and what belongs to different
            keys, are not.
        has_names: Whether names that an API or JSON Schema gives a meaning to have it here, and are left out.
    """
    if isinstance(value, _LEAVES):
        return _walk_leaf(value, visit, place)
    return _finish(_walk(value, visit, place, has_names))


def _walk(value: Any, visit: _Visitor, place: _Place, has_names: bool = False) -> _Walk:
    if isinstance(value, Mapping):
        changed: dict[Any, Any] = {}
        keys = FreeKeys()
        for key, inner in value.items():
            name = str(key)
            is_known = has_names and name in _NAMES
            seen = name if is_known else visit(name, place.inside(f".{name}#", visit.next_run()))
            within = place.inside(f".{name}", visit.next_run())
            if has_names and _is_type(name, inner):
                new = inner
            elif isinstance(inner, _LEAVES):
                new = _walk_leaf(inner, visit, within)
            else:
                new = yield _walk(inner, visit, within, has_names)
            free = keys.free(name, seen)
            changed[key if free == name else free] = new
        return changed
    if isinstance(value, list | tuple):
        items = []
        for position, inner in enumerate(value):
            within = place.inside(f"[{position}]")
            is_leaf = isinstance(inner, _LEAVES)
            items.append(
                _walk_leaf(inner, visit, within) if is_leaf else (yield _walk(inner, visit, within, has_names))
            )
        return type(value)(items)
    return _walk_leaf(value, visit, place)


def _walk_leaf(value: Any, visit: _Visitor, place: _Place) -> Any:
    if isinstance(value, str):
        return visit(value, place)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    text = jsontext.dumps(value)
    seen = visit(text, place._replace(is_number=True))
    return value if seen == text else seen


def _as_json(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return jsontext.dumps(value)
    except RecursionError:
        pieces: list[str] = []
        _finish(_encode(value, pieces))
        return "".join(pieces)


def _encode(value: Any, pieces: list[str]) -> _Walk:
    """Write a value of any depth as JSON."""
    if isinstance(value, Mapping):
        before = "{"
        for key, inner in value.items():
            pieces += (before, jsontext.dumps(str(key)), ":")
            before = ","
            yield _encode(inner, pieces)
        pieces.append("}" if value else "{}")
    elif isinstance(value, list | tuple):
        before = "["
        for inner in value:
            pieces.append(before)
            before = ","
            yield _encode(inner, pieces)
        pieces.append("]" if value else "[]")
    else:
        pieces.append(jsontext.dumps(value))
