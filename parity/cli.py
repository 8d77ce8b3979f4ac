"""The command line: reads arguments, calls the pipeline, shows the result. No logic lives here."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parity.errors import ParityError

if TYPE_CHECKING:
    from parity.compare import Progress
    from parity.precision.plan import Precision
    from parity.precision.ranges import Method
    from parity.report.record import Report

_OK, _DIVERGED, _COULD_NOT = 0, 1, 2
_EXISTING = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="parity")
def cli() -> None:
    """Find where a deployed network stops matching the one that was trained.

    \b
    parity compare model.onnx                   PyTorch against ONNX Runtime, every tensor
    parity compare model.onnx other.onnx        two models, matched by tensor names
    parity compare model.onnx dump.npz          a model against tensors taken elsewhere

    Exit status: 0 parity, 1 divergence, 2 could not run.
    """  # noqa: D301 - click wants the character itself


@cli.command()
@click.argument("model", type=_EXISTING)
@click.argument("candidate_files", type=_EXISTING, nargs=-1)
@click.option("-r", "--reference", default="pytorch", show_default=True, metavar="TARGET",
              help="What is right by definition.")
@click.option("-c", "--candidate", "candidates", multiple=True, metavar="TARGET",
              help="backend[@device][:precision] to hold against it; repeatable. Default: onnxruntime.")
@click.option("--input", "inputs", multiple=True, metavar="FILE",
              help=".npz, .npy, .pb or a folder of ONNX test data; NAME=FILE for one input. Default: seeded.")
@click.option("--labels", type=_EXISTING, metavar="FILE", help="Class labels (.npy, or .npz with `labels`): accuracy.")
@click.option("--calibration", type=_EXISTING, metavar="PATH",
              help="Samples for INT8 ranges: .npz, .npy, or a folder of them. Default: the inputs of the run.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="For seeded inputs.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME=1x3x224x224", help="Shape of a seeded input.")
@click.option("--samples", default=1, show_default=True, type=click.IntRange(1), help="How many seeded inputs to run.")
@click.option("--tolerance", "tolerances", multiple=True, metavar="LIMIT",
              help="A precision's default (fp16), metric=value (rel_l2=1e-3) or judge=value (top1=0.99); repeatable.")
@click.option("--judge", "judges", multiple=True, metavar="NAME",
              help="Judge outputs as users do: top1, top5, accuracy, kl, rank, iou, boxes; NAME:OUTPUT for one output.")
@click.option("--strict", is_flag=True, help="Fail on a named fault even where the outputs hide it.")
@click.option("--optimization", type=click.Choice(["off", "basic", "extended", "all"]), default="all",
              show_default=True, help="Graph optimisation level of the runtime.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads within an operator. Default: one a core.")
@click.option("--memory", default=512, show_default=True, type=click.IntRange(1), metavar="MB",
              help="Tensors that a watched run may hold at a time.")
@click.option("-o", "--output", type=_EXISTING, metavar="DIR", help="Folder for the report. Default: reports/MODEL.")
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

    CANDIDATE_FILES are other models (.onnx, run on every -c TARGET) or tensors taken elsewhere (.npz).

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

    folder = output or Path("reports") / _title(model)
    ensure_writable(folder)
    if json_path is not None:
        ensure_writable(json_path.parent)
    run = RunOptions(optimization, seed=seed, memory=memory * 2**20)
    run = run if threads is None else replace(run, threads=threads)
    limits, rest = task_limits(tolerances)
    with _progress() as progress:
        report = compare_files(
            Request(model, candidate_files, reference, candidates, inputs, labels, shapes, samples, calibration),
            Options(run, Tolerance.parse(rest, alone=bool(limits)), progress=progress, command=_command(),
                    judges=judges, task_limits=limits))
    _show(report, folder, json_path, html=not no_html, verbose=verbose)
    sys.exit(_status(report, strict=strict))


@cli.command("report")
@click.argument("run", type=_EXISTING)
@click.option("-o", "--output", type=_EXISTING, metavar="DIR", help="Folder for the files. Default: beside RUN.")
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
    _show(report, folder, None, html=True, verbose=verbose)


@cli.command()
@click.argument("model", type=_EXISTING)
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16", "int8"]), default="fp32", show_default=True,
              help="Of every node, unless a plan says otherwise.")
@click.option("--plan", type=_EXISTING, metavar="FILE", help="A precision for each node, as JSON.")
@click.option("--calibration", type=_EXISTING, metavar="PATH",
              help="Samples for INT8 ranges: .npz, .npy, or a folder of them. Default: one seeded input.")
@click.option("--method", type=click.Choice(["minmax", "entropy", "percentile"]), default="minmax", show_default=True,
              help="How INT8 ranges are found.")
@click.option("--quantize-outputs", is_flag=True, help="Quantise what operators make, too, not only what they read.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="For the seeded input.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE",
              help="The .onnx to write.")
def convert(model: Path, precision: Precision, plan: Path | None, calibration: Path | None, method: Method,
            quantize_outputs: bool, seed: int, output: Path) -> None:
    """Write MODEL in another precision: Casts for FP16 and BF16, Q/DQ for INT8. Tensors keep their names.

    \b
    parity convert model.onnx --precision fp16 -o model_fp16.onnx
    parity convert model.onnx --precision int8 --calibration samples/ -o model_int8.onnx
    """  # noqa: D301 - click wants the character itself
    from parity.convert import Conversion
    from parity.convert import convert as write_variant

    wanted = Conversion(precision, plan, calibration, method, quantize_outputs, seed)
    variant = write_variant(model, wanted, output)
    for note in variant.notes:
        click.echo(note)
    click.echo(f"{output} written; its plan is {variant.plan.digest[:12]}")


@cli.command()
@click.argument("model", type=_EXISTING)
@click.option("--target", default="onnxruntime", show_default=True, metavar="TARGET", help="What to check.")
@click.option("--input", "inputs", multiple=True, metavar="FILE", help="As for `compare`. Default: seeded.")
@click.option("--calibration", type=_EXISTING, metavar="PATH", help="Samples for INT8 ranges, as for `compare`.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="For seeded inputs.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME=1x3x224x224", help="Shape of a seeded input.")
@click.option("--only", multiple=True, metavar="CHECK",
              help="repeat, rows, batch, optimization or rebuild; repeatable.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads within an operator. Default: one a core.")
def check(model: Path, target: str, inputs: tuple[str, ...], calibration: Path | None, seed: int,
          shapes: tuple[str, ...], only: tuple[str, ...], threads: int | None) -> None:
    """Check a target against itself: repeatable? does a row depend on its batch, or a result on optimisation?

    \b
    parity check model.onnx
    parity check model.onnx --target onnxruntime:int8 --calibration samples/
    """  # noqa: D301 - click wants the character itself
    from parity.backends.base import RunOptions
    from parity.contenders import Request
    from parity.selfcheck import check_file, describe, exit_status

    request = Request(model, targets=[target], inputs=inputs, shapes=shapes, calibration=calibration)
    run = RunOptions(seed=seed)
    checks = check_file(request, run if threads is None else replace(run, threads=threads), only or None)
    click.echo(describe(checks))
    sys.exit(exit_status(checks))


@cli.command()
def backends() -> None:
    """Say which targets can run here, and what the others lack."""
    from parity.backends.base import backend_names, backend_of
    from parity.errors import BackendUnavailable
    from parity.targets import Target

    for name in backend_names():
        try:
            devices = backend_of(Target(name)).devices()
        except BackendUnavailable as error:
            click.echo(f"✗ {name}: {error}")
        else:
            click.echo("\n".join(f"✓ {name}@{device}" for device in devices))


@cli.command()
@click.argument("model", type=_EXISTING)
def inspect(model: Path) -> None:
    """Say what MODEL holds: inputs, outputs, operators, and how the reference would run each.

    \b
    parity inspect model.onnx
    """  # noqa: D301 - click wants the character itself
    from parity.inspect import describe

    click.echo(describe(model))


def _title(model: Path) -> str:
    """What to call the report of a model: its file's name, or its folder's where every file is called model.onnx."""
    stem, parent = model.stem, model.resolve().parent.name
    return parent if stem == "model" and parent else stem


def _command() -> str:
    import shlex

    return shlex.join(["parity", *sys.argv[1:]])


def _show(report: Report, folder: Path, json_path: Path | None, *, html: bool, verbose: bool) -> None:
    from rich.console import Console

    from parity.report.text import print_report
    from parity.report.write import write_report

    error = None
    paths: dict[str, Path] = {}
    try:
        paths = write_report(report, folder, json=json_path, html=html)
    except ParityError as failure:  # the measurements are shown all the same
        error = failure
    print_report(report, Console(highlight=False), verbose=verbose, paths=paths)
    if error is not None:
        raise error


def _status(report: Report, *, strict: bool) -> int:
    if report.partial or report.verdict == "error":
        return _COULD_NOT
    if any(c.asked and c.status != "ok" for c in report.candidates):
        return _COULD_NOT
    named = strict and any(c.first_bad is not None for c in report.candidates)
    return _DIVERGED if report.verdict == "divergence" or named else _OK


@contextmanager
def _progress() -> Iterator[Progress]:
    """A progress bar on a terminal, nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                  TimeRemainingColumn(), console=console, transient=True) as bar:
        tasks: dict[str, int] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)  # type: ignore[arg-type]

        yield update


def _complain(message: str, hint: str) -> None:
    """One line that says what is wrong and one that says what to do; neither can move the cursor."""
    for lead, text in (("parity: ", message), ("        ", hint)):
        shown = " ".join(text.split())
        if not shown.isprintable():
            from parity.report.words import visible

            shown = visible(shown)
        if shown:
            click.echo(lead + shown, err=True)


def main() -> None:
    """Run the command line; every failure is one line and exit status 2."""
    try:
        cli(standalone_mode=False)
    except ParityError as error:
        _complain(error.message, error.hint)
        sys.exit(_COULD_NOT)
    except click.ClickException as error:
        if len(sys.argv) == 1:  # the help, which newer versions of click raise
            error.show()
            sys.exit(_COULD_NOT)
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "parity"
        _complain(error.format_message(), f"Try `{command} --help`.")
        sys.exit(_COULD_NOT)
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted before the report was complete", "")
        sys.exit(_COULD_NOT)
    except Exception as error:
        traceback.print_exc()
        click.echo("parity: this is a defect of parity; please report it with the lines above", err=True)
        raise SystemExit(_COULD_NOT) from error
