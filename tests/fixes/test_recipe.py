"""Tests of plan.json: what a fix was made by is written, read back, and makes the same model again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.errors import UsageError
from parity.fixes.recipe import Recipe
from parity.fixes.rescale import rescales
from parity.fixes.rewrite import PATTERNS, rewrites
from parity.graph.model import Model
from parity.precision.plan import plan_for
from parity.precision.quantize import QuantizeSettings
from parity.precision.ranges import METHODS, RangeSettings
from tests.builders import X, node, proto_of
from tests.fixes.cases import outlier

MODEL = Model.from_proto(outlier())
SETTINGS = st.builds(
    QuantizeSettings, st.builds(RangeSettings, st.sampled_from(METHODS)), st.booleans(), st.booleans(),
    reduce_range=st.booleans())


def soft() -> Model:
    """A logarithm of a Softmax, and a product that FP16 cannot hold."""
    nodes = [node("Softmax", ["x"], ["s"]), node("Log", ["s"], ["l"]), node("Mul", ["l", "k"], ["big"]),
             node("Relu", ["big"], ["r"]), node("Mul", ["r", "h"], ["y"])]
    return Model.from_proto(proto_of(nodes, [X], weights={"k": np.float32(-1e5), "h": np.float32(1e-5)}))


@given(SETTINGS, st.floats(90, 100), st.sampled_from(["a", "c", "e"]))
def test_settings_and_kept_layers_read_back(settings: QuantizeSettings, percentile: float, kept: str) -> None:
    """Every way to quantise survives its JSON; a percentile where it is one."""
    if settings.ranges.method == "percentile":
        settings = QuantizeSettings(RangeSettings("percentile", percentile=percentile), settings.per_channel,
                                    settings.outputs, reduce_range=settings.reduce_range)
    recipe = Recipe(plan_for(MODEL, "int8").keep([kept]), MODEL, settings)
    again = Recipe.from_json(recipe.to_json(), MODEL)
    assert (again.plan, again.settings, again.model) == (recipe.plan, settings, MODEL)


def test_a_plan_by_hand_is_a_recipe() -> None:
    """A plan alone says nothing of settings, and its model is the user's."""
    found = Recipe.from_json('{"precision": "fp16"}', MODEL)
    assert (found.plan, found.model, found.settings) == (plan_for(MODEL, "fp16"), MODEL, None)
    assert "quantization" not in json.loads(Recipe(plan_for(MODEL, "fp16"), MODEL, QuantizeSettings()).to_json())


def test_edits_are_made_again() -> None:
    """A model that was rewritten and then rescaled is the same model again, to the byte, from the user's."""
    model = soft()
    rewrite = rewrites(model)[0]
    (rescale,) = rescales(rewrite.model, {"l": 3.0, "big": 3e5, "r": 3e5, "y": 3.0}, 65504.0)
    plan = plan_for(rescale.model, "fp16").keep(["y"])
    recipe = Recipe(plan, rescale.model, None, rewrite.formulas, rescale.rescaled)
    again = Recipe.from_json(recipe.to_json(), soft())
    assert again.model.proto.SerializeToString() == rescale.model.proto.SerializeToString()
    assert again.plan == recipe.plan
    assert (again.formulas, again.rescaled) == (recipe.formulas, recipe.rescaled)


def test_a_plan_of_another_model_is_refused() -> None:
    """Formulas or tensors that the model lacks are named, and not passed over."""
    for text in ({"rewritten": [PATTERNS[0].before]}, {"rescaled": {"limit": 65504, "largest": {"big": 1e6}}}):
        with pytest.raises(UsageError, match=Path("model").stem):
            Recipe.from_json(json.dumps({"precision": "fp16", **text}), MODEL)


@pytest.mark.parametrize("field", [
    {"quantization": []}, {"quantization": {"method": "best"}}, {"quantization": {"weight_bits": 4}},
    {"quantization": {"per_channel": "yes"}}, {"quantization": {"percentile": 0}},
    {"quantization": {"percentile": "all"}},
    {"quantization": {"bins": 3}}, {"rewritten": ["x"]}, {"rewritten": 3}, {"rescaled": {"limit": 1}},
    {"rescaled": {"limit": "a", "largest": {}}}, {"other": 1}])
def test_json_of_another_shape_is_refused(field: dict[str, object]) -> None:
    """One clear line says what is wrong with it."""
    with pytest.raises(UsageError, match="plan"):
        Recipe.from_json(json.dumps({"precision": "int8", **field}), MODEL)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    """Not with a traceback."""
    with pytest.raises(UsageError, match="plan"):
        Recipe.from_json(text, MODEL)
