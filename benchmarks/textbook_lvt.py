"""LVT's backbone as its description reads, to measure against: short, plain, and slow.

Unfold and fold for the windows, a grouped 1x1 convolution for the position-wise values, attention
as two products with a softmax between them, a permute wherever a layer wants another layout.
Nothing here is used by the library. `TextbookLVT.load` takes the weights of `lvt_d2.modeling.LVT`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIMS, HEADS, RATIOS, REDUCTIONS = (64, 64, 160, 256), (2, 2, 5, 8), (4, 8, 4, 4), (None, 4, 2, 1)


class TextbookCSA(nn.Module):
    """Convolutional self-attention: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.unfold = nn.Unfold(3, padding=1, stride=2)
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True)
        self.attention = nn.Linear(dim, heads * 81)
        self.values = nn.Conv2d(9 * dim, 9 * dim, 1, groups=9, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        x = x.permute(0, 3, 1, 2)
        h, w = (H + 1) // 2, (W + 1) // 2
        windows = self.unfold(x).view(B, C, 9, h, w).transpose(1, 2).reshape(B, 9 * C, h, w)
        v = self.values(windows).view(B, 9, self.heads, C // self.heads, h * w)
        v = v.permute(0, 2, 4, 1, 3)  # (B, heads, windows, p, d)
        logits = self.attention(self.pool(x).permute(0, 2, 3, 1))
        logits = logits.view(B, h * w, self.heads, 9, 9).transpose(1, 2) * self.scale
        out = logits.softmax(-1) @ v  # (B, heads, windows, q, d)
        out = out.permute(0, 1, 4, 3, 2).reshape(B, C * 9, h * w)
        out = F.fold(out, (H, W), 3, padding=1, stride=2)
        return self.proj(out.permute(0, 2, 3, 1))


class TextbookRASA(nn.Module):
    """Recursive atrous self-attention: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int, heads: int, reduction: int):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.q = nn.Linear(dim, dim, bias=False)
        self.atrous = nn.Parameter(torch.empty(dim, 1, 3, 3))
        self.sr = nn.Conv2d(dim, dim, reduction, reduction) if reduction > 1 else None
        self.sr_norm = nn.LayerNorm(dim) if reduction > 1 else None
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def attend(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        q = self.q(x).permute(0, 3, 1, 2)
        q = sum(
            F.silu(F.conv2d(q, self.atrous, padding=rate, dilation=rate, groups=C))
            for rate in (1, 3, 5)
        )
        q = q.reshape(B, self.heads, C // self.heads, H * W).transpose(-2, -1)
        if self.sr is not None:
            x = self.sr_norm(self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        kv = self.kv(x).reshape(B, -1, 2, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        k, v = kv.unbind(0)
        attention = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(B, H, W, C))

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.attend(x)) + x
        return F.silu(self.attend(x))


class TextbookMLP(nn.Module):
    """Linear layers in stage 1, 1x1 convolutions around a depthwise one in the others."""

    def __init__(self, dim: int, ratio: int, depthwise: bool):
        super().__init__()
        hidden = dim * ratio
        self.depthwise = depthwise
        if depthwise:
            self.fc1 = nn.Conv2d(dim, hidden, 1)
            self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
            self.fc2 = nn.Conv2d(hidden, dim, 1)
        else:
            self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        if not self.depthwise:
            return self.fc2(F.gelu(self.fc1(x)))
        x = self.fc1(x.permute(0, 3, 1, 2))
        return self.fc2(F.gelu(self.dwconv(x))).permute(0, 2, 3, 1)


class TextbookBlock(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, stage: int):
        super().__init__()
        dim, heads, reduction = DIMS[stage], HEADS[stage], REDUCTIONS[stage]
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = TextbookRASA(dim, heads, reduction) if stage else TextbookCSA(dim, heads)
        self.mlp = TextbookMLP(dim, RATIOS[stage], depthwise=stage > 0)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TextbookStage(nn.Module):
    """Patch embedding and two blocks: (B, C, H, W) -> (B, C', H', W')."""

    def __init__(self, stage: int):
        super().__init__()
        kernel, stride, source = (3, 2, DIMS[stage - 1]) if stage else (7, 4, 3)
        self.proj = nn.Conv2d(source, DIMS[stage], kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(DIMS[stage])
        self.blocks = nn.Sequential(TextbookBlock(stage), TextbookBlock(stage))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return self.blocks(x).permute(0, 3, 1, 2).contiguous()


class TextbookLVT(nn.Module):
    """The published backbone: (B, 3, H, W) -> maps ``res2`` to ``res5``."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(TextbookStage(stage) for stage in range(4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = {}
        for index, stage in enumerate(self.stages):
            x = features[f"res{index + 2}"] = stage(x)
        return features

    def load(self, lvt: nn.Module) -> "TextbookLVT":
        """Take the weights of an `LVT` of the published sizes; returns the module itself."""
        ours = {
            name.replace("patch_embed.", "")
            .replace("atrous.weight", "atrous")
            .replace("value_weight", "values.weight"): tensor
            for name, tensor in lvt.state_dict().items()
        }
        mine = self.state_dict()
        self.load_state_dict({name: t.reshape(mine[name].shape) for name, t in ours.items()})
        return self
