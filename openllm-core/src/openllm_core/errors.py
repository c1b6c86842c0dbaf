"""The one exception tree of the project. Every layer raises these; nothing else crosses a layer border.

    OpenLLMError(message, hint, code, param, retry_after_s)
    ├─ ConfigError        InvalidSetting (MalformedSetting · WrongSettingType) · UnknownModel · UnknownBackend
    │                     · UnsafeConfiguration · InvalidDataset
    ├─ InvalidRequest     InvalidSamplingParams · ContextLengthExceeded · UnsupportedFeature · AdapterNotFound
    │                     · AdapterIncompatible · UnknownServedModel · DeadlineExceeded · RateLimitExceeded
    ├─ MissingDependency  (also ImportError; its hint is the pip line of the extra)
    ├─ ResourceError      NoSuitableDevice · OutOfMemory · PortInUse
    ├─ StoreError         ModelNotFound · CorruptModel · StoreBusy
    ├─ EngineError        EngineLoading · EngineUnavailable · ShuttingDown · Overloaded · RequestAborted
    │                     · OutOfMemoryInStep · NonFiniteLogits
    └─ ClientError        ConnectionFailed · TimedOut · StreamInterrupted
                          · StatusError ─ BadRequest · Unauthorized · NotFound · RateLimited · ServerError

`code` is stable and goes onto the wire; HTTP and gRPC status numbers live in `server/errors.py` and `rpc/errors.py`
alone. `exit_code` is what the command line ends with when the error reaches its top.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast


class OpenLLMError(Exception):
    """Base of every error this project raises on purpose.

    Args:
        message: one line, for a person; names the thing that is wrong.
        hint: one line: the exact command or change that mends it.
        code: overrides the class's wire code, for the finer codes of one class (`integer_below_min_value`, …).
        param: the request field or setting at fault, in dotted form (`messages[0].role`).
        retry_after_s: seconds after which trying again may help.
    """

    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.retry_after_s = retry_after_s
        self.wire_code = code or type(self).code

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a frame between processes; `from_dict` is its inverse."""
        return {
            "class": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            "code": self.wire_code,
            "param": self.param,
            "retry_after_s": self.retry_after_s,
        }


def from_dict(data: dict[str, Any]) -> OpenLLMError:
    """Rebuild an error that `as_dict` took apart; an unknown class becomes `EngineError`."""
    found = _BY_NAME.get(str(data.get("class")), EngineError)
    return found(
        str(data.get("message", "")),
        hint=data.get("hint"),
        code=data.get("code"),
        param=data.get("param"),
        retry_after_s=data.get("retry_after_s"),
    )


# -- configuration ------------------------------------------------------------------------------------------------


def root_of(error: BaseException) -> BaseException:
    """The exception at the bottom of a chain; of a group, that of its first member."""
    if isinstance(error, BaseExceptionGroup):
        return root_of(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    below = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error if below is None else root_of(below)


class ConfigError(OpenLLMError):
    """A setting, flag, environment variable or file of the operator is wrong."""

    code = "invalid_config"
    exit_code = 78


class InvalidSetting(ConfigError, ValueError):
    """One setting has a malformed or out-of-range value; the message names where it came from."""

    code = "invalid_setting"


class MalformedSetting(InvalidSetting, RuntimeError):
    """The text of a setting cannot be read at all; a RuntimeError in 0.3.5."""


class WrongSettingType(InvalidSetting, TypeError):
    """The value of a setting is of another type than the setting; a TypeError in 0.3.5."""


class UnknownModel(ConfigError, ValueError):
    """The text names no family, store entry, folder or hub id we can find."""

    code = "model_not_found"
    exit_code = 66


class UnknownBackend(ConfigError):
    """No backend of that name is registered in the `openllm.backends` entry-point group."""

    code = "unknown_backend"


class UnsafeConfiguration(ConfigError):
    """What was asked for is refused until the operator says so on this command line."""

    code = "unsafe_configuration"


class InvalidDataset(ConfigError, ValueError):
    """A file to train on holds a line that cannot be used; the message names its number."""

    code = "invalid_dataset"
    exit_code = 65


class ForbiddenAttributeError(ConfigError):
    """A reserved attribute was read or assigned."""

    code = "forbidden_attribute"


class MissingAnnotationAttributeError(ConfigError):
    """A config field was declared without a type annotation."""

    code = "missing_annotation"


class FineTuneStrategyNotSupportedError(ConfigError):
    """The family has no such fine-tune strategy."""

    code = "fine_tune_strategy_not_supported"


# -- requests -----------------------------------------------------------------------------------------------------


class InvalidRequest(OpenLLMError):
    """The caller's request cannot be served as it stands; decided before the engine sees it."""

    code = "invalid_value"
    exit_code = 2


class InvalidSamplingParams(InvalidRequest):
    """A sampling value is of the wrong type or out of range; `param` names it."""


class ContextLengthExceeded(InvalidRequest):
    """Prompt, or prompt plus `max_tokens`, does not fit the model's context."""

    code = "context_length_exceeded"


class UnsupportedFeature(InvalidRequest):
    """The field is known, but this backend cannot do what its value asks for."""

    code = "unsupported_parameter"


class AdapterNotFound(InvalidRequest):
    """No adapter of that name is loaded."""

    code = "adapter_not_found"
    exit_code = 66


class AdapterIncompatible(InvalidRequest):
    """An adapter that cannot be served on this model, or is no adapter that we read; the message says what is wrong."""

    code = "adapter_incompatible"
    exit_code = 65


class UnknownServedModel(InvalidRequest):
    """The `model` of a request is not one this server serves."""

    code = "model_not_found"


class RateLimitExceeded(InvalidRequest):
    """The caller's key has had what it may have for now; `retry_after_s` says until when."""

    code = "rate_limit_exceeded"
    exit_code = 75


class DeadlineExceeded(InvalidRequest):
    """The request's own deadline passed before it was finished."""

    code = "deadline_exceeded"


# -- environment --------------------------------------------------------------------------------------------------


class MissingDependency(OpenLLMError, ImportError):
    """A package that this feature needs is not installed; the hint is the pip line that brings it."""

    code = "missing_dependency"
    exit_code = 78


class ResourceError(OpenLLMError):
    """The machine lacks what is needed: a device, memory, a port."""

    code = "resource_error"
    exit_code = 71


class NoSuitableDevice(ResourceError):
    """The asked-for device is not there."""

    code = "no_suitable_device"


class OutOfMemory(ResourceError):
    """It does not fit; the message names need and have in bytes."""

    code = "out_of_memory"


class PortInUse(ResourceError):
    """Another process listens on the port."""

    code = "port_in_use"


class StoreError(OpenLLMError):
    """The model store could not be read or written."""

    code = "store_error"
    exit_code = 74


class ModelNotFound(StoreError):
    """The model is in no place we may look."""

    code = "model_not_found"
    exit_code = 66


class CorruptModel(StoreError):
    """Files are missing, truncated or differ from the manifest, or are of a refused format."""

    code = "corrupt_model"
    exit_code = 65


class StoreBusy(StoreError):
    """Another process holds the model's lock past the time-out."""

    code = "store_busy"
    exit_code = 75


# -- engine -------------------------------------------------------------------------------------------------------


class EngineError(OpenLLMError):
    """Something failed between admission and the last token."""

    code = "internal_error"
    exit_code = 69


class EngineLoading(EngineError):
    """The model is still loading."""

    code = "engine_loading"


class EngineUnavailable(EngineError):
    """The engine host died or stalled; it is being restarted, or its restart budget is spent."""

    code = "engine_unavailable"


class ShuttingDown(EngineError):
    """The server drains and takes nothing new."""

    code = "shutting_down"


class Overloaded(EngineError):
    """The waiting line is full, or a request stood in it too long."""

    code = "server_is_overloaded"
    exit_code = 75


class RequestAborted(EngineError):
    """The client left, or the caller aborted."""

    code = "request_aborted"


class OutOfMemoryInStep(EngineError):
    """Memory ran out while sequences were computed; this one, the newest, was given up so that the others go on."""

    code = "engine_out_of_memory"


class NonFiniteLogits(EngineError):
    """The model produced NaN or infinity for this request; no token was drawn from it."""

    code = "non_finite_logits"


# -- client -------------------------------------------------------------------------------------------------------


class ClientError(OpenLLMError):
    """Base of what `openllm_client` raises for a call that did not succeed."""

    code = "client_error"


class ConnectionFailed(ClientError):
    """No connection could be made or it broke before an answer began."""

    code = "connection_failed"
    exit_code = 69


class TimedOut(ClientError):
    """No answer within the time-out."""

    code = "timed_out"
    exit_code = 69


class StreamInterrupted(ClientError):
    """A stream ended without its end mark: what was received is not the whole answer."""

    code = "stream_interrupted"
    exit_code = 69


class StatusError(ClientError):
    """The server answered with an error status.

    Attributes:
        status: HTTP status number (or the mapped one for gRPC).
        request_id: value of `X-Request-Id`, to find the request in the server's log.
    """

    code = "status_error"

    def __init__(
        self, message: str, *, status: int | None = None, request_id: str | None = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.status = status
        self.request_id = request_id


class BadRequest(StatusError):
    """400, 405, 408, 413, 415, 422, 431: the request must change."""

    code = "bad_request"


class Unauthorized(StatusError):
    """401 or 403: no key, a wrong key, or not allowed."""

    code = "unauthorized"
    exit_code = 77


class NotFound(StatusError):
    """404: no such route, model or adapter."""

    code = "not_found"


class RateLimited(StatusError):
    """429, or 503 with `server_is_overloaded`: try again after `retry_after_s`."""

    code = "rate_limited"
    exit_code = 75


class ServerError(StatusError):
    """5xx: the server failed."""

    code = "server_error"


# Names that 0.3.5 exported; they stay importable.
OpenLLMException = OpenLLMError
GpuNotAvailableError = NoSuitableDevice
ValidationError = InvalidSetting
MissingDependencyError = MissingDependency
Error = OpenLLMError


def _subclasses(cls: type[OpenLLMError]) -> dict[str, type[OpenLLMError]]:
    found = {cls.__name__: cls}
    for sub in cls.__subclasses__():
        found |= _subclasses(sub)
    return found


_BY_NAME = _subclasses(OpenLLMError)
