"""Every field of every gRPC message, with the values at the edges of its type: the messages of the enumeration.

`messages_of` walks a message's descriptor, so that a field which is new is enumerated at once. Also messages that are none:
cut and flipped bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import attrs
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from .values import FILLER, LONG

INTEGERS = (0, 1, -1, 2, 3, 4, 16, 17, 128, 129, 2**31, 2**53, 2**63 - 1, -(2**31), -(2**63))
DECIMALS = (0.0, -0.0, 1.0, -1.0, 2.0, 2.1, -2.1, 0.5, 10.1, 100.5, 1e308, -1e308, 5e-324)
DECIMALS += (float("nan"), float("inf"), float("-inf"))
TEXTS = ("", "hi", "\0", "\u202e", "\ufeff", "nobody", "../../etc/passwd", FILLER * LONG)
KINDS = {FieldDescriptor.CPPTYPE_INT64: INTEGERS, FieldDescriptor.CPPTYPE_DOUBLE: DECIMALS}
KINDS |= {FieldDescriptor.CPPTYPE_STRING: TEXTS, FieldDescriptor.CPPTYPE_BOOL: (False, True)}


@attrs.frozen
class Asked:
    """One message.

    Attributes:
        field: that was set, as errors call it.
    """

    name: str
    field: str
    message: Message


def messages_of(base: Message) -> Iterator[Asked]:
    """A message with each of its fields at each edge; nested messages too, one field at a time."""
    for path, value, how in _edges(base, ()):
        made = type(base)()
        made.CopyFrom(base)
        _set(made, path, value, how)
        field = ".".join(fact.name for fact in path)
        yield Asked(f"{field} = {str(value)[:40]!r}", field, made)


def bytes_of(base: Message, seed: int, count: int) -> Iterator[bytes]:
    """A message cut at each byte, and with bytes of it changed."""
    whole = base.SerializeToString()
    yield from (whole[:at] for at in range(len(whole)))
    rng = random.Random(seed)
    for _ in range(count):
        broken = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        yield bytes(broken)


Path = tuple[FieldDescriptor, ...]


def _edges(message: Message, path: Path) -> Iterator[tuple[Path, Any, str]]:
    for fact in message.DESCRIPTOR.fields:
        here = (*path, fact)
        kind = fact.message_type
        if kind is None:
            for value in KINDS[fact.cpp_type]:
                yield here, value, "list" if fact.is_repeated else "one"
            if fact.is_repeated:
                yield here, KINDS[fact.cpp_type][1], "many"
        elif kind.GetOptions().map_entry:
            for key in INTEGERS:
                yield here, {key: 1.0}, "map"
            for value in DECIMALS:
                yield here, {65: value}, "map"
            yield here, dict.fromkeys(range(5000), 0.0), "map"
        elif kind.full_name in FREE:
            for value in FREE[kind.full_name]:
                yield here, value, "free list" if fact.is_repeated else "free"
        elif len(path) < 4:
            inner = kind._concrete_class()
            yield from _edges(inner, here)
            if fact.is_repeated:
                yield here, inner, "many"


def _set(message: Message, path: Path, value: Any, how: str) -> None:
    for fact in path[:-1]:
        held = getattr(message, fact.name)
        message = (held[-1] if len(held) else held.add()) if fact.is_repeated else held
        message.SetInParent()
    name = path[-1].name
    match how:
        case "one":
            setattr(message, name, value)
        case "list":
            getattr(message, name).append(value)
        case "many":
            getattr(message, name).extend([value] * 5000)
        case "map":
            getattr(message, name).update(value)
        case "free list":
            getattr(message, name).add().CopyFrom(value)
        case _:
            getattr(message, name).CopyFrom(value)


def _struct(**fields: Any) -> Struct:
    made = Struct()
    made.update(fields)
    return made


def _list(*items: Any) -> ListValue:
    made = ListValue()
    made.extend(items)
    return made


def _deep(levels: int) -> Struct:
    made = inner = Struct()
    for _ in range(levels):
        inner = inner.get_or_create_struct("a")
    return made


FREE: dict[str, tuple[Message, ...]] = {
    "google.protobuf.Struct": (
        Struct(),
        _struct(type="json_object"),
        _struct(type="function", function={"name": "look", "parameters": {"type": 1}}),
        _struct(type="function", function={"name": "look", "parameters": {"$ref": "#"}}),
        _struct(a=float("nan")),
        _struct(a=1e308, b=None, c=[None, {}]),
        _struct(type=FILLER * LONG),
        _struct(**{FILLER * LONG: 1}),
        _struct(generation_config={"temperature": "hot"}),
        _struct(generation_config=3),
        _deep(20),
    ),
    "google.protobuf.Value": (
        Value(),
        Value(null_value=0),  # type: ignore[arg-type]
        Value(number_value=float("inf")),
        Value(number_value=2.0**63),
        Value(string_value="required"),
        Value(string_value=FILLER * LONG),
        Value(bool_value=True),
        Value(struct_value=_deep(20)),
        Value(list_value=_list(1, 2)),
    ),
    "google.protobuf.ListValue": (
        ListValue(),
        _list(1),
        _list(None),
        _list([1, 2]),
        _list(float("nan")),
        _list("a", 2**70),
    ),
}
"""Values of messages that hold any JSON."""
