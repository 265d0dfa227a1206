"""Semantic sets: listing, labels, mapper, loaders."""

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.utils.file_io import PathManager
from PIL import Image

from lvt_d2.data import (
    PadToSize,
    PanopticMapper,
    ResizeKeepRatio,
    ResizeToMultiple,
    SemanticMapper,
    build_test_loader,
    build_train_loader,
    get_semantic_dicts,
    load_semantic,
    read_panoptic_ids,
    read_sem_seg,
    register_panoptic_dataset,
    register_semantic_dataset,
)
from lvt_d2.data.ade20k_meta import ADE20K_CLASSES, ADE20K_COLORS
from lvt_d2.data.builtin import coco_sample_paths
from lvt_d2.data.coco_panoptic import load_coco_panoptic
from lvt_d2.data.semantic_labels import decode_values
from lvt_d2.data.semantic_sets import load_every_category, register_every_category
from lvt_d2.errors import ConfigError, DatasetError, DatasetFileNotFoundError
from tests.synthetic_ade20k import class_color, write_ade20k

from .conftest import tiny_ids

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs/common/data"
NAME = "ade20k_of_a_test"


@pytest.fixture
def catalog():
    """Sets that a test registers are gone after it."""
    before = set(DatasetCatalog.list())
    yield DatasetCatalog
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def ade(tmp_path, catalog):
    """A registered tree of five images; the folder of its labels and images."""
    tree = write_ade20k(tmp_path, 5, 2)
    images, labels = tree / "images/training", tree / "annotations/training"
    register_semantic_dataset(
        NAME, str(images), str(labels), ADE20K_CLASSES, ADE20K_COLORS, reduce_zero_label=True
    )
    return labels, images


def mapper(*augmentations, is_train=True, image_format="RGB", dataset_name=NAME, **options):
    return SemanticMapper(
        is_train,
        augmentations=augmentations,
        image_format=image_format,
        dataset_name=dataset_name,
        **options,
    )


def rewrite(path, change):
    values = np.array(Image.open(path))
    Image.fromarray(change(values)).save(path)


def test_published_label_shift(goldens):
    table = np.load(goldens / "official/segdata.npz")["reduce_zero_label_table"]
    for raw in range(256):
        values = np.full((1, 1), raw, np.uint8)
        if raw == 254:  # published: becomes the label 253, which no class has
            with pytest.raises(DatasetError, match="254"):
                decode_values(values, 150, True, "x")
            assert table[raw] == 253
        if raw <= 150 or raw == 255:
            assert decode_values(values, 150, True, "x")[0, 0] == table[raw]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, ">u2", np.int32])
def test_values_of_every_type(dtype):
    values = np.array([[0, 1, 7, 255]]).astype(dtype)
    assert decode_values(values, 7, True, "x").tolist() == [[255, 0, 6, 255]]
    assert decode_values(values, 8, False, "x").tolist() == [[0, 1, 7, 255]]
    assert decode_values(values, 8, False, "x").dtype == np.uint8
    assert decode_values(values[:, :0], 8, False, "x").shape == (1, 0)


@pytest.mark.parametrize(
    ("values", "classes", "reduced", "named"),
    [
        (
            [0, 9, 151, 200, 200],
            150,
            True,
            r"class list: 151, 200 \(3 pixels\)\. Expected 1\.\.150",
        ),
        ([0, 254], 150, True, r"class list: 254 \(1 pixels\).* 0 or 255 for void"),
        ([0, 3], 3, False, r"class list: 3 \(1 pixels\). Expected 0\.\.2 .* 255 for void"),
        ([0, 300], 150, True, "class list: 300 "),
        ([0, -2], 150, True, "class list: -2 "),
        (range(20), 2, False, r"class list: 2, 3, 4, 5, 6, 7, 8, 9 and 10 more \(18 pixels\)"),
    ],
)
def test_labels_outside_the_class_list(values, classes, reduced, named):
    values = np.array([list(values)])
    if 0 <= values.min() <= values.max() <= 255:
        values = values.astype(np.uint8)
    with pytest.raises(DatasetError, match=rf"^the file has values outside the {named}"):
        decode_values(values, classes, reduced, "the file")


def test_builtin_sets():
    for split, folder in (("train", "training"), ("val", "validation")):
        meta = MetadataCatalog.get(f"lvt_ade20k_sem_seg_{split}")
        assert meta.sem_seg_root.endswith(f"ADEChallengeData2016/annotations/{folder}")
        assert meta.image_root.endswith(f"ADEChallengeData2016/images/{folder}")
        assert len(meta.stuff_classes) == len(meta.stuff_colors) == 150
        assert meta.reduce_zero_label and meta.ignore_label == 255
        assert meta.evaluator_type == "sem_seg"
    assert not hasattr(MetadataCatalog.get("lvt_ade20k_sem_seg_test"), "sem_seg_root")
    assert meta.stuff_classes[0] == "wall" and meta.stuff_colors[0] == [120, 120, 120]
    for name, classes, first_stuff in (
        ("lvt_coco_2017_val_semantic", 133, 80),
        ("shapes_train_semantic", 9, 5),
        ("coco_sample_semantic", 133, 80),
    ):
        meta = MetadataCatalog.get(name)
        panoptic = MetadataCatalog.get(name.replace("semantic", "panoptic"))
        assert len(meta.stuff_classes) == len(meta.stuff_colors) == classes
        assert meta.stuff_classes[:first_stuff] == panoptic.thing_classes
        assert meta.stuff_classes[first_stuff:] == panoptic.stuff_classes[1:]


def test_colours_differ_but_for_two():
    assert all(len(c) == 3 and 0 <= min(c) <= max(c) <= 255 for c in ADE20K_COLORS)
    twice = [
        n for n, c in zip(ADE20K_CLASSES, ADE20K_COLORS, strict=True) if ADE20K_COLORS.count(c) > 1
    ]
    assert [name.split(",")[0] for name in twice] == ["road", "skyscraper"]


def test_listing(ade):
    dicts = get_semantic_dicts(NAME)
    assert [d["image_id"] for d in dicts] == [f"ADE_train_{i:08d}" for i in range(1, 6)]
    labels, images = ade
    assert dicts[0] == {
        "file_name": str(images / "ADE_train_00000001.jpg"),
        "image_id": "ADE_train_00000001",
        "sem_seg_file_name": str(labels / "ADE_train_00000001.png"),
    }
    unlabelled = load_semantic(str(images), None)
    assert unlabelled == [{k: d[k] for k in ("file_name", "image_id")} for d in dicts]


def test_thousands_are_listed_at_once(monkeypatch):
    """No file is opened: these don't exist."""
    monkeypatch.setattr(PathManager, "isdir", lambda path: True)
    suffix = {"images": "jpg", "labels": "png"}
    names = {k: [f"{i:08d}.{v}" for i in reversed(range(20210))] for k, v in suffix.items()}
    monkeypatch.setattr(PathManager, "ls", names.get)
    start = time.perf_counter()
    dicts = load_semantic("images", "labels")
    assert time.perf_counter() - start < 2  # 0.1 s on a machine that does nothing else
    assert len(dicts) == 20210 and dicts[7]["sem_seg_file_name"] == "labels/00000007.png"


def test_folders_that_do_not_fit(ade, tmp_path):
    labels, images = ade
    (labels / ".hidden.png").touch()
    (labels / "notes.txt").touch()
    assert len(get_semantic_dicts(NAME)) == 5
    (images / "ADE_train_00000002.jpg").unlink()
    with pytest.raises(DatasetError, match="1 labels without an image .*: ADE_train_00000002. Unp"):
        get_semantic_dicts(NAME)
    for i in range(1, 5):
        (labels / f"ADE_train_{i:08d}.png").unlink()
    with pytest.raises(DatasetError, match=r"training has 3 images without labels .*00000004\. U"):
        get_semantic_dicts(NAME)
    (images / "ADE_train_00000005.png").touch()
    with pytest.raises(DatasetError, match="have the same name but for the suffix"):
        get_semantic_dicts(NAME)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty, has no file that ends in \.jpg"):
        load_semantic(str(tmp_path / "empty"), None)
    with pytest.raises(DatasetFileNotFoundError, match="folder of images, .*nowhere, does not ex"):
        load_semantic(str(tmp_path / "nowhere"), None)


def test_missing_sets_say_how_to_get_them(catalog, tmp_path):
    register_semantic_dataset(NAME, str(tmp_path / "no"), None, ["a"], how_to_get="Look there")
    with pytest.raises(DatasetFileNotFoundError, match="DETECTRON2_DATASETS is .*Look there$"):
        get_semantic_dicts(NAME)


@pytest.mark.parametrize(
    ("classes", "colors", "message"),
    [
        ([], None, "has 0 classes; expected 1..255"),
        (["x"] * 256, None, "has 256 classes"),
        (["a", "b"], [[0, 0, 0]], "2 classes but 1 colours"),
    ],
)
def test_bad_registrations(catalog, classes, colors, message):
    with pytest.raises(ConfigError, match=message):
        register_semantic_dataset(NAME, "images", "labels", classes, colors)


def test_names_and_classes(ade, catalog):
    assert len(get_semantic_dicts([NAME, NAME])) == 10
    assert get_semantic_dicts(NAME, num_classes=150)
    with pytest.raises(
        ConfigError, match=r"sem_seg_head.num_classes is 19, but the set has 150 cl"
    ):
        get_semantic_dicts(NAME, num_classes=19)
    with pytest.raises(DatasetError, match=r"'nothing'. Known sets: .*lvt_ade20k_sem_seg_train"):
        get_semantic_dicts("nothing")
    with pytest.raises(DatasetError, match="no data set is named"):
        get_semantic_dicts([])
    labels, images = map(str, ade)
    register_semantic_dataset("unshifted", images, labels, ADE20K_CLASSES)
    with pytest.raises(DatasetError, match="have different reduce_zero_label"):
        get_semantic_dicts([NAME, "unshifted"])
    register_semantic_dataset("other", images, labels, ["a"], reduce_zero_label=True)
    with pytest.raises(DatasetError, match="have different stuff_classes"):
        get_semantic_dicts([NAME, "other"])


def test_training_sample(ade):
    sample = get_semantic_dicts(NAME)[0]
    before = copy.deepcopy(sample)
    result = mapper()(sample)
    assert sample == before
    raw = np.array(Image.open(sample["sem_seg_file_name"]))
    assert (raw == 0).any()
    expected = np.where(raw == 0, 255, raw.astype(int) - 1)
    assert result["sem_seg"].dtype == torch.int64
    np.testing.assert_array_equal(result["sem_seg"].numpy(), expected)
    image = result["image"]
    assert image.dtype == torch.uint8 and image.shape == (3, *raw.shape)
    label = expected[8, 8]
    assert np.abs(image[:, 8, 8].numpy().astype(int) - class_color(label)).max() < 60
    assert (result["height"], result["width"]) == raw.shape
    assert result["image_id"] == sample["image_id"]
    labels = read_sem_seg(result, MetadataCatalog.get(NAME))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected)


def test_image_and_labels_move_together(ade):
    sample = get_semantic_dicts(NAME)[0]
    straight = mapper()(sample)
    result = mapper(T.RandomFlip(prob=1.0), T.CropTransform(4, 2, 40, 32))(sample)
    for key in ("image", "sem_seg"):
        expected = straight[key].flip(-1)[..., 2:34, 4:44]
        torch.testing.assert_close(result[key], expected)


def test_test_sample(ade):
    sample = get_semantic_dicts(NAME)[0]
    Path(sample["sem_seg_file_name"]).unlink()  # labels are the evaluator's
    augmentations = [ResizeKeepRatio(64, 256), ResizeToMultiple(32)]
    result = mapper(*augmentations, is_train=False, image_format="BGR", dataset_name=None)(sample)
    assert result["image"].shape == (3, 64, 96)
    assert (result["height"], result["width"]) == (96, 128)
    assert result["sem_seg_file_name"] == sample["sem_seg_file_name"] and "sem_seg" not in result


def test_padding(ade):
    mean = (123.675, 116.28, 103.53)
    result = mapper(PadToSize((160, 150), mean))(get_semantic_dicts(NAME)[0])
    assert result["image"].dtype == torch.float32 and result["image"].shape == (3, 160, 150)
    assert (result["sem_seg"][96:] == 255).all() and (result["sem_seg"][:, 128:] == 255).all()
    padding = result["image"][:, 96:] - torch.tensor(mean).view(-1, 1, 1)
    assert not padding.any()


def test_a_void_image_is_kept(ade):
    sample = get_semantic_dicts(NAME)[0]
    rewrite(sample["sem_seg_file_name"], np.zeros_like)
    cfg = LazyConfig.load(str(CONFIGS / "ade20k_semantic.py")).dataloader.train.mapper
    cfg.dataset_name = NAME
    result = instantiate(cfg)(sample)
    assert (result["sem_seg"] == 255).all() and result["sem_seg"].shape == (512, 512)
    assert (read_sem_seg(sample, MetadataCatalog.get(NAME)) == 255).all()


@pytest.mark.parametrize("size", [(200, 1), (1, 200), (1, 1), (3, 2)])
def test_thin_images(ade, size):
    sample = get_semantic_dicts(NAME)[0]
    Image.new("RGB", size[::-1]).save(sample["file_name"])
    Image.new("L", size[::-1], 7).save(sample["sem_seg_file_name"])
    dataloader = LazyConfig.load(str(CONFIGS / "ade20k_semantic.py")).dataloader
    dataloader.train.mapper.dataset_name = NAME
    result = instantiate(dataloader.train.mapper)(sample)
    assert result["image"].shape == (3, 512, 512)
    assert set(result["sem_seg"].unique().tolist()) <= {6, 255} and (result["sem_seg"] == 6).any()
    image = instantiate(dataloader.test.mapper)(sample)["image"]
    assert min(image.shape[1:]) >= 32 and image.shape[1] % 32 == image.shape[2] % 32 == 0
    with pytest.raises(DatasetError, match="augmented, has .* at least 32"):
        mapper()(sample)


def test_formats_of_labels(ade):
    sample = get_semantic_dicts(NAME)[0]
    expected = mapper()(sample)["sem_seg"]
    path = sample["sem_seg_file_name"]
    values = np.array(Image.open(path))
    Image.fromarray(values.astype(np.uint16)).save(path)
    torch.testing.assert_close(mapper()(sample)["sem_seg"], expected)
    palette = Image.fromarray(values)
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    palette.save(path)
    torch.testing.assert_close(mapper()(sample)["sem_seg"], expected)
    Image.fromarray(values).convert("RGB").save(path)
    with pytest.raises(DatasetError, match="of mode RGB; expected one value per pixel"):
        mapper()(sample)


def test_formats_of_images(ade):
    sample = get_semantic_dicts(NAME)[0]
    image = Image.open(sample["file_name"]).convert("RGB")
    sample["file_name"] = sample["file_name"].replace(".jpg", ".png")
    for mode in ("RGBA", "L", "P", "LA"):
        image.convert(mode).save(sample["file_name"])
        expected = np.asarray(image.convert(mode).convert("RGB")).transpose(2, 0, 1)
        np.testing.assert_array_equal(mapper()(sample)["image"].numpy(), expected)
    wide = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(wide).save(sample["file_name"])
    expected = np.asarray(image.convert("L"))[None].repeat(3, axis=0)
    np.testing.assert_array_equal(mapper()(sample)["image"].numpy(), expected)


def test_exif_rotation(ade):
    sample = get_semantic_dicts(NAME)[0]
    image = Image.open(sample["file_name"])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(sample["file_name"], exif=exif)
    with pytest.raises(
        DatasetError, match=r"96x128 .* has 128x96; .* EXIF data of the image are f"
    ):
        mapper()(sample)
    rewrite(sample["sem_seg_file_name"], lambda v: np.rot90(v, -1))
    result = mapper()(sample)
    assert result["image"].shape[1:] == result["sem_seg"].shape == (128, 96)
    assert (result["height"], result["width"]) == (128, 96)


def _break(kind, sample):
    labels = Path(sample["sem_seg_file_name"])
    if kind == "size":
        rewrite(labels, lambda v: v[:-1])
    elif kind == "class":
        rewrite(labels, lambda v: np.where(v == 0, 151, v))
    elif kind == "labels missing":
        labels.unlink()
    elif kind == "labels truncated":
        labels.write_bytes(labels.read_bytes()[:80])
    elif kind == "image missing":
        Path(sample["file_name"]).unlink()
    else:
        image = Path(sample["file_name"])
        image.write_bytes(image.read_bytes()[:700])


BROKEN = {
    "size": r"labels .*00000001\.png have 95x128 pixels .* image .*00000001\.jpg has 96x128",
    "class": r"label PNG .*00000001\.png has values outside the class list: 151 ",
    "labels missing": r"label PNG .*00000001\.png does not exist",
    "labels truncated": r"label PNG .*00000001\.png can't be decoded",
    "image missing": r"image .*00000001\.jpg does not exist",
    "image truncated": r"image .*00000001\.jpg can't be decoded",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_samples(ade, kind, caplog):
    good, sample = get_semantic_dicts(NAME)[1::-1]
    _break(kind, sample)
    with pytest.raises(DatasetError, match=BROKEN[kind]):
        mapper()(sample)
    skipping = mapper(skip_broken=True)
    assert skipping(sample) is None and skipping(good) is not None
    assert skipping.num_skipped == 1
    assert "Skipped a broken training image (1 in all)" in caplog.text


def test_sets_without_labels(ade, catalog):
    _, images = ade
    register_semantic_dataset("unlabelled", str(images), None, ADE20K_CLASSES)
    sample = get_semantic_dicts("unlabelled")[0]
    with pytest.raises(DatasetError, match="neither 'sem_seg_file_name' nor 'pan_seg_file_name'"):
        mapper(dataset_name="unlabelled")(sample)
    assert mapper(is_train=False, dataset_name=None)(sample)["height"] == 96


def test_bad_options():
    with pytest.raises(ConfigError, match="dataset_name is missing; in training"):
        mapper(dataset_name=None)
    with pytest.raises(ConfigError, match="image_format is 'rgb'"):
        mapper(image_format="rgb")
    with pytest.raises(ConfigError, match="min_size is -1"):
        mapper(min_size=-1)


def test_panoptic_set_with_things_as_one_class(tiny, catalog):
    register_panoptic_dataset("tiny_things", *tiny.paths())
    (_, sample) = get_semantic_dicts("tiny_things", num_classes=3)
    labels = mapper(dataset_name="tiny_things")(sample)["sem_seg"].numpy()
    ids = tiny_ids()
    expected = np.select([ids == 0, ids == 70000, ids == 300], [255, 2, 1], 0)
    np.testing.assert_array_equal(labels, expected)
    panoptic = PanopticMapper(True, augmentations=[], image_format="RGB")(sample)
    np.testing.assert_array_equal(labels, panoptic["sem_seg"].numpy())


def test_panoptic_set_with_a_class_for_every_category(tiny, catalog):
    register_every_category("tiny_all", tiny.meta, *tiny.paths())
    assert MetadataCatalog.get("tiny_all").stuff_classes == ["cat", "dog", "grass", "sky"]
    (_, sample) = get_semantic_dicts("tiny_all", num_classes=4)
    result = mapper(dataset_name="tiny_all")(sample)
    ids = tiny_ids()
    choices = [ids == 0, ids == 7, np.isin(ids, (70001, 11)), ids == 300]
    expected = np.select(choices, [255, 0, 1, 2], 3)  # crowds have a class, too
    np.testing.assert_array_equal(result["sem_seg"].numpy(), expected)
    assert "segments_info" not in result


def test_every_category_of_coco(coco_sample):
    meta = MetadataCatalog.get("coco_sample_panoptic").as_dict()
    paths = coco_sample_paths(str(coco_sample.parent))
    things = sorted(meta["thing_dataset_id_to_contiguous_id"])
    content = json.loads(Path(paths["panoptic_json"]).read_text())
    stuff = sorted({c["id"] for c in content["categories"]} - set(things))
    one_class = {d["image_id"]: d for d in load_coco_panoptic(**paths, meta=meta)}
    for record in load_every_category(**paths, meta=meta):
        labels = read_sem_seg(record, Metadata())
        ids = read_panoptic_ids(record["pan_seg_file_name"])
        (annotation,) = (a for a in content["annotations"] if a["image_id"] == record["image_id"])
        for segment in annotation["segments_info"]:
            (label,) = np.unique(labels[ids == segment["id"]])
            assert label == (things + stuff).index(segment["category_id"])
        assert (labels[ids == 0] == 255).all()
        separated = read_sem_seg(one_class[record["image_id"]], Metadata())
        expected = np.where(labels == 255, 255, np.where(labels < 80, 0, labels - 79))
        np.testing.assert_array_equal(separated, expected)


def test_panoptic_labels_of_another_size(tiny, catalog):
    register_every_category("tiny_all", tiny.meta, *tiny.paths())
    (_, sample) = get_semantic_dicts("tiny_all")
    sample["width"] = 61
    with pytest.raises(DatasetError, match=r"labels .*png have 40x60 .* has 40x61"):
        read_sem_seg(sample, MetadataCatalog.get("tiny_all"))


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders(ade, workers):
    dicts = get_semantic_dicts(NAME)
    pad = PadToSize((128, 128), (1.5, 2.5, 3.5))
    train = build_train_loader(
        dicts,
        mapper=mapper(pad, skip_broken=True),
        total_batch_size=2,
        aspect_ratio_grouping=False,
        num_workers=workers,
    )
    for batch, _ in zip(train, range(3), strict=False):
        assert [x["image"].shape for x in batch] == [(3, 128, 128)] * 2
    test = build_test_loader(
        dicts,
        mapper=mapper(ResizeToMultiple(32), is_train=False),
        batch_size=2,
        num_workers=workers,
    )
    samples = [x for batch in test for x in batch]
    assert [x["image_id"] for x in samples] == [d["image_id"] for d in dicts]
    assert all("height" in x for x in samples)


@pytest.mark.parametrize("name", ["ade20k", "coco_stuff", "shapes"])
def test_configs(name, tmp_path):
    cfg = LazyConfig.load(str(CONFIGS / f"{name}_semantic.py"))
    cfg.train = {"output_dir": str(tmp_path)}
    cfg.model = {"pixel_mean": [1.5, 2.5, 3.5], "sem_seg_head": {"num_classes": 77}}
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    for dataloader in (cfg.dataloader, LazyConfig.load(str(tmp_path / "config.yaml")).dataloader):
        train, test = dataloader.train, dataloader.test
        assert train.dataset.num_classes == test.dataset.num_classes == 77
        assert {train.dataset.names, test.dataset.names} <= set(DatasetCatalog.list())
        assert train.mapper.dataset_name == train.dataset.names
        assert not train.aspect_ratio_grouping
        augmentations = instantiate(train.mapper).augmentations.augs
        assert not instantiate(test.mapper).is_train
        (evaluator,) = dataloader.evaluator
        assert evaluator.dataset_name == test.dataset.names
        assert evaluator.output_dir == f"{tmp_path}/inference"
    if name != "shapes":
        assert augmentations[-1].color == (1.5, 2.5, 3.5)


def test_published_recipe():
    dataloader = LazyConfig.load(str(CONFIGS / "ade20k_semantic.py")).dataloader
    assert dataloader.train.total_batch_size == 16
    train = instantiate(dataloader.train.mapper)
    resize, crop, flip, distortion, pad = train.augmentations.augs
    assert (resize.scale, resize.ratio_range) == ((2048, 512), (0.5, 2.0))
    assert (crop.crop_size, crop.max_category_area, crop.ignore_label) == ((512, 512), 0.75, 255)
    assert flip.prob == 0.5 and flip.horizontal
    assert (distortion.brightness, distortion.hue) == (32, 18)
    assert distortion.contrast == distortion.saturation == (0.5, 1.5)
    assert distortion.image_format == train.image_format == "RGB"
    assert (pad.size, pad.color, pad.label) == ((512, 512), (123.675, 116.28, 103.53), 255)
    fit, multiple = instantiate(dataloader.test.mapper).augmentations.augs
    assert (fit.short_edge, fit.max_size, multiple.divisor) == ((512, 512), 2048, 32)


def test_ade20k_by_its_registered_name(tmp_path):
    """DETECTRON2_DATASETS is read when the sets are registered, so a process of its own looks."""
    write_ade20k(tmp_path, 3, 2)
    script = (
        "import sys, lvt_d2\n"
        "from detectron2.config import LazyConfig, instantiate\n"
        "loaders = LazyConfig.load(sys.argv[1]).dataloader\n"
        "loaders.train.num_workers = 0; loaders.train.total_batch_size = 2\n"
        "print(*[tuple(x['image'].shape) for x in next(iter(instantiate(loaders.train)))])\n"
        "print(*[x['image_id'] for (x,) in instantiate(loaders.test)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(CONFIGS / "ade20k_semantic.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "(3, 512, 512) (3, 512, 512)",
        "ADE_val_00000001 ADE_val_00000002",
    ]
