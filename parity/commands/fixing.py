"""`parity fix`."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parity.commands.options import (
    COULD_NOT,
    EXISTING,
    INPUTS,
    LIMITS,
    RUNNING,
    command_line,
    progress_bar,
    show,
    status_of,
    title_of,
)

if TYPE_CHECKING:
    from parity.precision.plan import Precision


@click.command()
@click.argument("model", type=EXISTING)
@click.option("--for", "target", required=True, metavar="TARGET",
              help="backend[@device]:precision that the fix is for, e.g. onnxruntime:int8.")
@INPUTS
@LIMITS
@click.option("--max-trials", type=click.IntRange(1), metavar="N",
              help="Runs of the emulator. Default: 12 to 600, the more the less one costs.")
@click.option("--max-kept", default=0.5, show_default=True, type=click.FloatRange(0, 1), metavar="SHARE",
              help="Share of the layers that may be kept in higher precision.")
@click.option("--keep", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True,
              help="What layers are kept in.")
@RUNNING
@click.option("-o", "--output", type=EXISTING, metavar="DIR",
              help="Folder for the fixed model, its plan and the report. Default: reports/MODEL.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Another place for report.json.")
@click.option("--no-html", is_flag=True, help="Do not write report.html.")
@click.option("-v", "--verbose", is_flag=True, help="Print all that is known.")
def fix(model: Path, target: str, inputs: tuple[str, ...], labels: Path | None, calibration: Path | None, seed: int,
        shapes: tuple[str, ...], samples: int, tolerances: tuple[str, ...], judges: tuple[str, ...],
        max_trials: int | None, max_kept: float, keep: Precision, optimization: str, threads: int | None,
        output: Path | None, json_path: Path | None, no_html: bool, verbose: bool) -> None:
    """Find the smallest change that brings MODEL in a lower precision back within its tolerance, and write it.

    \b
    parity fix model.onnx --for onnxruntime:int8 --calibration samples/
    parity fix model.onnx --for onnxruntime:fp16 --tolerance rel_l2=1e-3

    Written are MODEL.fixed.onnx, and plan.json, from which `parity convert --plan` makes it again; where no fix passes,
    MODEL.best.onnx and plan.best.json. What was tried is kept in DIR/trials.jsonl: a search that was stopped goes on
    where it was. Exit status: 0 a fix passes on the target, or none is needed; 1 none within the limits does; 2 could
    not run.
    """  # noqa: D301 - click wants the character itself
    if math.isnan(max_kept):
        raise click.BadParameter("nan is no share of the layers.", param_hint="--max-kept")
    from parity.analysis.tasks import task_limits
    from parity.analysis.tolerance import Tolerance
    from parity.backends.base import RunOptions
    from parity.contenders import Request
    from parity.fix import Order, fix_file
    from parity.fixes.problem import Limits
    from parity.report.write import ensure_writable

    folder = output or Path("reports") / title_of(model)
    ensure_writable(folder)
    run = RunOptions(optimization, seed=seed)
    run = run if threads is None else replace(run, threads=threads)
    limits, rest = task_limits(tolerances)
    request = Request(model, targets=[target], inputs=inputs, labels=labels, shapes=shapes, samples=samples,
                      calibration=calibration)
    search = Limits(kept=max_kept, precision=keep)
    search = search if max_trials is None else replace(search, trials=max_trials, extra=0)
    order = Order(Tolerance.parse(rest, alone=bool(limits)), judges, limits, search, run)
    try:
        with progress_bar() as progress:
            report, written = fix_file(request, order, folder, progress, command_line())
    except KeyboardInterrupt:
        trials = folder / "trials.jsonl"
        kept = f"what was tried is in {trials}" if trials.exists() else "nothing was tried yet"
        goes_on = "it goes on where it was" if trials.exists() else "it starts anew"
        click.echo(f"parity: interrupted; {kept}\n        Type the same command again: {goes_on}.", err=True)
        sys.exit(COULD_NOT)
    show(report, folder, json_path, html=not no_html, verbose=verbose, more=written)
    sys.exit(status_of(report, strict=False))
