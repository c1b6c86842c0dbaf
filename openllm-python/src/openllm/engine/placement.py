"""`--engines` and `--workers-per-resource`: which devices each engine gets, as options of its own.

Called by `compose`, and by the checks of a start. Engine i gets what worker i would
(`openllm_core.resources.workers`): its own GPUs, or on a CPU its share of the cores. Pure: machine in, options out.
"""

from __future__ import annotations

import attrs

from openllm_core.errors import InvalidSetting, NoSuitableDevice
from openllm_core.options import EngineOptions
from openllm_core.resources import detect, workers

FLAG = "--engines"
SHARE_FLAG = "--workers-per-resource"
ON_CPU = ("auto", "cpu", "cuda")
"""What `device` says of engines that were placed on a CPU; those on GPUs have theirs named."""


def place(
    options: EngineOptions,
    engines: str = "1",
    machine: detect.Machine | None = None,
    workers_per_resource: str | float | None = None,
) -> list[EngineOptions]:
    """Options of each engine.

    Args:
        options: of one engine; `device` names the devices of all together.
        engines: a number, or `all`: as many as there are devices for (one on a CPU).
        machine: looked at only where that decides something; None looks now.
        workers_per_resource: `round_robin` or 1 = one GPU each, `conserved` = all GPUs, 0.5 = two GPUs each, 2 = two
            engines on each GPU. None: all devices where there is one engine, else one GPU each.

    Raises:
        InvalidSetting: a number or word that `engines` or `workers_per_resource` cannot be.
        NoSuitableDevice: fewer GPUs or cores than that takes, or the named GPU is not there.
    """
    wanted = _count(engines)
    if isinstance(workers_per_resource, str):
        workers.parse(workers_per_resource)  # wrong on every machine, so refused on every machine
    if wanted == 1 and workers_per_resource is None and options.device != "all":
        return [options]
    found = machine or detect.machine()
    visible = detect.visible_gpus(found, "auto" if options.device == "cuda" else options.device)
    free = {gpu.device: gpu.memory_free_bytes for gpu in visible}
    gpus = list(free)
    share = _share(workers_per_resource, gpus, options.device)
    if not gpus:
        plain = attrs.evolve(options, device="auto") if options.device == "all" else options
        return _on_cores(plain, wanted or 1, found)
    if wanted == 1 and share is None:
        return [attrs.evolve(options, device=",".join(gpus))]
    return _on_gpus(options, wanted, free, share or 1.0)


def _share(text: str | float | None, gpus: list[str], device: str) -> float | None:
    """The number behind `--workers-per-resource`; None where it was not given.

    Raises:
        InvalidSetting: it means nothing here.
    """
    if text is None:
        return None
    named = () if device in ("auto", "all", "cpu", "cuda") else tuple(gpus)
    share = workers.parse(text, devices=named, gpu_count=len(gpus)) if isinstance(text, str) else text
    if not gpus and share < 1:
        raise InvalidSetting(
            f"{SHARE_FLAG}: {text} shares out GPUs, and none is visible; one worker fills a CPU.",
            hint=f"Leave {SHARE_FLAG} out, or use round_robin.",
            param=SHARE_FLAG,
        )
    if share > 1 and not float(share).is_integer():
        raise InvalidSetting(f"{SHARE_FLAG}: {share:g} is neither a whole number nor at most 1.", param=SHARE_FLAG)
    return share


def _on_gpus(options: EngineOptions, wanted: int | None, free: dict[str, int], share: float) -> list[EngineOptions]:
    """Engines on GPUs, by how many bytes are free on each."""
    gpus = list(free)
    per_gpu = int(share) if share > 1 else 1
    each = 1 if share > 1 else round(1 / share)
    room = len(gpus) * per_gpu if per_gpu > 1 else len(gpus) // each
    count = wanted or max(1, room)
    if each > len(gpus):
        raise NoSuitableDevice(
            f"{SHARE_FLAG} {share:g} takes {each} GPUs for one engine, and {_listed(gpus)}.",
            hint=f"{SHARE_FLAG} conserved gives one engine all of them.",
            param=SHARE_FLAG,
        )
    if count > room:
        raise NoSuitableDevice(
            f"{FLAG} {count} takes {count} x {each} GPUs, and {_listed(gpus)}.",
            hint=f"Ask for fewer: {FLAG} {room}.",
            param=FLAG,
        )
    whole = per_gpu if per_gpu > 1 else share
    devices = [",".join(workers.devices_of_worker(gpus, whole, index)) for index in range(count)]
    if per_gpu == 1:
        return [attrs.evolve(options, device=device) for device in devices]
    return [
        _sharing(attrs.evolve(options, device=device), index % per_gpu, devices.count(device), free.get(device))
        for index, device in enumerate(devices)
    ]


def _sharing(options: EngineOptions, index: int, count: int, free_bytes: int | None) -> EngineOptions:
    """One of several engines on one device; all are told their memory now, before the first of them takes any."""
    if count == 1:
        return options
    share = None if free_bytes is None else free_bytes // count
    return attrs.evolve(options, engine_index=index, sharing_engines=count, memory_bytes=share)


def _listed(gpus: list[str]) -> str:
    return f"{len(gpus)} {'is' if len(gpus) == 1 else 'are'} visible ({', '.join(gpus)})"


def _on_cores(options: EngineOptions, count: int, machine: detect.Machine) -> list[EngineOptions]:
    """Engines that share a CPU: each computes with its share of the cores, for together they must not outnumber them."""
    if count > machine.cores:
        raise NoSuitableDevice(
            f"{FLAG} {count} is more than the {machine.cores} cores of this machine.",
            hint=f"Ask for fewer: {FLAG} {machine.cores} at most; on one CPU a single engine is mostly fastest.",
            param=FLAG,
        )
    if count == 1:
        return [options]
    threads = options.threads or max(1, (machine.physical_cores or machine.cores) // count)
    own = attrs.evolve(options, threads=threads)
    return [_sharing(own, index, count, machine.memory_available_bytes) for index in range(count)]


def describe(placed: list[EngineOptions]) -> str:
    """What each of several engines computes with: for the start line and the checks of a start."""
    return "; ".join(f"{number}: {_of(own)}" for number, own in enumerate(placed))


def _of(own: EngineOptions) -> str:
    what = f"{own.threads} threads" if own.device in ON_CPU else f"GPU {own.device}"
    return what if own.memory_bytes is None else f"{what}, {own.memory_bytes / (1 << 30):.1f} GiB"


def _count(text: str) -> int | None:
    """The number asked for; None for `all`."""
    word = text.strip().lower()
    if word == "all":
        return None
    if word.isdecimal() and 1 <= int(word) <= 1024:
        return int(word)
    raise InvalidSetting(f"{FLAG}: {text[:80]!r} is neither a number above 0 nor `all`.", param=FLAG)
