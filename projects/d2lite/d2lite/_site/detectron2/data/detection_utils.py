"""What mappers are made of: reading images, transforming annotations, making instances."""

import contextlib
from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from PIL import Image, ImageOps

from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
from detectron2.structures.masks import polygons_to_bitmask
from detectron2.utils.file_io import PathManager

from . import transforms as T
from .catalog import MetadataCatalog

# ITU-R BT.601, analog form: Y in 0..1, U within +-0.436, V within +-0.615.
_M_RGB2YUV = [[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]
_M_YUV2RGB = [[1.0, 0.0, 1.13983], [1.0, -0.39465, -0.58060], [1.0, 2.03211, 0.0]]

OUT_OF_SCOPE = "keypoints and precomputed proposals are not part of d2lite: install detectron2"


class SizeMismatchError(ValueError):
    """A loaded image doesn't have the size that its annotation says."""


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """Array of a PIL image.

    Args:
        image: in any mode.
        format: a mode of PIL, "BGR", "YUV-BT.601", or None for the image's own mode.

    Returns:
        (H, W, C), also (H, W, 1) for "L"; uint8 in 0..255, but "YUV-BT.601" is float, see
        the ranges above.
    """
    if format is not None:
        image = image.convert("RGB" if format in ("BGR", "YUV-BT.601") else format)
    array = np.asarray(image)
    if format == "L":
        return array[:, :, None]
    if format == "BGR":
        return array[:, :, ::-1]
    if format == "YUV-BT.601":
        return np.dot(array / 255.0, np.array(_M_RGB2YUV).T)
    return array


def convert_image_to_rgb(image, format: str) -> np.ndarray:
    """RGB array (H, W, 3) in 0..255 of an array or tensor (H, W, C) in ``format``.

    It is uint8, but for "YUV-BT.601" float and for "BGR" of the input's type.
    """
    if isinstance(image, torch.Tensor):
        image = image.cpu().numpy()
    if format == "BGR":
        return image[:, :, [2, 1, 0]]
    if format == "YUV-BT.601":
        return np.dot(image, np.array(_M_YUV2RGB).T) * 255.0
    if format == "L":
        image = image[:, :, 0]
    pixels = image.astype(np.uint8).tobytes()
    return np.asarray(Image.frombytes(format, image.shape[1::-1], pixels).convert("RGB"))


def _apply_exif_orientation(image: Image.Image) -> Image.Image:
    """Turn a picture the way its camera says; one with broken EXIF data stays as it is."""
    image.load()
    with contextlib.suppress(Exception):  # parsers of damaged metadata fail in many ways
        ImageOps.exif_transpose(image, in_place=True)
    return image


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image file, turned the way its EXIF data says.

    Args:
        file_name: path.
        format: see ``convert_PIL_to_numpy``.

    Returns:
        (H, W, C) array, see ``convert_PIL_to_numpy``.
    """
    with PathManager.open(file_name, "rb") as file:
        image = _apply_exif_orientation(Image.open(file))
        return convert_PIL_to_numpy(image, format)


def check_image_size(dataset_dict: dict, image: np.ndarray) -> None:
    """Compare the entry's "width" and "height" with the image, or fill them in.

    Raises:
        SizeMismatchError: they differ.
    """
    height, width = image.shape[:2]
    expected = dataset_dict.setdefault("width", width), dataset_dict.setdefault("height", height)
    if (width, height) != expected:
        name = dataset_dict.get("file_name")
        message = f"Mismatched image shape for image {name}, got {width, height}, expect {expected}"
        raise SizeMismatchError(message)


def get_bbox(annotation: dict):
    """The annotation's box as XYXY, pixels."""
    return BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)


def _transform_segmentation(segmentation, transforms, image_size):
    if isinstance(segmentation, list):
        # Copies: some transforms write into the array that they get.
        polygons = [np.array(p).reshape(-1, 2) for p in segmentation]
        return [p.reshape(-1) for p in transforms.apply_polygons(polygons)]
    if isinstance(segmentation, dict):
        mask = transforms.apply_segmentation(mask_util.decode(segmentation))
        assert tuple(mask.shape[:2]) == tuple(image_size), (mask.shape, image_size)
        return mask
    raise ValueError(f"Cannot transform segmentation of type '{type(segmentation)}'")


def transform_instance_annotations(
    annotation: dict, transforms, image_size: tuple[int, int], *, keypoint_hflip_indices=None
) -> dict:
    """Apply the image's transforms to the box and the mask of one annotation (in place).

    Args:
        annotation: with "bbox", "bbox_mode" and maybe "segmentation": polygons or RLE.
        transforms: what was done to the image; a ``TransformList`` or a list of them.
        image_size: (h, w) after the transforms, pixels; boxes are clipped to it.
        keypoint_hflip_indices: not used: keypoints are not part of d2lite.

    Returns:
        ``annotation`` with an XYXY box, and polygons or an (H, W) mask.

    Raises:
        ValueError: a segmentation of unknown type.
        NotImplementedError: there are keypoints.
    """
    if "keypoints" in annotation:
        raise NotImplementedError(OUT_OF_SCOPE)
    if isinstance(transforms, (tuple, list)):
        transforms = T.TransformList(transforms)
    bbox = transforms.apply_box(np.array([get_bbox(annotation)]))[0].clip(min=0)
    h, w = image_size
    annotation["bbox"] = np.minimum(bbox, [w, h, w, h])
    annotation["bbox_mode"] = BoxMode.XYXY_ABS
    if "segmentation" in annotation:
        segmentation = annotation["segmentation"]
        annotation["segmentation"] = _transform_segmentation(segmentation, transforms, image_size)
    return annotation


def _to_bitmask(segmentation, image_size: tuple[int, int]) -> np.ndarray:
    if isinstance(segmentation, list):
        return polygons_to_bitmask(segmentation, *image_size)
    if isinstance(segmentation, dict):
        return mask_util.decode(segmentation)
    if isinstance(segmentation, np.ndarray):
        assert segmentation.ndim == 2, f"Expect 2 dimensions, got {segmentation.shape}"
        return segmentation
    raise ValueError(f"Cannot convert segmentation of type '{type(segmentation)}' to BitMasks")


def annotations_to_instances(
    annos: list[dict], image_size: tuple[int, int], mask_format: str = "polygon"
) -> Instances:
    """Ground truth as models want it.

    Args:
        annos: annotations of one image, transformed.
        image_size: (h, w), pixels.
        mask_format: "polygon", which takes polygons only, or "bitmask", which also takes COCO's
            RLE as a dict and (H, W) arrays.

    Returns:
        Instances with "gt_boxes", "gt_classes", and "gt_masks" if the first annotation has
        a segmentation.

    Raises:
        ValueError: segmentations don't fit the format.
    """
    boxes = Boxes(np.array([get_bbox(x) for x in annos]))
    classes = torch.tensor([int(x["category_id"]) for x in annos], dtype=torch.int64)
    target = Instances(image_size, gt_boxes=boxes, gt_classes=classes)
    if len(annos) and "segmentation" in annos[0]:
        segmentations = [x["segmentation"] for x in annos]
        if mask_format == "polygon":
            try:
                target.gt_masks = PolygonMasks(segmentations)
            except ValueError as error:
                raise ValueError("Failed to use mask_format=='polygon' here!") from error
        else:
            assert mask_format == "bitmask", mask_format
            masks = [np.ascontiguousarray(_to_bitmask(x, image_size)) for x in segmentations]
            target.gt_masks = BitMasks(torch.stack([torch.from_numpy(x) for x in masks]))
    return target


def filter_empty_instances(
    instances: Instances, by_box=True, by_mask=True, box_threshold=1e-5, return_mask=False
):
    """Leave out instances with an empty box or an empty mask.

    Args:
        instances: with "gt_boxes" and maybe "gt_masks".
        by_box: look at boxes.
        by_mask: look at masks.
        box_threshold: both sides of a kept box are longer, pixels.
        return_mask: return which were kept, too.

    Returns:
        the instances that are left, and with ``return_mask`` a bool tensor.
    """
    assert by_box or by_mask
    tests = [instances.gt_boxes.nonempty(threshold=box_threshold)] if by_box else []
    if by_mask and instances.has("gt_masks"):
        tests.append(instances.gt_masks.nonempty())
    if not tests:
        return instances
    keep = torch.stack(tests).all(dim=0)
    return (instances[keep], keep) if return_mask else instances[keep]


def gen_crop_transform_with_instance(
    crop_size: tuple[int, int], image_size: tuple[int, int], instance: dict
) -> T.CropTransform:
    """Random crop that contains the centre of an instance's box.

    Args:
        crop_size: (h, w), pixels.
        image_size: (h, w), pixels.
        instance: annotation with "bbox" and "bbox_mode".
    """
    x0, y0, x1, y1 = get_bbox(instance)
    crop_size, corner = np.asarray(crop_size, dtype=np.int32), []
    center_yx = (y0 + y1) / 2, (x0 + x1) / 2
    for center, crop, side in zip(center_yx, crop_size, image_size, strict=True):
        assert side >= center, "The annotation bounding box is outside of the image!"
        assert side >= crop, "Crop size is larger than image size!"
        lowest, highest = int(np.floor(center)) - crop, min(side - crop, int(np.ceil(center)))
        corner.append(np.random.randint(max(lowest, 0), highest + 1))
    return T.CropTransform(corner[1], corner[0], crop_size[1], crop_size[0])


def check_metadata_consistency(key: str, dataset_names: Sequence[str]) -> None:
    """Check that data sets have the same metadata under ``key``.

    Raises:
        AttributeError: one doesn't have it.
        ValueError: two differ.
    """
    entries = [getattr(MetadataCatalog.get(name), key) for name in dataset_names]
    if any(entry != entries[0] for entry in entries):
        raise ValueError(f"Datasets have different metadata '{key}'! {dataset_names}: {entries}")


def build_augmentation(cfg, is_train: bool) -> list[T.Augmentation]:
    """Resizing, and a flip in training, as a yacs config asks for."""
    options, flip = cfg.INPUT, cfg.INPUT.RANDOM_FLIP
    if not is_train:
        return [T.ResizeShortestEdge(options.MIN_SIZE_TEST, options.MAX_SIZE_TEST, "choice")]
    sizes = options.MIN_SIZE_TRAIN, options.MAX_SIZE_TRAIN
    resize = T.ResizeShortestEdge(*sizes, options.MIN_SIZE_TRAIN_SAMPLING)
    directions = {name: name == flip for name in ("horizontal", "vertical")}
    return [resize] if flip == "none" else [resize, T.RandomFlip(**directions)]


build_transform_gen = build_augmentation
