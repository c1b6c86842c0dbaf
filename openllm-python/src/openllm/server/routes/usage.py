"""`GET /v1/usage`: what the caller's key had and may have; with the admin key, what all had."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openllm.access import Access, Account, caller
from openllm_core.schema import KeyUsage, UsageList
from openllm_core.serde import dumps

from ..operation import Operation


def operations(access: Access) -> list[Operation]:
    """The routes of this file."""

    async def usage(request: Request) -> ASGIApp:
        seen = [of(account) for account in access.seen_by(caller())]
        return Response(dumps(UsageList(data=seen, since=access.since)), media_type="application/json")

    return [
        Operation(
            path="/v1/usage",
            methods=("GET",),
            endpoint=usage,
            summary="Requests and tokens of your key, and its limits; with the admin key, of all keys.",
            tag="Health",
            response=UsageList,
        )
    ]


def of(account: Account) -> KeyUsage:
    """One key's."""
    key, used = account.key, account.used
    limits = {
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "concurrency": key.concurrency,
    }
    return KeyUsage(
        name=key.name,
        requests=used.requests,
        refused=dict(used.refused),
        running=account.running,
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        total_tokens=used.prompt_tokens + used.completion_tokens,
        limits={name: value for name, value in limits.items() if value is not None},
        remaining=account.left(),
        models=key.models,
        priority=key.priority,
    )
