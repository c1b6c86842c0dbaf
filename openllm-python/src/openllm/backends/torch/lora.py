"""LoRA adapters in a running model: rows of one batch, each with its own adapter or none, in one forward pass.

A layer that an adapter changes is wrapped: y = base(x) + ((x A) * mask) B, where A [in, columns] and B [columns, out] hold
the matrices of several adapters side by side and the mask [rows, 1, columns] leaves each row those of its own. So a mixed
batch costs two small products more, whatever its mixture is (LoRA: Hu et al. 2021, arXiv:2106.09685).

Called by the backend in its step thread; `lanes` and `scheduler` say which rows come next. Knows nothing of requests.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from openllm_core.errors import AdapterIncompatible

from ..adapter import AdapterFiles, read
from .untyped import load_tensors

KEPT_PASSES = 512
"""Forward passes for which an adapter's columns stay where they are after its last use: rows of a few adapters come and go,
and putting the columns together anew copies them all."""


@attrs.frozen(eq=False)
class Matrices:
    """One layer's part of one adapter: A as [in, rank], B as [rank, out], already scaled."""

    a: Tensor
    b: Tensor


@attrs.define(eq=False)
class Adapter:
    """One loaded adapter.

    Attributes:
        rank: columns it takes in every layer.
        layers: name of a layer -> its matrices.
        last_pass: number of the forward pass that used it last.
    """

    name: str
    rank: int
    layers: dict[str, Matrices]
    last_pass: int = 0


class AdaptedLinear(nn.Module):
    """A linear layer with room for adapters.

    Args:
        base: the layer as it was: any kind of linear layer.
        mixer: says which rows use what.
        name: of the layer in the model.
    """

    def __init__(self, base: nn.Module, mixer: AdapterMixer, name: str) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self._mixer = mixer
        self._built = -1  # number of the arrangement that `_a` and `_b` hold
        self._a: Tensor | None = None
        self._b: Tensor | None = None

    @property
    def weight(self) -> Any:
        """The base layer's, for model code that asks for its type or shape."""
        return self.base.weight

    @property
    def bias(self) -> Any:
        """The base layer's."""
        return getattr(self.base, "bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, tokens, in] -> [rows, tokens, out]."""
        y: Tensor = self.base(x)
        mask = self._mixer.mask
        if mask is None:
            return y
        if self._built != self._mixer.arrangement:
            self._a, self._b = self._mixer.columns_of(self.name)
            self._built = self._mixer.arrangement
        if self._a is None or self._b is None:
            return y
        low = torch.matmul(x.to(self._a.dtype), self._a)
        if low.dim() == 2 and mask.dim() == 3:  # [rows x tokens, in]: architectures that flatten their input
            low = (low.view(mask.shape[0], -1, low.shape[-1]) * mask).view(low.shape)
        else:
            low = low * mask
        return torch.add(y, torch.matmul(low, self._b).to(y.dtype))


class AdapterMixer:
    """The adapters of one model, and which of them the rows of the next forward pass use.

    Attributes:
        mask: [rows, 1, columns] of 0 and 1 for the pass under way; None where no row uses an adapter.
        arrangement: number of the present order of columns.
    """

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.mask: Tensor | None = None
        self.arrangement = 0
        self._model = model
        self._device, self._dtype = device, dtype
        self._adapters: dict[str, Adapter] = {}
        self._order: list[Adapter] = []  # whose columns stand in the layers, from left to right
        self._passes = 0
        self._mask_of: tuple[tuple[str | None, ...], int] | None = None  # rows and arrangement of the mask that is kept
        self._mask_kept: Tensor | None = None

    # -- loading ------------------------------------------------------------------------------------------------------

    def add(self, name: str, adapter: Adapter) -> None:
        """Make a read adapter usable; its layers are wrapped where they are not yet."""
        for layer in adapter.layers:
            if not isinstance(self._model.get_submodule(layer), AdaptedLinear):
                self._wrap(layer)
        self._adapters[name] = adapter

    def read(self, name: str, path: str) -> Adapter:
        """Read an adapter's weights and hold its layers against the model's; changes nothing, so any thread may.

        Raises:
            AdapterIncompatible: it is broken, or does not fit this model.
        """
        files = read(path)
        sizes = {layer: self._sizes(files, layer) for layer in files.layers}
        for layer, found in files.layers.items():
            if sizes[layer] != (found.inputs, found.outputs):
                raise AdapterIncompatible(
                    f"The adapter {files.path.name[:96]} was made for another model: its {layer} is "
                    f"{found.outputs} x {found.inputs}, this model has {sizes[layer][1]} x {sizes[layer][0]}.",
                    param="adapter_name",
                )
        stored = load_tensors(files.weights)
        layers: dict[str, Matrices] = {}
        for layer, (a_name, b_name) in files.tensors.items():
            a, b = stored[a_name].float(), stored[b_name].float() * files.layers[layer].scale
            if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
                raise AdapterIncompatible(f"The adapter {files.path.name[:96]} holds numbers that are not finite.")
            layers[layer] = Matrices(self._placed(a.t()), self._placed(b.t()))
        return Adapter(name, files.rank, layers)

    def remove(self, name: str) -> None:
        """Forget an adapter; unknown names are ignored. No row may use it any more."""
        gone = self._adapters.pop(name, None)
        if gone is not None and gone in self._order:
            self._order.remove(gone)
            self.arrangement += 1

    def knows(self, name: str) -> bool:
        """Whether an adapter is loaded."""
        return name in self._adapters

    def _placed(self, matrix: Tensor) -> Tensor:
        return matrix.to(device=self._device, dtype=self._dtype).contiguous()

    def _wrap(self, layer: str) -> None:
        parent, _, child = layer.rpartition(".")
        owner = self._model.get_submodule(parent)
        setattr(owner, child, AdaptedLinear(self._model.get_submodule(layer), self, layer))

    def _sizes(self, files: AdapterFiles, layer: str) -> tuple[int, int]:
        """(in, out) of a layer of the model."""
        try:
            found: Any = self._model.get_submodule(layer)
        except AttributeError:
            raise AdapterIncompatible(
                f"The adapter {files.path.name[:96]} was made for another model: this one has no layer {layer[:120]}.",
                param="adapter_name",
            ) from None
        found = found.base if isinstance(found, AdaptedLinear) else found
        if isinstance(found, Conv1D):
            return int(found.weight.shape[0]), int(found.weight.shape[1])
        if isinstance(found, nn.Embedding) or not hasattr(found, "in_features"):
            raise AdapterIncompatible(
                f"The adapter {files.path.name[:96]} changes {layer[:120]}, which is no linear layer.",
                param="adapter_name",
            )
        return int(found.in_features), int(found.out_features)

    # -- running ------------------------------------------------------------------------------------------------------

    @contextmanager
    def rows(self, names: Sequence[str | None]) -> Generator[None]:
        """Run forward passes in which row i uses the adapter `names[i]`, None for the bare base."""
        used = {name for name in names if name is not None}
        if used:
            self._passes += 1
            self._arrange([self._adapters[name] for name in sorted(used)])
            key = tuple(names), self.arrangement
            if key != self._mask_of:  # rows stay the same from step to step
                self._mask_of, self._mask_kept = key, self._mask(names)
            self.mask = self._mask_kept
        try:
            yield
        finally:
            self.mask = None

    def _arrange(self, needed: list[Adapter]) -> None:
        """See that the columns of all needed adapters stand in the layers."""
        for adapter in needed:
            adapter.last_pass = self._passes
        if all(adapter in self._order for adapter in needed):
            return
        recent = [adapter for adapter in self._order if adapter.last_pass > self._passes - KEPT_PASSES]
        self._order = recent + [adapter for adapter in needed if adapter not in recent]
        self.arrangement += 1

    def _mask(self, names: Sequence[str | None]) -> Tensor:
        starts: dict[str, tuple[int, int]] = {}
        columns = 0
        for adapter in self._order:
            starts[adapter.name] = columns, columns + adapter.rank
            columns += adapter.rank
        mask = torch.zeros(len(names), 1, columns, dtype=self._dtype)
        for row, name in enumerate(names):
            if name is not None:
                start, end = starts[name]
                mask[row, 0, start:end] = 1
        return mask.to(self._device)

    def columns_of(self, layer: str) -> tuple[Tensor | None, Tensor | None]:
        """A [in, columns] and B [columns, out] of a layer for the present order; (None, None) where none changes it."""
        found = [adapter.layers.get(layer) for adapter in self._order]
        some = next((matrices for matrices in found if matrices is not None), None)
        if some is None:
            return None, None
        a = [_padded(m and m.a, some.a, adapter.rank, 1) for m, adapter in zip(found, self._order, strict=True)]
        b = [_padded(m and m.b, some.b, adapter.rank, 0) for m, adapter in zip(found, self._order, strict=True)]
        return torch.cat(a, 1), torch.cat(b, 0)


def _padded(matrix: Tensor | None, like: Tensor, rank: int, dim: int) -> Tensor:
    """A matrix with zeros up to `rank` along `dim`; all zeros where the adapter leaves the layer alone."""
    shape = list(like.shape)
    shape[dim] = rank - (matrix.shape[dim] if matrix is not None else 0)
    if matrix is not None and not shape[dim]:
        return matrix
    zeros = like.new_zeros(shape)
    return zeros if matrix is None else torch.cat([matrix, zeros], dim)
