"""A trained network the whole way: its weights out of a checkpoint, its export, and the formats it is deployed in."""

from __future__ import annotations

import pytest

import parity
from parity.report.ladder import entrance, way_to
from parity.source_model.loading import load_source
from tests.minilm import SENTENCES, tokens
from tests.models import MINILM


@pytest.mark.minilm
def test_a_trained_encoder_goes_up_the_whole_ladder(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Its embeddings mean something, the export is the module, and what INT8 loses enters with the number format."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = load_source("tests.minilm:MiniLM", MINILM / "model.safetensors")
    feeds = [tokens(SENTENCES[first:first + 2], 12) for first in (0, 2)]
    embeddings = source.run(feeds[0])[0]
    assert float(embeddings[0] @ embeddings[1]) == pytest.approx(0.755, abs=5e-4)  # as its authors publish it
    report = parity.compare(source.module, feeds[0], candidates=["onnxruntime", "onnxruntime:int8"],
                            tolerance={"rel_l2": 0.01}, calibration=feeds, threads=1)
    assert [rung.stage for rung in report.ladder] == ["truth", "types", "export", "runtime", "optimised", "precision"]
    assert [rung.passed for rung in report.ladder[:5]] == [True] * 5
    assert "rounded to FP32" in report.ladder[2].note
    module, runtime, int8 = report.candidates
    assert module.first_bad is runtime.first_bad is None
    assert all(layer.source and "minilm.py" in layer.source for layer in runtime.tensors)
    found = entrance(way_to(report, int8))
    assert found is not None
    assert found.stage == "precision"
    layers = {row.module: row.layers for row in runtime.modules}
    assert layers["encoder.layer.5"] == layers["encoder.layer.0"] > 20
