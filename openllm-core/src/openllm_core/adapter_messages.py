"""Wire messages of `/v1/adapters`; `schema` has them with all others. Shared by client and server."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from .serde import field


@attrs.frozen(kw_only=True)
class AdapterRequest:
    """Body of `POST /v1/adapters` and of its sub-routes."""

    adapter_name: str = field(min_length=1, max_length=96, help="Name of the adapter.")


@attrs.frozen(kw_only=True)
class AdapterCard:
    """One adapter of a server."""

    name: str = field(help="Name to use in `adapter_name`, or in `model`.")
    state: Literal["loading", "ready", "failed"] = field(help="What holds now.")
    rank: int = field(help="Its rank, the highest where layers differ.")
    base: str = field(help="Model it was trained on, as it says itself.")
    default: bool = field(default=False, help="Whether requests without `adapter_name` get it on /v1/generate.")
    error: str | None = field(default=None, help="Why it failed.")


@attrs.frozen(kw_only=True)
class AdapterList:
    """Answer of every `/v1/adapters` route: the true state after it."""

    success: bool = field(default=True, help="Constant; what fails is answered with an error.")
    error_msg: str = field(default="", help="Constant; what fails is answered with an error.")
    result: dict[str, dict[str, Any]] = field(help="Name -> the adapter's own configuration.")
    default: str | None = field(default=None, help="The server's default adapter; null is the bare base.")
    adapters: list[AdapterCard] = field(default=attrs.Factory(list), help="One entry for each, in order of loading.")
    max_adapters: int = field(default=0, help="How many may be loaded at once.")
