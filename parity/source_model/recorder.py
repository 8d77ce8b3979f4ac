"""Watch a PyTorch model run: every operator that reaches the dispatcher, with its owner, its line and its values.

Functions that wrap several operators arrive in their parts, and fused operators are computed in the steps of
`expansions`, so that what is seen is as fine as what exporters write.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from parity.source_model.expansions import EXPANSIONS
from parity.source_model.place import Place, user_place
from parity.source_model.trace import Activation, Trace

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
# They pass all elements on, but not as a view of the same memory.
_COPIES = frozenset({"clone", "_to_copy", "_unsafe_view", "contiguous", "lift_fresh_copy", "lift_fresh", "detach"})
_RANDOM = ("rand", "bernoulli", "dropout", "multinomial", "normal", "uniform", "exponential")


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own
    """Records what is computed while it is entered.

    Args:
        known: parameters, buffers and inputs by name.
        double: compute in FP64: narrower floating-point tensors are widened where they are read, and whatever asks for
            such a type gets FP64.
        place: tells where in the user's code the model is now.
    """

    supports_higher_order_operators = True

    def __init__(self, known: Mapping[str, tuple[str, torch.Tensor]], *, double: bool,
                 place: Callable[[], Place]) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own
        self._double = double
        self._place = place
        self.activations: dict[str, Activation] = {}
        self.values: dict[str, torch.Tensor] = {}
        self._names: dict[int, tuple[weakref.ref[torch.Tensor], str]] = {}
        self._held: dict[int, list[str]] = {}  # what lies in a storage
        self.boundaries: list[tuple[str, str]] = []
        self.branches: list[bool] = []  # the ways that control flow took
        self._sizes: dict[str, int] = {}
        self._first: dict[str, str] = {}  # for each activation, the first that is the same computation
        self._computed: dict[str, str] = {}  # the same by what was computed
        self._count: Counter[str] = Counter()
        for name, (op, tensor) in known.items():
            self._add(Activation(name, op, (), name, Place()), tensor, name)

    def name_of(self, value: object) -> str:
        """The activation that a tensor is now; empty where it was not seen being made."""
        ref, name = self._names.get(id(value), (None, ""))
        return name if ref is not None and ref() is value else ""

    def returned(self, path: str, outputs: object) -> None:
        """Note what a module returned."""
        if isinstance(outputs, torch.Tensor):
            self.boundaries.append((path, self.name_of(outputs)))

    def __torch_dispatch__(self, func: Any, types: object, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> object:
        """Run one operator, and record what it makes."""
        given = dict(kwargs or {})
        if isinstance(func, torch._ops.HigherOrderOperator):  # noqa: SLF001 - they have no public name
            return self._control_flow(func, args)
        writes = func._schema.is_mutable  # noqa: SLF001 - the only place where it is said
        if self._double:
            args, given = self._widened(args, given, tensors=not writes)
        expansion = EXPANSIONS.get(_functional(func))
        names = [self.name_of(a) for a in _tensors((args, given))]
        key = f"{func}{_spelled(args, given, self._identity)}"
        others = self._let_go(func, args) if writes else []
        made = None
        if expansion is not None:
            with self:
                made = expansion(*args, **given)
        if made is None:
            made = func(*args, **given)
        elif writes:
            made = args[0].copy_(made)
        self._record(func, names, key, made)
        for tensor, before in others:
            name = f"{before}'"
            self._add(Activation(name, "written", (before, *filter(None, names)), name, self._place()), tensor, name)
        return made

    def _control_flow(self, func: object, args: Sequence[Any]) -> object:
        if func is not torch.ops.higher_order.cond:
            return NotImplemented
        predicate, then, otherwise, operands = args
        self.branches.append(bool(predicate))
        with self:
            return (then if bool(predicate) else otherwise)(*operands)

    def _record(self, func: Any, inputs: Sequence[str], key: str, made: object) -> None:
        op, place = _base(func), self._place()
        kind = f"{place.module}:{op}"
        label = f"{kind}#{self._count[kind]}"
        self._count[kind] += 1
        results = list(_tensors(made))
        moves = (func.is_view or op in _COPIES) and bool(inputs) and inputs[0] in self.activations
        for position, tensor in enumerate(results):
            name = label if len(results) == 1 else f"{label}.{position}"
            inner = "" if func._schema.is_mutable else self.name_of(tensor)  # noqa: SLF001 - an expansion's last step
            first = self._first[inner] if inner else name
            if not inner and not op.startswith(_RANDOM):
                first = self._computed.setdefault(f"{key}.{position}", name)
            root = self.activations[first].root if first != name else name
            if moves and first == name and self._sizes[inputs[0]] == tensor.numel():
                root = self.activations[inputs[0]].root
            self._add(Activation(name, op, tuple(filter(None, inputs)), root, place), tensor, first)

    def _add(self, activation: Activation, tensor: torch.Tensor, first: str) -> None:
        name = activation.name
        self.activations[name], self._first[name], self._sizes[name] = activation, first, tensor.numel()
        self._names[id(tensor)] = weakref.ref(tensor), name
        self._held.setdefault(_memory(tensor), []).append(name)
        if tensor.is_floating_point():
            self.values[name] = tensor.detach()

    def _identity(self, value: torch.Tensor) -> str:
        name = self.name_of(value)
        return self._first[name] if name else f"unseen {id(value)}"

    def _let_go(self, func: Any, args: Sequence[Any]) -> list[tuple[torch.Tensor, str]]:
        """Copy what is kept of the memory that an operator is about to write into.

        Returns:
            The other tensors that lie in it, and are read later perhaps.
        """
        written = [v for a, v in zip(func._schema.arguments, args, strict=False)  # noqa: SLF001
                   if a.is_write and isinstance(v, torch.Tensor)]
        memory = {_memory(v) for v in written}
        for name in (n for m in memory for n in self._held.pop(m, []) if n in self.values):
            self.values[name] = self.values[name].clone()
        alive = [(ref(), name) for ref, name in self._names.values()]
        return [(t, n) for t, n in alive if t is not None and _memory(t) in memory and all(t is not w for w in written)]

    def _widened(self, args: Sequence[Any], given: dict[str, Any], *, tensors: bool) -> tuple[Any, dict[str, Any]]:
        def wide(value: object) -> object:
            if isinstance(value, torch.dtype):
                return torch.float64 if value in _NARROW else value
            if tensors and isinstance(value, torch.Tensor) and value.dtype in _NARROW:
                name, widened = self.name_of(value), value.double()
                if name:  # the same activation, in another type
                    self._names[id(widened)] = weakref.ref(widened), name
                return widened
            return value

        return _each(tuple(args), wide), _each(given, wide)


def record(call: Callable[[], object], known: Mapping[str, tuple[str, torch.Tensor]], *, double: bool,
           place: Callable[[], Place], owners: Owners | None = None) -> Trace:
    """Run a model once and keep everything that it makes.

    Args:
        call: runs it.
        known: what it is given: "parameter" or "input", and the tensor, by name.
        double: in FP64.
        place: tells where in the user's code it is.
        owners: tells what its modules return.
    """
    recorder = Recorder(known, double=double, place=place)
    if owners is not None:
        owners.told = recorder.returned
    with torch.no_grad(), _written_out(double=double), recorder:
        returned = call()
    if recorder.branches:  # torch.cond compiles itself, and what it compiled fits no run that is not watched
        torch._dynamo.reset()  # noqa: SLF001 - torch names it so in its own documents
    leaves = tree_flatten(returned)[0]
    return Trace(recorder.activations, recorder.values, tuple(map(recorder.name_of, leaves)),
                 tuple(recorder.boundaries), tuple(leaf.detach() for leaf in leaves if isinstance(leaf, torch.Tensor)),
                 tuple(recorder.branches))


class Owners:
    """Which module runs now, told by hooks.

    Args:
        model: the outermost module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._paths = {id(m): name for name, m in model.named_modules()}
        self._stack: list[str] = []
        self.told: Callable[[str, object], None] = lambda path, outputs: None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keep the stack of modules while the model runs."""
        before = register_module_forward_pre_hook(self._enter)
        after = register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()
            self._stack.clear()

    def place(self) -> Place:
        """The user's line that runs now, and the module that owns it."""
        return user_place(self._stack[-1] if self._stack else "")

    def _enter(self, module: nn.Module, inputs: object) -> None:
        self._stack.append(self._paths.get(id(module), self._stack[-1] if self._stack else ""))

    def _leave(self, module: nn.Module, inputs: object, outputs: object) -> None:
        self.told(self._stack.pop(), outputs)


@contextmanager
def _written_out(*, double: bool) -> Iterator[None]:
    """Have torch compute attention, encoders and recurrent layers in steps, and make FP64 where nobody says what.

    oneDNN computes FP32 recurrent layers in one piece and FP64 ones not at all, so that names would not agree.
    """
    fast, default = torch.backends.mha.get_fastpath_enabled(), torch.get_default_dtype()
    torch.backends.mha.set_fastpath_enabled(False)
    fused = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment] # torch declares its descriptor
    if double:
        torch.set_default_dtype(torch.float64)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.enabled = fused
        torch.set_default_dtype(default)


def _base(func: Any) -> str:
    """The plain name: add, of aten.add_.Tensor."""
    name = str(func._schema.name).rpartition("::")[2]  # noqa: SLF001
    return name.removesuffix("_")


def _functional(func: Any) -> object:
    """The operator that makes a new tensor where this one writes into the first."""
    name = str(func._schema.name).rpartition("::")[2]  # noqa: SLF001
    if not func._schema.is_mutable or not name.endswith("_"):  # noqa: SLF001
        return func
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    return getattr(packet, "default", func)


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Arguments of an operator with each leaf changed; torch's own tree_map takes as long as a small operator."""
    if isinstance(value, (tuple, list)):
        return type(value)([_each(part, change) for part in value])
    return {n: _each(part, change) for n, part in value.items()} if isinstance(value, dict) else change(value)


def _spelled(args: Sequence[Any], given: Mapping[str, Any], root: Callable[[torch.Tensor], str]) -> str:
    """The arguments in words that are the same for the same computation."""
    return repr(_each((tuple(args), dict(given)),
                      lambda v: root(v) + str(tuple(v.shape)) if isinstance(v, torch.Tensor) else v))


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
