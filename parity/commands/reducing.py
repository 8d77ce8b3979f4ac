"""`parity reduce`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from parity.commands.options import DIVERGED, EXISTING, OK, RUNNING, SEED, SHAPE, progress_bar, title_of


@click.command("reduce")
@click.argument("model", type=EXISTING)
@click.argument("candidate_file", type=EXISTING, required=False)
@click.option("-c", "--candidate", "targets", multiple=True, metavar="TARGET",
              help="backend[@device][:precision] that goes wrong. Default: onnxruntime.")
@click.option("--input", "inputs", multiple=True, metavar="FILE", help="As for `compare`. Default: seeded.")
@click.option("--calibration", type=EXISTING, metavar="PATH", help="Samples for INT8 ranges, as for `compare`.")
@SEED
@SHAPE
@click.option("--tolerance", "tolerances", multiple=True, metavar="LIMIT", help="Of the outputs, as for `compare`.")
@click.option("--max-runs", default=25, show_default=True, type=click.IntRange(12), metavar="N",
              help="Runs of the target.")
@click.option("--anonymise", is_flag=True,
              help="Put seeded values of the same distribution in place of inputs and weights, where the fault stays.")
@RUNNING
@click.option("-o", "--output", type=EXISTING, metavar="DIR",
              help="Folder for the files. Default: reports/MODEL/repro.")
def reduce(model: Path, candidate_file: Path | None, targets: tuple[str, ...], inputs: tuple[str, ...],
           calibration: Path | None, seed: int, shapes: tuple[str, ...], tolerances: tuple[str, ...], max_runs: int,
           anonymise: bool, optimization: str, threads: int | None, output: Path | None) -> None:
    """Write the smallest model that still shows what a target does wrong in MODEL, with a test and a bug report.

    CANDIDATE_FILE is another model (.onnx) that should do as MODEL does.

    \b
    parity reduce model.onnx -c onnxruntime -o repro
    parity reduce model.onnx faulty.onnx -o repro
    parity reduce model.onnx -c onnxruntime:int8 --calibration samples/ --anonymise

    Exit status: 0 nothing to reduce; 1 a repro was written; 2 could not.
    """  # noqa: D301 - click wants the character itself
    from parity.analysis.tolerance import Tolerance
    from parity.backends.base import RunOptions
    from parity.contenders import Request
    from parity.reduce.pipeline import Order, reduce_file
    from parity.reduce.write import files_in
    from parity.report.write import ensure_writable

    folder = output or Path("reports") / title_of(model) / "repro"
    ensure_writable(folder)
    run = RunOptions(optimization, seed=seed)
    run = run if threads is None else replace(run, threads=threads)
    files = () if candidate_file is None else (candidate_file,)
    request = Request(model, files, targets=targets, inputs=inputs, shapes=shapes, calibration=calibration)
    with progress_bar() as progress:
        found = reduce_file(request, Order(run, Tolerance.parse(tolerances), max_runs, anonymise, progress), folder)
    if found is None:
        click.echo("nothing to reduce: the target keeps to its tolerance, and no tensor is to blame")
        if files_in(folder):
            click.echo(f"{folder} holds the repro of an earlier run")
        sys.exit(OK)
    from parity.reduce.bug import summary

    click.echo(summary(found.story, found.runs, found.verified.reference, folder))
    sys.exit(DIVERGED)
