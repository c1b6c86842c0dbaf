"""Who may ask and how much: keys, their limits and models, who asks now, and what an address without a key may do.

`compose` makes one `Access` for a server; HTTP's middleware and gRPC's gate pass each request through it, and everything below
asks `caller()`. Headers are read by those two, each in its own way; nothing here knows HTTP, gRPC or the engine.
"""

from __future__ import annotations

from .access import Access, check_access, has_keys
from .accounts import Account, caller, require_admin, require_loading, urgency
from .addresses import ANY_ORIGIN, allowed_origins, is_loopback
from .certificates import demand_of
from .priority import PRIORITIES, PRIORITY_HEADER

__all__ = [
    "ANY_ORIGIN",
    "PRIORITIES",
    "PRIORITY_HEADER",
    "Access",
    "Account",
    "allowed_origins",
    "caller",
    "check_access",
    "demand_of",
    "has_keys",
    "is_loopback",
    "require_admin",
    "require_loading",
    "urgency",
]
