"""A model with an adapter to train, and its tokenizer: what `LLM.prepare_for_training` gives.

Called by LLM and by `run.py`. Decides precision, quantisation and the adapter's settings (given, else the family's, else
general ones); knows nothing of datasets or trainers. torch, transformers and peft are imported inside functions.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

from openllm.backends import checkpoint as checkpoints
from openllm.backends import quantisation
from openllm_core.config.fine_tune import FineTuneConfig, PeftType, strategies
from openllm_core.errors import FineTuneStrategyNotSupportedError, InvalidSetting, OpenLLMError, UnsupportedFeature
from openllm_core.families import registry as families

from .failures import first_line, memory_told
from .untyped import library, quietly

if TYPE_CHECKING:
    from openllm.backends.checkpoint import Checkpoint
    from openllm.stored import StoredModel

GENERAL: dict[str, dict[str, Any]] = {
    "lora": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "bias": "none", "target_modules": "all-linear"},
}
"""Settings for families that name none: every linear layer but the output, as QLoRA found best (arXiv:2305.14314)."""


def prepare_for_training(
    llm: StoredModel,
    adapter_type: str = "lora",
    use_gradient_checkpointing: bool = True,
    **settings: Any,
) -> tuple[Any, Any]:
    """Load a model into this process with an adapter whose weights alone are trained.

    Args:
        llm: whose model; found, fetched and loaded here, with its `quantize` (int8 or int4: the adapter is trained over
            quantised weights), `dtype` and `device`.
        adapter_type: lora, adalora, adaption_prompt, prefix_tuning, p_tuning, prompt_tuning or ia3.
        use_gradient_checkpointing: compute parts of the forward pass twice, which saves memory.
        settings: of the peft configuration, over those of the model's family: `r`, `lora_alpha`, `target_modules`, …

    Returns:
        (`peft.PeftModel` in training mode, its transformers tokenizer).

    Raises:
        FineTuneStrategyNotSupportedError: no such type of adapter.
        InvalidSetting: peft refuses the settings, or weights that are stored quantised shall be quantised again.
        UnsupportedFeature: the model's weights are, or shall be, quantised in a way nothing can be trained over.
        CorruptModel: transformers cannot load the model's files.
        MissingDependency: peft, bitsandbytes or a package that the model needs is not installed.
        OutOfMemory: the model does not fit; the hint names the settings that need less.
    """
    found = llm.resolved()
    spec = families.find(found.family) if found.family else None
    model_type = spec.model_type if spec else "causal_lm"
    strategy = _strategy(adapter_type, spec.fine_tune if spec else {}, model_type, settings)
    config = _configure(strategy, settings)
    peft = library("peft")
    scheme = llm.engine_options.quantize or found.quantize
    checkpoint = checkpoints.read(found.path, allow_pickle=True)  # nothing of its weights is loaded here
    _refuse_twice(checkpoint, scheme, found.model_id)
    with quietly(), memory_told("loading the model"):
        model = load_base(llm, scheme, checkpoint)
        _open_gradients(model, scheme, use_gradient_checkpointing)
        try:
            model = peft.get_peft_model(model, config)
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
            raise InvalidSetting(f"peft cannot add this adapter to {found.model_id}: {first_line(error)}") from error
        model.train()
        tokenizer = llm.load_tokenizer()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return model, tokenizer


def load_base(llm: StoredModel, scheme: str | None, checkpoint: Checkpoint) -> Any:
    """The model without an adapter, frozen, on the device and in the precision it is trained in.

    Args:
        scheme: None for the weights as they are, else int8 or int4.
        checkpoint: what the model's files say of themselves.
    """
    from openllm.backends.torch.loading import DTYPES, LOAD_ERRORS, choose_device, is_out_of_memory, load_error

    options = llm.engine_options
    device = choose_device(options)
    # Half precision computes slowly, if at all, on most CPUs; a GPU takes the checkpoint's type.
    dtype: Any = DTYPES["float32"] if device.type == "cpu" else "auto"
    if options.dtype != "auto":
        dtype = DTYPES[options.dtype]
    arguments: dict[str, Any] = {"dtype": dtype}
    if device.type != "cpu":
        arguments["device_map"] = {"": device}
    elif scheme is not None:
        arguments["device_map"] = {"": "cpu"}  # bitsandbytes takes a GPU that is there unless told where to go
    if scheme is not None:
        compute = DTYPES["bfloat16"] if dtype == "auto" else dtype
        arguments["quantization_config"] = _quantisation(scheme, compute)
    try:
        model = llm.load_model(**arguments)
    except OpenLLMError:
        raise
    except LOAD_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise load_error(error, checkpoint) from error
    model.requires_grad_(False)
    model.config.use_cache = False
    return model


def _refuse_twice(checkpoint: Checkpoint, scheme: str | None, model_id: str) -> None:
    stored = quantisation.stored(checkpoint)
    if scheme is None or stored is None or (stored.method == "bitsandbytes" and scheme == f"int{stored.bits}"):
        return
    raise InvalidSetting(
        f"--quantize {scheme}: the weights of {model_id} are {stored} already.",
        hint="Leave --quantize out, or give the model they were made from.",
        param="quantize",
    )


def _quantisation(scheme: str, compute: Any) -> Any:
    if scheme not in ("int8", "int4"):
        raise UnsupportedFeature(
            f"An adapter cannot be trained over {scheme}.", hint="--quantize int8 or int4.", param="quantize"
        )
    library("bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # each layer would say at each call that it casts
    from openllm.backends.torch.quantised import bitsandbytes_config

    return bitsandbytes_config(scheme, compute)


def _open_gradients(model: Any, scheme: str | None, checkpointing: bool) -> None:
    checkpointing = checkpointing and bool(getattr(model, "supports_gradient_checkpointing", False))
    if scheme is not None:
        kwargs = {"use_reentrant": False}
        library("peft").prepare_model_for_kbit_training(model, checkpointing, kwargs)
    elif checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if checkpointing:
        model.enable_input_require_grads()


def _strategy(adapter_type: str, table: dict[str, Any], model_type: str, settings: dict[str, Any]) -> FineTuneConfig:
    try:
        name = PeftType(adapter_type).to_str()
    except ValueError:
        known = ", ".join(sorted(PeftType.supported()))
        raise FineTuneStrategyNotSupportedError(
            f"{adapter_type[:80]!r} is no adapter type.", hint=f"One of {known}.", param="adapter_type"
        ) from None
    found = strategies({name: table.get(name, GENERAL.get(name, {}))}, model_type)[name]
    return found.train().with_config(**settings)


def _configure(strategy: FineTuneConfig, settings: dict[str, Any]) -> Any:
    try:
        return strategy.to_peft_config()
    except OpenLLMError:
        raise
    except (TypeError, ValueError) as error:
        wrong = _unknown(strategy, settings)
        raise InvalidSetting(
            f"peft has no setting {wrong[0]!r} for {strategy.adapter_type.to_str()}." if wrong else first_line(error),
            param=wrong[0] if wrong else None,
        ) from error


def _unknown(strategy: FineTuneConfig, settings: dict[str, Any]) -> list[str]:
    cls: Any = library("peft.mapping").PEFT_TYPE_TO_CONFIG_MAPPING[strategy.adapter_type.value]
    return [name for name in settings if name not in inspect.signature(cls).parameters]
