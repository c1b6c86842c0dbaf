"""The process that makes a GPTQ checkpoint: `python -m openllm.backends.torch.gptq ORDER.json PARENT`, started by `openllm.quantise`.

Loads a model folder with gptqmodel, quantises it on sample texts (Frantar et al. 2023, arXiv:2210.17323), writes the
checkpoint to a folder; it dies with its parent. A line of JSON on stdout tells each finished layer; an error is the last one, with exit code 1.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from openllm.lifetime import die_with_parent
from openllm_core.errors import CorruptModel, MissingDependency, OpenLLMError, ResourceError

MACHINES_OWN = (
    "offload_to_disk_path",
)  # of gptqmodel's notes in a checkpoint: says where, on which machine, it was made
NOT_KEPT = ("quant_log.csv",)


def make(order: dict[str, Any], tell: Any) -> None:
    """Make the checkpoint that an order describes.

    Args:
        order: source and out (folders), bits, group_size, texts (of the calibration), trust_remote_code.
        tell: called with each line's object.
    """
    try:
        gptqmodel: Any = import_module("gptqmodel")
    except ImportError as error:
        raise MissingDependency(
            f"GPTQ checkpoints are made by gptqmodel, which cannot be imported: {error}",
            hint='pip install "openllm[gptq]"',
        ) from None
    out = Path(order["out"])
    config = gptqmodel.QuantizeConfig(bits=order["bits"], group_size=order["group_size"])
    model = gptqmodel.GPTQModel.load(order["source"], config, trust_remote_code=order["trust_remote_code"])
    layers = int(getattr(model.model.config.get_text_config(), "num_hidden_layers", 0) or 0)

    def layer_complete(layer_idx: int, submodule_finalized: bool) -> None:
        if submodule_finalized:
            tell({"layer": layer_idx + 1, "layers": layers})

    model.layer_callback = layer_complete
    model.quantize(order["texts"], batch_size=1)
    model.save(str(out))
    for name in NOT_KEPT:
        (out / name).unlink(missing_ok=True)
    for name in ("config.json", "quantize_config.json"):
        _without_machine(out / name)


def _without_machine(path: Path) -> None:
    """Take folders of this machine out of what gptqmodel noted about its own settings."""
    if not path.is_file():
        return
    data = cast("dict[str, Any]", json.loads(path.read_bytes()))
    data.pop("_name_or_path", None)
    for part in (data, cast("dict[str, Any]", data.get("quantization_config") or {})):
        meta: Any = part.get("meta")
        for name in MACHINES_OWN if isinstance(meta, dict) else ():
            cast("dict[str, Any]", meta).pop(name, None)
    path.write_text(json.dumps(data, indent=2) + "\n")


def main(arguments: list[str]) -> int:
    """Carry out one order; the exit code."""
    die_with_parent(int(arguments[1]) if len(arguments) > 1 else None)
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # gptqmodel prints tables; stdout is for the parent

    def tell(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=stdout, flush=True)

    try:
        make(json.loads(Path(arguments[0]).read_bytes()), tell)
    except OpenLLMError as error:
        tell({"error": error.as_dict()})
    except MemoryError:
        tell({"error": ResourceError("Memory ran out while quantising.").as_dict()})
    except Exception as error:  # whatever a library raises over a foreign file becomes one line for the parent
        text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        tell({"error": CorruptModel(f"gptqmodel cannot quantise it: {text}").as_dict()})
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
