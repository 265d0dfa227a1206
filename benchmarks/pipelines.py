"""Whole models to time, from the file or the image to the result, and the data mappers."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog, transforms as T
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from PIL import Image
from torch import Tensor, nn

from benchmarks.backbones import paths
from benchmarks.measure import Contender
from benchmarks.plain_panoptic_mapper import PlainPanopticMapper
from benchmarks.textbook_lvt import TextbookLVT
from lvt_d2.data import PanopticMapper, ResizeKeepRatio
from lvt_d2.data.builtin import coco_sample_paths, datasets_root
from lvt_d2.data.coco_panoptic import load_coco_panoptic
from lvt_d2.data.panoptic_png import ids_to_rgb
from lvt_d2.engine import load_config
from lvt_d2.layers.kernels import use_kernels
from lvt_d2.modeling.panoptic_fpn import MergePanopticFPN, _flagged

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DETECTIONS = 100  # of an image: as many as COCO's evaluation looks at
MERGED = 20  # of them, for the panoptic map


class PlainPanopticFPN(MergePanopticFPN):
    """The same model in the plain order: logits at full size, resized, then the best class."""

    def inference(self, batched_inputs: list[dict], do_postprocess: bool = True) -> list[dict]:
        """As `MergePanopticFPN`, with postprocessing only."""
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        logits, _ = self.sem_seg_head(features, None)
        proposals, _ = self.proposal_generator(images, features, None)
        detections, _ = self.roi_heads(images, features, proposals, None)
        results = []
        for i, sample in enumerate(batched_inputs):
            size = sample["height"], sample["width"]
            sem_seg = sem_seg_postprocess(logits[i], images.image_sizes[i], *size)
            detected = detector_postprocess(detections[i], *size)
            panoptic = combine_semantic_and_instance_outputs(
                _flagged(detected, "for_merge"),
                sem_seg.argmax(dim=0),
                self.combine_overlap_thresh,
                self.combine_stuff_area_thresh,
                self.combine_instances_score_thresh,
            )
            instances = _flagged(detected, "for_detection")
            results.append({"sem_seg": sem_seg, "instances": instances, "panoptic_seg": panoptic})
        return results


class _Textbook(nn.Module):
    """The textbook's backbone where a model expects LVT."""

    def __init__(self, lvt: nn.Module):
        super().__init__()
        self.net = TextbookLVT().load(lvt).to(next(lvt.parameters()).device)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.net(x)


def picture(height: int, width: int) -> np.ndarray:
    """A photo-like picture (H, W, 3) uint8 of blurred noise, of which JPEG makes what it does."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.integers(-12, 13, (height, width, 1))
    return (smooth + noise).clip(0, 255).astype(np.uint8)


def panoptic(device: torch.device, folder: Path, size: tuple[int, int]) -> dict[str, Contender]:
    """Panoptic FPN from a JPEG to the maps, at the published test size.

    The weights are random; the thresholds are set so that an image has `DETECTIONS` detections, of
    which `MERGED` or a few less take part in the merge: masks are predicted and pasted.

    Args:
        device: where the model computes.
        folder: for the JPEG.
        size: height and width of the JPEG in pixels; it is resized to 800, at most 1333.
    """
    torch.manual_seed(0)
    cfg = load_config(str(CONFIGS / "panoptic_lvt.py"), [])
    model = instantiate(cfg.model).eval().to(device)
    mapper = PanopticMapper(
        False, augmentations=[ResizeKeepRatio(800, 1333)], image_format=model.input_format
    )
    path = folder / "picture.jpg"
    Image.fromarray(picture(*size)).save(path, quality=92)
    sample = {"file_name": str(path), "image_id": 1}
    _set_thresholds(model, mapper(sample))

    models = {"textbook": copy.deepcopy(model)}
    models["textbook"].__class__ = PlainPanopticFPN
    models["textbook"].backbone.bottom_up = _Textbook(model.backbone.bottom_up)
    models["textbook backbone"] = copy.deepcopy(model)
    models["textbook backbone"].backbone.bottom_up = models["textbook"].backbone.bottom_up
    contenders = {name: _whole(m, mapper, sample, "auto") for name, m in models.items()}
    return contenders | {p: _whole(model, mapper, sample, p) for p in paths(device)}


def _whole(model: nn.Module, mapper: PanopticMapper, sample: dict, path: str) -> Contender:
    def run() -> list[dict]:
        with torch.inference_mode(), use_kernels(path):
            return model([mapper(sample)])

    return Contender(run)


def _set_thresholds(model: nn.Module, sample: dict) -> None:
    """Choose score thresholds that leave a usual number of detections; weights stay random."""
    predictor = model.roi_heads.box_predictor
    with torch.no_grad(), _captured(predictor) as seen:
        model([sample])
    scores = seen[0][:, :-1].flatten().sort(descending=True).values
    # Twice as many candidates, of which the NMS leaves about half.
    predictor.test_score_thresh = scores[2 * DETECTIONS].item()
    predictor.merge_score_thresh = scores[2 * MERGED].item()


@contextmanager
def _captured(predictor: nn.Module) -> Iterator[list[Tensor]]:
    """The class probabilities (R, K+1) of the images that are predicted inside."""
    seen, original = [], predictor.inference

    def inference(predictions, proposals):
        seen.extend(predictor.predict_probs(predictions, proposals))
        return original(predictions, proposals)

    predictor.inference = inference
    try:
        yield seen
    finally:
        del predictor.inference


def segmentor(device: torch.device, size: tuple[int, int]) -> dict[str, Contender]:
    """SegFormer on LVT, from an image in memory to the logits at its own size."""
    torch.manual_seed(0)
    cfg = load_config(str(CONFIGS / "segformer_lvt.py"), [])
    model = instantiate(cfg.model).eval().to(device)
    image = torch.from_numpy(picture(*size).transpose(2, 0, 1).copy())
    sample = {"image": image, "height": size[0], "width": size[1]}

    def contender(net: nn.Module, path: str) -> Contender:
        def run() -> None:
            with torch.inference_mode(), use_kernels(path):
                net([sample])

        return Contender(run)

    textbook = copy.deepcopy(model)
    textbook.backbone = _Textbook(model.backbone)
    found = {"textbook": contender(textbook, "auto")}
    return found | {path: contender(model, path) for path in paths(device)}


def mappers(folder: Path) -> tuple[dict[str, Contender], int]:
    """The panoptic mappers in training at 640-800, and the number of images of a run.

    They read the COCO sample where there is one, else drawn images of COCO's usual size.
    """
    meta = MetadataCatalog.get("coco_sample_panoptic").as_dict()
    files = coco_sample_paths(datasets_root())
    if not Path(files["panoptic_json"]).exists():
        files = _drawn_set(folder, sorted(meta["thing_dataset_id_to_contiguous_id"]))
    samples = load_coco_panoptic(*files.values(), meta)
    ours = PanopticMapper(
        True,
        augmentations=[ResizeKeepRatio((640, 800), 1333), T.RandomFlip(prob=0.5, horizontal=True)],
        image_format="RGB",
    )
    plain = {
        "plain, every mask resized": PlainPanopticMapper(resize_masks=True),
        "plain, masks of the resized PNG": PlainPanopticMapper(resize_masks=False),
    }

    def contender(mapper) -> Contender:
        def run() -> None:
            np.random.seed(0)  # all of them draw the same
            for sample in samples * 2:
                mapper(sample)

        return Contender(run)

    found = {name: contender(mapper) for name, mapper in (plain | {"lvt_d2": ours}).items()}
    return found, 2 * len(samples)


def _drawn_set(folder: Path, categories: list[int], count: int = 4) -> dict[str, str]:
    """Pictures of 480x640 with 20 overlapping boxes each, in COCO's panoptic layout."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, count + 1):
        Image.fromarray(picture(480, 640)).save(folder / f"{number}.jpg", quality=92)
        ids = np.full((480, 640), 1, np.int32)
        for i in range(2, 22):
            y, x = rng.integers(0, 400), rng.integers(0, 560)
            ids[y : y + rng.integers(40, 200), x : x + rng.integers(40, 200)] = 1000 * i
        Image.fromarray(ids_to_rgb(ids)).save(folder / f"{number}.png")
        segments = []
        for segment in np.unique(ids).tolist():
            rows, columns = np.nonzero(ids == segment)
            low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
            box = [*low, high[0] - low[0], high[1] - low[1]]
            segments.append(
                {
                    "id": segment,
                    "category_id": categories[int(rng.integers(len(categories)))],
                    "bbox": [int(side) for side in box],
                    "area": len(rows),
                    "iscrowd": 0,
                }
            )
        images.append({"id": number, "file_name": f"{number}.jpg", "height": 480, "width": 640})
        annotations.append(
            {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
        )
    path = folder / "panoptic.json"
    content = {"images": images, "annotations": annotations, "categories": []}
    path.write_text(json.dumps(content))
    return {
        "panoptic_json": str(path),
        "image_root": str(folder),
        "panoptic_root": str(folder),
    }
