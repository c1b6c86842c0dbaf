"""The page at / and /chat as it is served: open to all, safe, kept by a browser, and naming no other host."""

from __future__ import annotations

import re

import pytest

from .serving import serving

FILES = ("/", "/chat", "/chat/app.js", "/chat/app.css", "/chat/licences.txt")


@pytest.mark.parametrize("path", FILES)
async def test_each_file_is_open_safe_and_kept(path: str) -> None:
    """Without a key and before the model is there: the file, its policy, and a tag by which a browser asks again."""
    async with serving(ready=False, options={"api_key": ("k",)}) as served:
        answer = await served.http.get(path)
        head = await served.http.head(path)
        again = await served.http.get(path, headers={"if-none-match": f'"other", W/{answer.headers["etag"]}'})
        changed = await served.http.get(path, headers={"if-none-match": '"other"'})
    assert answer.status_code == 200 and answer.content
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ") and "connect-src 'self';" in policy
    assert "trusted-types 'none'" in policy and "unsafe" not in policy and "*" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", answer.headers["etag"])
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    assert again.headers["content-security-policy"] == policy
    assert changed.status_code == 200


async def test_other_methods_and_paths_are_refused_in_the_one_shape() -> None:
    """A POST is 405, what is not there 404, a slash too many too."""
    async with serving(ready=False) as served:
        posted = await served.http.post("/chat", json={})
        missing = [await served.http.get(path) for path in ("/chat/", "/chat/app.map", "/chat/../constant.py", "/ui")]
    assert (posted.status_code, posted.json()["error"]["code"]) == (405, "method_not_allowed")
    for answer in missing:
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("http://other:4000/prefix", "http://other:4000"),
        ("other.example", "http://other.example"),
        ("HTTPS://Other.Example:8443", "https://other.example:8443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("*", None),
        ("https:", None),
        ("http://a; script-src *", None),
        ("http://a http://b", None),
        ("http://*.example", None),
        ("http://a\r\nx: y", None),
        ("http://user@host", None),
        ("javascript:alert(1)", None),
        ("data:,", None),
        ("'unsafe-inline'", None),
    ],
)
async def test_the_policy_allows_the_one_other_server_that_the_address_names(
    endpoint: str, allowed: str | None
) -> None:
    """`?endpoint=` opens the way to one server; what is no address of one opens nothing."""
    async with serving(ready=False) as served:
        answer = await served.http.get("/", params={"endpoint": endpoint})
        script = await served.http.get("/chat/app.js", params={"endpoint": endpoint})
    (asks,) = re.findall(r"connect-src ([^;]*);", answer.headers["content-security-policy"])
    assert asks == ("'self'" if allowed is None else f"'self' {allowed}")
    assert "connect-src 'self';" in script.headers["content-security-policy"]


async def test_the_page_has_no_code_of_its_own_and_works_behind_a_prefix() -> None:
    """The HTML holds no script, no style and no handler, and asks for its parts by relative addresses."""
    async with serving(ready=False) as served:
        page = (await served.http.get("/")).text
    assert "<script>" not in page and "<style" not in page and not re.search(r"\s(on\w+|style)=", page)
    assert 'lang="en"' in page and "<title>OpenLLM</title>" in page and "<noscript>" in page
    wanted = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert wanted and all(not link.startswith(("/", "http", "//")) for link in wanted), wanted


async def test_no_other_host_is_named() -> None:
    """The script and the style load nothing from elsewhere: the names of XML and links in messages are all the addresses."""
    async with serving(ready=False) as served:
        page, script, style = [(await served.http.get(path)).text for path in ("/", "/chat/app.js", "/chat/app.css")]
    text = page + script + style
    hosts = set(re.findall(r"(?:https?:)?//([a-z0-9-]+\.[a-z0-9.-]+[a-z0-9])", text))
    assert hosts <= {"www.w3.org", "github.com"}, hosts
    assert "sourceMappingURL" not in text and not re.search(r"@import|url\(", style)
    assert len(text) < 400_000
