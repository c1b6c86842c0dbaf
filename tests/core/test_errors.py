"""The exception tree: codes, exit codes, and the way over a process border."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from openllm_core import errors, exceptions
from openllm_core.errors import (
    EngineError,
    MissingDependency,
    OpenLLMError,
    OutOfMemory,
    StatusError,
    from_dict,
    root_of,
)

ALL = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, OpenLLMError)]


@pytest.mark.parametrize("cls", ALL)
def test_every_error_crosses_a_process_border(cls: type[OpenLLMError]) -> None:
    """Taken apart and rebuilt, an error keeps class, message, hint, code, param and retry time."""
    sent = cls("m", hint="h", param="p", retry_after_s=2.5)
    made = from_dict(sent.as_dict())
    assert type(made) is cls
    assert made.as_dict() == sent.as_dict()
    assert str(made) == "m"


@pytest.mark.parametrize("cls", ALL)
def test_every_class_has_a_code_and_an_exit_code(cls: type[OpenLLMError]) -> None:
    """Codes are lower-case words to branch on; exit codes are never success."""
    assert cls.code.replace("_", "").isalnum() and cls.code == cls.code.lower()
    assert 0 < cls.exit_code < 126


def test_a_finer_code_overrides_that_of_the_class() -> None:
    """`code=` is what goes onto the wire."""
    error = errors.InvalidRequest("m", code="integer_below_min_value")
    assert error.wire_code == "integer_below_min_value"
    assert errors.InvalidRequest("m").wire_code == "invalid_value"


@pytest.mark.parametrize("data", [{}, {"class": "Nope", "message": "m"}, {"class": "dict", "message": "m"}])
def test_an_unknown_class_becomes_an_engine_error(data: dict[str, object]) -> None:
    """What the other side calls by a name we do not have still stops a stream with a message."""
    assert type(from_dict(data)) is EngineError


def test_a_missing_package_is_an_import_error_too() -> None:
    """Code that guards an import with `except ImportError` keeps working."""
    assert issubclass(MissingDependency, ImportError)
    assert OutOfMemory("m").exit_code == 71


def test_a_status_error_carries_status_and_request_id() -> None:
    """The client's errors say what the server answered."""
    error = StatusError("m", status=503, request_id="r", hint="h")
    assert (error.status, error.request_id, error.hint) == (503, "r", "h")


def test_names_of_0_3_5_stay_importable() -> None:
    """The module `exceptions` and its names exist, and mean ours."""
    for name in exceptions.__all__:
        assert issubclass(getattr(exceptions, name), OpenLLMError)
    assert exceptions.OpenLLMException is OpenLLMError
    assert exceptions.GpuNotAvailableError is errors.NoSuitableDevice


def _raised(raise_it: Callable[[], None]) -> Exception:
    try:
        raise_it()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_the_root_of_a_chain() -> None:
    """What was raised first: through `from`, through an error raised while another was handled, and into a group."""

    def explained() -> None:
        try:
            raise KeyError("bottom")
        except KeyError as error:
            raise ValueError("middle") from error

    def fail() -> None:
        raise OSError("top")

    def overtaken() -> None:
        try:
            explained()
        except ValueError:
            fail()

    def hidden() -> None:
        try:
            explained()
        except ValueError:
            raise OSError("top") from None

    def grouped() -> None:
        raise ExceptionGroup("many", [_raised(overtaken), OSError("second")])

    assert str(root_of(_raised(explained))) == str(root_of(_raised(overtaken))) == "'bottom'"
    assert str(root_of(_raised(hidden))) == "top"
    assert str(root_of(_raised(grouped))) == "'bottom'"
