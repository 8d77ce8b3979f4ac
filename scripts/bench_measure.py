"""Times `measure`: throughput in one thread and the cost of a tiny tensor. Prints JSON on its last line.

np.dot reads the same two tensors and does almost nothing else: its rate is what the machine could give at that time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np

from parity.analysis.measure import measure


def best_seconds(call: Callable[[], object], repeats: int) -> float:
    """Shortest of `repeats` calls, in seconds, after one that compiles."""
    call()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Measures 1e6 and 4 elements, float32 on both sides and against a float64 reference."""
    rng = np.random.default_rng(0)
    r = rng.standard_normal(1_000_000, dtype=np.float32)
    c = r + np.float32(1e-3) * r[::-1]
    wide, few_r, few_c = r.astype(np.float64), r[:4], c[:4]
    result = {
        "float32_gb_per_s": 8e-3 / best_seconds(lambda: measure(r, c), 300),
        "float64_reference_gb_per_s": 12e-3 / best_seconds(lambda: measure(wide, c), 300),
        "identical_gb_per_s": 8e-3 / best_seconds(lambda: measure(r, r), 300),
        "numpy_dot_gb_per_s": 8e-3 / best_seconds(lambda: np.dot(r, c), 300),
        "tiny_us": 1e6 * best_seconds(lambda: measure(few_r, few_c), 20_000),
    }
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


if __name__ == "__main__":
    main()
