"""`parity compare` and `parity report`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from parity.commands.options import (
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


@click.command()
@click.argument("model", type=EXISTING)
@click.argument("candidate_files", type=EXISTING, nargs=-1)
@click.option("-r", "--reference", default="pytorch", show_default=True, metavar="TARGET",
              help="What is right by definition.")
@click.option("-c", "--candidate", "candidates", multiple=True, metavar="TARGET",
              help="backend[@device][:precision] to hold against it; repeatable. Default: onnxruntime.")
@INPUTS
@LIMITS
@click.option("--strict", is_flag=True, help="Fail on a named fault even where the outputs hide it.")
@RUNNING
@click.option("--memory", default=512, show_default=True, type=click.IntRange(1), metavar="MB",
              help="Tensors that a watched run may hold at a time.")
@click.option("-o", "--output", type=EXISTING, metavar="DIR", help="Folder for the report. Default: reports/MODEL.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Another place for report.json.")
@click.option("--no-html", is_flag=True, help="Do not write report.html.")
@click.option("--no-fixes", is_flag=True, help="Do not look for fixes.")
@click.option("-v", "--verbose", is_flag=True, help="Print every tensor.")
def compare(model: Path, candidate_files: tuple[Path, ...], reference: str, candidates: tuple[str, ...],
            inputs: tuple[str, ...], labels: Path | None, calibration: Path | None, seed: int,
            shapes: tuple[str, ...], samples: int, tolerances: tuple[str, ...], judges: tuple[str, ...],
            strict: bool, optimization: str, threads: int | None, memory: int, output: Path | None,
            json_path: Path | None, no_html: bool, no_fixes: bool, verbose: bool) -> None:
    """Run MODEL on a reference and on candidates, and say at which tensor they part.

    CANDIDATE_FILES are other models (.onnx, run on every -c TARGET) or tensors taken elsewhere (.npz, .npy,
    .safetensors, Polygraphy's or trtexec's .json, or a folder of .npy). FILE:RUNNER names one of Polygraphy's runners.

    \b
    parity compare model.onnx
    parity compare model.onnx --input inputs.npz -c onnxruntime -c pytorch:fp64
    parity compare model.onnx faulty.onnx --strict
    parity compare model.onnx -c onnxruntime:int8 --calibration samples/ --judge top1 --tolerance top1=0.99
    """  # noqa: D301 - click wants the character itself
    from parity.analysis.tasks import task_limits
    from parity.analysis.tolerance import Tolerance
    from parity.backends.base import RunOptions
    from parity.compare import Options, compare_files
    from parity.contenders import Request
    from parity.report.write import ensure_writable

    folder = output or Path("reports") / title_of(model)
    ensure_writable(folder)
    if json_path is not None:
        ensure_writable(json_path.parent)
    run = RunOptions(optimization, seed=seed, memory=memory * 2**20)
    run = run if threads is None else replace(run, threads=threads)
    limits, rest = task_limits(tolerances)
    with progress_bar() as progress:
        report = compare_files(
            Request(model, candidate_files, reference, candidates, inputs, labels, shapes, samples, calibration),
            Options(run, Tolerance.parse(rest, alone=bool(limits)), progress=progress, command=command_line(),
                    judges=judges, task_limits=limits, fixes=not no_fixes))
    show(report, folder, json_path, html=not no_html, verbose=verbose)
    sys.exit(status_of(report, strict=strict))


@click.command("report")
@click.argument("run", type=EXISTING)
@click.option("-o", "--output", type=EXISTING, metavar="DIR", help="Folder for the files. Default: beside RUN.")
@click.option("-v", "--verbose", is_flag=True, help="Print every tensor.")
def render_report(run: Path, output: Path | None, verbose: bool) -> None:
    """Show RUN, a report.json, again: in the terminal, as HTML and as CSV.

    \b
    parity report reports/model/report.json
    """  # noqa: D301 - click wants the character itself
    from parity.report.record import Report
    from parity.report.write import ensure_writable

    folder = output or run.parent
    report = Report.load(run)
    ensure_writable(folder)
    show(report, folder, None, html=True, verbose=verbose)
