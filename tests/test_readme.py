"""What the documents say is true: commands run, options exist, files are there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from parity.cli import cli
from tests.conftest import gpu_runs
from tests.models import FIXTURES, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = sorted((ROOT / "parity" / "guide").glob("*.md"))
PAGES = {"README.md": README, **{p.name: p.read_text(encoding="utf-8") for p in GUIDE}}
# A line such as "    parity compare a.onnx b.onnx  # status 1"; without a remark the status is that of success.
SHOWN = [(page, line.partition("#")[0].strip(), int("".join(re.findall(r"# status (\d)", line)) or 0))
         for page, text in PAGES.items() for line in text.splitlines()
         if line.startswith("    parity ") and not (gpu_runs() and "without a GPU" in line)
         and not ("pytorch.compile" in line and shutil.which("c++") is None)]  # torch compiles with it
# What several pages show is run once.
COMMANDS = [(page, *said) for said, page in {(command, status): page for page, command, status in SHOWN}.items()]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that README's commands name."""
    import numpy as np

    from parity.graph.executor import Executor
    from parity.graph.model import Model
    from parity.graph.ops.call import to_numpy

    folder = tmp_path_factory.mktemp("readme")
    (folder / "fixtures").symlink_to(FIXTURES)
    fixture = FIXTURES / "digits_cnn"
    for name in ("model.onnx", "other.onnx"):
        (folder / name).write_bytes((fixture / "model.onnx").read_bytes())
    for name in ("inputs.npz", "samples.npz"):
        (folder / name).write_bytes((fixture / "inputs.npz").read_bytes())
    feed = dict(np.load(fixture / "inputs.npz"))
    values = Executor(Model.load(fixture / "model.onnx")).run(feed, ["relu_1"])
    tensors = {**feed, **{n: to_numpy(v) for n, v in values.items()}}
    np.savez(folder / "dump.npz", **tensors)
    (folder / "simplified.onnx").write_bytes((fixture / "model.onnx").read_bytes())
    (folder / "package").mkdir()
    (folder / "package" / "module.py").write_text(
        "import torch\n\ndef factory():\n    torch.manual_seed(0)\n    return torch.nn.Linear(8, 4)\n")
    for line in ("compare model.onnx -o reports/model",
                 "compare --torch package.module:factory --shape input=1x8 -c onnxruntime -o made",
                 "convert model.onnx --precision fp16 -o model_fp16.onnx",
                 "convert model.onnx --precision int8 --calibration samples.npz -o model_int8.onnx"):
        subprocess.run([parity(), *line.split()], cwd=folder, check=True, capture_output=True)
    (folder / "net.onnx").write_bytes((folder / "made" / "model.onnx").read_bytes())
    return folder


def parity() -> str:
    """The command as it is installed beside this Python."""
    return str(Path(sys.executable).with_name("parity"))


@pytest.mark.parametrize(("page", "command", "status"), COMMANDS)
def test_every_command_that_is_shown_runs(page: str, command: str, status: int, workshop: Path) -> None:
    """A reader can type every command of README and the guide, and gets the exit status that the page says."""
    words = [parity(), *shlex.split(command)[1:]]
    result = subprocess.run(words, cwd=workshop, capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stdout + result.stderr


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_is_documented(name: str) -> None:
    """README shows every command, and every option says what it does."""
    assert f"parity {name}" in README
    undocumented = [p.name for p in cli.commands[name].params if isinstance(p, click.Option) and not p.help]
    assert undocumented == []


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(
    str(p.relative_to(ROOT)) for p in GUIDE)])
def test_links_lead_somewhere(document: str) -> None:
    """Relative links and the scripts named in a document exist."""
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", text) if "://" not in t]
    targets += re.findall(r"`(scripts/[\w.]+|parity/[\w/]+\.py|tests/[\w/]+\.py)", text)
    here = (ROOT / document).parent
    assert [t for t in targets if not ((ROOT / t).exists() or (here / t).exists())] == []
