"""Recipes and their keys, what is kept, and what is built."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from parity.backends.base import RunOptions, TensorRtOptions
from parity.backends.trt.build import Recipe, built, folder_of, keep, kept, recipe_for
from parity.errors import BackendFailed
from parity.graph.feeds import seeded_feed
from parity.graph.model import Model
from parity.graph.shapes import ShapeRange
from tests.backends.trt.standin import DEVICE, network_of, rtx
from tests.builders import chain, declared, node, proto_of
from tests.models import FIXTURES

RECIPE = Recipe("ab12", "TensorRT 11.4", "NVIDIA A100", (8, 0), (13, 0), tf32=False, workspace=None, level=None,
                profile=(("x", ShapeRange((1, 3), (2, 3), (4, 3))),), watch="outputs", marked=("a", "b"))
CHANGES: dict[str, Any] = {
    "model": "ab13", "library": "TensorRT 10.16", "device": "NVIDIA A10", "capability": (8, 6), "driver": (12, 9),
    "tf32": True, "workspace": 2**20, "level": 0, "profile": (("x", ShapeRange((1, 3), (2, 3), (5, 3))),),
    "watch": "debug", "marked": ("a",)}


def test_everything_that_decides_is_in_the_key() -> None:
    """A change of any part gives another key; the same parts, the same."""
    assert CHANGES.keys() == RECIPE.__dataclass_fields__.keys()
    keys = {replace(RECIPE, **{name: value}).key for name, value in CHANGES.items()}
    assert len(keys | {RECIPE.key}) == len(CHANGES) + 1
    assert replace(RECIPE).key == RECIPE.key


@given(st.binary(max_size=50), st.integers(0, 49), st.sampled_from(["plan", "json"]))
def test_what_is_kept_is_trusted_only_whole(plan: bytes, place: int, part: str) -> None:
    """What was kept comes back; where a byte of it or of its label is another, nothing does."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert kept(folder, RECIPE) is None
        keep(folder, RECIPE, plan)
        assert kept(folder, RECIPE) == plan
        assert kept(folder, replace(RECIPE, level=1)) is None
        damaged = folder / f"{RECIPE.key}.{part}"
        content = bytearray(damaged.read_bytes())
        if content:
            at = place % len(content)
            content[at] = (content[at] + 1) % 256
            damaged.write_bytes(content)
            assert kept(folder, RECIPE) is None


def test_a_foreign_engine_is_not_taken(tmp_path: Path) -> None:
    """An engine under this key with another recipe in its label, or without a label, is none."""
    keep(tmp_path, RECIPE, b"plan")
    label = tmp_path / f"{RECIPE.key}.json"
    said = json.loads(label.read_text())
    label.write_text(json.dumps({**said, "recipe": replace(RECIPE, driver=(12, 0)).json}))
    assert kept(tmp_path, RECIPE) is None
    label.write_text("[]")
    assert kept(tmp_path, RECIPE) is None
    label.unlink()
    assert kept(tmp_path, RECIPE) is None


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Engines are kept where they can be; elsewhere they are built again, and nothing is left half written."""
    (tmp_path / "file").touch()
    keep(tmp_path / "file", RECIPE, b"plan")
    keep(tmp_path / "new" / "folder", RECIPE, b"plan")
    assert sorted(p.suffix for p in (tmp_path / "new" / "folder").iterdir()) == [".json", ".plan"]


def test_where_engines_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the user's cache folder, or where the user says."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert folder_of(RunOptions()) == Path("/cache/parity/engines")
    assert folder_of(RunOptions(tensorrt=TensorRtOptions(engines=Path("/mine")))) == Path("/mine")


@pytest.mark.tensorrt
@pytest.mark.parametrize(("own", "optimization", "level"), [
    ({}, "all", None), ({}, "off", 0), ({}, "basic", 1), ({"builder_level": 4}, "off", 4)])
def test_the_recipe_says_what_was_asked(own: dict[str, Any], optimization: str, level: int | None,
                                        tmp_path: Path) -> None:
    """The feed's shapes where the user gave none, TF32 off, and the level of optimisation."""
    model = Model.load(FIXTURES / "digits_cnn" / "model.onnx")
    feed, _ = seeded_feed(model, 0, {"image": (3, 1, 8, 8)})
    network = network_of(model, tmp_path)
    found = recipe_for(rtx(), network, DEVICE, feed, RunOptions(optimization, tensorrt=TensorRtOptions(**own)))
    shape = (3, 1, 8, 8)
    assert found.profile == (("image", ShapeRange(shape, shape, shape)),)
    assert not found.tf32
    assert found.level == level
    assert found.model == network.source.digest


@pytest.mark.tensorrt
def test_a_range_of_shapes(tmp_path: Path) -> None:
    """The user's range is the engine's; a feed outside it is refused with both."""
    model = Model.load(FIXTURES / "digits_cnn" / "model.onnx")
    network = network_of(model, tmp_path)
    wide = ShapeRange((1, 1, 8, 8), (4, 1, 8, 8), (8, 1, 8, 8))
    options = RunOptions(tensorrt=TensorRtOptions(profiles={"image": wide}))
    for batch in (1, 4, 8):
        feed, _ = seeded_feed(model, 0, {"image": (batch, 1, 8, 8)})
        recipe = recipe_for(rtx(), network, DEVICE, feed, options)
        assert recipe.profile == (("image", wide),)
    assert len(built(rtx(), network, recipe)) > 1000
    assert "OptShape: [4,1,8,8]" in "".join(text for _, text in rtx().said)
    feed, _ = seeded_feed(model, 0, {"image": (9, 1, 8, 8)})
    with pytest.raises(BackendFailed, match=r"shape \[9, 1, 8, 8\], which is not between \[1, 1.*\[8, 1"):
        recipe_for(rtx(), network, DEVICE, feed, options)


@pytest.mark.tensorrt
@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_off_unless_asked_for(tf32: bool, tmp_path: Path) -> None:
    """TensorRT-RTX leaves it on by itself; the engine says which it is."""
    model = Model.from_proto(chain())
    feed, _ = seeded_feed(model, 0)
    network = network_of(model, tmp_path)
    recipe = recipe_for(rtx(), network, DEVICE, feed, RunOptions(tensorrt=TensorRtOptions(tf32=tf32)))
    plan = built(rtx(), network, recipe, tmp_path / "timings")
    assert (b"tf32=1" in plan, b"tf32=0" in plan) == (tf32, not tf32)


@pytest.mark.tensorrt
def test_a_timing_cache_nowhere(tmp_path: Path) -> None:
    """A folder that is not there is told before anything is built."""
    network = network_of(Model.from_proto(chain()), tmp_path)
    with pytest.raises(BackendFailed, match=r"no folder .*ghost"):
        built(rtx(), network, RECIPE, tmp_path / "ghost" / "timings")


@pytest.mark.tensorrt
def test_an_input_that_is_a_shape(tmp_path: Path) -> None:
    """Where an input says how a tensor is shaped, the engine is for its values."""
    inputs = [declared("x", (2, 6)), declared("s", (2,), TensorProto.INT64)]
    model = Model.from_proto(proto_of([node("Reshape", ["x", "s"], ["y"])], inputs))
    feed = {"x": np.zeros((2, 6), np.float32), "s": np.array([3, 4])}
    network = network_of(model, tmp_path)
    recipe = recipe_for(rtx(), network, DEVICE, feed, RunOptions())
    assert dict(recipe.profile)["s"] == ShapeRange((3, 4), (3, 4), (3, 4))
    assert len(built(rtx(), network, recipe)) > 1000


@pytest.mark.tensorrt
def test_a_shape_that_the_model_cannot_take(tmp_path: Path) -> None:
    """What the builder refuses comes as one line, with its words."""
    model = Model.from_proto(chain())
    feed = {"x": np.zeros((4, 8), np.float32)}
    network = network_of(model, tmp_path)
    wrong = ShapeRange((5, 8), (5, 8), (5, 8))
    recipe = replace(recipe_for(rtx(), network, DEVICE, feed, RunOptions()), profile=(("x", wrong),))
    with pytest.raises(BackendFailed, match=r"cannot build the engine: .{20}") as caught:
        built(rtx(), network, recipe)
    assert "\n" not in caught.value.message
