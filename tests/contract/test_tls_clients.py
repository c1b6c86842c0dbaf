"""TLS of the four clients against our own servers: who is trusted, who is shown what, and what each mistake is called."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from tests.contract.test_grpc_clients import KINDS, Caller
from tests.openllm.rpc.calling import both, calling
from tests.openllm.server.serving import listening

from openllm_core.errors import ConnectionFailed, InvalidSetting, OpenLLMError

AUTHORITY, STRANGER = trustme.CA(), trustme.CA()


@attrs.frozen
class Files:
    """PEM files by name: authorities `ca` and `stranger`, a server's `here` and `elsewhere`, callers' `mine` and `foreign`."""

    folder: Path

    def __getattr__(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")

    def server(self, name: str = "here", **more: str) -> dict[str, str]:
        """Settings of a server that shows a certificate."""
        return {"ssl_certfile": getattr(self, name), "ssl_keyfile": getattr(self, f"{name}_key"), **more}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """One set for all tests."""
    found = Files(tmp_path_factory.mktemp("tls"))
    AUTHORITY.cert_pem.write_to_path(found.ca)
    STRANGER.cert_pem.write_to_path(found.stranger)
    for name, names in (("here", ("localhost", "127.0.0.1")), ("elsewhere", ("elsewhere.example",))):
        issued = AUTHORITY.issue_cert(*names)
        issued.cert_chain_pems[0].write_to_path(getattr(found, name))
        issued.private_key_pem.write_to_path(getattr(found, f"{name}_key"))
    AUTHORITY.issue_cert("me@example.org").private_key_and_cert_chain_pem.write_to_path(found.mine)
    STRANGER.issue_cert("me@example.org").private_key_and_cert_chain_pem.write_to_path(found.foreign)
    key = serialization.load_pem_private_key(Path(found.here_key).read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    pkcs8 = serialization.PrivateFormat.PKCS8
    Path(found.locked_key).write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, secret))
    return found


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No proxy and no authority of this machine's has a say."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "SSL_CERT_FILE", "OPENLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    yield


async def answer(kind: str, ports: tuple[int, int], host: str = "localhost", scheme: str = "https", **how: Any) -> str:
    """The model's id as one client gets it; `ports` of HTTP and gRPC."""
    address = f"{scheme}://{host}:{ports['grpc' in kind]}"
    caller = Caller(KINDS[kind](address, timeout=20, max_retries=0, **how))
    try:
        return await caller.take("model_id")
    finally:
        await caller.aclose()


async def mistake(kind: str, ports: tuple[int, int], **how: Any) -> OpenLLMError:
    """What `answer` fails with: one line, and a hint."""
    with pytest.raises(ConnectionFailed) as failed:
        await answer(kind, ports, **how)
    assert "\n" not in str(failed.value) and ".." not in str(failed.value)
    return failed.value


@pytest.mark.parametrize("kind", KINDS)
async def test_who_is_trusted(kind: str, files: Files) -> None:
    """A server is answered whose certificate a given authority signed, for the name in the address, and no other."""
    async with both(files.server()) as ports:
        assert await answer(kind, ports, verify=files.ca) == "echo"
        if "grpc" not in kind:
            context = ssl.create_default_context(cafile=files.ca)
            assert await answer(kind, ports, verify=context) == "echo"
            assert await answer(kind, ports, verify=False) == "echo"
        for verify in (True, files.stranger):
            assert "verify=" in ((await mistake(kind, ports, verify=verify)).hint or "")
        assert "https://" in ((await mistake(kind, ports, scheme="http")).hint or "")
    async with both(files.server("elsewhere")) as ports:
        for host in ("localhost", "127.0.0.1"):
            assert "another name" in ((await mistake(kind, ports, host=host, verify=files.ca)).hint or "")


@pytest.mark.parametrize("kind", ["http", "async http"])
async def test_openais_client_goes_the_same_way(kind: str, files: Files) -> None:
    """`client.openai` trusts what the client trusts, has its key and retries, and is answered, streams included."""
    asked: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 50}
    async with both(files.server()) as (port, _):
        client = KINDS[kind](f"https://localhost:{port}", api_key="k", max_retries=1, verify=files.ca)
        inner: Any = client.openai
        assert (inner.api_key, inner.max_retries, client.openai) == ("k", 1, inner)

        def ask() -> list[str]:
            whole = inner.chat.completions.create(**asked).choices[0].message.content
            return [
                whole,
                "".join(c.choices[0].delta.content or "" for c in inner.chat.completions.create(**asked, stream=True)),
            ]

        async def ask_too() -> list[str]:
            whole = (await inner.chat.completions.create(**asked)).choices[0].message.content
            stream = await inner.chat.completions.create(**asked, stream=True)
            return [whole, "".join([c.choices[0].delta.content or "" async for c in stream])]

        whole, streamed = await (asyncio.to_thread(ask) if kind == "http" else ask_too())
        assert whole == streamed and "Hi" in whole
        await Caller(client).aclose()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_certificate_of_ones_own(kind: str, files: Files) -> None:
    """Where a server asks for one, `cert=` shows it, as one file or two; without it, or with a stranger's, the hint names it."""
    async with both(files.server(ssl_ca_certs=files.ca)) as ports:
        assert await answer(kind, ports, verify=files.ca, cert=files.mine) == "echo"
        assert await answer(kind, ports, verify=files.ca, cert=(files.mine, files.mine)) == "echo"
        for shown in ({}, {"cert": files.foreign}):
            assert "cert=" in ((await mistake(kind, ports, verify=files.ca, **shown)).hint or "")


@pytest.mark.parametrize("kind", KINDS)
async def test_no_tls_where_it_is_asked_for(kind: str, files: Files) -> None:
    """`https://` to a server in the open is told as such."""
    async with calling(reply="x") as called, listening(called.served) as http_port:
        found = await mistake(kind, (http_port, called.port), verify=files.ca)
        assert "http://" in (found.hint or "")


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_no_certificate(kind: str, files: Files) -> None:
    """A certificate without its key, another's key, a key that wants a password and a missing file: told at once."""
    for shown in (files.ca, (files.here, files.elsewhere_key), (files.here, files.locked_key), files.missing):
        with pytest.raises(InvalidSetting) as refused:
            KINDS[kind]("https://localhost:1", verify=files.ca, cert=shown)
        assert refused.value.param == "cert" and "no certificate and its key" in str(refused.value)


@pytest.mark.parametrize("kind", ["grpc", "async grpc"])
async def test_the_http_port_is_not_grpcs(kind: str, files: Files) -> None:
    """A gRPC client at the HTTP port of a server with TLS is told of the other port."""
    async with both(files.server()) as (http_port, _):
        assert "--grpc-port" in ((await mistake(kind, (0, http_port), verify=files.ca)).hint or "")
