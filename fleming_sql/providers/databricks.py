"""Serving endpoints of a Databricks workspace: its own models, external ones, custom models and agents.

After https://docs.databricks.com/api/workspace/servingendpoints/query and, for service principals,
https://docs.databricks.com/dev-tools/auth/oauth-m2m.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import ClassVar, Final

from fleming_sql.providers.base import BadProviderRequest, Grant, LoginRefused, SendLogin
from fleming_sql.providers.mlflow import MlflowModelServing
from fleming_sql.providers.oauth import read_token
from fleming_sql.providers.provider_config import (
    checked_address,
    config_problem,
    config_text,
    in_path,
    max_inputs_per_request,
    names,
    secret_missing,
    split_address,
)
from fleming_sql.types import OutgoingRequest, Secret, ServedEntity, Task

_URL: Final = "databricks_workspace_url"
_WORKSPACE_ID: Final = re.compile(r"o=\d*")
_CLIENT_ID: Final = "databricks_client_id"
_CLIENT_SECRET: Final = "databricks_client_secret"  # noqa: S105  the name of a key
_TOKEN: Final = "oauth_token"  # noqa: S105  the name under which the grant has it
_MAX_INPUTS: Final = 150
"""Texts in one request to an embedding model, as Databricks' foundation models take them."""


class Databricks(MlflowModelServing):
    """A serving endpoint; the entity's model is its name, `databricks_workspace_url` or base_url the workspace.

    A personal access token is the entity's credential, or `databricks_api_token`. A service principal has
    `databricks_client_id` and `databricks_client_secret`, which are exchanged for a token of an hour.

    Example:
        >>> Databricks().encode(entity, request).url
        'https://adb-1.2.azuredatabricks.net/serving-endpoints/databricks-gpt-oss-20b/invocations'
    """

    description: ClassVar[str] = "Databricks' model serving: foundation models, external and custom models, agents"
    secret_keys: ClassVar[tuple[str, ...]] = ("databricks_api_token",)
    config_keys: ClassVar[frozenset[str]] = MlflowModelServing.config_keys | {
        _URL,
        "databricks_api_token",
        _CLIENT_ID,
        _CLIENT_SECRET,
        "max_inputs_per_request",
    }

    def check(self, entity: ServedEntity, task: Task) -> None:
        """Check the row.

        Raises:
            BadProviderRequest: It can never work.
        """
        super().check(entity, task)
        if self.logs_in(entity):
            config_text(entity, _CLIENT_ID)
            if not entity.credential and not names(entity, _CLIENT_SECRET):
                raise secret_missing(entity, _CLIENT_ID, _CLIENT_SECRET)

    def logs_in(self, entity: ServedEntity) -> bool:
        """Return whether the entity is called by a service principal."""
        return names(entity, _CLIENT_ID)

    async def log_in(self, entity: ServedEntity, secrets: Mapping[str, Secret], send: SendLogin) -> Grant:
        """Exchange id and secret of a service principal for an access token.

        Raises:
            LoginRefused: The secret is missing, or the answer has no token.
        """
        # The id is no secret, but may be kept as one.
        client_id = secrets[_CLIENT_ID].reveal() if _CLIENT_ID in secrets else config_text(entity, _CLIENT_ID)
        secret = secrets.get(_CLIENT_SECRET) or secrets.get("credential")
        if client_id is None or secret is None:
            raise LoginRefused(str(secret_missing(entity, _CLIENT_ID, _CLIENT_SECRET)))
        basic = base64.b64encode(f"{client_id}:{secret.reveal()}".encode()).decode()
        answer = await send(
            OutgoingRequest(
                f"{_workspace(entity)}/oidc/v1/token",
                b"grant_type=client_credentials&scope=all-apis",
                {"authorization": f"Basic {basic}", "content-type": "application/x-www-form-urlencoded"},
            )
        )
        return read_token(answer, _TOKEN)

    def authorize(
        self, entity: ServedEntity, outgoing: OutgoingRequest, secrets: Mapping[str, Secret]
    ) -> Mapping[str, str]:
        """Return a bearer token: the one that was lent, else the entity's own."""
        token = secrets.get(_TOKEN) or self.find_secret(secrets)
        return {"authorization": f"Bearer {token.reveal()}"} if token else {}

    def requires_credential(self, entity: ServedEntity) -> bool:
        """Return True: a workspace answers nobody else."""
        return True

    def max_inputs(self, entity: ServedEntity) -> int:
        """Return `max_inputs_per_request` of the provider_config where it has one, else 150."""
        return max_inputs_per_request(entity, _MAX_INPUTS)

    def _url(self, entity: ServedEntity) -> str:
        if not entity.model:
            raise BadProviderRequest(
                f"the name of the serving endpoint is missing: set the column model of fleming.served_entities, row "
                f'"{entity.endpoint}/{entity.name}"',
                column="model",
            )
        return f"{_workspace(entity)}/serving-endpoints/{in_path(entity, 'model', entity.model)}/invocations"


def _workspace(entity: ServedEntity) -> str:
    """Return the address of the workspace, also where it was copied from a browser, with a page and `?o=…`."""
    if entity.base_url:
        return checked_address(entity, "base_url", entity.base_url).removesuffix("/serving-endpoints")
    address = config_text(entity, _URL)
    if address is None:
        raise config_problem(entity, _URL, "is missing: the address of the workspace")
    if "://" not in address:
        address = f"https://{address}"  # as the workspace's own pages show it
    parts = split_address(entity, _URL, address)
    if parts.query and not _WORKSPACE_ID.fullmatch(parts.query):
        raise config_problem(entity, _URL, "has a query (what follows the ?) that is not o=…: leave it out")
    return f"{parts.scheme}://{parts.netloc}"
