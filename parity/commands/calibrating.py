"""`parity calibrate-tolerance`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from parity.asked import MOST_SEED, OPTIMIZATIONS
from parity.commands.options import COULD_NOT, DIVERGED, EXISTING, OK, SEED, SHAPE, progress_bar


@click.command("calibrate-tolerance")
@click.argument("model", type=EXISTING)
@click.option("-c", "--candidate", "candidates", multiple=True, metavar="TARGET", default=("onnxruntime",),
              show_default=True, help="backend[@device][:precision] that a tolerance is for; repeatable.")
@click.option("-r", "--reference", default="pytorch", show_default=True, metavar="TARGET",
              help="What is right by definition.")
@click.option("--input", "inputs", metavar="FILE", help="As for `compare`. Default: seeded, another for each seed.")
@click.option("--calibration", type=EXISTING, metavar="PATH", help="Samples for INT8 ranges, as for `compare`.")
@SHAPE
@SEED
@click.option("--seeds", default=8, show_default=True, type=click.IntRange(1), help="How many seeds, from --seed up.")
@click.option("--optimization", type=click.Choice(OPTIMIZATIONS), default="all",
              show_default=True, help="Graph optimisation of the runtime.")
def calibrate_tolerance(model: Path, candidates: tuple[str, ...], reference: str, inputs: str | None,
                        calibration: Path | None, shapes: tuple[str, ...], seed: int, seeds: int,
                        optimization: str) -> None:
    """Measure how far sound targets are off MODEL over seeds, and say which tolerances to test with.

    A tolerance is twice the largest error seen, or ten times what rounding does to the outputs if that is more. A
    target with a layer that is wrong by itself gets none. What is printed last belongs into parity.toml.

    \b
    parity calibrate-tolerance model.onnx -c onnxruntime -c onnxruntime:int8

    Exit status: 0 a tolerance for every target, 1 none for one that is wrong, 2 one could not run.
    """  # noqa: D301 - click wants the character itself
    from parity.baseline.tolerances import described, listed, spreads_of
    from parity.contenders import Request
    from parity.errors import UsageError

    if seed + seeds - 1 > MOST_SEED:
        raise UsageError(f"{seeds} seeds from {seed} up go past {MOST_SEED}", "Give a smaller --seed.")
    given = [] if inputs is None else [inputs]
    request = Request(model, (), reference, candidates, given, shapes=shapes, calibration=calibration)
    with progress_bar() as progress:
        spreads = spreads_of(request, range(seed, seed + seeds), optimization, progress)
    for spread in spreads:
        click.echo(described(spread))
    if any(spread.limit is not None for spread in spreads):
        click.echo(f"\n{listed(request, spreads, seed, optimization)}")
    missing, wrong = any(s.missing for s in spreads), any(s.limit is None for s in spreads)
    sys.exit(COULD_NOT if missing else DIVERGED if wrong else OK)
