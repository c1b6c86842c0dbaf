"""click options made from the settings of `openllm_core.options`, and the reading of `--config`.

One source: a flag's name, type, help, variable and default all come from the `setting(...)` line. Values are not read from
the environment here; `openllm_core.settings.read` does that, with its one precedence.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click
from click.shell_completion import CompletionItem

from openllm.cli import complete
from openllm.cli.command import GroupedOption
from openllm_core.errors import InvalidSetting, MissingDependency
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions
from openllm_core.settings import Setting, Source, check_keys, convert, flag_of, read, settings_of

if TYPE_CHECKING:
    from openllm.locking import Lock
    from openllm.serialisation.bento_record import BuiltBento

    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic before click 8.4

F = TypeVar("F", bound=Callable[..., Any])

CLASSES: tuple[type[attrs.AttrsInstance], ...] = (EngineOptions, ServerOptions, StoreOptions)

# Spellings that earlier releases had, besides the one in options.py.
OTHER_FLAGS = {
    "backend": ("--runtime",),
    "quantize": ("--quantise",),
    "server_timeout": ("--timeout",),
    "serialisation": ("--serialization",),
}
WIDEST_CHOICES = 48
"""Characters of `[a|b|c]` beside a flag; more would not fit a terminal of 80 columns."""
# What a shell offers for settings whose values are not fixed.
COMPLETED = {"adapter_id": complete.adapter, "backend": complete.backend}


class SettingType(_ParamType):
    """Checks a typed value by its setting; a bad one is wrong usage and names the flag."""

    name = "setting"

    def __init__(self, target: Any, fact: Setting, flag: str) -> None:
        self.target = target
        self.fact = fact
        self.flag = flag

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Text to the setting's type and range."""
        try:
            return convert(value, self.target, self.fact, origin=self.flag)
        except InvalidSetting as error:
            raise click.UsageError(" ".join(filter(None, (error.message, error.hint))), ctx) from None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The choices, for a shell's completion."""
        return [CompletionItem(choice) for choice in self.fact.choices or () if choice.startswith(incomplete)]


def setting_options(*classes: type[attrs.AttrsInstance], only: Collection[str] = ()) -> Callable[[F], F]:
    """Add one option per setting that has a flag; the command gets them as keyword arguments, None when not typed.

    Args:
        only: names of the settings to add; default: all.
    """

    def decorate(function: F) -> F:
        rows = [(name, *row) for cls in classes for name, row in settings_of(cls).items()]
        for name, attribute, fact in reversed(rows):
            if flag_of(name, fact) and (not only or name in only):
                function = _option(name, attribute, fact)(function)
        return function

    return decorate


def _option(name: str, attribute: attrs.Attribute[Any], fact: Setting) -> Callable[[F], F]:
    flag = flag_of(name, fact)
    target = _plain(attribute.type)
    facts: dict[str, Any] = {"default": None, "group": fact.group, "help": _help(attribute, fact)}
    if target is bool:
        declarations = [flag if fact.typed_only else f"{flag}/--no-{flag[2:]}"]
        facts["is_flag"] = True
    else:
        declarations = [*filter(None, [fact.short]), flag, *OTHER_FLAGS.get(name, ())]
        facts["multiple"] = fact.joined or typing.get_origin(target) in (tuple, dict)
        facts["type"] = SettingType(_member(target), fact, flag)
        facts["metavar"] = _metavar(target, fact)
    if fact.bare is not None:
        facts |= {"bare": fact.bare, "takes": "://", "metavar": "[ORIGIN]…"}
    if name in COMPLETED:
        facts["shell_complete"] = COMPLETED[name]
    return click.option(*declarations, name, cls=GroupedOption, **facts)


def _help(attribute: attrs.Attribute[Any], fact: Setting) -> str:
    """Help text with the variable and the default behind it."""
    default: Any = attribute.default
    choices = fact.choices or ()
    wide = _metavar(attribute.type, fact) == "NAME"  # then there was no room for them before the text
    notes = [f"one of {', '.join(choices)}"] if wide else []
    notes += [f"env: {fact.env}"] if fact.env and not fact.typed_only else []
    if isinstance(default, (int, float, str)) and not isinstance(default, bool) and default != "":
        notes.append(f"default: {default:g}" if isinstance(default, float) else f"default: {default}")
    return f"{fact.help}  [{'; '.join(notes)}]" if notes else fact.help


def _metavar(target: Any, fact: Setting) -> str:
    if fact.choices:
        listed = "[" + "|".join(fact.choices) + "]"
        return listed if len(listed) <= WIDEST_CHOICES else "NAME"
    if typing.get_origin(target) is dict:
        return "KEY=VALUE"
    return "N" if target in (int, float) else "TEXT"


def _plain(target: Any) -> Any:
    """The type without `| None`."""
    if typing.get_origin(target) in (typing.Union, types.UnionType):
        return next(member for member in typing.get_args(target) if member is not type(None))
    return target


def _member(target: Any) -> Any:
    """Type of one value of a repeatable option: a tuple's member; a pair of a dict stays text."""
    origin = typing.get_origin(target)
    if origin is tuple:
        return typing.get_args(target)[0]
    return str if origin is dict else target


@attrs.frozen
class Settings:
    """Every knob of the program, as one command line, environment and configuration file give it.

    Attributes:
        sources: for each setting, where its value came from.
        model, model_id: keys of the configuration file that stand for the arguments of `start`.
        fields, file_fields: generation, sampling and own fields of a model, as typed and as the file has them; their
            values are checked once the model's family is known.
        lock: what nothing may differ from.
    """

    engine: EngineOptions
    server: ServerOptions
    store: StoreOptions
    sources: dict[str, Source]
    model: str | None = None
    model_id: str | None = None
    fields: dict[str, Any] = attrs.Factory(dict[str, Any])
    file_fields: dict[str, Any] = attrs.Factory(dict[str, Any])
    lock: Lock | None = None


def read_settings(
    typed: dict[str, Any] | None = None,
    config: Path | None = None,
    fields: dict[str, Any] | None = None,
    *,
    bento: BuiltBento | None = None,
    lock: Lock | None = None,
) -> Settings:
    """Put the options objects together.

    Args:
        typed: what the command line gave, by setting name; None and empty tuples count as not given.
        config: a configuration file, see `read_config`.
        fields: generation fields that were typed.
        bento: what is served; what it says comes after the file.
        lock: of `--locked`; what it says comes between the two.

    Raises:
        InvalidSetting: a value does not fit, or the file has an unknown key; exit code 78.
        UnsafeConfiguration: a flag that must be typed came from elsewhere.
    """
    explicit = {name: value for name, value in (typed or {}).items() if value is not None and value != ()}
    if "engine_arg" in explicit:
        explicit["engine_arg"] = pairs(explicit["engine_arg"], "--engine-arg")
    file = read_config(config) if config else {}
    model, model_id = (_text(file.pop(key, None), key, config) for key in ("model", "model_id"))
    settings = {name for cls in CLASSES for name in settings_of(cls)}
    file_fields = {name: file.pop(name) for name in list(file) if name not in settings}
    if bento is not None:
        file = {**bento.settings(), **file}
        file_fields = {**bento.record.fields, **file_fields}
    if lock is not None:
        file = {**lock.settings(), **file}
        file_fields = {**lock.generation, **file_fields}
    engine = read(EngineOptions, explicit=explicit, file=file)
    server = read(ServerOptions, explicit=explicit, file=file)
    store = read(StoreOptions, explicit=explicit, file=file)
    sources: dict[str, Source] = {**engine.sources, **server.sources, **store.sources}
    return Settings(
        engine.options, server.options, store.options, sources, model, model_id, fields or {}, file_fields, lock
    )


def _text(value: Any, key: str, config: Path | None) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidSetting(f"{config}: {key}: {value!r} is not text.", param=key)
    return value


def pairs(words: Iterable[str], flag: str) -> dict[str, str]:
    """KEY=VALUE words as a dict.

    Raises:
        click.UsageError: a word is none; names the flag.
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{flag}: {word!r} is not KEY=VALUE.")
        found[key] = value
    return found


def read_config(path: Path) -> dict[str, Any]:
    """Keys of a configuration file: TOML, YAML or JSON by its suffix; dashes and underscores are one.

    Raises:
        InvalidSetting: the file does not parse, is no table, or has a key no setting knows.
    """
    try:
        found = _parse(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{path}: {error}.", hint="Write it as TOML, YAML or JSON.") from None
    if not isinstance(found, dict):
        raise InvalidSetting(f"{path}: the top level is not a table of keys.", hint="Write lines like `port = 3000`.")
    keys = {str(key).replace("-", "_"): value for key, value in typing.cast("dict[Any, Any]", found).items()}
    check_keys(CLASSES, dict.fromkeys(keys), str(path), also=["model", "model_id", *field_names()])
    return keys


def field_names() -> list[str]:
    """Generation and sampling fields, and the own fields of every family."""
    from openllm_core.config.generation import GENERATION_FIELDS, SAMPLING_FIELDS
    from openllm_core.families import registry

    own = [name for family in registry.all() for name in family.own_fields]
    return [*GENERATION_FIELDS, *SAMPLING_FIELDS, *own]


def _parse(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        import json

        return json.loads(text)
    if path.suffix in (".yaml", ".yml"):
        try:
            import yaml
        except ModuleNotFoundError:
            raise MissingDependency(
                f"{path}: reading YAML needs the package pyyaml.",
                hint="`pip install pyyaml`, or write the file as TOML.",
            ) from None
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from None
    import tomllib

    return tomllib.loads(text)


config_option = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Settings as TOML, YAML or JSON; flags and variables win over it.",
)
