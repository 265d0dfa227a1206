"""Data sets and loaders with token labels, against timm's plain ones."""

import logging
import random
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lvt_imagenet.token_labels import (
    LabelMap,
    TokenLabels,
    TokenLabelTarget,
    create_token_label_loader,
    open_labels,
    save_compact,
    save_official,
    with_token_labels,
)
from lvt_imagenet.token_labels.info import write_info
from timm.data import IterableImageDataset, create_dataset, create_loader
from torch.utils.data import TensorDataset

from lvt_d2.errors import ConfigError, DatasetError, DatasetFileNotFoundError

K = 6
CPU = torch.device("cpu")
AUGMENTATION = {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.5, "num_workers": 0}


def _map(number, shape=(5, 4, 4)):
    rng = np.random.default_rng(number)
    classes = np.stack([rng.permutation(K)[:5] for _ in range(shape[1] * shape[2])], 1)
    return LabelMap(
        rng.normal(2, 3, shape).astype(np.float16), classes.reshape(shape).astype(np.int32)
    )


@pytest.fixture
def folder(tmp_path, write):
    """Images, and their label maps in both formats."""
    write(tmp_path / "images", {"bird": 5, "cat": 5}, size=24)
    named = []
    for number, path in enumerate(sorted(tmp_path.glob("images/*/*.png"))):
        label_map = _map(number)
        named.append((f"{path.parent.name}/{path.stem}", label_map))
        save_official(tmp_path / "official", path.parent.name, path.stem, label_map, K)
    (tmp_path / "compact").mkdir()
    save_compact(tmp_path / "compact" / "a.tokenlabels", named, K)
    return tmp_path


def _loader(folder, kind="compact", target=None, dataset=None, **options):
    dataset = dataset or create_dataset("", folder / "images")
    labels = open_labels(folder / kind, K)
    return create_token_label_loader(
        dataset, labels, 32, 4, target, **{"device": CPU, **AUGMENTATION, **options}
    )


def _seeded(loader, seed=0):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return list(loader)


@pytest.mark.parametrize("kind", ["official", "compact"])
@pytest.mark.parametrize("prefetcher", [True, False])
def test_images_are_those_of_timms_loader(folder, kind, prefetcher):
    options = {**AUGMENTATION, "use_prefetcher": prefetcher}
    dataset = create_dataset("", folder / "images")
    plain = create_loader(dataset, 32, 4, is_training=True, device=CPU, **options)
    ours = _loader(folder, kind, use_prefetcher=prefetcher)
    assert len(ours) == len(plain) == 2
    for (images, classes), (same, labels) in zip(_seeded(plain), _seeded(ours), strict=True):
        assert torch.equal(images, same)
        assert torch.equal(classes, labels.ground_truth)


def test_targets_are_made_of_the_labels(folder):
    target = TokenLabelTarget(K, 1)
    with_targets, with_labels = _loader(folder, target=target), _loader(folder)
    pairs = zip(_seeded(with_targets), _seeded(with_labels), strict=True)
    for (_, targets), (_, labels) in pairs:
        assert isinstance(labels, TokenLabels) and len(labels) == 4
        assert torch.equal(targets, target(labels))
    assert len(with_targets) == 2 and len(with_targets.dataset) == 10
    assert with_targets.sampler is with_targets.loader.sampler


def test_both_formats_give_the_same(folder):
    batches = zip(
        _seeded(_loader(folder, "official")), _seeded(_loader(folder, "compact")), strict=True
    )
    for (_, official), (_, compact) in batches:
        assert torch.equal(official.scores, compact.scores)
        assert torch.equal(official.indices, compact.indices)
        assert torch.equal(official.crop, compact.crop)


def test_each_image_has_its_own_map(folder):
    loader = _loader(folder, num_workers=2)
    maps = {tuple(_map(n).scores.ravel()[:4].tolist()): n for n in range(10)}
    found = [
        (maps[tuple(scores.ravel()[:4].tolist())], truth)
        for _, labels in loader
        for scores, truth in zip(labels.scores, labels.ground_truth.tolist(), strict=True)
    ]
    assert len(set(found)) == 8 and all(truth == number // 5 for number, truth in found)


def test_an_unreadable_image_is_replaced_named_and_counted(folder, caplog):
    (folder / "images" / "bird" / "01.png").write_bytes(b"no image")
    good = folder / "images" / "cat" / "00.png"
    good.write_bytes(good.read_bytes()[:200])
    dataset = with_token_labels(
        create_dataset("", folder / "images"), open_labels(folder / "official", K)
    )
    dataset.transform = lambda image: image
    with caplog.at_level(logging.WARNING):
        _, sample = dataset[1]
        assert sample.name.endswith("bird/02.png")
        np.testing.assert_array_equal(sample.label_map.scores, _map(2).scores)
        assert dataset[5][1].name.endswith("cat/01.png")
    assert dataset.unreadable.value == 2
    assert "bird/01.png can't be read" in caplog.text and "so far: 2" in caplog.text


def test_a_set_of_unreadable_images(folder):
    for path in folder.glob("images/*/*"):
        path.write_bytes(b"no image")
    dataset = with_token_labels(
        create_dataset("", folder / "images"), open_labels(folder / "compact", K)
    )
    with pytest.raises(DatasetError, match=r"10 images in a row can't be read"):
        dataset[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_label_file(folder, workers):
    for path in folder.glob("official/cat/*"):
        path.unlink()
    with pytest.raises(DatasetFileNotFoundError) as caught:
        list(_loader(folder, "official", num_workers=workers))
    assert "cat" in str(caught.value) and "make_token_labels.py" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_label_file_of_another_shape(folder):
    for number in range(5):
        save_official(folder / "official", "cat", f"{number:02d}", _map(0, (5, 2, 2)), K)
    with pytest.raises(DatasetError, match=r"label map of .*png is \(5, . ?, .\) and that of"):
        list(_loader(folder, "official"))


def test_classes_that_disagree(folder, write):
    write_info(folder / "compact", {"classes": ["cat", "bird"]})
    with pytest.raises(DatasetError, match="class 0 is 'cat' for the token labels and 'bird'"):
        _loader(folder)
    write(folder / "images", {f"class{n}": 1 for n in range(K)}, size=24)
    dataset = with_token_labels(
        create_dataset("", folder / "images"), open_labels(folder / "official", K)
    )
    dataset.transform = lambda image: image
    with pytest.raises(DatasetError, match=r"class5/00\.png is of class 7, .* 6 classes"):
        dataset[-1 % len(dataset)]


def test_a_target_of_other_classes(folder):
    with pytest.raises(ConfigError, match="7 classes and the labels 6"):
        _loader(folder, target=TokenLabelTarget(K + 1))


@pytest.mark.parametrize(
    "option", [{"collate_fn": list}, {"num_aug_splits": 2}, {"input_size_choices": [32, 64]}]
)
def test_options_that_labels_can_not_follow(folder, option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        _loader(folder, **option)


def test_unknown_options_are_refused(folder):
    with pytest.raises(TypeError, match="no_such_option"):
        _loader(folder, no_such_option=1)


def test_a_data_set_without_a_transform(folder):
    dataset = with_token_labels(
        create_dataset("", folder / "images"), open_labels(folder / "compact", K)
    )
    with pytest.raises(ConfigError, match="has no transform"):
        dataset[0]


def test_data_sets_without_names(folder):
    labels = open_labels(folder / "compact", K)
    with pytest.raises(ConfigError, match="TensorDataset does not tell"):
        with_token_labels(TensorDataset(torch.zeros(2)), labels)

    class ReaderHfids:
        pass

    with pytest.raises(ConfigError, match="ReaderHfids does not pass on.*hfds/"):
        with_token_labels(IterableImageDataset(None, reader=ReaderHfids()), labels)


def test_images_without_a_name(folder):
    dataset = create_dataset("", folder / "images")
    dataset.transform = lambda image: image
    dataset = with_token_labels(dataset, open_labels(folder / "compact", K))
    dataset.reader = SimpleNamespace(filename=lambda *_, **__: None)
    with pytest.raises(ConfigError, match="Image 3 of the data set has no file name"):
        dataset._name(3)


def test_tar_files(folder):
    with tarfile.open(folder / "images.tar", "w") as tar:
        tar.add(folder / "images", ".")
    dataset = create_dataset("", folder / "images.tar")
    plain, tar = _seeded(_loader(folder)), _seeded(_loader(folder, dataset=dataset))
    for (images, labels), (same, others) in zip(plain, tar, strict=True):
        assert torch.equal(images, same) and torch.equal(labels.scores, others.scores)


def test_hugging_face_data_sets(folder, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    dataset = create_dataset(
        f"hfds/{folder / 'images'}", folder / "cache", split="train", search_split=False
    )
    plain, ours = _seeded(_loader(folder)), _seeded(_loader(folder, dataset=dataset))
    for (images, labels), (same, others) in zip(plain, ours, strict=True):
        assert torch.equal(images, same) and torch.equal(labels.scores, others.scores)


def _shards(folder):
    import io

    (folder / "shards").mkdir()
    for part in range(2):
        with tarfile.open(folder / "shards" / f"train-{part}.tar", "w") as tar:
            for number, path in enumerate(sorted(folder.glob("images/*/*.png"))):
                if number % 2 == part:
                    key = f"{path.parent.name}/{path.stem}"
                    for suffix, content in (
                        ("png", path.read_bytes()),
                        ("cls", str(int(path.parent.name == "cat")).encode()),
                    ):
                        info = tarfile.TarInfo(f"{key}.{suffix}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
    return create_dataset(
        "wds/", folder / "shards", split="train-{0..1}.tar|10", is_training=True, batch_size=4
    )


def test_webdataset(folder):
    pytest.importorskip("webdataset")
    loader = _loader(folder, dataset=_shards(folder), num_workers=1)
    loader.loader.dataset.set_epoch(1)
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    maps = {tuple(_map(n).scores.ravel()[:4].tolist()): n for n in range(10)}
    for images, labels in batches:
        assert images.shape == (4, 3, 32, 32)
        for scores, truth in zip(labels.scores, labels.ground_truth.tolist(), strict=True):
            assert maps[tuple(scores.ravel()[:4].tolist())] // 5 == truth


def test_a_batch_moves_as_a_tensor_does(folder):
    _, labels = next(iter(_loader(folder)))
    moved = labels.to("meta")
    assert moved.scores.device.type == "meta" and moved.flips.shape == (4, 2)
    assert (labels.scores.dtype, labels.indices.dtype) == (torch.float16, torch.int32)
