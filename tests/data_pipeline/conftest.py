"""A tiny panoptic set on disk, to be broken in every way."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lvt_d2.data.coco_panoptic import load_coco_panoptic, metadata_from_categories
from lvt_d2.data.panoptic_png import ids_to_rgb

CATEGORIES = [
    {"id": 3, "name": "cat", "isthing": 1, "color": [200, 0, 0]},
    {"id": 5, "name": "dog", "isthing": 1},
    {"id": 9, "name": "grass", "isthing": 0, "color": [0, 200, 0]},
    {"id": 12, "name": "sky", "isthing": 0},
]
HEIGHT, WIDTH = 40, 60


@dataclass
class TinySet:
    root: Path

    @property
    def json(self) -> Path:
        return self.root / "panoptic.json"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def pngs(self) -> Path:
        return self.root / "panoptic"

    @property
    def meta(self) -> dict:
        return metadata_from_categories(CATEGORIES)

    def paths(self) -> tuple[str, str, str]:
        return str(self.json), str(self.images), str(self.pngs)

    def load(self) -> list[dict]:
        return load_coco_panoptic(*self.paths(), self.meta)

    def content(self) -> dict:
        return json.loads(self.json.read_text())

    def edit(self, change) -> None:
        content = self.content()
        change(content)
        self.json.write_text(json.dumps(content))


def tiny_ids() -> np.ndarray:
    """Void frame, grass below, sky above, a cat, a dog over it, a crowd of dogs."""
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[1:20, 1:-1] = 70000
    ids[20:-1, 1:-1] = 300
    ids[10:30, 5:20] = 7
    ids[15:35, 15:30] = 70001
    ids[22:30, 40:55] = 11
    return ids


def segment(ids: np.ndarray, segment_id: int, category_id: int, iscrowd: int = 0) -> dict:
    rows, columns = np.nonzero(ids == segment_id)
    x, y = int(columns.min()), int(rows.min())
    return {
        "id": segment_id,
        "category_id": category_id,
        "iscrowd": iscrowd,
        "bbox": [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y],
        "area": len(rows),
    }


@pytest.fixture
def tiny(tmp_path) -> TinySet:
    (tmp_path / "images").mkdir()
    (tmp_path / "panoptic").mkdir()
    ids = tiny_ids()
    segments = [
        segment(ids, 70000, 12),
        segment(ids, 300, 9),
        segment(ids, 7, 3),
        segment(ids, 70001, 5),
        segment(ids, 11, 5, iscrowd=1),
    ]
    images, annotations = [], []
    for image_id in (4, 2):
        pixels = np.random.default_rng(image_id).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{image_id}.jpg")
        Image.fromarray(ids_to_rgb(ids)).save(tmp_path / "panoptic" / f"{image_id}.png")
        images.append(
            {"id": image_id, "file_name": f"{image_id}.jpg", "height": HEIGHT, "width": WIDTH}
        )
        annotations.append(
            {"image_id": image_id, "file_name": f"{image_id}.png", "segments_info": segments}
        )
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    return TinySet(tmp_path)
