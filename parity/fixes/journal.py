"""The trials of a search on disk, so that one that was stopped goes on where it was."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


class Journal:
    """One JSON line for each finding, each readable without the others.

    What cannot be written is lost to a later search, and no reason to stop this one.
    """

    def __init__(self, path: Path, key: str) -> None:
        """Open for one problem.

        Args:
            path: the file; made where it is missing.
            key: of the problem and the variant; lines of others are left alone.
        """
        self._path, self._key = path, key

    def trials(self) -> dict[frozenset[str], float]:
        """The error of every set of names that was tried."""
        return {frozenset(line["kept"]): float(line["error"]) for line in self._lines() if "kept" in line}

    def prices(self) -> dict[str, float] | None:
        """What each name was priced at; None where that was not yet done."""
        found = next((line["prices"] for line in self._lines() if "prices" in line), None)
        return None if found is None else {name: float(price) for name, price in found.items()}

    def add_trial(self, kept: frozenset[str], error: float) -> None:
        """Note the error of a set."""
        self._write({"kept": sorted(kept), "error": _plain(error)})

    def add_prices(self, prices: Mapping[str, float]) -> None:
        """Note all prices."""
        self._write({"prices": {name: _plain(price) for name, price in prices.items()}})

    def _lines(self) -> Iterator[dict[str, Any]]:
        with suppress(OSError):
            for text in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):  # a line that a kill cut short
                    line = json.loads(text)
                    if isinstance(line, dict) and line.get("key") == self._key:
                        yield line

    def _write(self, line: Mapping[str, object]) -> None:
        with suppress(OSError), self._path.open("a", encoding="utf-8") as out:
            # The line break comes first: what was written before may have been cut short.
            out.write("\n" + json.dumps({"key": self._key, **line}, allow_nan=False))


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
