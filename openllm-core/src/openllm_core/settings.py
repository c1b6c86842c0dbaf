"""setting(): type, default, variable, flag and help of one knob on one line; read(): where its value comes from.

Precedence, once and for everything: explicit argument or flag > environment > configuration file > family > default.
Called by `options.py` (declarations) and by whoever starts something (`read`). Reads no environment at import.
"""

from __future__ import annotations

import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Generic, Literal, TypeVar, cast

import attrs
import orjson

from .errors import InvalidSetting, UnsafeConfiguration

T = TypeVar("T", bound=attrs.AttrsInstance)

Source = Literal["explicit", "environment", "file", "family", "default"]

TRUE_WORDS = frozenset({"1", "on", "yes", "true"})
FALSE_WORDS = frozenset({"0", "off", "no", "false"})


@attrs.frozen(kw_only=True)
class Setting:
    """What is known of one knob besides its type and default; kept in the attrs metadata under "setting"."""

    help: str
    env: str | None = None
    flag: str | None = None  # "--max-model-len"; None = derived from the name; "" = no flag
    short: str | None = None
    choices: tuple[str, ...] | None = None  # as text, whatever the type
    renamed: tuple[tuple[str, str], ...] = ()  # (what people type for a choice, the choice), told when it is refused
    ge: float | None = None
    le: float | None = None
    typed_only: bool = False  # counts only when typed on this process's command line
    secret: bool = False  # value never printed
    joined: bool = False  # may be repeated; the texts are one, with commas between
    bare: str | None = None  # of a tuple: what the flag alone, or a word like `true`, stands for; `false` is nothing
    group: str = "Options"


def setting(default: Any, help: str, **facts: Any) -> Any:
    """Declare one knob of an options class.

    Args:
        default: value when nothing says otherwise.
        help: one line for `--help`, `openllm env` and the reference page; units included.
        facts: fields of `Setting`.
    """
    return attrs.field(default=default, kw_only=True, metadata={"setting": Setting(help=help, **facts)})


def settings_of(cls: type[attrs.AttrsInstance]) -> dict[str, tuple[attrs.Attribute[Any], Setting]]:
    """Name -> (attribute with resolved type, setting) of an options class, in declaration order."""
    if any(isinstance(a.type, str) for a in attrs.fields(cls)):
        attrs.resolve_types(cls)
    return {a.name: (a, a.metadata["setting"]) for a in attrs.fields(cls) if "setting" in a.metadata}


def flag_of(name: str, fact: Setting) -> str:
    """The command-line flag of a setting; empty when it has none."""
    return "--" + name.replace("_", "-") if fact.flag is None else fact.flag


@attrs.frozen
class Reading(Generic[T]):
    """An options object and, for each field, where its value came from."""

    options: T
    sources: dict[str, Source]


def read(
    cls: type[T],
    *,
    explicit: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Mapping[str, Any] | None = None,
    family: Mapping[str, Any] | None = None,
) -> Reading[T]:
    """Build an options object by the one precedence.

    Args:
        explicit: typed flags or arguments; None values count as not given.
        environ: the environment; default `os.environ`. An empty variable counts as unset.
        file: keys of a configuration file, dashes allowed; unknown ones are refused by `check_keys`, not here.
        family: defaults of the model family.

    Raises:
        InvalidSetting: a value does not fit; the message names variable, flag or key, and the text.
        UnsafeConfiguration: a setting that counts only when typed came from elsewhere.
    """
    environ = os.environ if environ is None else environ
    file = {key.replace("-", "_"): value for key, value in (file or {}).items()}
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for name, (attribute, fact) in settings_of(cls).items():
        flag = flag_of(name, fact) or name
        if explicit is not None and explicit.get(name) is not None:
            values[name], sources[name] = convert(explicit[name], attribute.type, fact, origin=flag), "explicit"
        elif fact.env is not None and environ.get(fact.env):  # an empty variable is an unset one
            found = convert(environ[fact.env], attribute.type, fact, origin=fact.env)
            _refuse_untyped(fact, found, attribute.default, fact.env, flag)
            values[name], sources[name] = found, "environment"
        elif file.get(name) is not None:
            found = convert(file[name], attribute.type, fact, origin=f"key {name!r}")
            _refuse_untyped(fact, found, attribute.default, f"key {name!r}", flag)
            values[name], sources[name] = found, "file"
        elif family is not None and family.get(name) is not None and not fact.typed_only:
            values[name], sources[name] = convert(family[name], attribute.type, fact, origin="family"), "family"
        else:
            sources[name] = "default"
    return Reading(cls(**values), sources)


def _refuse_untyped(fact: Setting, found: Any, default: Any, origin: str, flag: str) -> None:
    if fact.typed_only and found != default:
        raise UnsafeConfiguration(
            f"{origin} asks for {flag}, which counts only when typed on the command line.",
            hint=f"Remove {origin} and type {flag} if you trust what it allows.",
            param=flag,
        )


def check_keys(
    cls_list: Sequence[type[attrs.AttrsInstance]], keys: Mapping[str, Any], origin: str, *, also: Sequence[str] = ()
) -> None:
    """Refuse keys that no options class knows, naming near ones.

    Args:
        also: further names that are known.

    Raises:
        InvalidSetting: with the unknown key as `param`.
    """
    known = [*(name for cls in cls_list for name in settings_of(cls)), *also]
    for key in keys:
        if key.replace("-", "_") not in known:
            near = get_close_matches(key, known, n=3)
            raise InvalidSetting(
                f"{origin}: unknown key {key!r}.",
                hint=f"Did you mean {', '.join(near)}?" if near else "`openllm env` lists every setting.",
                param=key,
            )


def convert(value: Any, target: Any, fact: Setting, *, origin: str) -> Any:
    """Turn text (or an already typed value) into a setting's type and check its range.

    Raises:
        InvalidSetting: naming `origin` and the text.
    """
    if fact.joined and isinstance(value, (list, tuple)):
        value = ",".join(map(str, cast("Sequence[Any]", value)))
    if fact.bare is not None and typing.get_origin(target) is tuple:
        value = _spelled_out(value, fact.bare)
    try:
        converted = _convert(value, target)
    except (ValueError, TypeError) as error:
        shown = "<hidden>" if fact.secret else repr(value)[:200]
        raise InvalidSetting(f"{origin}: {shown} {error}.", param=origin) from None
    if fact.choices is not None and converted is not None and str(converted) not in fact.choices:
        near = [new for old, new in fact.renamed if old == str(converted)]
        near = near or get_close_matches(str(converted), fact.choices, n=2, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else None
        raise InvalidSetting(
            f"{origin}: {str(converted)[:200]!r} is not one of {', '.join(fact.choices)}.", hint=hint, param=origin
        )
    if isinstance(converted, (int, float)) and not isinstance(converted, bool):
        if fact.ge is not None and converted < fact.ge:
            raise InvalidSetting(f"{origin}: {converted} is not >= {fact.ge:g}.", param=origin)
        if fact.le is not None and converted > fact.le:
            raise InvalidSetting(f"{origin}: {converted} is not <= {fact.le:g}.", param=origin)
    return converted


def _convert(value: Any, target: Any) -> Any:
    origin = typing.get_origin(target)
    if origin in (typing.Union, types.UnionType):
        members = [m for m in typing.get_args(target) if m is not type(None)]
        if value is None or (isinstance(value, str) and value.strip().lower() in {"none", "null"}):
            return None
        return _convert(value, members[0])
    if origin is Literal:
        if value not in (allowed := typing.get_args(target)):
            raise ValueError(f"is not one of {', '.join(map(str, allowed))}")
        return value
    if origin is tuple:
        items = [v.strip() for v in value.split(",") if v.strip()] if isinstance(value, str) else value
        member = typing.get_args(target)[0]
        return tuple(_convert(item, member) for item in items)
    if origin is dict:
        return _to_dict(value)
    if target is bool:
        return _to_bool(value)
    if target is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError("is not a whole number")
        try:
            return int(value)
        except (ValueError, TypeError):
            raise ValueError("is not a whole number") from None
    if target is float:
        if isinstance(value, bool):
            raise ValueError("is not a number")
        try:
            number = float(value)
        except (ValueError, TypeError, OverflowError):
            raise ValueError("is not a number") from None
        if not math.isfinite(number):
            raise ValueError("is not a finite number")
        return number
    if isinstance(value, (bool, dict, list, tuple)):
        raise ValueError("is not text")
    return str(value)


def _to_dict(value: Any) -> dict[str, Any]:
    """A mapping, JSON text of one, or KEY=VALUE texts; a typed flag is a list, of which one element may be the JSON."""
    if isinstance(value, (list, tuple)):
        words = [str(word) for word in cast("Sequence[Any]", value)]
        value = words[0] if len(words) == 1 and words[0].startswith("{") else words
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise ValueError("is not a JSON object") from None
        if not isinstance(value, dict):
            raise ValueError("is not a JSON object")
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    pairs = [str(pair).partition("=") for pair in cast("Sequence[Any]", value)]
    wrong = [key for key, equals, _ in pairs if not (key and equals)]
    if wrong:
        raise ValueError(f"is not KEY=VALUE ({wrong[0][:80]!r})")
    return {key: text for key, _, text in pairs}


def _spelled_out(value: Any, bare: str) -> list[str]:
    """Texts of a setting that is a switch as well."""
    if isinstance(value, str):
        items: Sequence[Any] = value.split(",")
    else:
        items = cast("Sequence[Any]", value) if isinstance(value, (list, tuple)) else [value]
    found: list[str] = []
    for item in items:
        word = str(item).strip()
        if word.lower() in TRUE_WORDS:
            found.append(bare)
        elif word and word.lower() not in FALSE_WORDS:
            found.append(word)
    return found


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    raise ValueError("is neither true nor false")
