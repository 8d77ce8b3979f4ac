"""layers.csv holds every figure and no formula."""

from __future__ import annotations

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity.report.table import COLUMNS, guarded, write_csv
from tests.report import samples


def rows(text: str) -> list[dict[str, str]]:
    """The table as a data frame would read it."""
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("name", samples.EVERY)
def test_one_row_a_candidate_and_tensor(name: str) -> None:
    """Each tensor of each candidate has its row, in order, under the stable header."""
    report = samples.EVERY[name]
    text = write_csv(report)
    assert next(csv.reader(io.StringIO(text))) == list(COLUMNS)
    expected = [(guarded(c.target), guarded(t.tensor)) for c in report.candidates for t in c.tensors]
    with io.StringIO(text, newline="") as stream:
        assert [(row["target"], row["tensor"]) for row in csv.DictReader(stream)] == expected


def test_figures_read_back_exactly() -> None:
    """A figure in the table is the same float64 as in the report."""
    report = samples.EVERY["divergence"]
    for row, layer in zip(rows(write_csv(report)), report.candidates[0].tensors, strict=True):
        assert layer.local is not None
        assert layer.accumulated is not None
        assert float(row["local_rel_l2"]) == layer.local.rel_l2
        assert float(row["accumulated_max_abs"]) == layer.accumulated.max_abs
        assert float(row["floor"]) == layer.floor
        assert row["shape"] == "1x8x4x4"


def test_the_first_bad_layer_is_marked() -> None:
    """Exactly the first bad layer's row says so, and that it failed."""
    found = [row for row in rows(write_csv(samples.EVERY["divergence"])) if row["first_bad"] == "true"]
    assert [(row["tensor"], row["passed"], row["origin"]) for row in found] == [
        ("/layer2/BatchNormalization_17_output_0", "false", "implementation")]


def test_missing_and_nonfinite_figures() -> None:
    """Missing figures are empty, non-finite ones are words that float() knows."""
    _, infinite, unknown, missing = rows(write_csv(samples.EVERY["nonfinite"]))
    assert math.isinf(float(infinite["local_rel_l2"]))
    assert infinite["accumulated_sqnr_db"] == "-inf"
    assert math.isnan(float(unknown["local_min_candidate"])) or unknown["local_mismatched_nonfinite"] == "1"
    assert missing["local_rel_l2"] == missing["floor"] == missing["local_over_floor"] == ""


@given(st.text())
def test_guarding_a_name_can_be_undone(name: str) -> None:
    """No guarded name starts a formula, and taking one leading apostrophe off gives the name back."""
    cell = guarded(name)
    assert cell[:1] not in {"=", "+", "-", "@", "\t", "\r"}
    assert cell.removeprefix("'") == name


def test_no_cell_is_a_formula() -> None:
    """A hostile name, wherever it stands, is no formula in the table."""
    for row in rows(write_csv(samples.EVERY["hostile"])):
        assert not any(row[column].startswith(("=", "@", "+")) for column in ("tensor", "node", "op", "source"))


def test_shares_and_energies_have_columns() -> None:
    """A share and an energy stand in their columns in full, and are empty where there are none."""
    found = [row for row in rows(write_csv(samples.EVERY["explained"])) if row["target"] == "onnxruntime:int8"]
    assert [float(row["share"]) for row in found] == [samples.SHARES.get(i, 0.0) for i in range(len(found))]
    assert float(found[17]["energy"]) == 0.001 * samples.SHARES[17]
    assert {row["share"] for row in rows(write_csv(samples.EVERY["divergence"]))} == {""}
