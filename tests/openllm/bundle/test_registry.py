"""Asking a registry for an image: the anonymous token, and a no for every kind of trouble."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from openllm.bundle.registry import has

IMAGE = "registry.example/team/openllm:1.2-base"
CHALLENGE = 'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:team/openllm:pull"'


def answering(handler: Callable[[httpx.Request], httpx.Response]) -> httpx.MockTransport:
    return httpx.MockTransport(handler)


def test_an_open_registry() -> None:
    """A manifest that is there is a yes, one that is not is a no."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200 if request.url.path == "/v2/team/openllm/manifests/1.2-base" else 404)

    assert has(IMAGE, answering(handler))
    assert not has(IMAGE + "-other", answering(handler))
    assert seen[0].method == "HEAD" and "oci.image.index" in seen[0].headers["accept"]


def test_docker_hub_is_asked_where_it_answers() -> None:
    """docker.io is a name; its registry is another host."""
    hosts: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(200)

    assert has("docker.io/bentoml/openllm:latest", answering(handler))
    assert hosts == ["registry-1.docker.io"]


def test_the_token_for_everybody() -> None:
    """Where the registry wants one, it is fetched from where the registry says, and shown."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == "auth.example":
            assert dict(request.url.params) == {"service": "registry.example", "scope": "repository:team/openllm:pull"}
            return httpx.Response(200, json={"token": "for-everybody"})
        if request.headers.get("authorization") == "Bearer for-everybody":
            return httpx.Response(200)
        return httpx.Response(401, headers={"www-authenticate": CHALLENGE})

    assert has(IMAGE, answering(handler))


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(401),
        httpx.Response(401, headers={"www-authenticate": "Basic realm=registry"}),
        httpx.Response(401, headers={"www-authenticate": CHALLENGE.replace("https", "http")}),
        httpx.Response(401, headers={"www-authenticate": CHALLENGE.replace("auth.example", "[broken")}),
        httpx.Response(401, headers={"www-authenticate": CHALLENGE}, json={"no": "token"}),
        httpx.Response(302, headers={"location": "https://registry.example/v2/team/openllm/manifests/1.2-base"}),
    ],
)
def test_anything_else_is_a_no(answer: httpx.Response) -> None:
    """A refusal, no challenge, a token over plain http, no token, a circle of redirects."""
    assert not has(IMAGE, answering(lambda request: answer))


@pytest.mark.parametrize("error", [httpx.ConnectError("no route"), httpx.ReadTimeout("slow"), OSError("no network")])
def test_no_network_is_a_no(error: Exception) -> None:
    """Nothing is raised."""

    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    assert not has(IMAGE, answering(handler))
