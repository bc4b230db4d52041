"""Amazon Bedrock: chat by its Converse API, completions and embeddings by InvokeModel.

After https://docs.aws.amazon.com/bedrock/latest/APIReference/API_Operations_Amazon_Bedrock_Runtime.html.

`settings` reads the row, `converse*` and `invoke*` hold the two formats, `signing` and `login` who asks, `errors` what
goes wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from fleming_sql.jsontext import dumpb
from fleming_sql.providers.base import BadAnswer, BadProviderRequest, Grant, Provider, SendLogin
from fleming_sql.providers.bedrock.converse import to_body
from fleming_sql.providers.bedrock.converse_answers import render_converse
from fleming_sql.providers.bedrock.errors import message_of, status_of
from fleming_sql.providers.bedrock.invoke import headers_of, max_inputs_of, to_native_body
from fleming_sql.providers.bedrock.invoke_answers import read_text_answer, read_vectors, render_vectors
from fleming_sql.providers.bedrock.login import find_credentials
from fleming_sql.providers.bedrock.settings import (
    CONFIG_KEYS,
    check_credentials,
    check_signing,
    family_of,
    region_of,
    url_of,
    uses_converse,
)
from fleming_sql.providers.bedrock.signing import LENT_API_KEY, keys_of, lent_keys, sign
from fleming_sql.providers.blocking import in_daemon_thread
from fleming_sql.providers.provider_config import names
from fleming_sql.providers.refusals import read_refusal
from fleming_sql.types import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Answer,
    ModelRequest,
    OutgoingRequest,
    Refusal,
    Secret,
    ServedEntity,
    Task,
)


class AmazonBedrock(Provider):
    """Models at Amazon Bedrock, or behind a VPC endpoint of it.

    Requests are signed with `aws_access_key_id` and `aws_secret_access_key` of the provider_config, else with what
    AWS's default chain finds, after a role was assumed where one is named. An entity with a credential sends that as
    an API key of Bedrock instead, and needs no botocore.

    Example:
        >>> AmazonBedrock().encode(entity, request).url
        'https://bedrock-runtime.us-east-1.amazonaws.com/model/us.amazon.nova-lite-v1:0/converse'
    """

    tasks: ClassVar[frozenset[str]] = frozenset({CHAT, COMPLETIONS, EMBEDDINGS})
    description: ClassVar[str] = "Amazon Bedrock: Converse and InvokeModel, signed by botocore or with an API key"
    credential_variable: ClassVar[str | None] = "AWS_BEARER_TOKEN_BEDROCK"
    price_list: ClassVar[str | None] = "aws"
    documentation_url: ClassVar[str | None] = "https://docs.aws.amazon.com/bedrock/latest/APIReference"
    config_keys: ClassVar[frozenset[str]] = CONFIG_KEYS

    def encode(self, entity: ServedEntity, request: ModelRequest) -> OutgoingRequest:
        """Put a request into the body of Converse, or of the model's maker for InvokeModel.

        Raises:
            BadProviderRequest: The provider_config cannot work, or the request has no place in that format.
        """
        check_credentials(entity)
        if request.task not in self.tasks:
            raise BadProviderRequest(
                f'provider "{entity.provider}" cannot serve the task {request.task} (table endpoints, column task)'
            )
        headers = {"content-type": "application/json"}
        if uses_converse(entity, request.task):
            return OutgoingRequest(url_of(entity, "converse"), dumpb(to_body(entity, request)), headers)
        headers |= headers_of(entity, request.task)
        return OutgoingRequest(url_of(entity, "invoke"), dumpb(to_native_body(entity, request)), headers)

    def check(self, entity: ServedEntity, task: Task) -> None:
        """Check the row.

        Raises:
            BadProviderRequest: It can never work.
        """
        super().check(entity, task)
        check_signing(entity)

    def authorize(
        self, entity: ServedEntity, outgoing: OutgoingRequest, secrets: Mapping[str, Secret]
    ) -> Mapping[str, str]:
        """Return an API key as a bearer token, else the headers of a signature.

        Raises:
            BadProviderRequest: The keys are not whole, the region is missing, or botocore is.
        """
        if api_key := secrets.get("credential") or secrets.get(LENT_API_KEY):
            return {"authorization": f"Bearer {api_key.reveal()}"}
        keys = lent_keys(secrets) or keys_of(entity, secrets)
        if keys is None:
            raise BadProviderRequest("there are no credentials of AWS to sign with")
        return sign(outgoing, keys, region_of(entity))

    def logs_in(self, entity: ServedEntity) -> bool:
        """Return True where neither an API key nor keys are given, and where a role is to be assumed."""
        if entity.credential:
            return False
        return not names(entity, "aws_access_key_id") or names(entity, "aws_role_arn")

    async def log_in(self, entity: ServedEntity, secrets: Mapping[str, Secret], send: SendLogin) -> Grant:
        """Find credentials where AWS's tools do, and exchange them for those of a role where one is named.

        Raises:
            LoginRefused: There are none, or botocore is missing.
        """
        return await in_daemon_thread(partial(find_credentials, entity, secrets))

    def decode(self, request: ModelRequest, payload: Any) -> Answer:
        """Read an answer of either API.

        Raises:
            BadAnswer: A field is missing or wrong, or the model or a guardrail refused.
        """
        if not isinstance(payload, dict):
            raise BadAnswer(f"the answer is not an object but {type(payload).__name__}")
        return (read_vectors if request.task == EMBEDDINGS else read_text_answer)(request, payload)

    def render(self, request: ModelRequest, answer: Answer) -> Any:
        """Return a text as Converse would have given it, and vectors as Cohere does."""
        return render_vectors(answer) if request.task == EMBEDDINGS else render_converse(answer)

    def read_error(self, payload: Any) -> str:
        """Return what AWS says, and what to do about it where that is known."""
        return message_of(payload)

    def read_status(self, status: int, payload: Any, headers: Mapping[str, str]) -> int:
        """Return the status that the kind of an error stands for: 401 where AWS does not know who asks."""
        return status_of(status, payload, headers)

    def read_refusal(self, status: int, payload: Any) -> Refusal | None:
        """Return what an error refuses; those of the model itself have the status 424."""
        return read_refusal(400 if status == 424 else status, payload)

    def max_inputs(self, entity: ServedEntity) -> int:
        """Return 96 for models of Cohere, 1 for those of Amazon."""
        try:
            return max_inputs_of(family_of(entity))
        except BadProviderRequest:
            return 1  # what is wrong is told when the request is made
