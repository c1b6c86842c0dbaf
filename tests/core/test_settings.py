"""setting() and read(): one precedence, strict conversion, errors that name where a value came from."""

from __future__ import annotations

from typing import Any, Literal

import attrs
import pytest

from openllm_core.errors import InvalidSetting, UnsafeConfiguration
from openllm_core.settings import Setting, check_keys, convert, flag_of, read, setting, settings_of


@attrs.frozen(kw_only=True)
class Knobs:
    """A few settings."""

    port: int = setting(3000, "Port.", env="T_PORT", ge=0, le=65535)
    share: float = setting(0.5, "Share.", env="T_SHARE", ge=0, le=1)
    on: bool = setting(False, "On.", env="T_ON")
    name: str = setting("x", "Name.", env="T_NAME", choices=("x", "yes", "yet"))
    many: tuple[str, ...] = setting((), "Many.", env="T_MANY")
    pairs: dict[str, Any] = setting(attrs.Factory(dict), "Pairs.", env="T_PAIRS")
    limit: int | None = setting(None, "Limit.", env="T_LIMIT", ge=1)
    trust: bool = setting(False, "Trust.", env="T_TRUST", typed_only=True)
    key: int = setting(0, "Key.", env="T_KEY", secret=True, flag="")
    status: int = setting(503, "Status.", env="T_STATUS", choices=("503", "429"))
    plain: int = 5


def from_env(**environ: str) -> Knobs:
    return read(Knobs, environ=environ).options


def test_the_four_sources_in_order() -> None:
    """Explicit beats environment beats file beats family beats default, and each says where it came from."""
    layers: list[tuple[str, dict[str, Any]]] = [
        ("explicit", {"explicit": {"port": 1}}),
        ("environment", {"environ": {"T_PORT": "2"}}),
        ("file", {"file": {"port": 3}}),
        ("family", {"family": {"port": 4}}),
    ]
    for index, (source, _) in enumerate(layers):
        given: dict[str, Any] = {"environ": {}}
        for _, layer in layers[index:]:
            given |= layer
        reading = read(Knobs, **given)
        assert (reading.options.port, reading.sources["port"]) == (index + 1, source)
    reading = read(Knobs, environ={})
    assert (reading.options.port, reading.sources["port"]) == (3000, "default")


def test_the_environment_is_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument the process's own environment counts, at the time of the call."""
    monkeypatch.setenv("T_PORT", "77")
    assert read(Knobs).options.port == 77
    monkeypatch.setenv("T_PORT", "78")
    assert read(Knobs).options.port == 78


def test_none_and_empty_count_as_not_given() -> None:
    """A flag that was not typed and a variable set to nothing leave the next source its say."""
    reading = read(Knobs, explicit={"port": None}, environ={"T_PORT": ""}, file={"port": None}, family={"port": 9})
    assert reading.options.port == 9


def test_fields_that_are_no_settings_stay_out() -> None:
    """A plain attribute keeps its default whatever is given."""
    assert read(Knobs, explicit={"plain": 6}, environ={}).options.plain == 5
    assert "plain" not in settings_of(Knobs)


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("T_PORT", "0", "port", 0),
        ("T_PORT", "65535", "port", 65535),
        ("T_SHARE", "1", "share", 1.0),
        ("T_SHARE", "1e-3", "share", 0.001),
        ("T_ON", "1", "on", True),
        ("T_ON", " Yes ", "on", True),
        ("T_ON", "TRUE", "on", True),
        ("T_ON", "off", "on", False),
        ("T_NAME", "yes", "name", "yes"),
        ("T_MANY", "a, b,,c", "many", ("a", "b", "c")),
        ("T_PAIRS", '{"a": 1}', "pairs", {"a": 1}),
        ("T_LIMIT", "none", "limit", None),
        ("T_LIMIT", "7", "limit", 7),
        ("T_STATUS", "429", "status", 429),
    ],
)
def test_text_becomes_the_declared_type(variable: str, text: str, name: str, value: Any) -> None:
    """Numbers, booleans in words, comma lists, JSON objects, and `none` where None is allowed."""
    assert getattr(from_env(**{variable: text}), name) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("T_PORT", "70000"),
        ("T_PORT", "-1"),
        ("T_PORT", "1.5"),
        ("T_PORT", "eighty"),
        ("T_PORT", "9" * 5000),
        ("T_SHARE", "1.1"),
        ("T_SHARE", "nan"),
        ("T_SHARE", "inf"),
        ("T_SHARE", "much"),
        ("T_ON", "maybe"),
        ("T_NAME", "yess"),
        ("T_PAIRS", "[1]"),
        ("T_PAIRS", "{"),
        ("T_LIMIT", "0"),
        ("T_STATUS", "450"),
    ],
)
def test_text_that_does_not_fit_names_the_variable(variable: str, text: str) -> None:
    """The error says which variable, and shows at most 200 characters of its text."""
    with pytest.raises(InvalidSetting) as caught:
        from_env(**{variable: text})
    assert caught.value.param == variable
    assert caught.value.message.startswith(variable)
    assert len(caught.value.message) < 400
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", True),
        ("port", 1.5),
        ("port", [1]),
        ("share", True),
        ("share", []),
        ("share", 10**400),
        ("name", True),
        ("name", ["x"]),
        ("pairs", ["novalue"]),
        ("pairs", ["=v"]),
    ],
)
def test_typed_values_are_checked_too(name: str, value: Any) -> None:
    """A configuration file's values are already typed; a wrong type is refused, not bent."""
    with pytest.raises(InvalidSetting) as caught:
        read(Knobs, environ={}, file={name: value})
    assert caught.value.param == f"key {name!r}"


def test_typed_values_pass_as_they_are() -> None:
    """Numbers, lists and mappings of a file; a whole float is an int; KEY=VALUE texts of a repeatable flag."""
    options = read(Knobs, environ={}, file={"port": 80.0, "many": ["a", "b"], "pairs": {"a": 1}, "name": "yes"}).options
    assert (options.port, options.many, options.pairs, options.name) == (80, ("a", "b"), {"a": 1}, "yes")
    assert read(Knobs, explicit={"pairs": ["a=1=2", "b="]}, environ={}).options.pairs == {"a": "1=2", "b": ""}


def test_a_near_choice_is_suggested() -> None:
    """A misspelt choice names the ones that look like it, else none."""
    with pytest.raises(InvalidSetting) as caught:
        from_env(T_NAME="yess")
    assert caught.value.hint == "Did you mean yes or yet?"
    with pytest.raises(InvalidSetting) as caught:
        from_env(T_NAME="zzzz")
    assert caught.value.hint is None


def test_what_allows_danger_counts_only_when_typed() -> None:
    """From the environment or a file it is an error that says so; from a family it is never heard."""
    for given in ({"environ": {"T_TRUST": "1"}}, {"environ": {}, "file": {"trust": True}}):
        with pytest.raises(UnsafeConfiguration) as caught:
            read(Knobs, **given)  # type: ignore[arg-type]
        assert caught.value.param == "--trust"
        assert caught.value.exit_code == 78
    assert read(Knobs, environ={"T_TRUST": "0"}).options.trust is False
    reading = read(Knobs, environ={}, family={"trust": True})
    assert (reading.options.trust, reading.sources["trust"]) == (False, "default")
    assert read(Knobs, explicit={"trust": True}, environ={}).options.trust is True


def test_a_secret_is_never_shown() -> None:
    """The text of a secret that does not fit stays out of the message."""
    with pytest.raises(InvalidSetting) as caught:
        from_env(T_KEY="s3cret")
    assert "s3cret" not in caught.value.message


def test_flags_are_derived_from_names() -> None:
    """Underscores become dashes; a flag can be given or left out."""
    assert flag_of("max_model_len", Setting(help="")) == "--max-model-len"
    assert flag_of("x", Setting(help="", flag="--other")) == "--other"
    assert flag_of("x", Setting(help="", flag="")) == ""


def test_keys_of_a_file_are_checked() -> None:
    """Dashed and plain spellings are known and read; a wrong one names near ones, or where to look."""
    check_keys([Knobs], {"port": 1, "share": 0.1}, "file.yaml")
    with pytest.raises(InvalidSetting) as caught:
        check_keys([Knobs], {"prot": 1}, "file.yaml")
    assert caught.value.hint == "Did you mean port?"
    assert caught.value.message.startswith("file.yaml")
    with pytest.raises(InvalidSetting) as caught:
        check_keys([Knobs], {"zzzzzz": 1}, "file.yaml")
    assert "openllm env" in (caught.value.hint or "")


def test_dashed_keys_of_a_file_are_read() -> None:
    """What `check_keys` lets pass is not ignored by `read`."""

    @attrs.frozen(kw_only=True)
    class Two:
        max_queue: int = setting(1, "Queue.")

    assert read(Two, environ={}, file={"max-queue": 5}).options.max_queue == 5


def test_a_literal_type_allows_its_values_only() -> None:
    """Literal settings are checked like choices."""
    fact = Setting(help="")
    assert convert("a", Literal["a", "b"], fact, origin="x") == "a"
    with pytest.raises(InvalidSetting, match="not one of a, b"):
        convert("c", Literal["a", "b"], fact, origin="x")


def test_a_joined_setting_takes_a_list() -> None:
    """Texts of a repeatable setting are one, with commas between."""

    @attrs.frozen(kw_only=True)
    class Joined:
        device: str = setting("auto", "Device.", joined=True)

    for given, expected in ((["0", "2,7"], "0,2,7"), ((1,), "1"), ("cpu", "cpu")):
        assert read(Joined, explicit={"device": given}, environ={}).options.device == expected


def test_a_typed_object_is_pairs_or_json() -> None:
    """A repeatable flag for an object takes KEY=VALUE each time, or one JSON object."""

    def pairs(*words: str) -> dict[str, Any]:
        return read(Knobs, explicit={"pairs": words}, environ={}).options.pairs

    assert pairs("a=1", "b=x=y") == {"a": "1", "b": "x=y"}
    assert pairs('{"a": 1, "b": [2]}') == {"a": 1, "b": [2]}
    with pytest.raises(InvalidSetting, match=r"--pairs.*JSON object"):
        pairs("{a: 1}")
