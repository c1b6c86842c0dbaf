"""EncoderBackend: a model that only makes embeddings, as the `Backend` contract.

For sentence encoders, and for the second engine of a model whose own one cannot embed: nothing is loaded that generates, no
cache is kept, nothing is measured. One thread computes, so that portions of all requests take their turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import transformers

from openllm_core.errors import EngineUnavailable, UnsupportedFeature
from openllm_core.options import EngineOptions

from .. import checkpoint as checkpoints
from .. import sentence
from ..base import BackendInfo, BackendRequest, Capabilities, Progress, StepOutput, TokenGuide
from ..memory import refuse_too_large
from . import embedding, launch, loading
from .embedding import TextEncoder


class EncoderBackend:
    """Makes embeddings and nothing else. See `backends.base.Backend` for the contract.

    Args:
        encoder: loaded.
        info: what the server is told.
    """

    def __init__(self, encoder: TextEncoder, info: BackendInfo) -> None:
        self.info = info
        self._encoder = encoder
        self._thread = ThreadPoolExecutor(1, "openllm-embed")
        self._closed = asyncio.Event()

    @classmethod
    def load(cls, options: EngineOptions, progress: Progress) -> EncoderBackend:
        """Load the model folder; see `openllm.backends.torch.load` for the errors."""
        checkpoint = checkpoints.read(options.model_path, allow_pickle=options.allow_pickle_weights)
        refuse_too_large(launch.estimate(options), checkpoint.name)
        device = loading.choose_device(options)
        described = sentence.describe(checkpoint)
        name = options.dtype if options.dtype != "auto" else "float32" if device.type == "cpu" else checkpoint.dtype
        dtype = loading.DTYPES.get(name, torch.float32)
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        progress("reading weights", None)
        module = loading.load_module(options, checkpoint, device, dtype, auto=transformers.AutoModel)
        body = embedding.body_of(module, seq2seq=checkpoint.seq2seq)
        if body is None:
            raise UnsupportedFeature(
                f"{checkpoint.name} has no embeddings of its own.", hint="Name a model by --embedding-model."
            )
        encoder = TextEncoder(body=body, device=device, pooling=described.pooling)
        bounds = [n for n in (options.max_model_len, described.max_tokens) if n is not None]
        longest = min(bounds, default=launch.UNBOUNDED_CONTEXT)
        info = BackendInfo(
            backend="pt",
            capabilities=Capabilities(generate=False, embed=True, logprobs=False),
            max_model_len=longest,
            max_prompt_len=longest,
            max_batch=1,
            vocab_size=loading.vocab_size(module.config.get_text_config()),
            device=str(device),
            dtype=str(dtype).removeprefix("torch."),
            architecture=checkpoint.architecture,
            decisions=(f"pooling: {described.pooling}", *described.notes),
            memory_bytes=loading.resident_bytes(device),
        )
        progress("ready", 1.0)
        return cls(encoder, info)

    def submit(self, request: BackendRequest) -> None:
        """Never called: the engine refuses to generate with a model that cannot."""
        raise UnsupportedFeature("This model makes embeddings and generates no text.", param="model")

    def abort(self, request_id: str) -> None:
        """There is no sequence."""

    async def steps(self) -> AsyncIterator[StepOutput]:
        """None; ends on `aclose`."""
        await self._closed.wait()
        for output in ():  # no generator without a yield
            yield output

    async def embed(self, batch: Sequence[Sequence[int]]) -> list[list[float]]:
        """[n][seq_len] token ids -> [n][hidden] float32, L2-normalised."""
        loop = asyncio.get_running_loop()
        found: list[list[float]] = [[] for _ in batch]
        for places in self._encoder.groups([len(ids) for ids in batch]):
            texts = [batch[place] for place in places]
            vectors = await loop.run_in_executor(self._thread, self._encoder.vectors, texts)
            for place, vector in zip(places, vectors, strict=True):
                found[place] = vector
        return found

    async def load_adapter(self, name: str, path: str) -> None:
        """Not offered."""
        raise UnsupportedFeature("Adapters change what is generated; this model generates nothing.")

    async def unload_adapter(self, name: str) -> None:
        """Not offered."""
        raise UnsupportedFeature("Adapters change what is generated; this model generates nothing.")

    async def check_guide(self, guide: TokenGuide) -> None:
        """Not offered."""
        raise UnsupportedFeature(f"{guide.param}: this model generates nothing.", param=guide.param)

    async def check_health(self) -> None:
        """Raises EngineUnavailable once closed."""
        if self._closed.is_set():
            raise EngineUnavailable("The embedding backend is closed.")

    async def aclose(self) -> None:
        """End after the running group."""
        self._closed.set()
        self._thread.shutdown(wait=False, cancel_futures=True)
