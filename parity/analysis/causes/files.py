"""What the candidate's own file has otherwise than the reference's: its constants, attributes, operators and inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby

import numpy as np

from parity.analysis.causes.changes import changes
from parity.analysis.causes.evidence import Bench, Diagnosis, Evidence, relative
from parity.analysis.causes.twins import Change, paired
from parity.analysis.causes.unit import Stand, Unit, unit_in, unit_of
from parity.analysis.localize import Divergence
from parity.errors import ModelError
from parity.figures import number
from parity.graph.graph import Node


def other_file(evidence: Evidence) -> Sequence[Diagnosis]:
    """The fewest differences between the two files that give what the candidate shows."""
    blamed = evidence.blamed_for("implementation", "nonfinite")
    unit = None if blamed is None or evidence.file is None else unit_of(evidence, blamed)
    if unit is None or evidence.file is None:
        return ()
    found = list(changes(evidence, unit, evidence.file))
    needed = _needed(unit, found)
    return (_told(unit, needed),) if needed else ()


def _needed(unit: Unit, found: Sequence[Change]) -> Sequence[Change]:
    """Changes that explain the tensor together, and none of which can be spared."""
    if not found or not unit.explains(_tried(unit, found)):
        return next(([change] for change in found if unit.explains(_tried(unit, [change]))), [])
    for change in found:
        rest = [c for c in found if c is not change]
        if rest and unit.explains(_tried(unit, rest)):
            return _needed(unit, rest)
    return found


def _tried(unit: Unit, found: Sequence[Change]) -> np.ndarray | None:
    stands: dict[str, Stand] = {}
    for node in {c.node for c in found}:
        stands[node.outputs[0]] = reduce(lambda n, c: c.applied(n), (c for c in found if c.node is node), node)
    inputs: Mapping[str, np.ndarray] = {name: value for c in found for name, value in c.inputs.items()}
    return unit.tried(stands, inputs)


def _told(unit: Unit, found: Sequence[Change]) -> Diagnosis:
    value = _tried(unit, found)
    left = np.inf if value is None else relative(value, unit.candidate)
    places = [(node, _listed(_phrases(list(group)))) for node, group in groupby(found, lambda c: c.node)]
    has = " the candidate's file has"
    what = "; ".join(f"{'at' if i else 'At'} {node.op} {node.label!r}{'' if i else has} {words}"
                     for i, (node, words) in enumerate(places))
    message = (f"{what}: that explains the candidate's values to {number(left)} (relative L2), where the "
               f"reference's file leaves {number(unit.error)}.")
    numbers = {name: number for c in found for name, number in c.numbers.items()}
    return Diagnosis(found[0].cause, unit.tensor, message,
                     {"error": unit.error, "left": left, "floor": unit.floor, **numbers})


def _phrases(found: Sequence[Change]) -> list[str]:
    """What differs at one node, constants that differ alike together."""
    alike: dict[tuple[str, str], list[str]] = {}
    for change in found:
        alike.setdefault((change.role, change.words), []).extend([change.name] if change.name else [])
    return [f"{role}{'s' if len(names) > 1 else ''} {_listed(names)} {words}" if names else words
            for (role, words), names in alike.items()]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


@dataclass(frozen=True)
class Settled:
    """What cannot be wrong with a tensor, as the candidate's file shows: how it differs is known, and not guessed.

    Attributes:
        nodes: those that the file has as well.
        constants: those that it has under the same name with the same value.
    """

    nodes: frozenset[Node] = frozenset()
    constants: frozenset[str] = frozenset()


def settled(evidence: Evidence, divergence: Divergence) -> Settled:
    """What is known of the nodes before a tensor, where the file itself makes what the candidate shows."""
    unit = None if evidence.own is None else unit_of(evidence, divergence)
    if unit is None or evidence.file is None or not _makes(evidence.file, evidence, divergence, unit):
        return Settled()
    read = {n for node in unit.nodes for n in node.inputs if n in unit.bench.constants}
    pairs = paired(unit, evidence.file)
    return Settled(frozenset(node for node in unit.nodes if pairs.twin(node) is not None),
                   frozenset(n for n in read if _shared(unit.bench, evidence.file, n)))


def _shared(bench: Bench, file: Bench, name: str) -> bool:
    one, other = bench.constant(name), file.constant(name)
    return one is not None and other is not None and np.array_equal(one, other)


def _makes(file: Bench, evidence: Evidence, divergence: Divergence, unit: Unit) -> bool:
    """Whether the candidate's file, evaluated, gives what the candidate shows; also where that cannot be known."""
    own = unit_in(file, evidence, divergence)
    try:
        return own is None or unit.explains(own.gold)
    except ModelError:
        return True
