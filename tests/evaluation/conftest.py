"""A panoptic set of three small images, and predictions for it."""

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from lvt_d2.data import ids_to_rgb, register_panoptic_dataset
from lvt_d2.data.coco_panoptic import metadata_from_categories

# Ids in neither of the orders that code might assume.
CATEGORIES = [
    {"id": 7, "name": "cat", "isthing": 1, "color": [200, 30, 30]},
    {"id": 3, "name": "dog", "isthing": 1, "color": [30, 200, 30]},
    {"id": 12, "name": "bird", "isthing": 1, "color": [30, 200, 200]},
    {"id": 90, "name": "sky", "isthing": 0, "color": [30, 30, 200]},
    {"id": 40, "name": "grass", "isthing": 0, "color": [120, 200, 120]},
]
SIZE = (48, 64)


@dataclass
class PanopticSet:
    """A registered set: its dicts, and the maps they are made of."""

    name: str
    root: Path
    maps: list[np.ndarray] = field(default_factory=list)

    @property
    def dicts(self) -> list[dict]:
        return DatasetCatalog.get(self.name)

    @property
    def metadata(self):
        return MetadataCatalog.get(self.name)

    def predict(self, index: int, shift: int = 0) -> tuple[torch.Tensor, list[dict]]:
        """The ground truth of an image moved to the right, crowds left out; ids 1, 2, ..."""
        moved = np.zeros_like(self.maps[index])
        moved[:, shift:] = self.maps[index][:, : SIZE[1] - shift]
        ids, segments = np.zeros_like(moved), []
        for segment in self.dicts[index]["segments_info"]:
            if segment["iscrowd"] or not (moved == segment["id"]).any():
                continue
            ids[moved == segment["id"]] = len(segments) + 1
            segments.append(
                {
                    "id": len(segments) + 1,
                    "category_id": segment["category_id"],
                    "isthing": segment["isthing"],
                }
            )
            if segment["isthing"]:
                segments[-1] |= {"score": 0.9 - 0.1 * len(segments), "instance_id": 0}
        return torch.from_numpy(ids), segments

    def detect(self, index: int, shift: int = 0) -> Instances:
        """The things of `predict`, with boxes two pixels too wide."""
        ids, segments = self.predict(index, shift)
        things = [s for s in segments if s["isthing"]]
        masks = torch.stack([ids == s["id"] for s in things] or [ids.new_zeros(SIZE) > 0])
        masks = masks[: len(things)]
        instances = Instances(SIZE)
        boxes = [
            [x.min(), y.min(), x.max() + 3, y.max() + 1]
            for y, x in (np.nonzero(m.numpy()) for m in masks)
        ]
        instances.pred_boxes = Boxes(torch.tensor(np.array(boxes).reshape(-1, 4)).float())
        instances.scores = torch.tensor([s["score"] for s in things])
        instances.pred_classes = torch.tensor([s["category_id"] for s in things]).long()
        instances.pred_masks = masks
        return instances

    def logits(self, index: int, shift: int = 0) -> torch.Tensor:
        """Scores (K, H, W) of `predict`'s semantic labels; void is grass."""
        ids, segments = self.predict(index, shift)
        names = self.metadata.stuff_classes
        labels = torch.full(SIZE, names.index("grass"))
        for segment in segments:
            labels[ids == segment["id"]] = 0 if segment["isthing"] else segment["category_id"]
        return torch.nn.functional.one_hot(labels, len(names)).permute(2, 0, 1).float()

    def output(self, index: int, shift: int = 0) -> dict:
        return {
            "panoptic_seg": self.predict(index, shift),
            "instances": self.detect(index, shift),
            "sem_seg": self.logits(index, shift),
        }


def _scenes() -> list[list[tuple[int, int, tuple[slice, slice], int]]]:
    """Per image: (id, category, region, crowd), later ones on top; what is left is void."""
    everything = np.s_[4:, :]
    return [
        [
            (1000, 90, np.s_[4:30, :], 0),
            (2000, 40, np.s_[30:, :], 0),
            (3000, 7, np.s_[10:26, 8:24], 0),
            (70000, 7, np.s_[14:40, 20:32], 0),
            (9, 3, np.s_[20:44, 44:60], 0),
        ],
        [
            (5, 90, everything, 0),
            (6, 3, np.s_[8:40, 6:30], 0),
            (8, 7, np.s_[8:20, 36:62], 1),
            (11, 7, np.s_[26:44, 36:52], 0),
        ],
        [(300, 40, everything, 0)],
    ]


@pytest.fixture
def panoptic_set(tmp_path):
    """Images of 48x64: things of two of three classes, a crowd, void, and one without things."""
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    (root / "panoptic").mkdir()
    result = PanopticSet("tests_panoptic_set", root)
    content = {"images": [], "annotations": [], "categories": CATEGORIES}
    rng = np.random.default_rng(0)
    for number, scene in enumerate(_scenes()):
        ids = np.zeros(SIZE, dtype=np.int32)
        for segment_id, _, region, _ in scene:
            ids[region] = segment_id
        segments = []
        for segment_id, category, _, crowd in scene:
            y, x = np.nonzero(ids == segment_id)
            box = [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            segments.append(
                {
                    "id": segment_id,
                    "category_id": category,
                    "iscrowd": crowd,
                    "area": len(y),
                    "bbox": [int(v) for v in box],
                }
            )
        name = f"{number:04d}"
        pixels = rng.integers(60, 90, (*SIZE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.jpg")
        Image.fromarray(ids_to_rgb(ids)).save(root / "panoptic" / f"{name}.png")
        content["images"].append(
            {"id": 10 + number, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]}
        )
        content["annotations"].append(
            {"image_id": 10 + number, "file_name": f"{name}.png", "segments_info": segments}
        )
        result.maps.append(ids)
    (root / "panoptic.json").write_text(json.dumps(content))
    register_panoptic_dataset(
        result.name, str(root / "panoptic.json"), str(root / "images"), str(root / "panoptic")
    )
    yield result
    DatasetCatalog.remove(result.name)
    MetadataCatalog.remove(result.name)


@pytest.fixture
def test_set(panoptic_set):
    """The same images under a name without labels, as test-dev is."""
    name = "tests_panoptic_set_without_labels"
    keys = ("file_name", "image_id", "height", "width")
    dicts = [{key: d[key] for key in keys} for d in panoptic_set.dicts]
    DatasetCatalog.register(name, lambda: copy.deepcopy(dicts))
    MetadataCatalog.get(name).set(label_divisor=1000, **metadata_from_categories(CATEGORIES))
    yield PanopticSet(name, panoptic_set.root)
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
