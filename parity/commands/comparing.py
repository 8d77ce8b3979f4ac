"""`parity compare` and `parity report`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from parity.commands.options import (
    EXISTING,
    INPUTS,
    LIMITS,
    RUNNING,
    TENSORRT,
    TORCH,
    Writers,
    check_tensorrt,
    command_line,
    model_and_source,
    progress_bar,
    show,
    source_title,
    status_of,
    targets_for,
    tensorrt_options,
    title_of,
)

if TYPE_CHECKING:
    from parity.backends.base import Watch
    from parity.report.record import Report
    from parity.source_model.source import SourceModel


@click.command()
@click.argument("model", type=EXISTING, required=False)
@click.argument("candidate_files", type=EXISTING, nargs=-1)
@click.option("-r", "--reference", default="pytorch", show_default=True, metavar="TARGET",
              help="What is right by definition.")
@click.option("-c", "--candidate", "candidates", multiple=True, metavar="TARGET",
              help="backend[@device][:precision], module or pytorch.compile, to hold against it; repeatable. "
                   "Default: onnxruntime.")
@TORCH
@INPUTS
@LIMITS
@click.option("--strict", is_flag=True, help="Fail on a named fault even where the outputs hide it.")
@RUNNING
@TENSORRT
@click.option("--memory", default=512, show_default=True, type=click.IntRange(1), metavar="MB",
              help="Tensors that a watched run may hold at a time.")
@click.option("-o", "--output", type=EXISTING, metavar="DIR", help="Folder for the report. Default: reports/MODEL.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Another place for report.json.")
@click.option("--no-html", is_flag=True, help="Do not write report.html.")
@click.option("--summary", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Also write the answer as Markdown, for a pull request.")
@click.option("--annotate", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.onnx",
              help="Also write MODEL with each node's figures in its metadata, for Netron.")
@click.option("--no-fixes", is_flag=True, help="Do not look for fixes.")
@click.option("-v", "--verbose", is_flag=True, help="Print every tensor.")
def compare(model: Path | None, candidate_files: tuple[Path, ...], reference: str, candidates: tuple[str, ...],
            torch_text: str, checkpoint: Path | None, names_from: Path | None, inputs: tuple[str, ...],
            labels: Path | None, calibration: Path | None, seed: int, shapes: tuple[str, ...], samples: int,
            tolerances: tuple[str, ...], judges: tuple[str, ...], strict: bool, optimization: str,
            threads: int | None, watch: Watch, tf32: bool, engine: Path | None, workspace: int | None,
            builder_level: int | None, timing_cache: Path | None, memory: int, output: Path | None,
            json_path: Path | None, no_html: bool, summary: Path | None, annotate: Path | None, no_fixes: bool,
            verbose: bool) -> None:
    """Run MODEL on a reference and on candidates, and say at which tensor they part.

    CANDIDATE_FILES are other models (.onnx, run on every -c TARGET) or tensors taken elsewhere (.npz, .npy,
    .safetensors, Polygraphy's or trtexec's .json, or a folder of .npy). FILE:RUNNER names one of Polygraphy's runners.
    With --torch, or a .pt2 or TorchScript .pt as MODEL, the module itself is held against its export, too, which is
    MODEL, or is made here and written beside the report.

    \b
    parity compare model.onnx
    parity compare model.onnx --input inputs.npz -c onnxruntime -c pytorch:fp64
    parity compare model.onnx faulty.onnx --strict
    parity compare --torch package.module:factory --checkpoint model.safetensors --shape x=1x3x224x224
    parity compare model.onnx -c onnxruntime:int8 --calibration samples/ --judge top1 --tolerance top1=0.99
    parity compare model.onnx -c tensorrt:fp16 --shape x=1x3x224x224/4x3x224x224/16x3x224x224
    """  # noqa: D301 - click wants the character itself
    from parity.analysis.tasks import task_limits
    from parity.analysis.tolerance import Tolerance
    from parity.backends.base import RunOptions
    from parity.compare import Options, compare_files
    from parity.contenders import Request
    from parity.errors import UsageError
    from parity.report.write import ensure_writable

    model, torch_text = model_and_source(model, torch_text, checkpoint)
    folder = output or Path("reports") / (title_of(model) if model is not None else source_title(torch_text))
    compared = {path.resolve() for path in (model, *candidate_files) if path is not None}
    if annotate is not None and annotate.resolve() in compared:
        raise UsageError(f"--annotate {annotate} would overwrite what is compared", "Name another file.")
    ensure_writable(folder)
    if json_path is not None:
        ensure_writable(json_path.parent)
    tensorrt = tensorrt_options(watch, tf32=tf32, engine=engine, workspace=workspace, builder_level=builder_level,
                                timing_cache=timing_cache, shapes=shapes)
    targets = targets_for(engine, candidates)
    check_tensorrt(tensorrt, (reference, *targets))
    run = RunOptions(optimization, seed=seed, memory=memory * 2**20, tensorrt=tensorrt)
    run = run if threads is None else replace(run, threads=threads)
    limits, rest = task_limits(tolerances)
    source = _loaded(torch_text, checkpoint)
    with (_exported(source, inputs, shapes, seed, folder / "model.onnx") if model is None else nullcontext(model)
          ) as path, progress_bar() as progress:
        report = compare_files(
            Request(path, candidate_files, reference, targets, inputs, labels, shapes, samples, calibration, source,
                    names_from),
            Options(run, Tolerance.parse(rest, alone=bool(limits)), progress=progress, command=command_line(),
                    judges=judges, task_limits=limits, fixes=not no_fixes))
    show(report, folder, json_path, html=not no_html, verbose=verbose,
         also=_written_too(report, path, summary, annotate))
    sys.exit(status_of(report, strict=strict))


def _loaded(torch_text: str, checkpoint: Path | None) -> SourceModel | None:
    if not torch_text:
        return None
    from parity.source_model.loading import load_source

    return load_source(torch_text, checkpoint)


@contextmanager
def _exported(source: SourceModel | None, inputs: tuple[str, ...], shapes: tuple[str, ...], seed: int, path: Path,
              ) -> Iterator[Path]:
    """Where the model was exported to; where it comes to no report, the folder is as it was."""
    from parity.convert import write_model
    from parity.original import read_example
    from parity.source_model.exporting import export

    assert source is not None  # noqa: S101 - there is a MODEL or a source
    made = export(source, read_example(source, inputs, shapes, seed)).model
    files = (path, path.with_name(f"{path.name}.data"))
    with TemporaryDirectory(dir=path.parent, prefix=".parity-") as aside:
        former = [(file.rename(Path(aside) / file.name), file) for file in files if file.exists()]
        try:
            write_model(made, path)
            yield path
        except BaseException:
            for file in files:
                file.unlink(missing_ok=True)
            for kept, file in former:
                kept.rename(file)
            raise


def _written_too(report: Report, model: Path, summary: Path | None, annotate: Path | None) -> Writers:
    from parity.convert import write_model
    from parity.graph.model import Model
    from parity.report.annotate import annotated
    from parity.report.summary import summary as markdown
    from parity.report.write import write_whole

    wanted: dict[str, tuple[Path, Callable[[Path], None]]] = {}
    if summary is not None:
        wanted["summary"] = summary, lambda path: write_whole(path, markdown(report))
    if annotate is not None:
        wanted["annotated"] = annotate, lambda path: write_model(annotated(Model.load(model), report), path)
    return wanted


@click.command("report")
@click.argument("runs", type=EXISTING, nargs=-1, required=True)
@click.option("-o", "--output", type=EXISTING, metavar="DIR",
              help="Folder for the files. Default: beside the first of RUNS.")
@click.option("-v", "--verbose", is_flag=True, help="Print every tensor.")
def render_report(runs: tuple[Path, ...], output: Path | None, verbose: bool) -> None:
    """Show a run again, from its report.json: in the terminal, as HTML and as CSV.

    Several RUNS are set side by side, in the order given: before and after, two devices, a history. What changed is
    printed, and runs.html holds all of them.

    \b
    parity report reports/model/report.json
    parity report before/report.json after/report.json -o compared
    """  # noqa: D301 - click wants the character itself
    from parity.report.record import Report
    from parity.report.write import ensure_writable

    folder = output or runs[0].parent
    if len(runs) > 1:
        _side_by_side(runs, folder)
        return
    report = Report.load(runs[0])
    ensure_writable(folder)
    show(report, folder, None, html=True, verbose=verbose)


def _side_by_side(paths: tuple[Path, ...], folder: Path) -> None:
    from parity.report.html import render_runs
    from parity.report.runs import lines, load
    from parity.report.write import ensure_writable, write_whole

    runs = load(paths)
    ensure_writable(folder)
    path = folder / "runs.html"
    write_whole(path, render_runs(runs))
    click.echo("\n".join([*lines(runs), "", f"html  {path}"]))
