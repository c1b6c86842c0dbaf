"""The knobs of the program: every one is usable, documented and safe by default."""

from __future__ import annotations

import inspect
import json
from typing import Any

import attrs
import pytest

from openllm_core.errors import InvalidSetting, UnsafeConfiguration
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions, as_data, from_data
from openllm_core.settings import flag_of, read, settings_of

CLASSES = (EngineOptions, ServerOptions, StoreOptions)
KNOBS = [(cls, name, *pair) for cls in CLASSES for name, pair in settings_of(cls).items()]


@pytest.mark.parametrize(("cls", "name", "attribute", "fact"), KNOBS, ids=[f"{k[0].__name__}.{k[1]}" for k in KNOBS])
def test_every_knob_is_documented_and_its_default_fits(cls: Any, name: str, attribute: Any, fact: Any) -> None:
    """Each field is a setting with a line of help, and its own default passes its own checks."""
    assert fact.help.endswith(".") or ";" in fact.help
    default = attribute.default
    default = default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]
    if default is not None:
        made = read(cls, explicit={name: default}, environ={}).options
        assert getattr(made, name) == default


def test_every_field_is_a_setting() -> None:
    """No knob is declared past the one way that documents it."""
    for cls in CLASSES:
        assert set(settings_of(cls)) == {a.name for a in attrs.fields(cls)}


def test_flags_and_variables_are_used_once() -> None:
    """Two knobs never share a flag or an environment variable."""
    flags = [flag for _, name, _, fact in KNOBS if (flag := flag_of(name, fact))]
    variables = [fact.env for *_, fact in KNOBS if fact.env]
    assert len(set(flags)) == len(flags)
    assert len(set(variables)) == len(variables)


def test_nothing_is_open_or_trusted_unless_asked() -> None:
    """The defaults bind to loopback, trust no code, and allow no cross-origin call."""
    engine, server = EngineOptions(), ServerOptions()
    assert server.host == "127.0.0.1"
    assert not (server.cors or server.no_auth or engine.trust_remote_code or engine.allow_pickle_weights)


def test_trust_from_the_environment_is_refused() -> None:
    """TRUST_REMOTE_CODE=1 in the environment is an error; an explicit argument is obeyed."""
    with pytest.raises(UnsafeConfiguration):
        read(EngineOptions, environ={"TRUST_REMOTE_CODE": "True"})
    assert read(EngineOptions, explicit={"trust_remote_code": True}, environ={}).options.trust_remote_code


def test_pickle_is_read_only_when_asked_for_by_either_flag() -> None:
    """--serialisation legacy is another name of --allow-pickle-weights, and counts only when typed, too."""
    assert not EngineOptions().converts_pickle
    assert EngineOptions(allow_pickle_weights=True).converts_pickle
    assert read(EngineOptions, explicit={"serialisation": "legacy"}, environ={}).options.converts_pickle
    assert not read(EngineOptions, environ={"OPENLLM_SERIALIZATION": "safetensors"}).options.converts_pickle
    with pytest.raises(UnsafeConfiguration, match="OPENLLM_SERIALIZATION"):
        read(EngineOptions, environ={"OPENLLM_SERIALIZATION": "legacy"})


@pytest.mark.parametrize("status", ["429", "503"])
def test_overload_status_is_one_of_two(status: str) -> None:
    """Only the two statuses clients understand."""
    assert read(ServerOptions, environ={"OPENLLM_OVERLOAD_STATUS": status}).options.overload_status == int(status)
    with pytest.raises(InvalidSetting):
        read(ServerOptions, environ={"OPENLLM_OVERLOAD_STATUS": "500"})


def test_several_keys_come_comma_separated() -> None:
    """OPENLLM_API_KEY holds one key or more."""
    assert read(ServerOptions, environ={"OPENLLM_API_KEY": "a,b"}).options.api_key == ("a", "b")


@pytest.mark.parametrize(
    ("cls", "variable", "text", "name", "value"),
    [
        (EngineOptions, "OPENLLM_BACKEND", "pt", "backend", "pt"),
        (EngineOptions, "OPENLLM_QUANTIZE", "int8", "quantize", "int8"),
        (ServerOptions, "OPENLLM_CORS", "True", "cors", ("*",)),
        (ServerOptions, "OPENLLM_CORS", "off", "cors", ()),
        (ServerOptions, "OPENLLM_CORS", "https://a.test, https://b.test", "cors", ("https://a.test", "https://b.test")),
        (StoreOptions, "BENTOML_HOME", "/models", "home", "/models"),
        (StoreOptions, "OPENLLM_USE_LOCAL_LATEST", "1", "fast", True),
        (StoreOptions, "BENTO_PATH", "/home/bentoml/bento", "bento_path", "/home/bentoml/bento"),
    ],
)
def test_variables_of_0_3_5_still_count(cls: Any, variable: str, text: str, name: str, value: Any) -> None:
    """Each sets its knob, an explicit value beats it, and unset it leaves the default."""
    assert getattr(read(cls, environ={variable: text}).options, name) == value
    assert read(cls, environ={variable: text}).sources[name] == "environment"
    assert read(cls, explicit={name: value}, environ={variable: "other"}).sources[name] == "explicit"
    assert read(cls, environ={}).sources[name] == "default"


def test_engine_options_travel_as_data() -> None:
    """The host rebuilds exactly what the server sent, also through JSON."""
    options = EngineOptions(model_path="/m", engine_arg={"a": 1, "b": ["x"]}, max_num_seqs=4, quantize="int8")
    assert from_data(as_data(options)) == options
    assert from_data(json.loads(json.dumps(as_data(options)))) == options
    assert from_data({}) == EngineOptions()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"nope": 1}, "nope"),
        ({"max_num_seqs": "4"}, r"options\.max_num_seqs"),
        ({"threads": True}, r"options\.threads"),
        ({"trust_remote_code": "false"}, r"options\.trust_remote_code"),
        ({"model_path": 1, "dtype": None}, r"model_path.*dtype"),
        ([], "options"),
    ],
)
def test_other_data_is_no_engine_options(data: Any, named: str) -> None:
    """Nothing is dropped, and nothing is turned into another type: the error names every key at fault."""
    with pytest.raises(InvalidSetting, match=named):
        from_data(data)


def test_options_are_keyword_only() -> None:
    """No knob depends on its position."""
    for cls in CLASSES:
        parameters = inspect.signature(cls).parameters.values()
        assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
