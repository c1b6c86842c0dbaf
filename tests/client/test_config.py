"""Where a client connects: addresses, keys and the environment."""

from __future__ import annotations

import ssl

import pytest

from openllm_client import AsyncHTTPClient, HTTPClient
from openllm_client._config import resolve, transport_options
from openllm_core.errors import InvalidSetting


def settings(address=None, environ=None, **given):
    facts = {"api_key": None, "max_retries": 2, "headers": None, **given}
    timeout = facts.pop("timeout", 30)
    return resolve(address, timeout, environ=environ or {}, **facts)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("localhost:3000", "http://localhost:3000"),
        ("  10.0.0.1:80 ", "http://10.0.0.1"),
        ("example.com", "http://example.com"),
        ("https://example.com/llm/", "https://example.com/llm"),
        ("[::1]:3000", "http://[::1]:3000"),
        ("HTTP://Example.COM", "http://example.com"),
    ],
)
def test_address_is_normalised(given, url):
    """A missing scheme means http; a final slash does not matter; a path prefix stays."""
    assert settings(given).base_url == url


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "   ",
        "ftp://host",
        "unix:///run/x.sock",
        "http://",
        "http://:3000",
        "localhost:port",
        "localhost:99999",
        "localhost:0",
        "http://host?x=1",
        "http://host#x",
        "http://a b",
        "http://host\x00",
        "http://[::1",
        "grpc://h:1",
    ],
)
def test_bad_address_is_refused_by_name(bad):
    """An unusable address is named, with the argument, and an example is shown."""
    with pytest.raises(InvalidSetting) as raised:
        settings(bad)
    assert raised.value.param == "address"
    assert raised.value.message.startswith("address: ")
    assert "http://localhost:3000" in (raised.value.hint or "")


def test_password_in_an_address_is_refused_unshown():
    """Credentials in an address are refused and not repeated."""
    with pytest.raises(InvalidSetting) as raised:
        settings("http://me:hunter2@host")
    assert "hunter2" not in str(raised.value)


def test_endpoint_and_key_come_from_the_environment_at_construction(monkeypatch):
    """OPENLLM_ENDPOINT and OPENLLM_API_KEY are read when a client is made, not later; arguments win."""
    monkeypatch.setenv("OPENLLM_ENDPOINT", "http://from-env:1")
    monkeypatch.setenv("OPENLLM_API_KEY", "k1")
    client = HTTPClient()
    monkeypatch.setenv("OPENLLM_ENDPOINT", "http://later:1")
    assert client.address == "http://from-env:1"
    assert HTTPClient("http://typed:2").address == "http://typed:2"
    assert AsyncHTTPClient().address == "http://later:1"
    assert settings(environ={"OPENLLM_API_KEY": "k1"}).headers["authorization"] == "Bearer k1"
    assert settings(environ={"OPENLLM_API_KEY": "k1"}, api_key="k2").headers["authorization"] == "Bearer k2"


def test_defaults_without_environment():
    """Without anything the client speaks to the default port, without a key."""
    found = settings()
    assert found.base_url == "http://localhost:3000"
    assert "authorization" not in found.headers
    assert settings(environ={"OPENLLM_ENDPOINT": " ", "OPENLLM_API_KEY": ""}) == found


def test_bad_endpoint_variable_is_named():
    """A bad OPENLLM_ENDPOINT is blamed on the variable."""
    with pytest.raises(InvalidSetting, match=r"^OPENLLM_ENDPOINT:"):
        settings(environ={"OPENLLM_ENDPOINT": "ftp://x"})


def test_first_of_the_servers_keys_is_sent():
    """The server reads a comma list from the variable that the client reads; the client sends the first."""
    assert settings(environ={"OPENLLM_API_KEY": " a , b"}).headers["authorization"] == "Bearer a"


@pytest.mark.parametrize("key", ["zq\nxj", "zq xj", "zqxjé", "zqxj\x00"])
def test_unusable_key_is_refused_unshown(key):
    """A key that no header can carry is refused without being printed."""
    with pytest.raises(InvalidSetting) as raised:
        settings(api_key=key)
    assert "zq" not in str(raised.value)


def test_key_is_never_printed():
    """Neither the client's nor the settings' repr shows the key."""
    client = HTTPClient("http://h:1", api_key="s3cret", headers={"x-token": "hush"})
    for shown in (repr(client), repr(client._settings)):
        assert "s3cret" not in shown
        assert "hush" not in shown


def test_given_headers_win():
    """Headers of the caller replace the client's own, whatever their case."""
    found = settings(api_key="k", headers={"Authorization": "Basic x", "X-A": "1"}).headers
    assert found["authorization"] == "Basic x"
    assert found["x-a"] == "1"


@pytest.mark.parametrize("headers", [{"x": "a\r\nb: c"}, {"x": "é"}, {"é": "x"}])
def test_header_that_cannot_be_sent_is_refused(headers):
    """Line breaks and non-ASCII text in headers are refused when the client is made."""
    with pytest.raises(InvalidSetting):
        settings(headers=headers)


@pytest.mark.parametrize(
    "bad", [{"timeout": 0}, {"timeout": -1}, {"timeout": float("nan")}, {"timeout": float("inf")}, {"timeout": True}]
)
def test_timeout_must_be_a_positive_number(bad):
    """There is no unbounded wait."""
    with pytest.raises(InvalidSetting, match="timeout"):
        settings(**bad)


def test_negative_retries_are_refused():
    """max_retries counts from 0."""
    with pytest.raises(InvalidSetting, match="max_retries"):
        settings(max_retries=-1)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1:3000", True),
        ("[::1]:1", True),
        ("x.localhost", True),
        ("10.0.0.1", False),
        ("example.com", False),
    ],
)
def test_loopback_bypasses_proxies_of_the_environment(address, loopback, monkeypatch):
    """A proxy variable does not catch requests to this machine; others go through it."""
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:8080")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with HTTPClient(address) as client:
        chosen = client._inner._transport_for_url(client._inner.build_request("GET", client.address).url)
        assert (chosen is client._inner._transport) is loopback


def test_given_proxy_is_used_for_loopback_too():
    """An explicit proxy is honoured everywhere."""
    assert transport_options(settings("localhost"), verify=True, proxy="http://p:1")["mounts"] is None


@pytest.mark.parametrize("cls", [HTTPClient, AsyncHTTPClient])
def test_unusable_proxy_is_one_clear_error(cls):
    """A proxy address that httpx cannot use is named."""
    with pytest.raises(InvalidSetting, match="proxy"):
        cls("http://host", proxy="nonsense://p")


def test_verify_takes_files_folders_and_contexts(tmp_path):
    """Certificates may be a file, a folder or a context; an unreadable one is named."""
    context = ssl.create_default_context()
    assert transport_options(settings(), verify=context, proxy=None)["verify"] is context
    assert isinstance(transport_options(settings(), verify=str(tmp_path), proxy=None)["verify"], ssl.SSLContext)
    with pytest.raises(InvalidSetting, match="verify"):
        HTTPClient("https://h", verify=str(tmp_path / "none.pem"))


def test_a_certificate_of_ones_own(tmp_path):
    """`cert` is one file or two; what cannot be one is refused by name, and so is one beside a context."""
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for cert in ("/no/such/file", str(empty), (str(empty), str(empty))):
        with pytest.raises(InvalidSetting) as refused:
            HTTPClient("https://localhost:1", cert=cert)
        assert refused.value.param == "cert"
    with pytest.raises(InvalidSetting, match="SSL context"):
        HTTPClient("https://localhost:1", cert=str(empty), verify=ssl.create_default_context())
