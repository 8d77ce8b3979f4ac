"""What several commands share: their options, how progress is shown, and how a report is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from parity.asked import MOST_SEED, MOST_THREADS, OPTIMIZATIONS
from parity.errors import ParityError

if TYPE_CHECKING:
    from parity.backends.base import TensorRtOptions, Watch
    from parity.report.record import Report
    from parity.sample import Progress

OK, DIVERGED, COULD_NOT = 0, 1, 2
EXISTING = click.Path(path_type=Path)
_Command = TypeVar("_Command", bound=Callable[..., Any])


def options(*together: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    """Several options as one decorator, in the order in which they are to be listed."""
    def decorate(command: _Command) -> _Command:
        for option in reversed(together):
            command = option(command)
        return command

    return decorate


SEED = click.option("--seed", default=0, show_default=True, type=click.IntRange(0, MOST_SEED),
                    help="For seeded inputs.")
SHAPE = click.option("--shape", "shapes", multiple=True, metavar="NAME=1x3x224x224",
                     help="Shape of a seeded input; NAME=MIN/OPT/MAX: of TensorRT's engines, too.")
THREADS = click.option("--threads", type=click.IntRange(1, MOST_THREADS),
                       help="Threads within an operator. Default: one a core.")
# What a model is run on.
INPUTS = options(
    click.option("--input", "inputs", multiple=True, metavar="FILE",
                 help=".npz, .npy, .pb, .safetensors, Polygraphy's .json, or a folder; NAME=FILE for one input, raw "
                      "(.bin) too. Default: seeded."),
    click.option("--labels", type=EXISTING, metavar="FILE",
                 help="Class labels (.npy, or .npz with `labels`): accuracy."),
    click.option("--calibration", type=EXISTING, metavar="PATH",
                 help="Samples for INT8 ranges: .npz, .npy, or a folder of them. Default: the inputs of the run."),
    SEED, SHAPE,
    click.option("--samples", default=1, show_default=True, type=click.IntRange(1),
                 help="How many seeded inputs to run."))
# What its outputs are to keep to.
LIMITS = options(
    click.option("--tolerance", "tolerances", multiple=True, metavar="LIMIT",
                 help="A precision's default (fp16), metric=value (rel_l2=1e-3) or judge=value (top1=0.99); "
                      "repeatable."),
    click.option("--judge", "judges", multiple=True, metavar="NAME",
                 help="Judge outputs as users do: top1, top5, accuracy, kl, rank, iou, boxes; NAME:OUTPUT for one "
                      "output."))
# The PyTorch model that it was exported from.
TORCH = options(
    click.option("--torch", "torch_text", default="", metavar="SOURCE",
                 help="The PyTorch model itself: package.module:factory, .pt2 or TorchScript .pt. Without MODEL it is "
                      "exported."),
    click.option("--checkpoint", type=EXISTING, metavar="FILE",
                 help="Its weights: .safetensors, or a state dict that torch.load reads without running code."),
    click.option("--names-from", type=EXISTING, metavar="ORIGINAL.onnx",
                 help="Take source lines and module paths from the .onnx that MODEL was simplified or optimised from."))
# How it is run.
RUNNING = options(
    click.option("--optimization", type=click.Choice(OPTIMIZATIONS), default="all",
                 show_default=True, help="Graph optimisation of the runtime."),
    THREADS)
# How TensorRT's engines are built and looked into.
TENSORRT = options(
    click.option("--watch", type=click.Choice(["outputs", "debug", "unfused"]), default="outputs", show_default=True,
                 help="TensorRT: mark tensors as outputs, or have them shown while the engine runs: those wanted "
                      "(debug), or those that no fusion hides (unfused)."),
    click.option("--tf32", is_flag=True, help="TensorRT: let FP32 be computed in TF32."),
    click.option("--engine", type=EXISTING, metavar="FILE",
                 help="TensorRT: a serialized engine to compare, instead of one built here."),
    click.option("--workspace", type=click.IntRange(1), metavar="MB", help="TensorRT: scratch memory of a layer."),
    click.option("--builder-level", type=click.IntRange(0, 5), help="TensorRT: how long to look for fast kernels."),
    click.option("--timing-cache", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
                 help="TensorRT: kernel timings to read and to add to."))


def tensorrt_options(watch: Watch, *, tf32: bool, engine: Path | None, workspace: int | None,
                     builder_level: int | None, timing_cache: Path | None, shapes: Sequence[str]) -> TensorRtOptions:
    """What the options above say; ranges of shapes are the engines', single ones only the inputs'.

    Raises:
        UsageError: a malformed shape.
    """
    from parity.backends.base import TensorRtOptions
    from parity.graph.shapes import parse_range

    ranges = dict(parse_range(text) for text in shapes)
    return TensorRtOptions(watch, tf32, None if workspace is None else workspace * 2**20, builder_level, timing_cache,
                           engine, profiles={name: r for name, r in ranges.items() if r.min != r.max})


def check_tensorrt(options: TensorRtOptions, targets: Sequence[str]) -> None:
    """Look, before anything runs, at the files that TensorRT's options name, and at whether a target heeds them.

    Args:
        options: as given.
        targets: the reference and the candidates; with no candidate named, TensorRT may be among the defaults.

    Raises:
        UsageError: no such file, or no such target.
    """
    from parity.errors import UsageError

    engine, cache = options.engine, options.timing_cache
    if engine is not None and not engine.is_file():
        raise UsageError(f"there is no engine file at {engine}", "Check the path of --engine.")
    if cache is not None and (cache.is_dir() or not cache.parent.is_dir()):
        raise UsageError(f"the timing cache cannot be kept at {cache}", "Give a file in a folder that is there.")
    given = {"--watch": options.watch != "outputs", "--workspace": options.workspace is not None,
             "--builder-level": options.builder_level is not None, "--timing-cache": cache is not None,
             "--shape NAME=MIN/OPT/MAX": bool(options.profiles)}
    unheard = [] if any(t.startswith("tensorrt") for t in targets) else [name for name, there in given.items() if there]
    if options.tf32 and not any(t.startswith("tensorrt") or "@" in t for t in targets):
        unheard.append("--tf32")
    if unheard and len(targets) > 1:
        raise UsageError(f"{', '.join(unheard)} is for TensorRT, on which no target runs",
                         "Leave it out, or give -c tensorrt.")


def targets_for(engine: Path | None, targets: Sequence[str]) -> Sequence[str]:
    """The candidates; a given engine is one on TensorRT.

    Raises:
        UsageError: an engine beside more than one target, or beside one that is not TensorRT.
    """
    from parity.errors import UsageError

    if engine is None or (len(targets) == 1 and targets[0].startswith("tensorrt")):
        return targets
    if targets:
        raise UsageError("--engine stands for one candidate, on TensorRT", "Leave out -c, or give -c tensorrt-rtx.")
    return ("tensorrt",)


def title_of(model: Path) -> str:
    """What to call the report of a model: its file's name, or its folder's where every file is called model.onnx."""
    stem, parent = model.stem, model.resolve().parent.name
    return parent if stem == "model" and parent else stem


_SOURCES = (".pt2", ".pt", ".pth", ".ts")


def model_and_source(model: Path | None, torch_text: str, checkpoint: Path | None) -> tuple[Path | None, str]:
    """The .onnx, if there is one, and the PyTorch model, which may have been given in its place; empty for none.

    Raises:
        UsageError: neither, two PyTorch models, or weights of none.
    """
    from parity.errors import UsageError

    if model is not None and model.suffix in _SOURCES:
        if torch_text:
            raise UsageError(f"{model} and --torch {torch_text} are two PyTorch models", "Leave out one of them.")
        model, torch_text = None, str(model)
    if model is None and not torch_text:
        raise UsageError("there is no MODEL to compare", "Give an .onnx, a .pt2, or --torch package.module:factory.")
    if checkpoint is not None and not torch_text:
        raise UsageError("--checkpoint has the weights of a PyTorch model, and none is given",
                         "Add --torch package.module:factory.")
    return model, torch_text


def source_title(torch_text: str) -> str:
    """What to call the report of a PyTorch model: its factory's name, or its file's."""
    path = Path(torch_text)
    return path.stem if path.suffix in _SOURCES else torch_text.rpartition(":")[2]


def command_line() -> str:
    """What the user typed, for the report."""
    import shlex

    return shlex.join(["parity", *sys.argv[1:]])


# Files to write, by what they are: where, and how.
Writers = Mapping[str, tuple[Path, Callable[[Path], None]]]


def show(report: Report, folder: Path, json_path: Path | None, *, html: bool, verbose: bool,
         more: Mapping[str, Path] = MappingProxyType({}), also: Writers = MappingProxyType({})) -> None:
    """Write a report's files and print it; what could not be written is told after it.

    Args:
        report: to show.
        folder: where its files go.
        json_path: another place for report.json.
        html: whether to write report.html.
        verbose: whether to print every tensor.
        more: files that were written before, by what they are.
        also: further files to write.

    Raises:
        OutputError: a file could not be written.
    """
    from rich.console import Console

    from parity.report.text import print_report
    from parity.report.write import write_report

    error = None
    paths: dict[str, Path] = {}
    try:
        paths = write_report(report, folder, json=json_path, html=html)
        for what, (path, write) in also.items():
            write(path)
            paths[what] = path
    except ParityError as failure:  # the measurements are shown all the same
        error = failure
    print_report(report, Console(highlight=False), verbose=verbose, paths={**more, **paths})
    if error is not None:
        raise error


def status_of(report: Report, *, strict: bool) -> int:
    """The exit status that a report asks for."""
    if report.partial or report.verdict == "error":
        return COULD_NOT
    if any(c.asked and c.status != "ok" for c in report.candidates):
        return COULD_NOT
    named = strict and any(c.first_bad is not None for c in report.candidates)
    return DIVERGED if report.verdict == "divergence" or named else OK


@contextmanager
def progress_bar() -> Iterator[Progress]:
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
