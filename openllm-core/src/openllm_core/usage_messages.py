"""Wire messages of `/v1/usage`; `schema` has them with all others. Shared by client and server."""

from __future__ import annotations

from typing import Literal

import attrs

from .serde import field


@attrs.frozen(kw_only=True)
class KeyUsage:
    """What one key had since the server started, and what it may have."""

    name: str = field(help="Name of the key; empty on a server without keys.")
    requests: int = field(help="Requests to the model that were let in.")
    refused: dict[str, int] = field(help="Requests refused for a limit of the key: requests, tokens, concurrency.")
    running: int = field(help="Requests under way.")
    prompt_tokens: int = field(help="Tokens of prompts, special tokens included.")
    completion_tokens: int = field(help="Tokens generated, those of requests that were cut included.")
    total_tokens: int = field(help="Sum of the two.")
    limits: dict[str, int] = field(help="Of requests_per_minute, tokens_per_minute and concurrency those there are.")
    remaining: dict[str, int] = field(help="What is left at this moment of the requests and tokens per minute.")
    models: list[str] | None = field(default=None, help="Names that the key may use in `model`; null: all.")
    priority: Literal["interactive", "background"] = field(default="interactive", help="The best its requests get.")


@attrs.frozen(kw_only=True)
class UsageList:
    """`GET /v1/usage`: the caller's own key; with the admin key all of them."""

    data: list[KeyUsage] = field(help="One entry for each key.")
    since: int = field(help="Unix time from which is counted: the server's start.")
    object: Literal["list"] = field(default="list", help="Constant.")
