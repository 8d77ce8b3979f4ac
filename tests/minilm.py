"""A trained sentence encoder, all-MiniLM-L6-v2, written in torch; scripts/minilm fetches its weights.

Names are those of the checkpoint, so that `--torch tests.minilm:MiniLM --checkpoint model.safetensors` fills it.
"""

# mypy: disable-error-code="no-any-return"
# Calling a module gives Any.

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models import MINILM

WIDTH, HEADS, WIDE, LAYERS, WORDS, LONGEST = 384, 12, 1536, 6, 30522, 512

SENTENCES = (
    "A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby.",
    "A man is riding a horse.", "A woman is playing violin.", "Two men pushed carts through the woods.",
    "A monkey is playing drums.", "A cheetah is running behind its prey.", "The new movie is awesome.",
    "How do I convert a model to ONNX?", "The quick brown fox jumps over the lazy dog.",
    "Interest rates were raised by a quarter of a point on Thursday.", "Where is the nearest train station?",
    "Photosynthesis turns light into chemical energy.", "She sold the old house and moved to the coast.",
    "The committee postponed its decision until next year.")


class Embeddings(nn.Module):
    """Words, positions and segments."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings, self.position_embeddings = nn.Embedding(WORDS, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.token_type_embeddings, self.LayerNorm = nn.Embedding(2, WIDTH), nn.LayerNorm(WIDTH, 1e-12)
        self.position_ids: Tensor
        self.register_buffer("position_ids", torch.arange(LONGEST).unsqueeze(0))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids [N, T] to [N, T, 384]."""
        positions = self.position_embeddings(self.position_ids[:, :input_ids.shape[1]])
        segment = self.token_type_embeddings(torch.zeros_like(input_ids))
        return self.LayerNorm(self.word_embeddings(input_ids) + segment + positions)


class SelfAttention(nn.Module):
    """Scaled products of all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[N, T, 384] and an additive mask [N, 1, 1, T] to [N, T, 384]."""
        query, key, value = (self._heads(part(x)) for part in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + mask
        return (scores.softmax(-1) @ value).transpose(1, 2).reshape(x.shape)

    @staticmethod
    def _heads(x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], HEADS, WIDTH // HEADS).transpose(1, 2)


class Residual(nn.Module):
    """A layer beside what it adds to, normalised."""

    def __init__(self, given: int) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(given, WIDTH), nn.LayerNorm(WIDTH, 1e-12)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        """[N, T, given] and [N, T, 384] to [N, T, 384]."""
        return self.LayerNorm(self.dense(x) + beside)


class Block(nn.Module):
    """One layer of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(), "output": Residual(WIDTH)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDE)})
        self.output = Residual(WIDE)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[N, T, 384] to the same shape."""
        x = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class MiniLM(nn.Module):
    """Sentences to unit vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Block() for _ in range(LAYERS))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)})  # in the checkpoint, and not used

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask [N, T] to embeddings [N, 384] of length 1."""
        kept = attention_mask.to(self.embeddings.word_embeddings.weight.dtype)
        x, mask = self.embeddings(input_ids), (1.0 - kept[:, None, None, :]) * -10000.0
        for block in cast("nn.ModuleList", self.encoder["layer"]):
            x = block(x, mask)
        pooled = (x * kept[:, :, None]).sum(1) / kept.sum(1, keepdim=True)
        return F.normalize(pooled, dim=1)


def tokens(sentences: Sequence[str], length: int = 24) -> dict[str, np.ndarray]:
    """Ids and masks of sentences, int64 [N, length], by the vocabulary of the package."""
    lines = (MINILM / "vocab.txt").read_text(encoding="utf-8").splitlines()
    places = {word: place for place, word in enumerate(lines)}
    ids, mask = np.zeros((2, len(sentences), length), np.int64)
    for row, sentence in enumerate(sentences):
        pieces = [piece for word in _words(sentence) for piece in _pieces(word, places)]
        found = ["[CLS]", *pieces[:length - 2], "[SEP]"]
        ids[row, :len(found)], mask[row, :len(found)] = [places[piece] for piece in found], 1
    return {"input_ids": ids, "attention_mask": mask}


def _words(sentence: str) -> list[str]:
    """Lower-case words and signs, without accents."""
    plain = "".join(c for c in unicodedata.normalize("NFD", sentence.lower()) if unicodedata.category(c) != "Mn")
    return re.findall(r"\w+|[^\w\s]", plain)


def _pieces(word: str, places: dict[str, int]) -> list[str]:
    """The longest pieces of a word that the vocabulary has, from its beginning."""
    found: list[str] = []
    while word:
        before = "##" if found else ""
        end = next((n for n in range(len(word), 0, -1) if before + word[:n] in places), 0)
        if not end:
            return ["[UNK]"]
        found.append(before + word[:end])
        word = word[end:]
    return found
