"""TLS of both servers from one certificate: encrypted or refused, and a client's own certificate where one is asked for."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from tests.openllm.rpc.calling import both
from tests.openllm.server.serving import events, text_body

from openllm.server.run import check_port
from openllm.server.tls import context_of, relaxed
from openllm_core.errors import InvalidSetting, UnsafeConfiguration
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


async def test_the_oldest_protocol_is_1_2_or_what_was_asked_for(files: dict[str, str]) -> None:
    """A client that speaks nothing newer than TLS 1.1, or with `--ssl-version 1.3` than 1.2, is not answered."""
    for settings, oldest in (({}, ssl.TLSVersion.TLSv1_2), ({"ssl_version": "1.3"}, ssl.TLSVersion.TLSv1_3)):
        context = context_of(ServerOptions(**(files | settings)))
        assert context is not None
        for newest, shaken in (
            (ssl.TLSVersion.TLSv1_1, False),
            (ssl.TLSVersion.TLSv1_2, oldest == ssl.TLSVersion.TLSv1_2),
            (ssl.TLSVersion.TLSv1_3, True),
        ):
            asking = ssl.create_default_context(cadata=PEM.decode())
            asking.minimum_version, asking.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, newest
            asking.set_ciphers("DEFAULT:@SECLEVEL=0")
            assert shake(asking, context) == ("" if shaken else "refused"), (settings, newest)


def shake(asking: ssl.SSLContext, context: ssl.SSLContext) -> str:
    """A handshake in memory: "" when both sides have ended it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asking.wrap_bio(to_client, to_server, server_hostname="localhost")
    server = context.wrap_bio(to_server, to_client, server_side=True)
    done: set[int] = set()
    for _ in range(10):
        for number, side in enumerate((client, server)):
            try:
                side.do_handshake()
                done.add(number)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return "refused"
    return "" if done == {0, 1} else "unfinished"


def test_weak_choices_are_refused_or_named(files: dict[str, str], tmp_path: Path) -> None:
    """What can be broken is refused with 78; what is merely weaker is said at the start; the default is neither."""
    CA.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority = {"ssl_ca_certs": str(tmp_path / "ca.pem")}
    for settings in ({"ssl_version": "3"}, {"ssl_version": "1.1"}, {"ssl_ciphers": "aNULL:@SECLEVEL=0"}):
        with pytest.raises(UnsafeConfiguration) as refused:
            check_port(ServerOptions(port=0, **(files | settings)))
        assert refused.value.exit_code == 78
    for settings, why in (
        ({"ssl_version": "2.0"}, "1.2, 1.3"),
        ({"ssl_ciphers": "nonsense"}, "no cipher"),
        ({"ssl_cert_reqs": "maybe"}, "none, optional, required"),
        ({"ssl_cert_reqs": "2"}, "--ssl-ca-certs"),
        ({"ssl_version": "1.3", "grpc_port": 0}, "gRPC"),
        ({"ssl_ciphers": "ECDHE+AESGCM", "grpc_port": 0}, "gRPC"),
        ({"ssl_certfile": "", "ssl_keyfile": "", "ssl_ciphers": "ECDHE"}, "needs --ssl-certfile"),
    ):
        with pytest.raises(InvalidSetting, match=why):
            check_port(ServerOptions(port=0, **{**files, **settings}))
    weaker = [
        ({"ssl_ciphers": "ECDHE+AESGCM:AES128-SHA"}, "forward secrecy"),
        ({**authority, "ssl_cert_reqs": "1"}, "optional"),
        ({**authority, "ssl_cert_reqs": "none"}, "none"),
    ]
    for settings, told in weaker:
        (line,) = relaxed(ServerOptions(**(files | settings)))
        assert told in line
    sound = ({}, authority, {"ssl_version": "17"}, {"ssl_version": "1.3"}, {"ssl_ciphers": "ECDHE+AESGCM"})
    assert [relaxed(ServerOptions(**(files | settings))) for settings in sound] == [[]] * len(sound)


def test_an_encrypted_key_needs_its_password(files: dict[str, str], tmp_path: Path) -> None:
    """Asked for by name where it is missing or wrong, never at a terminal; gRPC, which reads none, says how to decrypt it."""
    encrypted = tmp_path / "encrypted.pem"
    plain = load_pem_private_key(Path(files["ssl_keyfile"]).read_bytes(), None)
    encrypted.write_bytes(
        plain.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame"))
    )
    keyed = files | {"ssl_keyfile": str(encrypted)}
    check_port(ServerOptions(port=0, ssl_keyfile_password="open sesame", **keyed))
    for settings, why in (
        ({}, "no password for it"),
        ({"ssl_keyfile_password": "other"}, "not its password"),
        ({"ssl_keyfile_password": "open sesame", "grpc_port": 0}, "gRPC"),
    ):
        with pytest.raises(InvalidSetting, match=why) as refused:
            check_port(ServerOptions(port=0, **{**keyed, **settings}))
        assert "sesame" not in str(refused.value)
