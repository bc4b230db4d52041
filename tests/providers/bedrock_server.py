"""A server that speaks Bedrock's documented wire format, and takes no request that AWS would refuse.

Signatures are computed anew from what arrived, by the rules of
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html and without botocore's
signer. Bodies of Converse are checked against the service's own model, which botocore ships.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from typing import Any
from urllib.parse import quote, unquote

import botocore.session
from botocore.validate import ParamValidator

from fleming_sql.testing import Received, Reply

ACCESS_KEY = "AKIDEXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"  # noqa: S105  nobody's
API_KEY = "bedrock-api-key-1"
REGION = "eu-central-1"
NOW_AND_THEN = {"retry-after-ms": "1"}
"""Makes those retry at once who may."""
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, SignedHeaders=([^,]+), Signature=(\w+)"
)
_PATH = re.compile(r"/model/([^/]+)/(converse|invoke)")


def converse_reply(
    text: str | list[dict[str, Any]],
    *,
    stop_reason: str = "end_turn",
    usage: Mapping[str, int] | None = None,
    **more: Any,
) -> Reply:
    """Return an answer of Converse; `text` is a text or a list of content blocks."""
    blocks = [{"text": text}] if isinstance(text, str) else text
    body = {
        "output": {"message": {"role": "assistant", "content": blocks}},
        "stopReason": stop_reason,
        "usage": usage or {"inputTokens": 9, "outputTokens": 3, "totalTokens": 12},
        "metrics": {"latencyMs": 7},
        **more,
    }
    return Reply(body=body)


def error(status: int, kind: str, message: str, **more: Any) -> Reply:
    """Return an error in the shape of AWS: its kind is in a header, with an address behind it."""
    headers = {"x-amzn-errortype": f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/", **NOW_AND_THEN}
    return Reply(status=status, body={"message": message, **more}, headers=headers)


class Bedrock:
    """Answers as `answer` says where path, credentials and body are right, and as AWS does where they are not.

    Args:
        answer: A reply, or a function that makes one.
        secrets: Secret key by access key.
        tokens: The session token that goes with an access key.
        off: How far its clock is ahead.
    """

    def __init__(
        self,
        answer: Reply | Callable[[Received], Reply],
        *,
        secrets: Mapping[str, str] | None = None,
        tokens: Mapping[str, str] | None = None,
        off: timedelta = timedelta(),
    ) -> None:
        self._answer = answer
        self._secrets = {ACCESS_KEY: SECRET_KEY} if secrets is None else secrets
        self._tokens = tokens or {}
        self._off = off

    def __call__(self, received: Received) -> Reply:
        refused = self._refusal(received)
        if refused is not None:
            return refused
        return self._answer if isinstance(self._answer, Reply) else self._answer(received)

    def _refusal(self, received: Received) -> Reply | None:
        found = _PATH.fullmatch(received.path)
        if received.method != "POST" or not found:
            return error(404, "UnknownOperationException", f"no such operation: {received.path}")
        if received.headers.get("authorization") != f"Bearer {API_KEY}":
            refused = self._unsigned(received)
            if refused is not None:
                return refused
        if received.headers.get("content-type") != "application/json":
            return error(400, "ValidationException", "The content type is not application/json")
        if found[2] == "converse":
            problems = _problems({"modelId": unquote(found[1]), **received.json()})
            return error(400, "ValidationException", problems) if problems else None
        return None

    def _unsigned(self, received: Received) -> Reply | None:
        """Return what AWS answers to a signature that is missing or wrong, None for one that is right."""
        parts = _AUTHORIZATION.fullmatch(received.headers.get("authorization", ""))
        if not parts:
            return error(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
        access_key, _, region, service, signed, signature = parts.groups()
        if (region, service) != (REGION, "bedrock"):
            return error(403, "InvalidSignatureException", f"Credential should be scoped to {REGION}/bedrock.")
        token = received.headers.get("x-amz-security-token")
        if access_key not in self._secrets or self._tokens.get(access_key, token) != token:
            return error(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
        needed = {"host", "content-type", "x-amz-date"} | ({"x-amz-security-token"} if token else set())
        if not needed <= {*signed.split(";")}:
            return error(403, "InvalidSignatureException", f"The headers {needed} must be signed")
        if expired := self._expired(received):
            return expired
        expected = _signature(received, self._secrets[access_key], region, signed.split(";"))
        if not hmac.compare_digest(expected, signature):
            told = "The request signature we calculated does not match the signature you provided."
            return error(403, "InvalidSignatureException", told)
        return None

    def _expired(self, received: Received) -> Reply | None:
        now = datetime.now(UTC) + self._off
        at = datetime.strptime(received.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if abs(now - at) < timedelta(minutes=5):
            return None
        told = f"Signature expired: {at:%Y%m%dT%H%M%SZ} is now earlier than {now:%Y%m%dT%H%M%SZ} (5 min.)"
        refused = error(403, "InvalidSignatureException", told)
        return Reply(refused.status, refused.body, {**refused.headers, "date": format_datetime(now, usegmt=True)})


def _signature(received: Received, secret: str, region: str, signed: list[str]) -> str:
    path = "/".join(quote(segment, safe="-_.~") for segment in received.path.split("/"))
    headers = "".join(f"{name}:{' '.join(received.headers[name].split())}\n" for name in signed)
    body = hashlib.sha256(received.body).hexdigest()
    canonical = "\n".join((received.method, path, "", headers, ";".join(signed), body))
    at = received.headers["x-amz-date"]
    scope = f"{at[:8]}/{region}/bedrock/aws4_request"
    to_sign = "\n".join(("AWS4-HMAC-SHA256", at, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, to_sign.encode(), "sha256").hexdigest()


@cache
def _converse_input() -> Any:
    session = botocore.session.Session()
    return session.get_service_model("bedrock-runtime").operation_model("Converse").input_shape


def _problems(given: Mapping[str, Any]) -> str:
    """Return what the service's model has against a request."""
    report: str = ParamValidator().validate(given, _converse_input()).generate_report()
    return report
