"""TLS of the HTTP side, from the same options that the gRPC side has. Bad files are told before anything is loaded."""

from __future__ import annotations

import ssl

from openllm_core.errors import InvalidSetting
from openllm_core.options import ServerOptions


def context_of(options: ServerOptions) -> ssl.SSLContext | None:
    """What connections are encrypted with; None where no certificate was given.

    Raises:
        InvalidSetting: one of the files is missing, cannot be read or is not what it should be.
    """
    if not options.ssl_certfile:
        for flag, value in (("--ssl-keyfile", options.ssl_keyfile), ("--ssl-ca-certs", options.ssl_ca_certs)):
            if value:
                raise InvalidSetting(f"{flag} needs --ssl-certfile, without which nothing is encrypted.", param=flag)
        return None
    if not options.ssl_keyfile:
        raise InvalidSetting(
            "--ssl-certfile needs --ssl-keyfile, the certificate's private key.", param="--ssl-keyfile"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.ssl_certfile, options.ssl_keyfile, password="")
    except OSError as error:
        files = f"{options.ssl_certfile}, {options.ssl_keyfile}"
        raise InvalidSetting(f"{files}: no certificate with its key: {_why(error)}.", param="--ssl-certfile") from None
    if options.ssl_ca_certs:
        try:
            context.load_verify_locations(options.ssl_ca_certs)
        except OSError as error:
            raise InvalidSetting(f"{options.ssl_ca_certs}: {_why(error)}.", param="--ssl-ca-certs") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _why(error: OSError) -> str:
    """One phrase: OpenSSL's own name of the fault where it has one."""
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return (reason or str(error)).replace("_", " ").lower()
