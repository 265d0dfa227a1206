"""Data sets in the forms that timm reads, and what is wrong with them."""

import io
import json
import logging
import tarfile

import numpy as np
import pytest
import torch
from lvt_imagenet.data import class_names, count_classes, open_train, open_validation
from lvt_imagenet.loaders import eval_loader, train_loader
from lvt_imagenet.settings import read_settings
from PIL import Image

from lvt_d2.errors import ConfigError, DatasetError, DatasetFileNotFoundError

CPU = torch.device("cpu")


def settings_of(data, *words):
    small = ("--img-size", 32, "--batch-size", 4, "--workers", 0)
    settings = read_settings([str(word) for word in (data, *small, *words)], "Summary.")
    settings.mean, settings.std = [0.5] * settings.in_chans, [0.25] * settings.in_chans
    return settings


def test_folder(images):
    settings = settings_of(images)
    dataset = open_train(settings)
    assert class_names(dataset) == ["bird", "cat", "dog"] and len(dataset) == 24
    assert count_classes(settings, class_names(dataset)) == 3
    assert len(open_validation(settings, class_names(dataset))) == 9


@pytest.mark.parametrize("name", ["val", "valid", "eval"])
def test_names_of_the_validation_part(write, tmp_path, name):
    write(tmp_path / name, {"a": 1, "b": 1})
    assert len(open_validation(settings_of(tmp_path), ["a", "b"])) == 2


def test_tar_files(images, tmp_path):
    for part in ("train", "val"):
        with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
            tar.add(images / part, arcname=".")
    settings = settings_of(tmp_path)
    dataset = open_train(settings)
    assert class_names(dataset) == ["bird", "cat", "dog"]
    batch = next(iter(train_loader(dataset, settings, 3, CPU)))
    assert batch.images.shape == (4, 3, 32, 32)


def test_hugging_face_data_set(images):
    pytest.importorskip("datasets")
    settings = read_settings(["--dataset", f"hfds/{images}", "--img-size", "32"], "Summary.")
    settings.mean, settings.std, settings.batch_size, settings.workers = [0.5], [0.5], 4, 0
    dataset = open_train(settings)
    assert class_names(dataset) == ["bird", "cat", "dog"] and len(dataset) == 24
    validation = open_validation(settings, class_names(dataset))
    assert sum(len(b.targets) for b in eval_loader(validation, settings, 3, CPU)) == 9


def write_shards(folder, images):
    """Two shards of the training part, and one of the validation's."""
    paths = sorted((images / "train").glob("*/*.png"))
    shards = {"train-00": paths[::2], "train-01": paths[1::2]}
    shards["val-00"] = sorted((images / "val").glob("*/*.png"))
    for name, members in shards.items():
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for number, path in enumerate(members):
                label = str(["bird", "cat", "dog"].index(path.parent.name)).encode()
                for suffix, content in (("png", path.read_bytes()), ("cls", label)):
                    info = tarfile.TarInfo(f"{name}_{number:03d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return folder


def test_webdataset_is_read_alike_from_any_batch_on(images, tmp_path):
    pytest.importorskip("webdataset")
    write_shards(tmp_path, images)
    train, val = "train-{00..01}.tar|24", "val-{00..00}.tar|9"
    settings = settings_of(
        tmp_path,
        "--dataset",
        "wds/",
        "--train-split",
        train,
        "--val-split",
        val,
        "--num-classes",
        3,
    )
    dataset = open_train(settings)
    assert count_classes(settings, class_names(dataset)) == 3
    loader = train_loader(dataset, settings, 3, CPU)
    assert loader.batches == 6
    loader.start(seed=1, epoch=2)
    whole = [batch.images for batch in loader]
    assert len(whole) == 6
    loader.start(seed=1, epoch=2, batch=4)
    rest = [batch.images for batch in loader]
    assert len(rest) == 2 and all(map(torch.equal, rest, whole[4:]))
    validation = eval_loader(open_validation(settings, []), settings, 3, CPU)
    assert sum(len(batch.targets) for batch in validation) == 9


def test_torchvision_data_set(images):
    settings = settings_of(images / "train", "--dataset", "torch/image_folder")
    loader = train_loader(open_train(settings), settings, 3, CPU)
    assert next(iter(loader)).images.shape == (4, 3, 32, 32)


def test_grey_images(images):
    settings = settings_of(images, "--in-chans", 1)
    batch = next(iter(train_loader(open_train(settings), settings, 3, CPU)))
    assert batch.images.shape == (4, 1, 32, 32)
    with pytest.raises(ConfigError, match="in_chans is 4"):
        open_train(settings_of(images, "--in-chans", 4))


def test_batches_are_normalised(images):
    settings = settings_of(images, "--no-augment", "--channels-last")
    batch = next(iter(eval_loader(open_train(settings), settings, 3, CPU)))
    first = np.asarray(Image.open(sorted((images / "train" / "bird").glob("*.png"))[0]))
    assert batch.images[0].mean() == pytest.approx((first.mean() / 255 - 0.5) / 0.25, abs=0.1)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_erasing_belongs_to_the_image(images):
    words = ("--no-augment", "--reprob", 0.5)
    settings = settings_of(images, *words)
    settings.augment = True  # keeps erasing; the rest is switched off one by one
    settings.scale, settings.ratio, settings.hflip = [1, 1], [1, 1], 0
    settings.auto_augment, settings.color_jitter = None, None
    large = {}
    for size in (4, 8):
        settings.batch_size = size
        loader = train_loader(open_train(settings), settings, 3, CPU)
        loader.start(0, 0)
        large[size] = torch.cat([batch.images for batch in loader])
    assert torch.equal(large[4], large[8])
    settings.reprob = 0
    loader = train_loader(open_train(settings), settings, 3, CPU)
    loader.start(0, 0)
    plain = torch.cat([batch.images for batch in loader])
    changed = (plain != large[8]).flatten(1).any(1)
    assert 4 < changed.sum() < 20


def test_workers_change_nothing(images):
    found = []
    for workers in (0, 2):
        settings = settings_of(images, "--workers", workers)
        loader = train_loader(open_train(settings), settings, 3, CPU)
        for epoch in (0, 1):
            loader.start(0, epoch)
            found.append(torch.cat([batch.images for batch in loader]))
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])
    assert not torch.equal(found[0], found[1])


def test_validation_with_fewer_classes_keeps_the_numbers(write, tmp_path):
    write(tmp_path / "train", {"a": 2, "b": 2, "c": 2})
    write(tmp_path / "val", {"c": 2})
    settings = settings_of(tmp_path)
    validation = open_validation(settings, class_names(open_train(settings)))
    assert [validation.reader[i][1] for i in range(2)] == [2, 2]


def test_class_map_orders_the_classes(images, tmp_path):
    order = tmp_path / "classes.txt"
    order.write_text("dog\nbird\ncat\n")
    assert class_names(open_train(settings_of(images, "--class-map", order))) == [
        "dog",
        "bird",
        "cat",
    ]


def refuse(call, error, *told):
    with pytest.raises(error) as refusal:
        call()
    assert all(word in str(refusal.value) for word in told), refusal.value


def test_missing_folder(tmp_path):
    settings = settings_of(tmp_path / "none")
    refuse(lambda: open_train(settings), DatasetFileNotFoundError, "none, does not exist")


def test_no_folder():
    settings = read_settings([], "Summary.")
    refuse(lambda: open_train(settings), ConfigError, "No data set was given")


def test_folder_without_parts_names_what_it_has(write, tmp_path):
    write(tmp_path / "training_images", {"a": 1, "b": 1})
    settings = settings_of(tmp_path)
    told = ("no part 'train'", "training_images", "--train-split")
    refuse(lambda: open_train(settings), DatasetFileNotFoundError, *told)


def test_empty_folder(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    refuse(lambda: open_train(settings_of(tmp_path)), DatasetError, "Found 0 images")


def test_one_class(write, tmp_path):
    write(tmp_path / "train", {"cat": 3})
    refuse(lambda: open_train(settings_of(tmp_path)), DatasetError, "one class, 'cat'")


def test_unknown_class_in_validation(write, tmp_path):
    write(tmp_path / "train", {"a": 1, "b": 1})
    write(tmp_path / "val", {"a": 1, "z": 1})
    settings = settings_of(tmp_path)
    refuse(lambda: open_validation(settings, ["a", "b"]), DatasetError, "1 of the 2", "z")


def test_class_maps_that_can_not_be(images, tmp_path):
    missing, short = tmp_path / "none.txt", tmp_path / "one.txt"
    short.write_text("cat\n")
    for path, told in ((missing, "can't be read"), (short, "names 1 classes")):
        refuse(lambda p=path: open_train(settings_of(images, "--class-map", p)), ConfigError, told)


def test_numbers_of_classes_that_can_not_be(images):
    names = ["a", "b", "c"]
    fewer, unknown = settings_of(images, "--num-classes", 2), settings_of(images)
    refuse(lambda: count_classes(fewer, names), ConfigError, "num_classes is 2", "has 3 classes")
    refuse(lambda: count_classes(unknown, []), ConfigError, "give --num-classes")
    assert count_classes(settings_of(images, "--num-classes", 9), names) == 9


def test_too_few_images_for_a_batch(images):
    settings = settings_of(images, "--batch-size", 32)
    refuse(lambda: train_loader(open_train(settings), settings, 3, CPU), DatasetError, "24 images")


def test_target_that_is_no_class(images):
    settings = settings_of(images)
    loader = eval_loader(open_train(settings), settings, 2, CPU)
    refuse(lambda: list(loader), DatasetError, "dog", "is of class 2", "2 classes")


def test_unreadable_images_are_skipped_counted_and_named(write, tmp_path, caplog):
    write(tmp_path / "train", {"a": 4, "b": 4})
    broken = tmp_path / "train" / "a" / "01.png"
    broken.write_bytes(broken.read_bytes()[:300])
    (tmp_path / "train" / "b" / "02.png").write_bytes(b"no image")
    settings = settings_of(tmp_path, "--workers", 1)
    loader = train_loader(open_train(settings), settings, 2, CPU)
    loader.start(0, 0)
    with caplog.at_level(logging.WARNING):
        assert sum(len(batch.images) for batch in loader) == 8
    assert loader.unreadable == 2


def test_set_that_is_broken_as_a_whole(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(12):
            (tmp_path / "train" / name / f"{i}.png").write_bytes(b"no image")
    settings = settings_of(tmp_path)
    loader = train_loader(open_train(settings), settings, 2, CPU)
    refuse(lambda: list(loader), DatasetError, "20 images in a row")


def test_formats_that_can_not_be_opened(tmp_path):
    shards = settings_of(tmp_path, "--dataset", "wds/", "--train-split", "none")
    refuse(lambda: open_train(shards), DatasetError, "can't be opened")
    (tmp_path / "info.json").write_text(json.dumps({}))
    unknown = settings_of(tmp_path, "--dataset", "torch/nothing")
    refuse(lambda: open_train(unknown), DatasetError, "can't be opened")
