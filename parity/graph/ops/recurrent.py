"""LSTM, GRU and RNN on torch: one step at a time, with the input projected for the whole sequence at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F

from parity.graph.ops.call import Call, Tensor, kernel

Activation: TypeAlias = Callable[[Tensor], Tensor]
State: TypeAlias = tuple[Tensor, ...]
# Takes one time step's projected input [batch, gates·hidden] and the state, returns the next state, hidden first.
Cell: TypeAlias = Callable[[Tensor, State], State]

# name → (function of x, alpha, beta; default alpha; default beta), the defaults of the operators of that name
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor, float, float], Tensor], float, float]] = {
    "relu": (lambda x, a, b: x.relu(), 0.0, 0.0),
    "tanh": (lambda x, a, b: x.tanh(), 0.0, 0.0),
    "sigmoid": (lambda x, a, b: x.sigmoid(), 0.0, 0.0),
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a, b: F.leaky_relu(x, a), 0.01, 0.0),
    "thresholdedrelu": (lambda x, a, b: torch.where(x >= a, x, 0.0), 1.0, 0.0),
    "scaledtanh": (lambda x, a, b: a * (b * x).tanh(), 1.0, 1.0),
    "hardsigmoid": (lambda x, a, b: (a * x + b).clamp(0.0, 1.0), 0.2, 0.5),
    "elu": (lambda x, a, b: F.elu(x, a), 1.0, 0.0),
    "softsign": (lambda x, a, b: F.softsign(x), 0.0, 0.0),
    "softplus": (lambda x, a, b: F.softplus(x), 0.0, 0.0),
}
_TAKES_ALPHA = frozenset({"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"})
_TAKES_BETA = frozenset({"affine", "scaledtanh", "hardsigmoid"})


def _activations(call: Call, defaults: Sequence[str], directions: int) -> list[list[Activation]]:
    """The activation functions of each direction; alphas and betas go, in order, to those that take one.

    The inputs of the gates' functions are clipped. The third function of an LSTM, of the cell state, is not one of
    a gate; the standard leaves it open whether its input is clipped, and ONNX Runtime does not.
    """
    names = [n.lower() for n in call.texts("activations") or list(defaults) * directions]
    alphas, betas = iter(call.numbers("activation_alpha") or ()), iter(call.numbers("activation_beta") or ())
    clip = call.number("clip")
    functions: list[Activation] = []
    for i, name in enumerate(names):
        if name not in _ACTIVATIONS:
            raise NotImplementedError(f"activation {name}")
        function, alpha, beta = _ACTIVATIONS[name]
        alpha = next(alphas, alpha) if name in _TAKES_ALPHA else alpha
        beta = next(betas, beta) if name in _TAKES_BETA else beta
        functions.append(partial(_activate, function, alpha, beta, clip if i % len(defaults) < 2 else 0.0))
    return [functions[i * len(defaults):(i + 1) * len(defaults)] for i in range(directions)]


def _activate(function: Callable[[Tensor, float, float], Tensor], alpha: float, beta: float, clip: float,
              x: Tensor) -> Tensor:
    return function(x.clamp(-clip, clip) if clip else x, alpha, beta)


@dataclass(frozen=True)
class Sequences:
    """The inputs that every recurrent operator has, time first.

    Attributes:
        x: input [time, batch, features].
        w: input weights [direction, gates·hidden, features].
        r: recurrent weights [direction, gates·hidden, hidden].
        b: biases [direction, 2·gates·hidden]: the input's, then the recurrent ones.
        lengths: valid time steps of each sequence [batch], or None for all.
        initial: the initial states, each [direction, batch, hidden].
        reverse: for each direction, whether it runs backwards.
    """

    x: Tensor
    w: Tensor
    r: Tensor
    b: Tensor
    lengths: Tensor | None
    initial: State
    reverse: list[bool]

    @staticmethod
    def of(call: Call, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None, lengths: Tensor | None,
           initial: Sequence[Tensor | None]) -> Sequences:
        """Bring the inputs of a node into time-first layout and fill in the defaults (zeros)."""
        batch_first = bool(call.integer("layout"))
        x = x.transpose(0, 1) if batch_first else x
        b = w.new_zeros(w.shape[0], 2 * w.shape[1]) if b is None else b
        zeros = x.new_zeros(w.shape[0], x.shape[1], r.shape[2])
        states = [zeros if s is None else s.transpose(0, 1) if batch_first else s for s in initial]
        reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
        return Sequences(x, w, r, b, lengths, tuple(states), reverse[call.text("direction", "forward").lower()])

    def run(self, call: Call, cells: Sequence[Cell], biases: Tensor) -> tuple[Tensor, ...]:
        """Run each direction's cell over time.

        Args:
            call: the node, for its layout.
            cells: one a direction.
            biases: what to add to the projected input [direction, gates·hidden].

        Returns:
            All hidden states [time, direction, batch, hidden], then each last state [direction, batch, hidden],
            or with the batch first where the node asks for it.
        """
        hidden, lasts = [], []
        for d, (cell, backwards) in enumerate(zip(cells, self.reverse, strict=True)):
            order = range(self.x.shape[0])[::-1] if backwards else range(self.x.shape[0])
            projected = F.linear(self.x, self.w[d], biases[d])
            y, last = self._unroll(cell, projected, order, tuple(s[d] for s in self.initial))
            hidden.append(y)
            lasts.append(last)
        y = torch.stack(hidden, 1)
        ends = [torch.stack(states) for states in zip(*lasts, strict=True)]
        if call.integer("layout"):
            return (y.permute(2, 0, 1, 3), *(e.transpose(0, 1) for e in ends))
        return (y, *ends)

    def _unroll(self, cell: Cell, projected: Tensor, order: range, state: State) -> tuple[Tensor, State]:
        """A padded step leaves the state as it is and outputs zeros."""
        steps: list[Tensor] = [state[0]] * len(order)
        for t in order:
            after = cell(projected[t], state)
            if self.lengths is not None:
                valid = (t < self.lengths)[:, None]
                steps[t] = torch.where(valid, after[0], 0.0)
                state = tuple(torch.where(valid, new, old) for new, old in zip(after, state, strict=True))
            else:
                steps[t], state = after[0], after
        return torch.stack(steps) if steps else projected.new_zeros(0, *state[0].shape), state


@kernel("RNN")
def rnn(call: Call, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
        initial_h: Tensor | None = None) -> tuple[Tensor, ...]:
    """Elman network: H = f(X·Wᵀ + H·Rᵀ + b)."""
    given = Sequences.of(call, x, w, r, b, lengths, [initial_h])
    functions = _activations(call, ["Tanh"], len(given.reverse))

    def cell(d: int, gates: Tensor, state: State) -> State:
        return (functions[d][0](gates + state[0] @ r[d].T),)

    return given.run(call, [partial(cell, d) for d in range(len(functions))],
                     given.b[:, :w.shape[1]] + given.b[:, w.shape[1]:])


@kernel("GRU")
def gru(call: Call, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
        initial_h: Tensor | None = None) -> tuple[Tensor, ...]:
    """Gated recurrent unit, gates in the order z (update), r (reset), h (hidden)."""
    given = Sequences.of(call, x, w, r, b, lengths, [initial_h])
    functions = _activations(call, ["Sigmoid", "Tanh"], len(given.reverse))
    size = r.shape[2]
    input_bias, recurrent_bias = given.b.chunk(2, dim=1)
    linear_before_reset = bool(call.integer("linear_before_reset"))

    def cell(d: int, gates: Tensor, state: State) -> State:
        (h,), (f, g) = state, functions[d]
        bias = recurrent_bias[d]
        zr = f(gates[:, :2 * size] + F.linear(h, r[d, :2 * size], bias[:2 * size]))
        z, reset = zr.chunk(2, dim=1)
        if linear_before_reset:
            recurrent = reset * F.linear(h, r[d, 2 * size:], bias[2 * size:])
        else:
            recurrent = F.linear(reset * h, r[d, 2 * size:], bias[2 * size:])
        return ((1 - z) * g(gates[:, 2 * size:] + recurrent) + z * h,)

    return given.run(call, [partial(cell, d) for d in range(len(functions))], input_bias)


@kernel("LSTM")
def lstm(call: Call, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
         initial_h: Tensor | None = None, initial_c: Tensor | None = None, peepholes: Tensor | None = None,
         ) -> tuple[Tensor, ...]:
    """Long short-term memory, gates in the order i (input), o (output), f (forget), c (cell)."""
    given = Sequences.of(call, x, w, r, b, lengths, [initial_h, initial_c])
    functions = _activations(call, ["Sigmoid", "Tanh", "Tanh"], len(given.reverse))
    coupled = bool(call.integer("input_forget"))

    def cell(d: int, gates: Tensor, state: State) -> State:
        (h, c), (f, g, out) = state, functions[d]
        i, o, forget, new = (gates + h @ r[d].T).chunk(4, dim=1)
        if peepholes is not None:
            peep_i, peep_o, peep_f = peepholes[d].chunk(3)
            i, forget = i + peep_i * c, forget + peep_f * c
        i = f(i)
        c = (1 - i if coupled else f(forget)) * c + i * g(new)
        o = f(o if peepholes is None else o + peep_o * c)
        return o * out(c), c

    return given.run(call, [partial(cell, d) for d in range(len(functions))],
                     given.b[:, :w.shape[1]] + given.b[:, w.shape[1]:])
