"""Whether clients must show a certificate of their own. Asked by both servers, each of which has its own TLS."""

from __future__ import annotations

from openllm_core.errors import InvalidSetting
from openllm_core.options import ServerOptions

FLAG = "--ssl-cert-reqs"
DEMANDS = ("none", "optional", "required")
FORMER = {"0": "none", "1": "optional", "2": "required"}
"""Python's numbers, as 0.3.5 took them."""


def demand_of(options: ServerOptions) -> str:
    """none, optional or required; without a word required where authorities are named.

    Raises:
        InvalidSetting: it is none of these, or nobody is named whom to believe.
    """
    given = options.ssl_cert_reqs
    if not given:
        return "required" if options.ssl_ca_certs else "none"
    found = FORMER.get(given, given)
    if found not in DEMANDS:
        raise InvalidSetting(f"{FLAG}: {given[:40]!r} is not one of {', '.join(DEMANDS)}.", param=FLAG)
    if found != "none" and not options.ssl_ca_certs:
        raise InvalidSetting(f"{FLAG} {found} needs --ssl-ca-certs: whose certificates to believe.", param=FLAG)
    return found
