"""Models and agents behind MLflow's model server, `mlflow models serve`, and servers that speak the same."""

from __future__ import annotations

from typing import Any, ClassVar

from fleming_sql.jsontext import dumpb
from fleming_sql.providers.base import BadProviderRequest, Provider
from fleming_sql.providers.invocations import (
    INPUT_FORMATS,
    TASKS,
    invocation_body,
    read_invocation,
    render_invocation,
)
from fleming_sql.providers.provider_config import address_of, config_problem, config_text
from fleming_sql.types import Answer, ModelRequest, OutgoingRequest, ServedEntity


class MlflowModelServing(Provider):
    """Any server with MLflow's `/invocations`; `base_url` is its address.

    Example:
        >>> MlflowModelServing().encode(entity, request).url
        'http://127.0.0.1:5000/invocations'
    """

    tasks: ClassVar[frozenset[str]] = TASKS
    description: ClassVar[str] = "MLflow model servers: custom models, chats, embeddings and agents at /invocations"
    config_keys: ClassVar[frozenset[str]] = frozenset({"input_format"})

    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put a request into the body of `/invocations`.

        Raises:
            BadProviderRequest: There is no address, the input_format is none, or the request does not fit it.
        """
        body = invocation_body(request, _input_format(entity))
        return OutgoingRequest(self._url(entity), dumpb(body))

    def decode(self, request: ModelRequest, payload: Any) -> Answer:
        """Read an answer.

        Raises:
            BadAnswer: The payload is not of the task's form.
        """
        return read_invocation(request, payload)

    def render(self, request: ModelRequest, answer: Answer) -> Any:
        """Return an answer as the server would have given it."""
        return render_invocation(request, answer)

    def _url(self, entity: ServedEntity) -> str:
        base = address_of(entity)
        if base is None:
            raise BadProviderRequest(
                f'provider "{entity.provider}" has no address of its own: set the column base_url of '
                f'fleming.served_entities, row "{entity.endpoint}/{entity.name}", such as http://127.0.0.1:5000',
                column="base_url",
            )
        return base if base.endswith("/invocations") else f"{base}/invocations"


def _input_format(entity: ServedEntity) -> str | None:
    value = config_text(entity, "input_format")
    if value is not None and value not in INPUT_FORMATS:
        raise config_problem(entity, "input_format", f'is "{value}" and must be one of {INPUT_FORMATS}')
    return value
