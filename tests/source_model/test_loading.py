"""Loading: what `--torch` and `--checkpoint` name, and how they are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from parity.errors import ModelError, UsageError
from parity.source_model.loading import load_source, source_of_module

CODE = '''
import torch
from torch import nn

net = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))

def factory():
    return nn.Linear(3, 2)

def helper():
    raise RuntimeError("no such preset")

def broken():
    return helper()

def other():
    return 42
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of the user's, in the current folder, under a name that no other test imports."""
    name = "code_" + "".join(c for c in request.node.name if c.isalnum())
    (tmp_path / f"{name}.py").write_text(CODE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_factory_and_a_module_are_loaded(package: str) -> None:
    """A callable is called, a module is taken, and what was left in training mode is told."""
    assert load_source(f"{package}:factory").notes == ()
    source = load_source(f"{package}:net")
    assert not source.module.training
    assert "'1'" in source.notes[0]


@pytest.mark.parametrize(("name", "said"), [("missing", "factory"), ("other", "int"), ("", "package.module")])
def test_what_is_no_module_is_refused(package: str, name: str, said: str) -> None:
    """The message or the hint says what would do."""
    with pytest.raises(UsageError, match=said):
        load_source(f"{package}:{name}")


def test_a_factory_that_raises_shows_the_users_frames_only(package: str) -> None:
    """Both of the user's functions are named, and nothing of parity's."""
    with pytest.raises(ModelError, match="no such preset") as caught:
        load_source(f"{package}:broken")
    outer, inner = caught.value.frames
    assert "in broken" in outer
    assert "in helper" in inner
    assert str(caught.value).splitlines()[1:3] == [f"  {outer}", f"  {inner}"]


def test_a_package_that_is_not_there_is_named(package: str) -> None:
    """A typing error in the module is told as one."""
    with pytest.raises(UsageError, match="no module 'no_such_package'"):
        load_source("no_such_package:factory")


def test_weights_are_put_in(package: str, tmp_path: Path) -> None:
    """A checkpoint, wrapped as training scripts do, replaces what the factory made."""
    wanted = {"weight": torch.full((2, 3), 0.5), "bias": torch.zeros(2)}
    torch.save({"state_dict": {f"module.{n}": t for n, t in wanted.items()}}, tmp_path / "w.pt")
    found = load_source(f"{package}:factory", tmp_path / "w.pt").module.state_dict()
    assert all(torch.equal(found[n], t) for n, t in wanted.items())


def test_weights_that_do_not_fit_are_refused(package: str, tmp_path: Path) -> None:
    """What is missing, what is too much, and what has another shape are all named."""
    torch.save({"weight": torch.zeros(4, 3), "scale": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(ModelError) as caught:
        load_source(f"{package}:factory", tmp_path / "w.pt")
    assert all(part in caught.value.message for part in ("lacks bias", "no scale", "weight is (4, 3)"))


def test_a_pickle_that_runs_code_is_refused(package: str, tmp_path: Path) -> None:
    """A whole module in a file is not read, and the reason is given."""
    torch.save(nn.Linear(3, 2), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"would run code.*Linear"):
        load_source(f"{package}:factory", tmp_path / "w.pt")
    (tmp_path / "p.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelError):
        load_source(f"{package}:factory", tmp_path / "p.pt")


def test_a_state_dict_is_no_torchscript(tmp_path: Path) -> None:
    """The hint leads to --checkpoint."""
    torch.save({"weight": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="--checkpoint"):
        load_source(str(tmp_path / "w.pt"))


def test_a_module_is_named_after_its_class() -> None:
    """Where nothing else is said."""
    assert source_of_module(nn.Linear(1, 1)).name == "Linear"
