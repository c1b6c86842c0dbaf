"""TLS of both servers from one certificate: encrypted or refused, and a client's own certificate where one is asked for."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest
import trustme
from tests.openllm.rpc.calling import both
from tests.openllm.server.serving import events, text_body

from openllm.server.run import check_port
from openllm_core.errors import InvalidSetting
from openllm_core.options import ServerOptions
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb
from openllm_core.proto.openllm.v1 import openllm_pb2_grpc

CA = trustme.CA()
PEM = CA.cert_pem.bytes()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Settings of a server with a certificate for this machine."""
    issued = CA.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    return {"ssl_certfile": str(tmp_path / "cert.pem"), "ssl_keyfile": str(tmp_path / "key.pem")}


async def embed_over(port: int, credentials: grpc.ChannelCredentials | None) -> str:
    """What a gRPC call is answered with, over a channel of its own."""
    where = f"localhost:{port}"
    async with (
        grpc.aio.secure_channel(where, credentials) if credentials else grpc.aio.insecure_channel(where) as channel
    ):
        facts = await openllm_pb2_grpc.OpenLLMStub(channel).Metadata(pb.MetadataRequest(), timeout=5)
        return facts.model_id


async def test_both_are_encrypted_with_one_certificate(files: dict[str, str]) -> None:
    """Who trusts its authority is answered on both ports, streams included; who does not, or speaks in the open, is not."""
    trusting = ssl.create_default_context(cadata=PEM.decode())
    async with both(files) as (http_port, grpc_port):
        async with httpx.AsyncClient(verify=trusting, base_url=f"https://localhost:{http_port}") as http:
            assert (await http.get("/readyz")).status_code == 200
            answer = await http.post("/v1/completions", json=text_body("hello there", stream=True, max_tokens=50))
            said = "".join(event["choices"][0]["text"] for event in events(answer.text)[:-1] if event["choices"])
            assert said == "hello there"
            large = await http.post("/v1/completions", json=text_body("a" * 1500, max_tokens=1500, stream=True))
            assert len(events(large.text)) > 1500
        async with httpx.AsyncClient() as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(f"https://localhost:{http_port}/readyz")
            with pytest.raises(httpx.HTTPError):
                await http.get(f"http://localhost:{http_port}/readyz")
        assert await embed_over(grpc_port, grpc.ssl_channel_credentials(PEM)) == "echo"
        for credentials in (None, grpc.ssl_channel_credentials(trustme.CA().cert_pem.bytes())):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await embed_over(grpc_port, credentials)
            assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_clients_show_a_certificate_where_one_is_asked_for(files: dict[str, str], tmp_path: Path) -> None:
    """With `--ssl-ca-certs`, nobody is answered whose certificate none of the authorities signed."""
    CA.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = CA.issue_cert("client@example.org")
    own.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    shown = ssl.create_default_context(cadata=PEM.decode())
    shown.load_cert_chain(tmp_path / "client.pem")
    async with both({**files, "ssl_ca_certs": str(tmp_path / "ca.pem")}) as (http_port, grpc_port):
        url = f"https://localhost:{http_port}/readyz"
        async with httpx.AsyncClient(verify=shown) as http:
            assert (await http.get(url)).status_code == 200
        async with httpx.AsyncClient(verify=ssl.create_default_context(cadata=PEM.decode())) as http:
            with pytest.raises(httpx.HTTPError):
                await http.get(url)
        chain = own.cert_chain_pems[0].bytes()
        assert (
            await embed_over(grpc_port, grpc.ssl_channel_credentials(PEM, own.private_key_pem.bytes(), chain)) == "echo"
        )
        with pytest.raises(grpc.aio.AioRpcError):
            await embed_over(grpc_port, grpc.ssl_channel_credentials(PEM))


def test_wrong_files_are_told_before_anything_is_loaded(files: dict[str, str], tmp_path: Path) -> None:
    """A missing file, one that is no certificate, another's key, and half of the pair."""
    check_port(ServerOptions(port=0, **files))
    (tmp_path / "text.pem").write_text("hello")
    CA.issue_cert("other").private_key_pem.write_to_path(tmp_path / "other.pem")
    wrong = [
        ({"ssl_certfile": str(tmp_path / "none.pem")}, "no such file"),
        ({"ssl_certfile": str(tmp_path / "text.pem")}, "text.pem"),
        ({"ssl_keyfile": str(tmp_path / "other.pem")}, "mismatch"),
        ({"ssl_keyfile": ""}, "--ssl-keyfile"),
        ({"ssl_certfile": ""}, "--ssl-certfile"),
        ({"ssl_ca_certs": str(tmp_path / "text.pem")}, "text.pem"),
        ({"ssl_certfile": "", "ssl_keyfile": "", "ssl_ca_certs": "x"}, "--ssl-ca-certs"),
    ]
    for changed, why in wrong:
        with pytest.raises(InvalidSetting, match=why) as error:
            check_port(ServerOptions(port=0, **(files | changed)))
        assert error.value.exit_code == 78
