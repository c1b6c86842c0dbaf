"""Options a command line can offer for the fields of a configuration, as plain data, and the way back.

`LLMConfig.to_click_options()` gives them to `cli/`, which makes options of its own kind of them; what the user typed comes
back through `LLMConfig.model_validate_click`. Knows nothing of click.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import orjson

from ..errors import MalformedSetting

Kind = Literal["int", "float", "str", "bool", "json"]

_KINDS: dict[Any, Kind] = {int: "int", float: "float", str: "str", bool: "bool"}


@attrs.frozen(kw_only=True)
class ClickOption:
    """One option.

    Attributes:
        flag: as typed: `--top-k`, or `--use-cache/--no-use-cache`.
        name: identifier of the parameter: `opt_generation_top_k`.
        field: the field it sets.
        type: type of one value; `json` for lists of lists and objects.
        default: value without the option.
        multiple: whether it may be repeated to make a list.
        nargs: values it takes at once.
        choices: allowed values.
        env: variable that sets the field too.
        group: heading it stands under.
    """

    flag: str
    name: str
    field: str
    type: Kind
    default: Any = None
    multiple: bool = False
    nargs: int = 1
    choices: tuple[str, ...] | None = None
    env: str = ""
    help: str = ""
    group: str = ""

    @property
    def is_flag(self) -> bool:
        """Whether it is a switch with an opposite."""
        return self.type == "bool" and not self.multiple


def without_none(hint: Any) -> Any:
    """A type without its None: `int | None` is `int`; a union of several stays one."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    members = [member for member in typing.get_args(hint) if member is not type(None)]
    return members[0] if len(members) == 1 else typing.Union[tuple(members)]  # noqa: UP007


def is_union(hint: Any) -> bool:
    """Whether a type, its None aside, is one of several, so that no single option can take it."""
    return typing.get_origin(without_none(hint)) in (typing.Union, types.UnionType)


def option(
    name: str, hint: Any, *, identifier: str, default: Any, env: str, help: str, group: str, choices: Any = None
) -> ClickOption:
    """The option of one field whose type is no union.

    Args:
        name: the field.
        hint: its type.
        identifier: name of the parameter.
        choices: allowed values, where the type does not say.
    """
    hint = without_none(hint)
    dashed = name.replace("_", "-")
    facts: dict[str, Any] = {"flag": f"--{dashed}", "type": _KINDS.get(hint, "json")}
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is bool:
        facts["flag"] = f"--{dashed}/--no-{dashed}"
    elif origin is Literal:
        facts |= {"type": "str", "choices": tuple(map(str, args))}
    elif origin in (list, tuple) and args[0] in _KINDS and (origin is list or args[-1] is ...):
        facts |= {"type": _KINDS[args[0]], "multiple": True}
    elif origin is tuple and all(member in _KINDS for member in args):
        facts |= {"type": "float" if float in args else _KINDS[args[0]], "nargs": len(args)}
    if choices:
        facts["choices"] = tuple(map(str, choices))
    return ClickOption(name=identifier, field=name, default=default, env=env, help=help, group=group, **facts)


def read(values: Mapping[str, Any], options: typing.Iterable[ClickOption]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part what a command line gave into fields and the rest.

    Returns:
        Field -> value of those that were given (None and an empty repetition were not), and what no option takes.

    Raises:
        MalformedSetting: a value that must be JSON is not.
    """
    left = dict(values)
    fields: dict[str, Any] = {}
    for known in options:
        if known.name not in left:
            continue
        value = left.pop(known.name)
        if value is None or (known.multiple and not value):
            continue
        if known.type == "json" and isinstance(value, str):
            value = _json(known.flag, value)
        elif known.nargs > 1 and known.type == "float":
            value = [int(part) if float(part).is_integer() else part for part in value]
        fields[known.field] = list(value) if known.multiple else value
    return fields, left


def _json(flag: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise MalformedSetting(f"{flag}: {text[:200]!r} is not JSON.", param=flag) from None
