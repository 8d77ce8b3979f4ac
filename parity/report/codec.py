"""Frozen dataclasses to JSON and back, by their type hints."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

_T = TypeVar("_T")


def encode(value: object) -> object:
    """Frozen dataclasses as what JSON can hold; a non-finite float becomes "nan", "inf" or "-inf"."""
    if is_dataclass(value):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [encode(v) for v in value]
    return value


@cache
def _types(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def decode(data: Any, kind: type[_T]) -> _T:
    """A dataclass from what `encode` made of it; unknown fields are left aside.

    Raises:
        TypeError: a value is not of the declared type.
        KeyError, ValueError: likewise.
    """
    return _as(data, kind)  # type: ignore[no-any-return]


def _as(data: Any, kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if data is None else _as(data, next(a for a in arguments if a is not type(None)))
    if origin is Literal:
        return _checked(data, data in arguments, arguments)
    if is_dataclass(kind):
        _checked(data, isinstance(data, dict), kind)
        known = _types(kind)  # type: ignore[arg-type]
        return kind(**{name: _as(data[name], hint) for name, hint in known.items() if name in data})  # type: ignore[operator]
    if origin is tuple:
        return tuple(_as(item, arguments[0]) for item in _checked(data, isinstance(data, list), kind))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {k: _as(v, arguments[1]) for k, v in _checked(data, isinstance(data, dict), kind).items()}
    return float(data) if kind is float else _checked(data, isinstance(data, kind), kind)


def _checked(data: Any, fits: bool, kind: object) -> Any:
    if not fits:
        raise TypeError(f"{str(data)[:40]!r} is not {kind}")
    return data
