"""The simulated provider: OpenAI's wire format, and one of its own for custom models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import httpx

from fleming_sql.jsontext import dumpb
from fleming_sql.providers.base import BadAnswer
from fleming_sql.providers.openai import OpenAI
from fleming_sql.providers.simulated.settings import HEADER, NAMES, to_header
from fleming_sql.providers.simulated.transport import SimulatedTransport
from fleming_sql.types import CUSTOM, Answer, ModelRequest, OutgoingRequest, ServedEntity, Usage

BASE_URL: Final = "http://simulated.invalid/v1"
_MAX_HEADERS: Final = 1000


class Simulated(OpenAI):
    """Answers without a model and without a network, the same to the same prompt.

    What it answers, how long it takes and how often it fails is set by the entity's `parameters`: see
    `fleming_sql.providers.simulated.settings.Settings`.
    """

    tasks: ClassVar[frozenset[str]] = OpenAI.tasks | {CUSTOM}
    description: ClassVar[str] = "Made-up answers without a network, for trying things out; failures on demand"
    public_url: ClassVar[str | None] = None
    credential_variable: ClassVar[str | None] = None
    documentation_url: ClassVar[str | None] = None
    secret_keys: ClassVar[tuple[str, ...]] = ()
    config_keys: ClassVar[frozenset[str]] = frozenset({"max_inputs_per_request"})
    # dimensions and seed are request parameters as well, which the simulated model reads from its requests.
    own_parameters: ClassVar[frozenset[str]] = NAMES - {"dimensions", "seed"} | {"simulate"}

    def __init__(self) -> None:
        self._transport = SimulatedTransport()
        self._headers: dict[int, tuple[Mapping[str, Any], Mapping[str, str]]] = {}

    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put a request into the wire format, with the simulation's settings in a header.

        Raises:
            BadProviderRequest: A setting is wrong.
        """
        headers = self._settings_header(entity)
        if request.task == CUSTOM:
            key = "dataframe_records" if isinstance(request.fields, dict) else "inputs"
            body = dumpb({"model": entity.model, key: [request.fields], **request.parameters})
            return OutgoingRequest(f"{BASE_URL}/invocations", body, headers)
        outgoing = super().encode(entity, request)
        return OutgoingRequest(outgoing.url, outgoing.body, headers)

    def decode(self, request: ModelRequest, payload: Any) -> Answer:
        """Read an answer.

        Raises:
            BadAnswer: The payload is not of this wire format.
        """
        if request.task != CUSTOM:
            return super().decode(request, payload)
        predictions = payload.get("predictions") if isinstance(payload, dict) else None
        if not isinstance(predictions, list) or len(predictions) != 1:
            raise BadAnswer("predictions is not a list of one")
        return Answer(predictions[0], Usage(), payload.get("model"))

    def requires_credential(self, entity: ServedEntity) -> bool:
        """Return False: there is no server."""
        return False

    def transport(self, entity: ServedEntity) -> httpx.AsyncBaseTransport:
        """Return the simulated model itself."""
        return self._transport

    def base_url(self, entity: ServedEntity) -> str:
        """Return an address that no name server knows, whatever the entity says."""
        return BASE_URL

    def _settings_header(self, entity: ServedEntity) -> Mapping[str, str]:
        """Return the header for an entity, kept for as long as its parameters are the same object."""
        known = self._headers.get(id(entity.parameters))
        if known is not None and known[0] is entity.parameters:
            return known[1]
        value = to_header(entity.parameters)
        if len(self._headers) >= _MAX_HEADERS:
            self._headers.clear()
        headers = {HEADER: value} if value else {}
        self._headers[id(entity.parameters)] = entity.parameters, headers
        return headers
