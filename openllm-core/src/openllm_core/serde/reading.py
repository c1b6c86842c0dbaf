"""Plain data -> attrs values, strict by type and range.

One reader function per type is composed once and cached. A refusal travels up as an exception that collects the path on
its way, so that a good value costs no path at all.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, cast, overload

import attrs

from ..errors import InvalidRequest
from .checks import (
    ARRAY,
    BOOLEAN,
    DECIMAL,
    INTEGER,
    NULL,
    OBJECT,
    SCALARS,
    STRING,
    Refused,
    check_length,
    check_range,
    cut,
    kind_of,
    not_among,
    wrong_type,
)
from .rule import NO_RULE, Rule, rule_of

T = TypeVar("T")

_Reader = Callable[[Any, "list[str] | None", str], Any]
"""(value, where to collect unknown names or None to refuse them, path so far when collecting) -> structured value."""


@overload
def structure(data: Any, cls: type[T], *, unknown: Literal["refuse"] = "refuse") -> T: ...


@overload
def structure(data: Any, cls: type[T], *, unknown: Literal["collect"]) -> tuple[T, list[str]]: ...


def structure(data: Any, cls: type[T], *, unknown: Literal["refuse", "collect"] = "refuse") -> T | tuple[T, list[str]]:
    """Turn plain data into a value of `cls`.

    Args:
        data: what `loads` gave.
        cls: an attrs class, or any type made of attrs classes, lists, dicts, unions, literals and scalars.
        unknown: what to do with keys that no field takes: refuse, or ignore and return their paths.

    Returns:
        The value; with `unknown="collect"`, the value and the paths of the ignored keys.

    Raises:
        InvalidRequest: `param` is the path; `code` one of invalid_type, invalid_value, missing_required_parameter,
            unknown_parameter, {integer,decimal}_{below_min,above_max}_value, empty_array,
            {string,array,object}_{below_min,above_max}_length.
    """
    ignored: list[str] | None = [] if unknown == "collect" else None
    value = _read(_reader(cls), data, ignored, "")
    return value if ignored is None else (value, ignored)


def structure_value(
    value: Any, target: Any, *, path: str, ge: float | None = None, le: float | None = None, choices: Any = None
) -> Any:
    """Check one value that stands outside a message, as `structure` checks a field.

    Args:
        target: its type.
        path: its name in errors.
        ge, le, choices: as for `field`.

    Raises:
        InvalidRequest: see `structure`.
    """
    rule = Rule(ge=ge, le=le, choices=None if choices is None else tuple(choices))
    return _read(_reader(target, rule), value, None, path)


def check(made: Any) -> None:
    """Check the fields of a value made by hand; those that have their default pass.

    Raises:
        InvalidRequest: see `structure`.
    """
    for known in _fields(cast("type[Any]", type(made))).values():
        value = getattr(made, known.name)
        if value is not known.default:
            _read(known.read, value, None, known.name)


def _read(reader: _Reader, data: Any, ignored: list[str] | None, path: str) -> Any:
    try:
        return reader(data, ignored, path)
    except Refused as refused:
        param = _join([*([path] if path else []), *reversed(refused.path)])
        message = f"{param or 'The body'} {refused.says}."
        raise InvalidRequest(message, code=refused.code, param=param or None) from None


def _join(parts: typing.Iterable[str | int]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return cut(text)


@functools.cache
def _reader(target: Any, rule: Rule = NO_RULE) -> _Reader:
    """The function that reads one type; made once per type and rule."""
    origin = typing.get_origin(target)
    args = typing.get_args(target)
    if origin in (typing.Union, types.UnionType):
        return _union_reader(args, rule)
    if origin is Literal:
        return _literal_reader(args)
    if origin is tuple and args[-1] is not ...:
        return _tuple_reader(args, rule)
    if origin in (list, tuple) or target in (list, tuple):
        return _list_reader(args[0] if args else Any, rule, tuple if tuple in (origin, target) else list)
    if origin is dict or target is dict:
        return _dict_reader(args[1] if args else Any, rule)
    if target is Any or target is object:
        return lambda value, ignored, path: value
    if target is None or target is type(None):
        return _read_none
    if target in SCALARS:
        return _scalar_reader(target, rule)
    if isinstance(target, type) and attrs.has(target):
        return lambda value, ignored, path: _read_class(target, value, ignored, path)
    raise TypeError(f"serde cannot read {target!r}")


def _read_none(value: Any, ignored: list[str] | None, path: str) -> None:
    if value is not None:
        raise wrong_type(NULL, value)


def _scalar_reader(target: type[Any], rule: Rule) -> _Reader:
    convert = SCALARS[target]
    if target is bool or rule == Rule(help=rule.help):
        return lambda value, ignored, path: convert(value)

    def read(value: Any, ignored: list[str] | None, path: str) -> Any:
        converted = convert(value)
        if target is str:
            check_length(len(converted), rule, "string", "characters")
        else:
            check_range(converted, rule, "integer" if target is int else "decimal")
        if rule.choices is not None and converted not in rule.choices:
            raise not_among(rule.choices, converted)
        return converted

    return read


def _literal_reader(choices: tuple[Any, ...]) -> _Reader:
    def read(value: Any, ignored: list[str] | None, path: str) -> Any:
        for choice in choices:
            if value == choice and type(value) is type(choice):
                return value
        if not isinstance(value, (str, int, float)):
            raise wrong_type(f"one of {', '.join(map(repr, choices))}", value)
        raise not_among(choices, value)

    return read


def _list_reader(member: Any, rule: Rule, make: Callable[[list[Any]], Any]) -> _Reader:
    item_rule = Rule(ge=rule.ge, gt=rule.gt, le=rule.le, lt=rule.lt, choices=rule.choices)
    read_item = _reader(member, item_rule)

    def read(value: Any, ignored: list[str] | None, path: str) -> Any:
        if not isinstance(value, (list, tuple)):
            raise wrong_type(ARRAY, value)
        items = cast("Sequence[Any]", value)
        check_length(len(items), rule, "array", "items")
        made: list[Any] = []
        try:
            if ignored is None:
                for item in items:
                    made.append(read_item(item, None, ""))
            else:
                for index, item in enumerate(items):
                    made.append(read_item(item, ignored, f"{path}[{index}]"))
        except Refused as refused:
            raise refused.under(len(made)) from None
        return made if make is list else make(made)

    return read


def _tuple_reader(members: tuple[Any, ...], rule: Rule) -> _Reader:
    """A list of fixed length, each place with its own type."""
    item_rule = Rule(ge=rule.ge, gt=rule.gt, le=rule.le, lt=rule.lt, choices=rule.choices)
    readers = [_reader(member, item_rule) for member in members]

    def read(value: Any, ignored: list[str] | None, path: str) -> Any:
        if not isinstance(value, (list, tuple)):
            raise wrong_type(ARRAY, value)
        items = cast("Sequence[Any]", value)
        check_length(len(items), Rule(min_length=len(readers), max_length=len(readers)), "array", "items")
        made: list[Any] = []
        try:
            for index, (item, read_item) in enumerate(zip(items, readers, strict=True)):
                made.append(read_item(item, ignored, f"{path}[{index}]"))
        except Refused as refused:
            raise refused.under(len(made)) from None
        return tuple(made)

    return read


def _dict_reader(member: Any, rule: Rule) -> _Reader:
    read_item = _reader(member, Rule(ge=rule.ge, gt=rule.gt, le=rule.le, lt=rule.lt, choices=rule.choices))

    def read(value: Any, ignored: list[str] | None, path: str) -> Any:
        if not isinstance(value, dict):
            raise wrong_type(OBJECT, value)
        made: dict[str, Any] = {}
        pairs = cast("dict[Any, Any]", value)
        check_length(len(pairs), rule, "object", "keys")
        for key, item in pairs.items():
            if not isinstance(key, str):
                raise wrong_type("an object with string keys", value)
            try:
                made[key] = read_item(item, ignored, f"{path}.{key}" if path else key)
            except Refused as refused:
                raise refused.under(cut(key)) from None
        return made

    return read


def _takes(target: Any) -> frozenset[str]:
    """Kinds of JSON value that a union member can take."""
    origin = typing.get_origin(target)
    if target is Any or target is object:
        return frozenset({OBJECT, ARRAY, STRING, INTEGER, DECIMAL, BOOLEAN, NULL})
    if origin is Literal:
        return frozenset(kind_of(v) for v in typing.get_args(target))
    if origin in (list, tuple) or target in (list, tuple):
        return frozenset({ARRAY})
    if target is float:
        return frozenset({INTEGER, DECIMAL})
    if target is int:  # a number past 64 bits arrives as a float; the reader gives it its own code
        return frozenset({INTEGER, DECIMAL})
    kinds: dict[Any, str] = {str: STRING, bool: BOOLEAN, type(None): NULL, None: NULL}
    return frozenset({kinds.get(target, OBJECT)})


def _union_reader(members: tuple[Any, ...], rule: Rule) -> _Reader:
    readers = [(_takes(m), _reader(m, rule)) for m in members]
    by_kind: dict[str, list[_Reader]] = {}
    for kinds, reader in readers:
        for kind in kinds:
            by_kind.setdefault(kind, []).append(reader)
    if int in members and float not in members and set(by_kind) - {NULL} == {INTEGER, DECIMAL}:
        want = INTEGER
    else:
        want = " or ".join(k for k in by_kind if k != NULL and not (k == INTEGER and DECIMAL in by_kind))
    nullable = type(None) in members

    def read(value: Any, ignored: list[str] | None, path: str) -> Any:
        if value is None and nullable:
            return None
        candidates = by_kind.get(kind_of(value), [])
        deepest: Refused | None = None
        for candidate in candidates:
            mark = 0 if ignored is None else len(ignored)
            try:
                return candidate(value, ignored, path)
            except Refused as refused:
                if ignored is not None:
                    del ignored[mark:]
                if deepest is None or _depth(refused) > _depth(deepest):
                    deepest = refused
        raise deepest or wrong_type(want, value)

    return read


def _depth(refused: Refused) -> tuple[int, int]:
    """How far a union member got before it refused; the one that got farthest explains best."""
    outermost = refused.path[-1] if refused.path else 0
    return (len(refused.path), outermost if isinstance(outermost, int) else 0)


@attrs.frozen
class _Field:
    name: str
    init_name: str
    default: Any
    read: _Reader

    @property
    def required(self) -> bool:
        return self.default is attrs.NOTHING


@functools.cache
def _fields(cls: type[Any]) -> dict[str, _Field]:
    found = [a for a in attrs.fields(cls) if a.init]
    hints = {a.name: a.type for a in found}
    if any(isinstance(hint, str) for hint in hints.values()):  # looking text up takes most of the first reading's time
        hints = typing.get_type_hints(cls)
    return {
        a.name: _Field(
            name=a.name,
            init_name=a.alias or a.name,
            default=a.default,
            read=_reader(hints.get(a.name, Any), rule_of(a)),
        )
        for a in found
    }


def _read_class(cls: type[Any], value: Any, ignored: list[str] | None, path: str) -> Any:
    if not isinstance(value, dict):
        raise wrong_type(OBJECT, value)
    fields = _fields(cls)
    given: dict[str, Any] = {}
    for key, item in cast("dict[Any, Any]", value).items():
        known = fields.get(key)
        if known is None:
            shown = cut(str(key))
            if ignored is None:
                raise Refused("unknown_parameter", "is not a known field").under(shown)
            ignored.append(cut(f"{path}.{shown}" if path else shown))
            continue
        try:
            given[known.init_name] = known.read(item, ignored, "" if ignored is None else _dotted(path, key))
        except Refused as refused:
            raise refused.under(key) from None
    for known in fields.values():
        if known.required and known.init_name not in given:
            raise Refused("missing_required_parameter", "is required").under(known.name)
    try:
        return cls(**given)
    except (ValueError, TypeError) as error:
        raise Refused("invalid_value", f"is not valid: {cut(str(error))}") from None


def _dotted(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
