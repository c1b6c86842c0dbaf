"""What of a call had no effect, told in its trailing metadata as HTTP tells it in a header.

Asked by `gate` for every message that is read, and by methods whose answers ignore a field. It must not know of methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from openllm_core.errors import InvalidRequest

if TYPE_CHECKING:
    from .untyped import Context

KEY = "x-openllm-ignored"
MAX_CHARS = 1000
MAX_NAMED = 64


def check_unknown(message: Message, context: Context, *, strict: bool) -> None:
    """Say which fields of a message this server does not know, or refuse them.

    A field that is not known has a number and no name; it is called `sampling.99`.

    Raises:
        InvalidRequest: there is one, and `strict` asks for this.
    """
    names = [name for name, _ in zip(_unknown(message, ""), range(MAX_NAMED), strict=False)]
    if names and strict:
        raise InvalidRequest(f"{names[0]} is not a known field.", param=names[0], code="unknown_parameter")
    tell(context, names)


def tell(context: Context, names: Sequence[str]) -> None:
    """Add fields that had no effect to the call's trailing metadata."""
    if names:
        before = [(key, value) for key, value in context.trailing_metadata() or () if key != KEY]
        told = [value for key, value in context.trailing_metadata() or () if key == KEY]
        text = ", ".join([*map(str, told), *names])[:MAX_CHARS]
        context.set_trailing_metadata((*before, (KEY, text)))


def _unknown(message: Message, path: str) -> Iterator[str]:
    fields = UnknownFieldSet(message)
    for index in range(len(fields)):
        yield f"{path}{fields[index].field_number}"
    for known, value in message.ListFields():
        if known.message_type is None:
            continue
        inner = f"{path}{known.name}"
        if known.message_type.GetOptions().map_entry:
            continue
        if isinstance(value, Message):
            yield from _unknown(value, f"{inner}.")
        else:
            members: Sequence[Any] = value
            for index, member in enumerate(members):
                yield from _unknown(member, f"{inner}[{index}].")
