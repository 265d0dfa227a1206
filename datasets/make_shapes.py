"""Draws the small data set ``shapes`` in COCO panoptic layout: a few hundred scenes in seconds.

A scene has 2 or 3 textured stuff regions with unlabelled seams, 2 to 6 rotated, overlapping things
whose class is their outline (each class has a typical hue, too, but it jitters into its
neighbours'), at times an unlabelled smudge and a crowd of small shapes.
Everything follows from ``--seed``; train and validation scenes have different seeds.

    python datasets/make_shapes.py --output datasets --train 400 --val 60
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no installation

from lvt_d2.data.panoptic_png import ids_to_rgb  # noqa: E402
from lvt_d2.data.shapes_meta import SHAPES_CATEGORIES  # noqa: E402

MIN_SIZE = 160
SPLITS = ("train", "val")
THINGS = [c for c in SHAPES_CATEGORIES if c["isthing"]]
STUFF = [c for c in SHAPES_CATEGORIES if not c["isthing"]]

_CROWD_SCENES = 0.12  # fraction of scenes with a crowd segment
_SMUDGE_SCENES = 0.3  # fraction of scenes with an unlabelled object
_MIN_VISIBLE = 0.55  # fraction of a thing that later ones must leave visible
# Standard deviation of a thing's hue, on a circle of 6 with the classes 1.2 apart: neighbours share
# colours, and only their outline tells them apart for sure.
_HUE_JITTER = 0.4
_SEAM = 1.2  # half width of the unlabelled seam between regions, in pixels


# Outlines: signed distances in units of the radius, negative inside; u, v are (H, W).
def _polygon(u: np.ndarray, v: np.ndarray, sides: int, inner: float) -> np.ndarray:
    angles = 2 * np.pi * np.arange(sides) / sides
    distances = u[..., None] * np.cos(angles) + v[..., None] * np.sin(angles)
    return distances.max(-1) - inner


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 0.9


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(u, v) - 0.7) - 0.25


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _polygon(u, v, sides=3, inner=0.52)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # Fold the plane onto one half of one of five rays, then take the distance to its edge.
    angle = np.abs((np.arctan2(v, u) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    radius = np.hypot(u, v)
    tip, notch = 1.0, 0.42
    edge = np.array([notch * np.cos(np.pi / 5) - tip, notch * np.sin(np.pi / 5)])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (radius * np.cos(angle) - tip) * normal[0] + radius * np.sin(angle) * normal[1]


def _bar(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u) - 0.95, np.abs(v) - 0.3)


OUTLINES = {
    "disc": _disc,
    "ring": _ring,
    "triangle": _triangle,
    "star": _star,
    "bar": _bar,
}


# Textures: values in 0..1 on rotated pixel coordinates u, v of shape (H, W).
def _stripes(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(4 * np.sin(2 * np.pi * u / period))


def _checks(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(6 * np.sin(np.pi * u / period) * np.sin(np.pi * v / period))


def _dots(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    du, dv = (np.abs(a / period % 1 - 0.5) * period for a in (u, v))
    return np.clip(0.27 * period - np.hypot(du, dv) + 0.5, 0, 1)


def _grain(u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    return rng.beta(0.6, 0.6, size=u.shape)


TEXTURES = {"stripes": _stripes, "checks": _checks, "dots": _dots, "grain": _grain}


def _color(
    rng: np.random.Generator,
    saturation: tuple[float, float],
    value: tuple[float, float],
    hue: float | None = None,
) -> np.ndarray:
    """A random RGB colour (3,), 0..255, of the given hue (0..6) or of any."""
    hue = rng.uniform(0, 6) if hue is None else hue
    s, v = rng.uniform(*saturation), rng.uniform(*value)
    ramps = np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1
    return (255 * v * (1 - s + s * np.clip(ramps, 0, 1))).astype(np.float32)


class Scene:
    """One image and its labels, painted from back to front.

    Args:
        size: side of the square image, in pixels.
        rng: source of everything random in it.
    """

    def __init__(self, size: int, rng: np.random.Generator):
        self.size = size
        self.rng = rng
        self.image = np.zeros((size, size, 3), np.float32)
        self.owner = np.zeros((size, size), np.int32)  # place in `segments` plus 1; 0 is void
        self.segments: list[dict] = []
        self._y, self._x = np.mgrid[:size, :size].astype(np.float32)
        self._own_area: dict[int, int] = {}  # of things, when nothing hid them yet

    def paint(self) -> "Scene":
        """Paint the whole scene and return it."""
        self._paint_stuff()
        if self.rng.random() < _SMUDGE_SCENES:
            self._paint_smudge()
        if self.rng.random() < _CROWD_SCENES:
            self._paint_crowd()
        wanted, painted = self.rng.integers(2, 7), 0
        for _ in range(60):
            painted += self._paint_thing()
            if painted == wanted:
                break
        self.image += 3 * self.rng.standard_normal(self.image.shape, np.float32)
        return self

    def _new_segment(self, category: dict, iscrowd: int = 0) -> int:
        self.segments.append({"category": category, "iscrowd": iscrowd})
        return len(self.segments)

    def _paint_stuff(self) -> None:
        """Regions are the cells of 2 or 3 centres, with wavy borders and unlabelled seams."""
        rng, size = self.rng, self.size
        count = rng.integers(2, 4)
        turn = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(count) / count
        centres = size / 2 + size * rng.uniform(0.22, 0.34, count) * np.stack(
            [np.cos(turn), np.sin(turn)]
        )
        wave = size * 0.03 * np.sin(self._y / size * rng.uniform(6, 14) + rng.uniform(0, 6))
        x, y = self._x + wave, self._y + wave[::-1].T
        distances = np.stack([np.hypot(x - cx, y - cy) for cx, cy in centres.T])
        nearest = distances.argmin(0)
        first, second = np.partition(distances, 1, axis=0)[:2]
        seam = second - first < 2 * _SEAM
        for cell, kind in enumerate(rng.choice(len(STUFF), count, replace=False)):
            region = nearest == cell
            self.image[region] = self._texture(STUFF[kind]["name"])[region]
            self.owner[region & ~seam] = self._new_segment(STUFF[kind])
        self.image[seam] *= 0.55

    def _texture(self, name: str) -> np.ndarray:
        rng = self.rng
        everywhere = (slice(None), slice(None))
        u, v = self._rotated(everywhere, *rng.uniform(0, self.size, 2), rng.uniform(0, np.pi))
        mix = TEXTURES[name](u, v, rng.uniform(9, 13), rng)[..., None]
        dark = _color(rng, (0.1, 0.4), (0.3, 0.5))
        light = _color(rng, (0.05, 0.3), (0.65, 0.95))
        return dark + (light - dark) * mix

    def _window(self, x: float, y: float, reach: float) -> tuple[slice, slice]:
        """Rows and columns within ``reach`` pixels of a point: shapes are painted only there."""
        low, high = (np.clip(np.array([y, x]) + sign * reach, 0, self.size) for sign in (-1, 1))
        return tuple(slice(int(a), int(np.ceil(b))) for a, b in zip(low, high, strict=True))

    def _blend(self, window: tuple[slice, slice], alpha: np.ndarray, color: np.ndarray) -> None:
        part = self.image[window]
        part += alpha[..., None] * (color - part)

    def _rotated(
        self, window: tuple[slice, slice], x: float, y: float, angle: float
    ) -> tuple[np.ndarray, np.ndarray]:
        dx, dy = self._x[window] - x, self._y[window] - y
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return c * dx + s * dy, c * dy - s * dx

    def _outline(
        self, name: str, x: float, y: float, radius: float
    ) -> tuple[tuple[slice, slice], np.ndarray]:
        """A window, and in it the signed distance in pixels of a shape at a random angle."""
        window = self._window(x, y, 1.1 * radius + 6)
        u, v = self._rotated(window, x, y, self.rng.uniform(0, 2 * np.pi))
        return window, OUTLINES[name](u / radius, v / radius) * radius

    def _fill(
        self,
        name: str,
        window: tuple[slice, slice],
        distance: np.ndarray,
        x: float,
        y: float,
        radius: float,
    ) -> None:
        """Paint a shape of a class: shadow, body lit from the upper left, dark rim."""
        hue = 6 * list(OUTLINES).index(name) / len(OUTLINES) + self.rng.normal(0, _HUE_JITTER)
        color = _color(self.rng, (0.55, 0.95), (0.6, 1.0), hue)
        shadow = np.pad(distance, ((2, 0), (2, 0)), mode="edge")[:-2, :-2]
        self._blend(window, 0.35 * np.clip(0.75 - shadow / 4, 0, 1), np.zeros(3, np.float32))
        light = 1 - 0.25 * (self._x[window] - x + self._y[window] - y) / (2 * radius)
        light *= 1 - 0.55 * np.clip(1.5 + distance, 0, 1)
        body = np.clip(color * light[..., None], 0, 255)
        self._blend(window, np.clip(0.5 - distance, 0, 1), body)

    def _paint_thing(self) -> bool:
        """Try to place one thing; False where it would hide another one too much."""
        rng = self.rng
        category = THINGS[rng.integers(len(THINGS))]
        radius = self.size * rng.uniform(0.11, 0.22)
        x, y = rng.uniform(0.08 * self.size, 0.92 * self.size, 2)
        window, distance = self._outline(category["name"], x, y, radius)
        inside = distance <= 0
        count = len(self.segments) + 1
        hidden = np.bincount(self.owner[window][inside], minlength=count)
        visible = np.bincount(self.owner.ravel(), minlength=count) - hidden
        if any(visible[i] < _MIN_VISIBLE * area for i, area in self._own_area.items()):
            return False
        self._fill(category["name"], window, distance, x, y, radius)
        owner = self._new_segment(category)
        self.owner[window][inside] = owner
        self._own_area[owner] = int(inside.sum())
        return True

    def _paint_crowd(self) -> None:
        """Small shapes of one class side by side that are one segment, as COCO's crowds are."""
        rng = self.rng
        category = THINGS[rng.integers(len(THINGS))]
        owner = self._new_segment(category, iscrowd=1)
        centre = rng.uniform(0.2 * self.size, 0.8 * self.size, 2)
        for _ in range(rng.integers(7, 13)):
            radius = self.size * rng.uniform(0.03, 0.045)
            x, y = centre + rng.normal(0, 0.09 * self.size, 2)
            window, distance = self._outline(category["name"], x, y, radius)
            self._fill(category["name"], window, distance, x, y, radius)
            self.owner[window][distance <= 0] = owner

    def _paint_smudge(self) -> None:
        """A soft blot that belongs to no class: void."""
        rng = self.rng
        x, y = rng.uniform(0.1 * self.size, 0.9 * self.size, 2)
        a, b = self.size * rng.uniform(0.05, 0.12, 2)
        window = self._window(x, y, max(a, b))
        u, v = self._rotated(window, x, y, rng.uniform(0, np.pi))
        inside = 1 - np.hypot(u / a, v / b)
        self._blend(window, np.clip(2 * inside, 0, 1), _color(rng, (0, 0.3), (0.2, 0.9)))
        self.owner[window][inside > 0.1] = 0

    def annotation(self) -> tuple[np.ndarray, list[dict]]:
        """Segment ids (H, W) and the JSON's ``segments_info``, hidden segments left out."""
        ids = np.zeros(len(self.segments) + 1, np.int64)
        segments = []
        for owner, segment in enumerate(self.segments, start=1):
            mask = self.owner == owner
            if not mask.any():
                continue
            ids[owner] = self._new_id(segment["category"]["color"], ids)
            rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
            box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            segments.append(
                {
                    "id": int(ids[owner]),
                    "category_id": segment["category"]["id"],
                    "iscrowd": segment["iscrowd"],
                    "bbox": [int(side) for side in box],
                    "area": int(mask.sum()),
                }
            )
        return ids[self.owner], segments

    def _new_id(self, color: list[int], taken: np.ndarray) -> int:
        """An unused id that, seen as a colour, is near its category's (as in COCO's PNGs)."""
        while True:
            r, g, b = np.clip(color + self.rng.integers(-25, 26, 3), 1, 255).tolist()
            if (new := r + 256 * g + 65536 * b) not in taken:
                return new


def scene_rng(seed: int, split: str, number: int) -> np.random.Generator:
    """The generator of one scene: no two (seed, split, number) share a stream."""
    return np.random.default_rng([seed, SPLITS.index(split), number])


def make_split(root: Path, split: str, count: int, size: int, seed: int) -> Path:
    """Draw one split under ``root`` and return its JSON, which is written last."""
    image_dir = root / split
    png_dir = root / "annotations" / f"panoptic_{split}"
    image_dir.mkdir(parents=True, exist_ok=True)
    png_dir.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in range(count):
        scene = Scene(size, scene_rng(seed, split, number)).paint()
        ids, segments = scene.annotation()
        image_id = SPLITS.index(split) * 1_000_000 + number
        stem = f"{image_id:012d}"
        pixels = np.clip(np.rint(scene.image), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(image_dir / f"{stem}.jpg", quality=92)
        Image.fromarray(ids_to_rgb(ids)).save(png_dir / f"{stem}.png")
        images.append({"id": image_id, "file_name": f"{stem}.jpg", "height": size, "width": size})
        annotations.append(
            {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments}
        )
    path = root / "annotations" / f"panoptic_{split}.json"
    content = {
        "info": {"description": "generated shapes", "seed": seed, "split": split, "size": size},
        "images": images,
        "annotations": annotations,
        "categories": SHAPES_CATEGORIES,
    }
    path.write_text(json.dumps(content))
    return path


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 999_999:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of images from 1 to 999999")
    return int(text)


def _size(text: str) -> int:
    if not text.isdigit() or int(text) < MIN_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is no side of at least {MIN_SIZE} pixels")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parent,
        metavar="DIR",
        help="the folder DETECTRON2_DATASETS points at; 'shapes' is made in it (%(default)s)",
    )
    parser.add_argument("--train", type=_count, default=400, metavar="N", help="(%(default)s)")
    parser.add_argument("--val", type=_count, default=60, metavar="N", help="(%(default)s)")
    parser.add_argument(
        "--size", type=_size, default=MIN_SIZE, metavar="PX", help="side of images (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="0 or more (%(default)s)")
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"--seed is {args.seed}; it must be 0 or more")
    for split in SPLITS:
        count = getattr(args, split)
        try:
            path = make_split(args.output / "shapes", split, count, args.size, args.seed)
        except OSError as error:
            parser.error(f"--output is {args.output}, where nothing can be written ({error})")
        print(f"{path}: {count} images of {args.size}x{args.size} pixels")


if __name__ == "__main__":
    main()
