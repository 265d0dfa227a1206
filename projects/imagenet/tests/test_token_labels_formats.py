"""Both formats of label maps: what is written is read, and what is wrong is named."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from lvt_imagenet.token_labels import (
    CompactFile,
    CompactLabels,
    LabelMap,
    OfficialLabels,
    open_labels,
    save_compact,
    save_official,
)
from lvt_imagenet.token_labels.info import check_classes, read_info, write_info
from lvt_imagenet.token_labels.names import class_and_stem, image_names, stem_of

from lvt_d2.errors import ConfigError, DatasetError, DatasetFileNotFoundError

K = 30
IMAGES = [(name, f"{number}") for name in ("cat", "dog") for number in range(3)]


def _map(seed=0, shape=(5, 4, 3), num_classes=K):
    rng = np.random.default_rng(seed)
    k, *cells = shape
    classes = np.stack([rng.permutation(num_classes)[:k] for _ in range(np.prod(cells))], 1)
    scores = rng.normal(2, 3, shape).astype(np.float16)
    return LabelMap(scores, classes.reshape(shape).astype(np.int32))


MAPS = {image: _map(seed) for seed, image in enumerate(IMAGES)}


@pytest.fixture
def folder(tmp_path):
    """The same maps in both formats."""
    (tmp_path / "compact").mkdir()
    named = [("/".join(image), label_map) for image, label_map in MAPS.items()]
    save_compact(tmp_path / "compact" / "a.tokenlabels", named[:4], K)
    save_compact(tmp_path / "compact" / "b.tokenlabels", named[4:], K)
    for image, label_map in MAPS.items():
        save_official(tmp_path / "official", *image, label_map, K)
    return tmp_path


def _assert_same(one, other):
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.indices, other.indices)
    assert one.scores.dtype == np.float16


@pytest.mark.parametrize("kind", ["official", "compact"])
def test_what_is_written_is_read(folder, kind):
    labels = open_labels(folder / kind, K)
    for image, label_map in reversed(MAPS.items()):
        _assert_same(labels.read(*image), label_map)
    again = pickle.loads(pickle.dumps(labels))
    _assert_same(again.read("dog", "2"), MAPS["dog", "2"])
    assert str(folder / kind) in repr(labels)


@pytest.mark.parametrize("kind", ["official", "compact"])
def test_images_of_unknown_classes_are_found_by_their_stem(tmp_path, kind):
    label_map = _map()
    save_official(tmp_path / "official", "n01", "n01_7", label_map, K)
    (tmp_path / "compact").mkdir()
    save_compact(tmp_path / "compact" / "a.tokenlabels", [("n01/n01_7", label_map)], K)
    labels = open_labels(tmp_path / kind, K)
    _assert_same(labels.read("tench, a fish", "n01_7"), label_map)
    with pytest.raises(DatasetFileNotFoundError):
        labels.read("tench, a fish", "n01_8")


@pytest.mark.parametrize("kind", ["official", "compact"])
def test_a_missing_image_is_not_taken_from_another_class(folder, kind):
    shutil.rmtree(folder / "official" / "dog")
    (folder / "official" / "dog").mkdir()
    (folder / "compact" / "b.tokenlabels").unlink()
    labels = open_labels(folder / kind, K)
    with pytest.raises(DatasetFileNotFoundError, match=r"dog/2.*make_token_labels"):
        labels.read("dog", "2")


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_official_files_of_any_precision(tmp_path, kind):
    content = torch.stack([torch.arange(8.0).view(2, 2, 2) - 3, torch.arange(8.0).view(2, 2, 2)])
    (tmp_path / "c").mkdir()
    for name in "ab":  # the second is read by what was learnt from the first
        torch.save(content.to(kind), tmp_path / "c" / f"{name}.pt")
        content = content + 1
    labels = OfficialLabels(tmp_path, K)
    for name, more in (("a", 0), ("b", 1)):
        label_map = labels.read("c", name)
        assert label_map.indices.ravel().tolist() == [i + more for i in range(8)]
        assert label_map.scores.ravel().tolist() == [i - 3 + more for i in range(8)]


def test_maps_in_any_memory_order_are_written_in_one(tmp_path):
    label_map = _map()
    turned = LabelMap(*(np.asfortranarray(part) for part in label_map))
    paths = [
        save_official(tmp_path / f"{i}", "c", "x", m, K) for i, m in enumerate((label_map, turned))
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_official_files_that_are_views_or_old(tmp_path):
    base = torch.arange(48.0).view(2, 2, 3, 4) % K
    (tmp_path / "c").mkdir()
    torch.save(base.transpose(2, 3), tmp_path / "c" / "turned.pt")
    torch.save(base[:, :, 1:], tmp_path / "c" / "part.pt")
    torch.save(base, tmp_path / "c" / "old.pt", _use_new_zipfile_serialization=False)
    labels = OfficialLabels(tmp_path, K)
    for _ in range(2):
        assert labels.read("c", "turned").scores.tolist() == base[0].transpose(1, 2).tolist()
        assert labels.read("c", "part").scores.tolist() == base[0, :, 1:].tolist()
        assert labels.read("c", "old").scores.tolist() == base[0].tolist()


def test_many_classes_are_exact_in_official_files(tmp_path):
    label_map = LabelMap(np.ones((5, 1, 1), np.float16), np.arange(21836, 21841).reshape(5, 1, 1))
    path = save_official(tmp_path, "c", "x", label_map, 21841)
    assert torch.load(path, weights_only=True).dtype == torch.float32
    assert OfficialLabels(tmp_path, 21841).read("c", "x").indices.ravel().tolist() == [
        *range(21836, 21841)
    ]


def _official(tmp_path, content):
    (tmp_path / "cat").mkdir(parents=True)
    path = tmp_path / "cat" / "1.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    return OfficialLabels(tmp_path, K)


class _Code:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (torch.zeros(2, 5, 18), r"cat/1\.pt hold.*\(2, 5, 18\).*expected"),
        (torch.zeros(3, 5, 4, 4), r"\(3, 5, 4, 4\)"),
        (torch.zeros(2, 5, 0, 4), r"\(2, 5, 0, 4\)"),
        (torch.zeros(2, 5, 4, 4, dtype=torch.int64), "int64"),
        ({"scores": 1}, "dict"),
        (b"no tensor", r"cat/1\.pt can't be read"),
        (b"", "can't be read"),
        (_Code(), "can't be read"),
        (torch.full((2, 5, 4, 4), 30.0), r"class 30, but there are 30 classes"),
        (torch.full((2, 5, 4, 4), -1.0), "class -1"),
        (torch.full((2, 5, 4, 4), float("nan")), "class -"),
        (torch.stack([torch.full((5, 4, 4), torch.inf), torch.zeros(5, 4, 4)]), "infinite"),
    ],
)
def test_broken_official_files(tmp_path, content, says, capsys):
    labels = _official(tmp_path, content)
    for _ in range(2):
        with pytest.raises(DatasetError, match=says):
            labels.read("cat", "1")
    assert "executed" not in capsys.readouterr().out


def test_a_damaged_official_file_after_a_whole_one(folder):
    labels = OfficialLabels(folder / "official", K)
    labels.read("cat", "0")
    path = folder / "official" / "cat" / "1.pt"
    raw = bytearray(path.read_bytes())
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DatasetError, match=r"cat/1\.pt can't be read"):
        labels.read("cat", "1")


def test_a_flipped_bit_in_a_compact_file(folder):
    path = folder / "compact" / "b.tokenlabels"
    raw = bytearray(path.read_bytes())
    raw[-10] ^= 1
    path.write_bytes(raw)
    labels = CompactLabels(folder / "compact", K)
    labels.read("dog", "1")
    with pytest.raises(DatasetError, match=r"b\.tokenlabels.*dog/2.*checksum"):
        labels.read("dog", "2")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda raw: raw[:-1], "bytes"),
        (lambda raw: raw + b"x", "bytes"),
        (lambda raw: b"x" + raw[1:], "does not begin"),
        (lambda raw: b"", "does not begin"),
        (lambda raw: raw[:8] + b"\x09" + raw[9:], "version is 9"),
        (lambda raw: raw[:16] + b"[" + raw[17:], "header"),
        (lambda raw: raw.replace(b'"count"', b'"Count"'), "header"),
        (lambda raw: raw.replace(b"dog/1", b"dog/7"), "list of images"),
    ],
)
def test_damaged_compact_files(folder, damage, says):
    path = folder / "compact" / "b.tokenlabels"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DatasetError, match=rf"b\.tokenlabels.*{says}.*make_token_labels"):
        CompactLabels(folder / "compact", K)


def test_the_compact_layout_is_as_documented(folder):
    path = folder / "compact" / "a.tokenlabels"
    raw = path.read_bytes()
    length = int.from_bytes(raw[12:16], "little")
    assert raw[:12] == b"LVTTOKEN\x01\0\0\0" and (16 + length) % 64 == 0
    file = CompactFile(path)
    assert file.ids == ["cat/0", "cat/1", "cat/2", "dog/0"]
    assert (len(file), file.shape, file.num_classes) == (4, (5, 4, 3), K)
    record = 5 * 4 * 3 * 4 + 4
    last = raw[-record:]
    expected = MAPS["dog", "0"]
    np.testing.assert_array_equal(np.frombuffer(last[:120], "<u2"), expected.indices.ravel())
    np.testing.assert_array_equal(np.frombuffer(last[120:240], "<f2"), expected.scores.ravel())
    assert len(raw) == 16 + length + 64 + 4 * record


def test_an_empty_compact_file(tmp_path):
    save_compact(tmp_path / "a.tokenlabels", [], K)
    assert len(CompactLabels(tmp_path, K)) == 0


def test_compact_files_that_disagree(folder):
    shutil.copy(folder / "compact" / "b.tokenlabels", folder / "compact" / "c.tokenlabels")
    with pytest.raises(DatasetError, match=r"dog/[12] is in .*b\.tok.* and in .*c\.tok"):
        CompactLabels(folder / "compact", K)
    save_compact(folder / "compact" / "c.tokenlabels", [("x/y", _map(shape=(5, 2, 2)))], K)
    with pytest.raises(DatasetError, match=r"\(5, 2, 2\).*\(5, 4, 3\).*one shape"):
        CompactLabels(folder / "compact", K)
    with pytest.raises(DatasetError, match=r"30 classes, but the model has 10"):
        CompactLabels(folder / "compact", 10)


def test_what_can_not_be_written(tmp_path):
    with pytest.raises(ValueError, match="one shape"):
        save_compact(tmp_path / "x", [("a/b", _map()), ("a/c", _map(shape=(5, 2, 2)))], K)
    with pytest.raises(ValueError, match="65536"):
        save_compact(tmp_path / "x", [], 70_000)
    with pytest.raises(DatasetError, match="a/b name class"):
        save_compact(tmp_path / "x", [("a/b", _map())], 3)
    assert not list(tmp_path.iterdir())


def test_places_without_labels(tmp_path):
    with pytest.raises(DatasetFileNotFoundError, match=r"nowhere does not exist"):
        open_labels(tmp_path / "nowhere", K)
    with pytest.raises(DatasetFileNotFoundError, match=r"holds no token labels"):
        open_labels(tmp_path, K)
    with pytest.raises(DatasetFileNotFoundError, match=r"holds no files"):
        CompactLabels(tmp_path, K)
    with pytest.raises(DatasetFileNotFoundError, match=r"x\.tokenlabels does not exist"):
        CompactLabels(tmp_path / "x.tokenlabels", K)


def test_one_compact_file_is_enough(folder):
    labels = open_labels(folder / "compact" / "a.tokenlabels", K)
    _assert_same(labels.read("cat", "2"), MAPS["cat", "2"])


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("n01440764/n01440764_10026.JPEG", "n01440764_10026"),
        ("n01440764_10026_n01440764.JPEG", "n01440764_10026"),
        ("a/b.c.png", "b.c"),
        ("n01/x_1", "x_1"),
        ("C:\\images\\x.jp2", "x"),
        ("v1.2", "v1.2"),
    ],
)
def test_stems(name, stem):
    assert stem_of(name) == stem
    assert class_and_stem(name, 4, {4: "four"}) == ("four", stem)


def test_classes_without_names():
    assert class_and_stem("fish/1.png", 4, {}) == ("fish", "1")
    assert class_and_stem("1.png", 4, {}) == ("4", "1")


def test_names_never_leave_the_folder(tmp_path):
    path = save_official(tmp_path / "labels", "..", "../../x", _map(), K)
    assert path.resolve().is_relative_to(tmp_path / "labels")
    assert OfficialLabels(tmp_path / "labels", K).read("..", "../../x")


def test_readers_without_names():
    class Stream:
        pass

    with pytest.raises(ConfigError, match="Stream does not tell the names"):
        image_names(Stream())


def test_classes_of_labels_and_data_set(tmp_path):
    write_info(tmp_path, {"classes": ["cat", "dog"], "format": "compact"})
    assert read_info(tmp_path)["classes"] == ["cat", "dog"]
    check_classes(tmp_path, {0: "cat", 1: "dog"})
    check_classes(tmp_path, {0: "tench, a fish", 1: "shark"})  # another way to name them
    check_classes(tmp_path, {})
    with pytest.raises(DatasetError, match=r"class 0 is 'cat' for the token labels and 'dog'"):
        check_classes(tmp_path, {0: "dog", 1: "cat"})
    with pytest.raises(DatasetError, match=r"only the data set know.*'eel'"):
        check_classes(tmp_path, {0: "cat", 1: "dog", 2: "eel"})
    with pytest.raises(DatasetError, match=r"other settings \(format: compact, now official\)"):
        write_info(tmp_path, {"classes": ["cat", "dog"], "format": "official"})
    (tmp_path / "token_labels.json").write_text("{")
    with pytest.raises(DatasetError, match="no JSON"):
        read_info(tmp_path)
