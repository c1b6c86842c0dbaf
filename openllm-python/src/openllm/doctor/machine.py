"""Checks of the machine: devices and why, memory needed and there, the port, the store's folder.

Nothing is loaded, fetched or written: memory is told from the model's files by the backend's own estimate.
"""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from typing import Any

import attrs

from openllm.access import Access, has_keys
from openllm.backends import registry
from openllm.backends.base import MemoryEstimate
from openllm.backends.memory import (
    cache_room_bytes,
    full_cache_bytes,
    largest_context,
    largest_slots,
    refuse_too_large,
    times,
)
from openllm.engine.placement import describe, place
from openllm.serialisation.store import Store
from openllm.server.run import check_port
from openllm_core.errors import CorruptModel, OutOfMemory, ResourceError
from openllm_core.options import EngineOptions
from openllm_core.resources import detect

from .finding import Finding, Situation, red

LOW_DISK_BYTES = 1 << 30
OWN_FILES = 64
"""Files a server holds open besides its connections: sockets, pipes, logs, the store's locks."""


def devices(situation: Situation) -> Iterator[Finding]:
    """Which device each engine computes on, and why."""
    machine, asked = situation.machine, situation.engine.device
    gpus = detect.visible_gpus(machine, "auto" if asked == "cuda" else asked)
    if gpus:
        text = ", ".join(f"cuda:{gpu.index} ({gpu.name}, {gpu.memory_free_bytes:,} bytes free)" for gpu in gpus)
    else:
        text = f"cpu ({machine.cores} cores, {machine.physical_cores} physical; {machine.cpu_model or 'model unknown'})"
    if asked != "auto":
        why = f"--device {asked}, from: {situation.sources.get('device', 'explicit')}"
    elif gpus:
        why = "visible GPUs"
    else:
        why = "no GPU was found" if not machine.gpus else "CUDA_VISIBLE_DEVICES hides every GPU"
    data = {"gpus": [gpu.index for gpu in gpus], "cores": machine.cores, "why": why}
    yield Finding("devices", "ok", f"{text}: {why}", data=data)
    placed = _placed(situation, situation.engine)
    if len(placed) > 1:
        yield Finding("engines", "ok", f"{len(placed)} ({describe(placed)})", data={"engines": len(placed)})


def _placed(situation: Situation, options: EngineOptions) -> list[EngineOptions]:
    server = situation.server
    return place(options, server.engines, situation.machine, server.workers_per_resource)


def memory(situation: Situation) -> Iterator[Finding]:
    """Need and have in bytes, for the weights and for the cache at the chosen context and slots."""
    resolved = situation.resolved
    if resolved is None:
        if not situation.needs_no_model:
            yield Finding("memory", "note", "can be told once the model is on this machine")
        return
    name, _ = registry.choose(
        resolved.engine(situation.engine), resolved.architecture, situation.machine, situation.version
    )
    own = attrs.evolve(resolved.engine(situation.engine), backend=name)
    placed = _placed(situation, own)
    for device in dict.fromkeys(one.device for one in placed):
        sharing = [one for one in placed if one.device == device]
        whole = attrs.evolve(sharing[0], memory_bytes=None)  # of the device, against what all on it need
        estimate = registry.get(name).estimate(whole, situation.machine)
        chosen = any(situation.sources.get(name) not in (None, "default") for name in ("max_model_len", "max_num_seqs"))
        yield from _of_one_device(times(estimate, len(sharing)), resolved.served_name, chosen=chosen)


def _of_one_device(found: MemoryEstimate, model: str, *, chosen: bool) -> Iterator[Finding]:
    data = {
        "need_bytes": found.need_bytes,
        "have_bytes": found.have_bytes,
        "parts_bytes": found.parts,
        "cache_bytes_per_token": found.bytes_per_token,
        "context_tokens": found.context_tokens,
        "slots": found.slots,
        "full_cache_bytes": full_cache_bytes(found),
        "largest_context": largest_context(found),
        "largest_slots": largest_slots(found),
    }
    try:
        refuse_too_large(found, model)
    except OutOfMemory as error:
        yield red("memory", error, **data)
        return
    parts = ", ".join(f"{part} {size:,}" for part, size in found.parts.items())
    have = "an unknown number" if found.have_bytes is None else f"{found.have_bytes:,}"
    yield Finding(
        "memory", "ok", f"needs {found.need_bytes:,} bytes on {found.device} ({parts}); {have} are free", data=data
    )
    if found.bytes_per_token and found.context_tokens and found.slots:
        yield _cache(found, data, chosen=chosen)


def _cache(found: MemoryEstimate, data: dict[str, Any], *, chosen: bool) -> Finding:
    """What all slots would take at their fullest, and how far the memory goes; a worry where somebody chose them so."""
    full, room = full_cache_bytes(found), cache_room_bytes(found)
    text = (
        f"{found.slots} slots of {found.context_tokens:,} tokens, all full, would take {full:,} bytes "
        f"({found.bytes_per_token:,} a token)"
    )
    if room is None or full <= room:
        return Finding("cache", "ok", text, data=data)
    slots, context = largest_slots(found) or 0, largest_context(found, found.slots) or 0
    text += f"; {room:,} are left: {slots} such slots, or {found.slots} of {context:,} tokens; the rest wait in line"
    if slots and not chosen:
        return Finding("cache", "ok", text, data=data)
    fix = f"--max-num-seqs {slots}" if slots else f"--max-model-len {largest_context(found) or 0}"
    return Finding("cache", "warn", text, f"{fix}, if requests are that long.", data=data)


def open_files(situation: Situation) -> Iterator[Finding]:
    """Whether this process may open as many files as there may be connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = situation.server.max_connections
    may = hard if hard != resource.RLIM_INFINITY else soft  # a server raises the soft limit as far as it needs
    text = f"{may:,} may be open at once; {connections:,} connections and {OWN_FILES} of its own can be"
    data = {"soft": soft, "hard": hard}
    fix = f"ulimit -n {connections + OWN_FILES}"
    if resource.RLIM_INFINITY in (soft, hard) or may >= connections + OWN_FILES:
        yield Finding("files", "ok", text, data=data)
    elif may >= OWN_FILES:
        text = f"{text}, so that it takes fewer connections"
        yield Finding("files", "warn", text, fix, data=data)
    else:
        yield red("files", ResourceError(f"Too few files may be open: {text}.", hint=fix), **data)


def port(situation: Situation) -> Iterator[Finding]:
    """The addresses are free, and may be served without a key."""
    check_port(situation.server)
    server = situation.server
    count = len(Access(server).accounts) - bool(server.admin_key) if has_keys(server) else 0
    keys = f"{count} API key{'s' * (count != 1)}" if count else "no API key"
    ports = {"port": server.port} if server.http else {}
    ports |= {} if server.grpc_port is None else {"grpc_port": server.grpc_port}
    free = " and ".join(f"{server.host}:{number}" for number in ports.values())
    yield Finding("port", "ok", f"{free} {'is' if len(ports) == 1 else 'are'} free; {keys}", data=ports)


def store(situation: Situation) -> Iterator[Finding]:
    """The store can be read and written, and what it lists is whole."""
    found = Store(situation.store)
    folder = next((p for p in (found.models, found.home, *found.home.parents) if p.exists()), found.home)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        text = f"{folder} cannot be written: stored models and folders can be served, none can be imported"
        yield Finding("store", "warn", text, "Give this user the right, or set BENTOML_HOME to another folder.")
    entries = found.entries()
    free = shutil.disk_usage(folder).free
    data = {"path": str(found.models), "models": len(entries), "free_bytes": free}
    size = sum(entry.size_bytes for entry in entries)
    text = f"{found.models}: {len(entries)} whole models, {size:,} bytes; {free:,} bytes are free on the disk"
    if free < LOW_DISK_BYTES:
        yield Finding("store", "warn", text, "openllm prune, or set BENTOML_HOME to a larger disk.", data=data)
    else:
        yield Finding("store", "ok", text, data=data)
    for entry in entries:
        try:
            found.check(entry)
        except CorruptModel as error:
            yield Finding("store", "warn", error.message, error.hint or "", data={"tag": entry.tag})
