"""`--engines`: which devices each engine gets, as options of its own. Called by `compose`, and by the checks of a start.

Engine i gets what worker i would (`openllm_core.resources.workers`): its own GPUs, or on a CPU its share of the cores.
Pure: machine in, options out.
"""

from __future__ import annotations

import attrs

from openllm_core.errors import InvalidSetting, NoSuitableDevice
from openllm_core.options import EngineOptions
from openllm_core.resources import detect, workers

FLAG = "--engines"


def place(
    options: EngineOptions, engines: str, machine: detect.Machine | None = None, workers_per_resource: float = 1.0
) -> list[EngineOptions]:
    """Options of each engine.

    Args:
        options: of one engine; `device` names the devices of all together.
        engines: a number, or `all`: as many as there are devices for (one on a CPU).
        machine: looked at only where there may be several engines; None looks now.
        workers_per_resource: as `workers.parse` gives it: 0.5 = two GPUs each, 2 = two on each GPU.

    Raises:
        InvalidSetting: neither a number of at least 1 nor `all`.
        NoSuitableDevice: fewer GPUs or cores than that takes, or the named GPU is not there.
    """
    wanted = _count(engines)
    if wanted == 1:
        return [options]
    found = machine or detect.machine()
    gpus = [
        str(gpu.index) for gpu in detect.visible_gpus(found, "auto" if options.device == "cuda" else options.device)
    ]
    if not gpus:
        return _on_cores(options, wanted or 1, found)
    per_gpu = int(workers_per_resource) if workers_per_resource > 1 else 1
    each = 1 if workers_per_resource > 1 else round(1 / workers_per_resource)
    room = len(gpus) * per_gpu if per_gpu > 1 else len(gpus) // each
    count = wanted or max(1, room)
    if count > room:
        raise NoSuitableDevice(
            f"{FLAG} {count} takes {count} x {each} GPUs, and {len(gpus)} are visible ({', '.join(gpus)}).",
            hint=f"Ask for fewer: {FLAG} {room}." if room else "A worker needs more GPUs than there are.",
            param=FLAG,
        )
    share = per_gpu if per_gpu > 1 else workers_per_resource
    return [
        attrs.evolve(options, device=",".join(workers.devices_of_worker(gpus, share, index))) for index in range(count)
    ]


def _on_cores(options: EngineOptions, count: int, machine: detect.Machine) -> list[EngineOptions]:
    """Engines that share a CPU: each computes with its share of the cores, for together they must not outnumber them."""
    if count > machine.cores:
        raise NoSuitableDevice(
            f"{FLAG} {count} is more than the {machine.cores} cores of this machine.",
            hint=f"Ask for fewer: {FLAG} {machine.cores} at most; on one CPU a single engine is mostly fastest.",
            param=FLAG,
        )
    threads = options.threads or max(1, (machine.physical_cores or machine.cores) // count)
    return [attrs.evolve(options, threads=threads if count > 1 else options.threads)] * count


def _count(text: str) -> int | None:
    """The number asked for; None for `all`."""
    word = text.strip().lower()
    if word == "all":
        return None
    if word.isdecimal() and 1 <= int(word) <= 1024:
        return int(word)
    raise InvalidSetting(f"{FLAG}: {text[:80]!r} is neither a number above 0 nor `all`.", param=FLAG)
