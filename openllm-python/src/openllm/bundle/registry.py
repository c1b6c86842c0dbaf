"""Whether a registry has an image: the one question that a build asks of the network before it names a base image.

Called by `base_images.py`. Speaks the pull half of the distribution specification
(https://github.com/opencontainers/distribution-spec), anonymously, and takes any trouble for a no.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 3.0
DOCKER_HUB = "registry-1.docker.io"
_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


def has(image: str, transport: httpx.BaseTransport | None = None) -> bool:
    """Whether an image can be pulled by everybody.

    Args:
        image: `host/path:tag`; `docker.io` is Docker's hub.
        transport: answers instead of the network.

    Returns:
        False too where the registry does not answer within a few seconds, refuses, or is no registry.
    """
    import httpx

    host, _, rest = image.partition("/")
    path, _, tag = rest.rpartition(":")
    host = DOCKER_HUB if host == "docker.io" else host
    url = f"https://{host}/v2/{path}/manifests/{tag}"
    try:
        with httpx.Client(timeout=TIMEOUT_S, transport=transport, follow_redirects=True) as client:
            answer = client.head(url, headers={"accept": _MANIFESTS})
            if answer.status_code == 401:
                token = _token(client, answer.headers.get("www-authenticate", ""))
                answer = client.head(url, headers={"accept": _MANIFESTS, "authorization": f"Bearer {token}"})
            return answer.status_code == 200
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, OSError):
        return False


def _token(client: httpx.Client, challenge: str) -> str:
    """The token that anybody gets, from where the registry's answer says."""
    asked: Mapping[str, str] = dict(_CHALLENGE.findall(challenge))
    realm = asked["realm"]
    if not realm.startswith("https://"):
        raise ValueError(f"{realm} is no https address")
    answer = client.get(realm, params={key: asked[key] for key in ("service", "scope") if key in asked})
    body: Any = answer.raise_for_status().json()
    return str(body.get("token") or body["access_token"])
