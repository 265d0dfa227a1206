"""The cases of the benchmark by name, and what they must show.

A name is ``infer-BxS``, ``infer-BxHxW`` or ``train-...``, for any batch and size in pixels, with
endings: ``-bf16`` or ``-fp16``; ``-mixed`` (ours in that type, the textbook in float32);
``-compiled``; ``-graph`` (CUDA graphs); ``-peers`` (timm's networks beside). The other names are
``panoptic``, ``segmentor`` and ``mapper``.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks import backbones
from benchmarks.measure import Contender, Row
from lvt_d2.errors import ConfigError

TEXTBOOK = "textbook"
RECOMPUTING = "eager, recomputing"
_NAME = re.compile(
    r"(?P<mode>infer|train)-(?P<batch>\d+)x(?P<height>\d+)(x(?P<width>\d+))?"
    r"(-(?P<dtype>bf16|fp16))?(?P<flags>(-(mixed|compiled|graph|peers))*)"
)


@dataclass(frozen=True)
class Floor:
    """What a case must show on a device."""

    figure: str  # "time": baseline / ours, at least; "memory": ours / baseline, at most
    bound: float
    ours: str
    baseline: str = TEXTBOOK

    def found(self, rows: list[Row]) -> float | None:
        """The figure; None where a contender is missing or its memory is unknown."""
        by_name = {row.name: row for row in rows}
        if not {self.ours, self.baseline} <= set(by_name):
            return None
        ours, baseline = by_name[self.ours], by_name[self.baseline]
        if self.figure == "time":
            return baseline.median / ours.median
        return ours.peak / baseline.peak if ours.peak and baseline.peak else None

    def met(self, found: float) -> bool:
        """Whether a figure is good enough."""
        return found >= self.bound if self.figure == "time" else found <= self.bound


@dataclass
class Case:
    """Contenders of a case, and what they are compared with."""

    name: str
    contenders: dict[str, Contender]
    images: int  # of one run
    baseline: str = TEXTBOOK
    floors: list[Floor] = field(default_factory=list)
    with_memory: bool = True


def _eager(bound: float) -> list[Floor]:
    return [Floor("time", bound, "eager")]


CPU_FLOORS: dict[str, list[Floor]] = {
    "infer-1x224": _eager(1.6),
    "infer-8x224": _eager(2.0),
    "infer-1x512": _eager(2.0),
    "infer-1x800x1088": [*_eager(3.4), Floor("memory", 0.4, "eager")],
    "infer-1x800x1333": _eager(3.6),
    "infer-1x800x1088-bf16-mixed": _eager(5.0),
    "infer-1x224-compiled": [Floor("time", 2.2, "compiled")],
    "infer-1x224-peers": [Floor("time", 1.0, "eager", "pvt_v2_b0")],
    "train-8x224": _eager(1.5),
    "train-2x512": [*_eager(1.75), Floor("memory", 0.36, RECOMPUTING)],
    "train-2x800x1088": [*_eager(3.0), Floor("memory", 0.25, RECOMPUTING)],
    "panoptic": _eager(2.5),
    "segmentor": [],
    "mapper": [Floor("time", 1.5, "lvt_d2", "plain, every mask resized")],
}
_GPU_INFERENCE = {"infer-128x224": 4.0, "infer-1x800x1333": 5.0}
GPU_FLOORS: dict[str, list[Floor]] = {
    f"{name}-{dtype}-compiled-graph": [
        Floor("time", bound, "best"),
        Floor("time", 1.5, "best", "textbook, compiled"),
    ]
    for name, bound in _GPU_INFERENCE.items()
    for dtype in ("bf16", "fp16")
} | {f"train-64x224-{dtype}": [Floor("time", 3.0, "best")] for dtype in ("bf16", "fp16")}
SUITES = {
    "quick": ["infer-1x224", "infer-8x224", "train-8x224", "mapper"],
    "cpu": list(CPU_FLOORS),
    "gpu": [*GPU_FLOORS, "panoptic", "segmentor"],
}
SUITES["full"] = [
    *SUITES["cpu"],
    *(f"infer-{size}" for size in ("1x320", "1x640", "4x224", "16x224", "32x224", "4x512")),
    *(f"train-{size}" for size in ("1x224", "4x224", "16x224", "1x640")),
    *("infer-8x224-bf16", "infer-8x224-fp16", "train-8x224-bf16"),
    *("infer-1x512-peers", "train-8x224-peers", "infer-8x224-compiled"),
]


def floors(name: str, device: torch.device) -> list[Floor]:
    """What a case must show on a device."""
    return (GPU_FLOORS if device.type == "cuda" else CPU_FLOORS).get(name, [])


def build(name: str, device: torch.device, folder: Path) -> Case:
    """Make the contenders of a case.

    Args:
        name: see the module.
        device: where they compute.
        folder: for files that they read.

    Raises:
        ConfigError: no such case, or not on this device.
    """
    whole = {"panoptic": _panoptic, "segmentor": _segmentor, "mapper": _mapper}
    if name in whole:
        case = whole[name](device, folder)
    else:
        case = _backbone(name, device)
    case.floors = floors(name, device)
    return case


def _panoptic(device: torch.device, folder: Path) -> Case:
    from benchmarks import pipelines

    return Case("panoptic", pipelines.panoptic(device, folder, (480, 800)), images=1)


def _segmentor(device: torch.device, folder: Path) -> Case:
    from benchmarks import pipelines

    return Case("segmentor", pipelines.segmentor(device, (512, 683)), images=1)


def _mapper(device: torch.device, folder: Path) -> Case:
    from benchmarks import pipelines

    contenders, images = pipelines.mappers(folder)
    return Case("mapper", contenders, images, baseline=next(iter(contenders)), with_memory=False)


def parse(name: str) -> tuple[str, tuple[int, int, int], torch.dtype, set[str]]:
    """Mode, (batch, height, width), type and flags of a backbone's case.

    Raises:
        ConfigError: it is no name of a case.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(
            f"--case {name}: no such case; expected {', '.join(SUITES['cpu'])}, or a name such as "
            "infer-4x320x480-bf16-compiled"
        )
    height = int(match["height"])
    size = int(match["batch"]), height, int(match["width"] or height)
    if min(size) < 1 or min(size[1:]) < 32:
        raise ConfigError(f"--case {name}: LVT needs a batch of 1 and sides of 32 pixels or more")
    flags = set(match["flags"].split("-")) - {""}
    return match["mode"], size, backbones.DTYPES[match["dtype"] or "fp32"], flags


def _backbone(name: str, device: torch.device) -> Case:
    mode, size, dtype, flags = parse(name)
    if "graph" in flags and device.type != "cuda":
        raise ConfigError(f"--case {name}: CUDA graphs need --device cuda")
    if mode == "train" and flags & {"graph", "compiled"}:
        raise ConfigError(f"--case {name}: -graph and -compiled are for inference")
    textbook, lvt = backbones.pair(device)
    x = torch.randn(size[0], 3, *size[1:], device=device)
    make: Callable[..., Contender] = backbones.inference
    if mode == "train":
        make = backbones.training
    of_textbook = torch.float32 if "mixed" in flags else dtype
    contenders = {TEXTBOOK: make(textbook, x, dtype=of_textbook)}
    for path in backbones.paths(device):
        contenders[path] = make(lvt, x, path, dtype)
    if mode == "train":
        frugal = backbones.pair(device, memory_efficient=True)[1]
        contenders[RECOMPUTING] = make(frugal, x, "eager", dtype)
    if "compiled" in flags:
        contenders["textbook, compiled"] = backbones.compiled(textbook, x, of_textbook)
        contenders["compiled"] = backbones.compiled(lvt, x, dtype)
        if device.type == "cpu":
            wrapped = backbones.compiled(lvt, x, dtype, cpp_wrapper=True)
            contenders["compiled, C++ wrapper"] = wrapped
    if "graph" in flags:
        for path in backbones.paths(device):
            contenders[f"{path}, CUDA graph"] = backbones.cuda_graph(lvt, x, path, dtype)
    if "peers" in flags:
        for peer in backbones.PEERS:
            contenders[peer] = make(backbones.Peer(peer, size[1:]).to(device), x, dtype=dtype)
    return Case(name, contenders, images=size[0])
