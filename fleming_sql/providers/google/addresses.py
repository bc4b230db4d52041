"""Where the Gemini API and Vertex AI answer.

Hosts of Vertex AI: https://cloud.google.com/vertex-ai/generative-ai/docs/learn/locations
"""

from __future__ import annotations

import re
from typing import Final

from fleming_sql.providers.base import BadProviderRequest
from fleming_sql.providers.provider_config import address_of, config_problem, config_text, in_path
from fleming_sql.types import ServedEntity

GEMINI_URL: Final = "https://generativelanguage.googleapis.com"
_VERSION: Final = re.compile(r"/v\d\w*$")
_REGION: Final = re.compile(r"[a-z][a-z0-9-]*")
_MULTI_REGIONS: Final = ("us", "eu")
_IN_A_PATH: Final = "/@:"
"""What names of models may hold as it is: a path of their own, and the version of a Claude model."""


def gemini_url(entity: ServedEntity, method: str) -> str:
    """Return the address of a method of a model at the Gemini API, or at a server that speaks the same.

    Example:
        >>> gemini_url(entity, "generateContent")
        'https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent'
    """
    base = _with_version(address_of(entity) or GEMINI_URL, "v1beta")
    return f"{base}/{gemini_model(entity)}:{method}"


def gemini_model(entity: ServedEntity) -> str:
    """Return the resource name of the entity's model at the Gemini API, such as `models/gemini-2.5-flash`."""
    model = _model(entity)
    return model if "/" in model else f"models/{model}"


def vertex_url(entity: ServedEntity, method: str, publisher: str = "google") -> str:
    """Return the address of a method of a model at Vertex AI.

    A model with a slash in its name, such as `endpoints/1234` for a tuned one, is a path below the location.

    Raises:
        BadProviderRequest: The provider_config names no project or no region.
    """
    project, region = _required(entity, "project_id"), _required(entity, "region")
    if not _REGION.fullmatch(region):
        raise config_problem(entity, "region", f'is "{region}" and must be like us-central1, or global, us or eu')
    base = _with_version(address_of(entity) or f"https://{_host(region)}", "v1")
    model = _model(entity)
    path = model if "/" in model else f"publishers/{publisher}/models/{model}"
    return f"{base}/projects/{in_path(entity, 'project_id', project)}/locations/{region}/{path}:{method}"


def _host(region: str) -> str:
    if region == "global":
        return "aiplatform.googleapis.com"
    if region in _MULTI_REGIONS:
        return f"aiplatform.{region}.rep.googleapis.com"
    return f"{region}-aiplatform.googleapis.com"


def _with_version(base: str, version: str) -> str:
    return base if _VERSION.search(base) else f"{base}/{version}"


def _model(entity: ServedEntity) -> str:
    if not entity.model:
        raise BadProviderRequest(
            f'provider "{entity.provider}" needs the name of a model: table served_entities, row '
            f'"{entity.endpoint}/{entity.name}", column model',
            column="model",
        )
    return in_path(entity, "model", entity.model, safe=_IN_A_PATH)


def _required(entity: ServedEntity, key: str) -> str:
    value = config_text(entity, key)
    if value is None:
        raise config_problem(entity, key, f'is missing, and the provider "{entity.provider}" needs it')
    return value
