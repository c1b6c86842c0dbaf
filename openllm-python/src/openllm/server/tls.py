"""TLS of the HTTP side, from the same options that the gRPC side has. What does not fit is told before anything is loaded.

Without a word it is what is sound today: TLS 1.2 and 1.3, forward secrecy, no cipher below 128 bits.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, cast

from openllm.access import demand_of
from openllm_core.errors import InvalidSetting, UnsafeConfiguration
from openllm_core.options import ServerOptions

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
FORMER_VERSIONS = {"2": "1.2", "5": "1.2", "17": "1.2"}
"""Python's numbers of protocols, as 0.3.5 took them: "whatever both know" means 1.2 or newer here."""
WEAK_VERSIONS = ("0", "1", "3", "4", "1.0", "1.1")
DEMANDS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
LEAST_BITS = 128
SOUND_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20"
"""Of TLS 1.2; those of 1.3 all are. Python's own default is the system's in some builds, static RSA among them (Debian's)."""


def context_of(options: ServerOptions) -> ssl.SSLContext | None:
    """What connections are encrypted with; None where no certificate was given.

    Raises:
        InvalidSetting: a file is missing, cannot be read or is not what it should be, or two settings do not fit.
        UnsafeConfiguration: a protocol or cipher was asked for that can be broken.
    """
    if not options.ssl_certfile:
        for flag, value in _others(options).items():
            if value:
                raise InvalidSetting(f"{flag} needs --ssl-certfile, without which nothing is encrypted.", param=flag)
        return None
    if not options.ssl_keyfile:
        raise InvalidSetting(
            "--ssl-certfile needs --ssl-keyfile, the certificate's private key.", param="--ssl-keyfile"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _version(options.ssl_version)
    _take_certificate(context, options)
    if options.ssl_ca_certs:
        try:
            context.load_verify_locations(options.ssl_ca_certs)
        except OSError as error:
            raise InvalidSetting(f"{options.ssl_ca_certs}: {_why(error)}.", param="--ssl-ca-certs") from None
    context.verify_mode = DEMANDS[demand_of(options)]
    _take_ciphers(context, options.ssl_ciphers or SOUND_CIPHERS)
    if options.grpc_port is not None:
        _check_grpc(options)
    return context


def relaxed(options: ServerOptions) -> list[str]:
    """What was asked for that is weaker than without a word, one line each."""
    context = context_of(options)
    if context is None:
        return []
    found: list[str] = []
    demand = demand_of(options)
    if options.ssl_ca_certs and demand != "required":
        found.append(f"--ssl-cert-reqs {demand}: clients without a certificate are answered, despite --ssl-ca-certs")
    static = [cipher["name"] for cipher in _ciphers(context) if cipher.get("kea") == "kx-rsa"]
    if static:
        found.append(
            f"--ssl-ciphers: {', '.join(static[:3])} without forward secrecy: a stolen key opens what was said"
        )
    return found


def _others(options: ServerOptions) -> dict[str, str]:
    return {
        "--ssl-keyfile": options.ssl_keyfile,
        "--ssl-keyfile-password": options.ssl_keyfile_password,
        "--ssl-ca-certs": options.ssl_ca_certs,
        "--ssl-cert-reqs": options.ssl_cert_reqs,
        "--ssl-version": options.ssl_version,
        "--ssl-ciphers": options.ssl_ciphers,
    }


def _version(given: str) -> ssl.TLSVersion:
    flag = "--ssl-version"
    if given in WEAK_VERSIONS:
        raise UnsafeConfiguration(
            f"{flag} {given} means SSL or TLS before 1.2, which can be broken.", hint=f"{flag} 1.2", param=flag
        )
    found = FORMER_VERSIONS.get(given, given or "1.2")
    if found not in VERSIONS:
        raise InvalidSetting(f"{flag}: {given[:40]!r} is not one of {', '.join(VERSIONS)}.", param=flag)
    return VERSIONS[found]


def _take_certificate(context: ssl.SSLContext, options: ServerOptions) -> None:
    password, key = options.ssl_keyfile_password, options.ssl_keyfile
    try:  # an empty password keeps OpenSSL from asking for one
        context.load_cert_chain(options.ssl_certfile, key, password=password)
    except OSError as error:
        if isinstance(error, ssl.SSLError) and b"ENCRYPTED" in Path(key).read_bytes():
            raise InvalidSetting(
                f"{key} is encrypted, and {'this is not its password' if password else 'there is no password for it'}.",
                hint="Set OPENLLM_SSL_KEYFILE_PASSWORD; a flag would show in `ps`.",
                param="--ssl-keyfile-password",
            ) from None
        files = f"{options.ssl_certfile}, {key}"
        raise InvalidSetting(f"{files}: no certificate with its key: {_why(error)}.", param="--ssl-certfile") from None


def _take_ciphers(context: ssl.SSLContext, ciphers: str) -> None:
    flag = "--ssl-ciphers"
    try:
        context.set_ciphers(ciphers)
    except ssl.SSLError as error:
        raise InvalidSetting(f"{flag}: {ciphers[:200]!r}: {_why(error)}.", param=flag) from None
    weak = [c["name"] for c in _ciphers(context) if c["strength_bits"] < LEAST_BITS or c.get("auth") == "auth-null"]
    if weak:
        raise UnsafeConfiguration(
            f"{flag} allows {', '.join(weak[:4])}, which can be broken.",
            hint="Leave it out: the default is sound.",
            param=flag,
        )


def _ciphers(context: ssl.SSLContext) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", context.get_ciphers())


def _check_grpc(options: ServerOptions) -> None:
    """gRPC brings a TLS of its own, which knows less.

    Raises:
        InvalidSetting: it would not do what was asked for.
    """
    for flag, value in (("--ssl-version 1.3", options.ssl_version == "1.3"), ("--ssl-ciphers", options.ssl_ciphers)):
        if value:
            raise InvalidSetting(
                f"{flag}: gRPC takes no such setting; it speaks TLS 1.2 and 1.3 with sound ciphers.",
                hint="Leave it out, or serve gRPC from a server of its own.",
                param=flag.partition(" ")[0],
            )
    if options.ssl_keyfile_password:
        raise InvalidSetting(
            "--ssl-keyfile-password: gRPC reads no encrypted key.",
            hint=f"openssl pkey -in {options.ssl_keyfile} -out key.pem",
            param="--ssl-keyfile-password",
        )


def _why(error: OSError) -> str:
    """One phrase: OpenSSL's own name of the fault where it has one."""
    reason: str = getattr(error, "reason", None) or error.strerror or str(error.args[0])
    return reason.replace("_", " ").lower().removesuffix(".")
