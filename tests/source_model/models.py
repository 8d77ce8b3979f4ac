"""Small PyTorch models of the usual families, with random weights."""

# mypy: disable-error-code="no-any-return"
# Calling a module gives Any.

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        same = stride == 1 and channels == out
        self.shortcut = None if same else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False),
                                                        nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, out, H / stride, W / stride]."""
        identity = x if self.shortcut is None else self.shortcut(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += identity
        return self.relu(y)


class ResNet(nn.Module):
    """A small ResNet-18."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
                                  nn.MaxPool2d(3, 2, 1))
        self.layer1 = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 8, 1))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16, 1))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to logits [N, 5]."""
        x = self.layer2(self.layer1(self.stem(x)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, squeeze and excite, project."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 3 * channels
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish())
        self.depth = nn.Sequential(nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False), nn.BatchNorm2d(wide),
                                   nn.ReLU6())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 8, 1), nn.ReLU(), nn.Conv2d(8, wide, 1),
                                     nn.Hardsigmoid())
        self.project = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        y = self.depth(self.expand(x))
        return x + self.drop(self.project(y * self.squeeze(y)))


class MobileNet(nn.Module):
    """Inverted residuals with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Hardswish(inplace=True), InvertedResidual(8),
                                      InvertedResidual(8))
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to logits [N, 5]."""
        return self.head(self.features(x).mean((2, 3)))


class UNet(nn.Module):
    """Down, up, and across."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = self._block(3, 6)
        self.down2 = self._block(6, 12)
        self.middle = self._block(12, 12)
        self.up = nn.ConvTranspose2d(12, 12, 2, 2)
        self.up2 = self._block(24, 6)
        self.up1 = self._block(12, 6)
        self.out = nn.Conv2d(6, 2, 1)

    @staticmethod
    def _block(channels: int, out: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.GroupNorm(2, out), nn.LeakyReLU(0.1, True),
                             nn.Conv2d(out, out, 3, padding=1), nn.InstanceNorm2d(out, affine=True), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to masks [N, 2, H, W]."""
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        y = self.up(self.middle(F.avg_pool2d(second, 2)))
        y = self.up2(torch.cat([second, y], 1))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.sigmoid(self.out(self.up1(torch.cat([first, y], 1))))


class ViT(nn.Module):
    """A vision transformer of torch's own encoder layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 17, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 16, 16] to logits [N, 5]."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.encoder(x))[:, 0])


class BertLayer(nn.Module):
    """Self-attention as in the paper, and a wide layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.1)

    def split(self, x: Tensor) -> Tensor:
        """[N, T, W] to [N, heads, T, W / heads]."""
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[N, T, W] and an additive mask [N, 1, 1, T] to [N, T, W]."""
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + mask
        context = self.dropout(scores.softmax(-1)) @ value
        context = context.transpose(1, 2).reshape(x.shape)
        x = self.norm1(x + self.dropout(self.output(context)))
        return self.norm2(x + self.dropout(self.narrow(F.gelu(self.wide(x)))))


class Bert(nn.Module):
    """A BERT encoder."""

    def __init__(self, width: int = 16, layers: int = 2, heads: int = 4, words: int = 50, longest: int = 32) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width), nn.Embedding(longest, width)
        self.norm = nn.LayerNorm(width, 1e-12)
        self.layers = nn.ModuleList(BertLayer(width, heads) for _ in range(layers))
        self.pooler = nn.Linear(width, width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and mask [N, T] to hidden states [N, T, W] and pooled ones [N, W]."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.positions(positions))
        mask = (1.0 - attention_mask[:, None, None, :].float()) * -10000.0
        for layer in self.layers:
            x = layer(x, mask)
        return x, torch.tanh(self.pooler(x[:, 0]))


class RMSNorm(nn.Module):
    """By the root of the mean square, in FP32 whatever comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).type_as(x)


def rotate_half(x: Tensor) -> Tensor:
    """(a, b) to (−b, a) along the last axis."""
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], -1)


class LlamaBlock(nn.Module):
    """Rotary grouped attention, and a gated layer."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.q = nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, groups * self.size, bias=False) for _ in range(2))
        self.o = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * width, width, bias=False)
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[N, T, W] with rotations [T, W / heads] to [N, T, W]."""
        batch, length, width = x.shape
        y = self.norm1(x)
        q = self.q(y).view(batch, length, self.heads, self.size).transpose(1, 2)
        k = self.k(y).view(batch, length, self.groups, self.size).transpose(1, 2)
        v = self.v(y).view(batch, length, self.groups, self.size).transpose(1, 2)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, width))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """A decoder without a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layers = nn.ModuleList(LlamaBlock(16, 4, 2) for _ in range(2))
        self.norm = RMSNorm(16)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight
        self.frequencies: Tensor
        self.register_buffer("frequencies", 1.0 / 10000 ** (torch.arange(0, 4, 2).float() / 4))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids [N, T] to logits [N, T, 50]."""
        angles = torch.outer(torch.arange(input_ids.shape[1]).float(), self.frequencies)
        angles = torch.cat([angles, angles], -1)
        cos, sin = angles.cos(), angles.sin()
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.head(self.norm(x))


class Recurrent(nn.Module):
    """Two recurrent layers both ways, and a head."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.rnn = kind(6, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, T, 6] to logits [N, 3] and log-probabilities of each step [N, T, 3]."""
        y, _ = self.rnn(self.norm(x))
        return self.head(y[:, -1]), F.log_softmax(self.head(y), -1)


class Stateful(nn.Module):
    """Two recurrent layers both ways, which begin in a given state and return theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, T, 8] and states [4, N, 6] to [N, T, 4] and the states after it."""
        y, (h, c) = self.rnn(x, (h, c))
        return self.head(y), h, c


class Branching(nn.Module):
    """Takes a branch by its data."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 6] to [N, 3]."""
        y = torch.tanh(self.inner(x))
        y = torch.cond(y.sum() > 0, lambda t: torch.sin(t) * 2, lambda t: torch.exp(t) + 1, (y,))
        return self.outer(y)


class CustomAttention(nn.Module):
    """Linear attention with a learned temperature and einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.out = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, 16] to the same shape."""
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = F.elu(q * self.temperature) + 1, F.elu(k / self.temperature) + 1
        context = torch.einsum("btd,bte->bde", k, v)
        weight = torch.reciprocal(torch.einsum("btd,bd->bt", q, k.sum(1)) + 1e-4)
        return x + self.out(torch.einsum("btd,bde,bt->bte", q, context, weight))


class Turning(nn.Module):
    """Turns pairs of features as complex numbers, which exporters write out in real ones."""

    turn: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.register_buffer("turn", torch.polar(torch.ones(4), torch.arange(4.0) * 0.3))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 8] to the same shape."""
        z = torch.view_as_complex(self.inner(x).reshape(-1, 4, 2))
        return torch.view_as_real(z * self.turn).flatten(1)


class Twins(nn.Module):
    """Branches that are alike in every value: two modules with equal weights, a tied weight, and a zero one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6)
        self.right.load_state_dict(self.left.state_dict())
        self.zero, self.nought = nn.Linear(6, 6), nn.Linear(6, 6)
        for part in (self.zero, self.nought):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
        self.tied = nn.Linear(6, 6, bias=False)
        self.tied.weight = self.left.weight

    def forward(self, x: Tensor) -> Tensor:
        """[N, 6] to [N, 6]."""
        a, b = torch.relu(self.left(x)), torch.relu(self.right(x))
        c, d = self.zero(x), self.nought(x)
        return a * torch.tanh(b) + torch.cos(c) - torch.exp(d) + self.tied(a) * self.tied(b)


def _images(*size: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(*size),)


def _words() -> tuple[Tensor, ...]:
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    return torch.randint(0, 50, (2, 7)), mask


# Name → how to make the model, and what to call it with.
MODELS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "resnet": (ResNet, _images(2, 3, 24, 24)), "mobilenet": (MobileNet, _images(2, 3, 16, 16)),
    "unet": (UNet, _images(1, 3, 16, 16)), "vit": (ViT, _images(2, 3, 16, 16)), "bert": (Bert, _words),
    "llama": (Llama, lambda: (torch.randint(0, 50, (2, 6)),)),
    "lstm": (lambda: Recurrent(nn.LSTM), _images(2, 5, 6)), "gru": (lambda: Recurrent(nn.GRU), _images(2, 5, 6)),
    "states": (Stateful, lambda: (torch.randn(2, 5, 8), torch.randn(4, 2, 6), torch.randn(4, 2, 6))),
    "cond": (Branching, _images(4, 6)), "custom": (CustomAttention, _images(2, 5, 16)), "twins": (Twins, _images(3, 6)),
    "turning": (Turning, _images(3, 8))}


def made(name: str, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A model in evaluation mode, its normalisations having seen some data, and inputs for it."""
    torch.manual_seed(seed)
    factory, inputs = MODELS[name]
    module = factory()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 1.5)
    return module.eval(), inputs()
