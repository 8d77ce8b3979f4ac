"""`parity convert`, `check`, `backends`, `inspect` and `inputs`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from parity.commands.options import EXISTING, SEED, SHAPE, THREADS

if TYPE_CHECKING:
    from parity.precision.plan import Precision
    from parity.precision.ranges import Method


@click.command()
@click.argument("model", type=EXISTING)
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16", "int8"]), default="fp32", show_default=True,
              help="Of every node, unless a plan says otherwise.")
@click.option("--plan", type=EXISTING, metavar="FILE",
              help="A precision for each node, as JSON; a plan.json of `parity fix` makes its model again.")
@click.option("--calibration", type=EXISTING, metavar="PATH",
              help="Samples for INT8 ranges: .npz, .npy, or a folder of them. Default: one seeded input.")
@click.option("--method", type=click.Choice(["minmax", "entropy", "percentile"]), default="minmax", show_default=True,
              help="How INT8 ranges are found, unless the plan says.")
@click.option("--quantize-outputs", is_flag=True,
              help="Quantise what operators make, too, not only what they read; unless the plan says.")
@SEED
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


@click.command()
@click.argument("model", type=EXISTING)
@click.option("--target", default="onnxruntime", show_default=True, metavar="TARGET", help="What to check.")
@click.option("--input", "inputs", multiple=True, metavar="FILE", help="As for `compare`. Default: seeded.")
@click.option("--calibration", type=EXISTING, metavar="PATH", help="Samples for INT8 ranges, as for `compare`.")
@SEED
@SHAPE
@click.option("--only", multiple=True, metavar="CHECK",
              help="repeat, rows, batch, optimization or rebuild; repeatable.")
@THREADS
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


@click.command()
def backends() -> None:
    """Say which targets can run here, and what the others lack."""
    from parity.environment import places

    for place in places():
        mark, said = ("✗", place.reason) if place.reason else ("✓", place.device)
        click.echo(f"{mark} {place.target:<20} {' · '.join(filter(None, [place.version, said]))}")
        for remedy in place.remedies:
            click.echo(f"  {'':<20} → {remedy}")


@click.command()
@click.argument("model", type=EXISTING)
def inspect(model: Path) -> None:
    """Say what MODEL holds: inputs, outputs, operators, and how the reference would run each.

    \b
    parity inspect model.onnx
    """  # noqa: D301 - click wants the character itself
    from parity.inspect import describe

    click.echo(describe(model))


@click.command("inputs")
@click.argument("model", type=EXISTING)
@click.option("--input", "inputs", multiple=True, metavar="FILE", help="As for `compare`. Default: seeded.")
@SEED
@SHAPE
@click.option("--samples", default=1, show_default=True, type=click.IntRange(1),
              help="How many seeded inputs; each in a folder of its own where there are several.")
@click.option("-o", "--output", type=EXISTING, required=True, metavar="DIR", help="Folder for the files.")
def write_inputs(model: Path, inputs: tuple[str, ...], seed: int, shapes: tuple[str, ...], samples: int,
                 output: Path) -> None:
    """Write the inputs that `compare` would feed, so that a runtime elsewhere sees the same bits.

    As .npz, in Polygraphy's form and in trtexec's, with the commands to type there.

    \b
    parity inputs model.onnx -o elsewhere
    parity inputs model.onnx --input images.npz -o elsewhere
    """  # noqa: D301 - click wants the character itself
    from parity.contenders import Request, feeds_of
    from parity.graph.dumps.write import write_feeds
    from parity.graph.model import Model

    reference = Model.load(model)
    feeds, _ = feeds_of(reference, Request(model, inputs=inputs, shapes=shapes, samples=samples), seed)
    folders = [output] if len(feeds) == 1 else [output / f"sample_{number}" for number in range(len(feeds))]
    for folder, commands in write_feeds(dict(zip(folders, feeds, strict=True)), reference, model).items():
        click.echo(f"{folder} written; in it, type for example\n" + "".join(f"    {line}\n" for line in commands))
