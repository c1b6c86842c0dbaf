"""The door: which key is whose, in constant time; changes of the key file while serving; rates, places, debts."""

from __future__ import annotations

import hmac
import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.openllm.access.key_files import key_of, spoil, text_of, write

from openllm.access import Access, access, accounts, caller
from openllm.access.accounts import Account, Bucket
from openllm.access.keys import digest_of, utc
from openllm_core.errors import InvalidRequest, RateLimitExceeded
from openllm_core.options import ServerOptions
from openllm_core.schema import Usage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Monotonic seconds, moved by the test."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def asked(door: Access, name: str) -> str:
    """Name of the key that a text is, "" where it is none."""
    try:
        return door.identify([f"Bearer {text_of(name)}"]).name
    except InvalidRequest as error:
        assert error.wire_code == "invalid_api_key"
        return ""


def test_each_key_has_its_name(tmp_path: Path) -> None:
    """Those of the variable are numbered, those of the file are named, the admin key is admin; all others are nobody."""
    path = write(tmp_path / "keys", key_of("ann"), key_of("bob"))
    door = Access(ServerOptions(api_key=("one", "two"), admin_key="boss", api_key_file=str(path)))
    assert [door.identify([f"Bearer {key}"]).name for key in ("one", "two", "boss")] == ["env-1", "env-2", "admin"]
    assert [asked(door, name) for name in ("ann", "bob", "cid")] == ["ann", "bob", ""]
    assert [account.admin for account in door.accounts] == [True, False, False, False, False]


def test_an_admin_key_that_is_an_ordinary_one_too_is_the_admin_key() -> None:
    """Whoever gives both the same text has one key that may do everything."""
    assert Access(ServerOptions(api_key=("one", "same"), admin_key="same")).identify(["Bearer same"]).admin


def test_on_an_open_server_the_admin_key_changes_and_all_others_ask() -> None:
    """It closes nothing: a wrong key, or none, is anybody, who may not change what is served."""
    door = Access(ServerOptions(admin_key="boss"))
    assert door.identify(["Bearer boss"]).admin
    for given in ([], ["Bearer other"], ["Bearer boss", "Bearer boss"]):
        assert not door.identify(given).admin
    assert [account.name for account in door.accounts] == ["admin", ""]
    assert Access(ServerOptions()).identify(["Bearer any"]).admin


def test_every_key_is_compared_whichever_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first, the last, none of them: as many comparisons of digests, by `hmac.compare_digest`, none of a key's text."""
    path = write(tmp_path / "keys", *(key_of(f"k{n}") for n in range(7)))
    door, compared = Access(ServerOptions(api_key_file=str(path))), list[tuple[bytes, bytes]]()

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for name, found in (("k0", "k0"), ("k6", "k6"), ("nobody", "")):
        compared.clear()
        assert asked(door, name) == found
        assert [one for one, _ in compared] == [digest_of(text_of(name).encode())] * 7
        assert len({other for _, other in compared}) == 7 and all(len(other) == 32 for _, other in compared)


def test_the_engine_tells_keys_apart_from_the_second_on(tmp_path: Path) -> None:
    """One key shares with nobody; of two, each is a tenant; an open server has none."""
    path = write(tmp_path / "keys", key_of("ann"))
    alone = Access(ServerOptions(api_key_file=str(path), admin_key="boss"))
    assert [account.tenant for account in alone.accounts] == ["", ""]
    both = Access(ServerOptions(api_key_file=str(path), api_key=("one",)))
    assert [account.tenant for account in both.accounts] == ["env-1", "ann"]
    assert [account.tenant for account in Access(ServerOptions()).accounts] == [""]


def test_a_change_of_the_file_counts_without_a_restart(tmp_path: Path, clock: list[float]) -> None:
    """A key that is added opens, one that is removed does not, and what the others used stays counted."""
    path = write(tmp_path / "keys", key_of("ann", requests_per_minute=5), key_of("bob"))
    door = Access(ServerOptions(api_key_file=str(path)))
    ann = door.identify([f"Bearer {text_of('ann')}"])
    with ann.working():
        ann.count(Usage(prompt_tokens=2, completion_tokens=3, total_tokens=5))
    write(path, key_of("ann", requests_per_minute=5, models=["poet"]), key_of("cid"))
    assert asked(door, "cid") == "" and asked(door, "bob") == "bob"  # looked at a moment ago
    clock[0] += access.LOOK_S
    assert [asked(door, name) for name in ("ann", "bob", "cid")] == ["ann", "", "cid"]
    assert door.identify([f"Bearer {text_of('ann')}"]) is ann
    assert (ann.used.requests, ann.used.completion_tokens) == (1, 3) and ann.left() == {"requests": 4}
    assert ann.allows("poet") and not ann.allows("base")


def test_a_file_that_breaks_while_serving_changes_nothing(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Broken, opened to others, gone: the keys from before stay, the log says so once, and what is mended counts again."""
    path = write(tmp_path / "keys", key_of("ann"))
    door = Access(ServerOptions(api_key_file=str(path)))
    for number, (spoiled, told) in enumerate(
        (
            (lambda: spoil(path, "no key"), "line 1"),
            (lambda: path.chmod(0o644), "chmod 600"),
            (path.unlink, "No such file"),
        )
    ):
        caplog.clear()
        spoiled()
        for _ in range(3):
            clock[0] += access.LOOK_S
            assert asked(door, "ann") == "ann", number
        (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert told in record.getMessage() and "The keys from before stay" in record.getMessage()
    write(path, key_of("bob"))
    clock[0] += access.LOOK_S
    assert (asked(door, "ann"), asked(door, "bob")) == ("", "bob")


def test_a_file_that_is_emptied_while_serving_closes_the_server(tmp_path: Path, clock: list[float]) -> None:
    """Without its last key nobody gets in: a server that asked for a key never stops to."""
    path = write(tmp_path / "keys", key_of("ann"))
    door = Access(ServerOptions(api_key_file=str(path)))
    write(path)
    clock[0] += access.LOOK_S
    assert asked(door, "ann") == ""
    with pytest.raises(InvalidRequest):
        door.identify([])


def test_a_replaced_key_opens_until_its_time(tmp_path: Path) -> None:
    """Both keys are the same account while they overlap; after it the old one is nobody's."""
    for shift, found in ((timedelta(minutes=1), "ann"), (timedelta(seconds=-1), "")):
        old = digest_of(text_of("before").encode()).hex()
        rotated = key_of("ann", old_sha256=old, old_until=utc(datetime.now(UTC) + shift))
        door = Access(ServerOptions(api_key_file=str(write(tmp_path / "keys", rotated))))
        assert (asked(door, "ann"), asked(door, "before")) == ("ann", found)


def test_requests_per_minute(clock: list[float]) -> None:
    """As many at once as a minute allows, then one each time its share of the minute is over; refusals say when, and cost nothing."""
    account = Account(key_of("ann", requests_per_minute=3))
    for _ in range(3):
        with account.working():
            pass
    for _ in range(10):
        with pytest.raises(RateLimitExceeded, match="3 requests per minute") as refused, account.working():
            pass
        assert refused.value.retry_after_s == pytest.approx(20)
    clock[0] += 20.001
    with account.working():
        pass
    assert (account.used.requests, account.used.refused["requests"]) == (4, 10)
    clock[0] += 3600
    assert account.left() == {"requests": 3}


def test_tokens_per_minute(clock: list[float]) -> None:
    """Counted when a request ends; one that took more than was left is paid off before the next."""
    account = Account(key_of("ann", tokens_per_minute=60))
    with account.working():
        account.count(Usage(prompt_tokens=50, completion_tokens=70, total_tokens=120))
    assert account.left() == {"tokens": 0}
    with pytest.raises(RateLimitExceeded, match="60 tokens per minute") as refused, account.working():
        pass
    assert refused.value.retry_after_s == pytest.approx(61)
    clock[0] += 61.001
    with account.working():
        pass


def test_concurrency(clock: list[float]) -> None:
    """As many at once as the key may have; a place is free as soon as one ends, however it does."""
    account = Account(key_of("ann", concurrency=2))
    with account.working(), account.working():
        with pytest.raises(RateLimitExceeded, match="2 requests under way") as refused, account.working():
            pass
        assert refused.value.retry_after_s == 1 and account.running == 2
    with pytest.raises(ZeroDivisionError), account.working():
        raise ZeroDivisionError
    assert account.running == 0


def test_a_rate_that_stays_keeps_what_is_used_up(clock: list[float]) -> None:
    """A new limit begins full; the same one goes on where it was."""
    account = Account(key_of("ann", requests_per_minute=2, tokens_per_minute=10))
    with account.working():
        account.count_tokens(4)
    account.change(key_of("ann", requests_per_minute=2, tokens_per_minute=20, models=["x"]))
    assert account.left() == {"requests": 1, "tokens": 20}
    account.change(key_of("ann"))
    assert account.left() == {}


def test_a_bucket_is_never_fuller_than_full(clock: list[float]) -> None:
    """Time adds up to the rate and no further."""
    bucket = Bucket(6)
    clock[0] += 1e6
    assert bucket.level() == 6 and bucket.wait_s() == 0
    bucket.take(6)
    assert bucket.wait_s() == pytest.approx(10)


def test_outside_of_a_request_nobody_asks() -> None:
    """What runs by itself may do everything; within a request it is its key's, and after it nobody's again."""
    assert caller().admin and caller().allows("anything") and caller().tenant == ""
    door = Access(ServerOptions(api_key=("one", "two")))
    with door.passing(["Bearer two"], counts=True) as account:
        assert caller() is account and account.name == "env-2" and account.running == 1
    assert caller() is not account and account.running == 0
    assert accounts.caller().name == ""
