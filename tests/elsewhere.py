"""A device that is not there: tensors that say they lie on a GPU, compute on the CPU, and do not mix with its tensors.

What works on it moves everything that must be moved. Kernels, and how fast they are, it says nothing of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

# Of torch's own devices the one that needs no driver; the values are ours.
DEVICE = torch.device("meta")


# What torch computes of tensors on two devices.
_MIXES = frozenset({"copy_.default", "_copy_from.default", "index.Tensor", "index_put_.default", "index_put.default"})


class Elsewhere(torch.Tensor):
    """A tensor that says it lies on DEVICE."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, value: torch.Tensor) -> Elsewhere:
        """Wrap a tensor that lies on the CPU."""
        made: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), storage_offset=value.storage_offset(), dtype=value.dtype,
            device=DEVICE)
        made.held = value
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Callable[..., Any], types: Iterable[type],  # type: ignore[override]
                           args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Compute on the CPU."""
        return _run(func, args, dict(kwargs or {}))

    def tolist(self) -> Any:
        """As of any tensor, at the price of waiting for the device."""
        return self.held.tolist()


class _Device(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the operators that make tensors on a device, or bring them there."""

    def __torch_dispatch__(self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        return _run(func, args, dict(kwargs or {}))


class _Numbers(TorchFunctionMode):
    """Makes tensors of Python's numbers on the CPU first: of a device without values torch would drop them."""

    def __torch_function__(self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        given = dict(kwargs or {})
        if func is torch.unravel_index:  # which makes a tensor of Python's numbers where no mode is heard
            return tuple(place.to(args[0].device) for place in func(args[0].cpu(), *args[1:], **given))
        if func not in (torch.tensor, torch.as_tensor):
            return func(*args, **given)
        device = given.pop("device", None) or torch.get_default_device()
        return func(*args, **given, device="cpu").to(device)


@contextmanager
def simulated_device() -> Iterator[torch.device]:
    """Tensors on DEVICE can be made and computed with."""
    with _Numbers(), _Device():  # type: ignore[no-untyped-call]
        yield DEVICE


def _run(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, Elsewhere)]
    wrapped = {id(t.held): t for t in there}
    asked = kwargs.get("device")
    if asked is not None:
        asked = torch.device(asked)
        kwargs["device"] = torch.device("cpu")
    target = DEVICE.type if asked is None and there else "cpu" if asked is None else asked.type
    strangers = [t for t in tensors if not isinstance(t, Elsewhere) and t.dim()]
    if there and strangers and func.__name__ not in _MIXES:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} on {DEVICE} and cpu")
    made = func(*tree_map_only(Elsewhere, lambda t: t.held, args), **tree_map_only(Elsewhere, lambda t: t.held, kwargs))
    if target == "cpu":
        return made
    return tree_map(lambda v: wrapped.get(id(v)) or Elsewhere(v) if isinstance(v, torch.Tensor) else v, made)
