"""What error answers of AWS mean.

After https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html and the errors of Converse and
InvokeModel. The kind of an error stands in the header `x-amzn-errortype`, or in the body's `__type`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fleming_sql.providers.base import find_error_message

_STATUSES: Final[Mapping[str, int]] = {
    "ThrottlingException": 429,
    "TooManyRequestsException": 429,
    "ModelNotReadyException": 429,
    "ModelTimeoutException": 408,
    "ServiceUnavailableException": 503,
    "InternalServerException": 500,
    "ExpiredTokenException": 401,
    "InvalidClientTokenId": 401,
    "InvalidSignatureException": 401,
    "SignatureDoesNotMatch": 401,
    "IncompleteSignature": 401,
    "IncompleteSignatureException": 401,
    "MissingAuthenticationTokenException": 401,
    "UnrecognizedClientException": 401,
}
"""Where AWS has the status 400 or 403 for some of them: who asks is not known, which is no lack of permission."""
_FAILED_DEPENDENCY: Final = 424
_ADVICE: Final[Mapping[str, str]] = {
    "token included in the request is expired": "the session token has run out: renew what aws_access_key_id, "
    "aws_secret_access_key and aws_session_token refer to, or the credentials that were found in this machine's "
    "environment (such as by: aws sso login)",
    "token included in the request is invalid": "AWS does not know the access key: check aws_access_key_id and, for "
    "temporary keys, aws_session_token",
    "signature we calculated does not match": "the secret key is not that of the access key: check "
    "aws_secret_access_key",
    "on-demand throughput isn": "set the column model to an inference profile, such as us.<model id>",
}
"""What to do, by what AWS says in small letters."""


def status_of(status: int, payload: Any, headers: Mapping[str, str]) -> int:
    """Return the status that an error stands for; for one of the model that of the model."""
    kind = _kind(payload, headers)
    if status == _FAILED_DEPENDENCY and isinstance(payload, dict):
        original = payload.get("originalStatusCode")
        return original if isinstance(original, int) and 400 <= original <= 599 else status
    return _STATUSES.get(kind, status)


def message_of(payload: Any) -> str:
    """Return what AWS says, and what to do about it where that is known."""
    told = find_error_message(payload)
    if isinstance(payload, dict):
        texts = (payload.get(key) for key in ("message", "Message", "errorMessage"))
        told = next((text for text in texts if isinstance(text, str) and text), told)
    lowered = told.lower()
    advice = next((words for phrase, words in _ADVICE.items() if phrase in lowered), None)
    return f"{told}; {advice}" if advice else told


def _kind(payload: Any, headers: Mapping[str, str]) -> str:
    """Return the name of the error, without the namespace before it and the address behind it."""
    found = headers.get("x-amzn-errortype")
    if found is None and isinstance(payload, dict):
        found = next((payload[key] for key in ("__type", "code", "Code") if isinstance(payload.get(key), str)), "")
    return (found or "").partition(":")[0].rpartition("#")[2]
