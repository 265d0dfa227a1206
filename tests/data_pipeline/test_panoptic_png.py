import numpy as np
import pytest
from PIL import Image

from lvt_d2.data.panoptic_png import (
    check_against_json,
    compare_ids,
    encode_ids,
    ids_to_rgb,
    read_panoptic_ids,
    rgb_to_ids,
    segment_codes,
)
from lvt_d2.errors import DatasetError


def test_ids_survive_the_file(tmp_path):
    ids = np.random.default_rng(0).integers(0, 2**24, (7, 9)).astype(np.int32)
    ids[0, :2] = 0, 2**24 - 1
    path = tmp_path / "a.png"
    Image.fromarray(ids_to_rgb(ids)).save(path)
    read = read_panoptic_ids(path)
    np.testing.assert_array_equal(read, ids)
    np.testing.assert_array_equal(rgb_to_ids(ids_to_rgb(ids)), ids)
    assert read.dtype == rgb_to_ids(ids_to_rgb(ids)).dtype == np.int32


def test_ids_of_coco(coco_sample):
    ids = read_panoptic_ids(coco_sample / "panoptic/000000142238.png")
    pixels = np.asarray(Image.open(coco_sample / "panoptic/000000142238.png")).astype(np.int64)
    np.testing.assert_array_equal(ids, pixels @ [1, 256, 65536])
    assert ids.shape == (427, 640)
    assert (ids == 3937500).sum() == 3528  # area of the first segment in its JSON


def test_missing_file(tmp_path):
    with pytest.raises(DatasetError, match=r"nothing\.png does not exist.*datasets/README\.md"):
        read_panoptic_ids(tmp_path / "nothing.png")
    with pytest.raises(FileNotFoundError):
        read_panoptic_ids(tmp_path / "nothing.png")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_wrong_mode(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(DatasetError, match=f"a.png is a {mode} image"):
        read_panoptic_ids(path)


@pytest.mark.parametrize("keep", [0, 5, 200, 2000])
def test_truncated(tmp_path, keep):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DatasetError, match=r"a\.png can't be decoded.*truncated"):
        read_panoptic_ids(path)


def test_comparison_with_json():
    ids = np.array([[0, 5, 5], [8, 8, 9]], np.int32)
    assert compare_ids(ids, [5, 8, 9]) == ([], [])
    assert compare_ids(ids, [5, 7, 9]) == ([7], [8])
    check_against_json(ids, [{"id": 5}, {"id": 8}, {"id": 9}], "a.png")
    with pytest.raises(DatasetError, match=r"a\.png.*without a pixel: 7; .*not list: 8"):
        check_against_json(ids, [{"id": 5}, {"id": 7}, {"id": 9}], "a.png")
    with pytest.raises(DatasetError, match="an id twice"):
        check_against_json(ids, [{"id": i} for i in (5, 8, 9, 9)], "a.png")
    with pytest.raises(DatasetError, match="id 0, which means void"):
        check_against_json(ids, [{"id": i} for i in (0, 5, 8, 9)], "a.png")


@pytest.mark.parametrize("count", [0, 1, 3, 254, 255, 300])
def test_codes_are_unique_and_leave_the_padding_value(count):
    rng = np.random.default_rng(count)
    segment_ids = rng.choice(2**24 - 1, count, replace=False) + 1
    pool = np.concatenate([[0], segment_ids])
    ids = pool[rng.integers(0, len(pool), (30, 40))].astype(np.int32)
    codes = segment_codes(count)
    assert len(set(codes.tolist())) == count
    assert not {0, 255} & set(codes.tolist())
    encoded = encode_ids(ids, segment_ids.tolist())
    assert encoded.dtype == (np.uint8 if count < 255 else np.float32)
    for segment_id, code in zip(segment_ids, codes, strict=True):
        np.testing.assert_array_equal(encoded == code, ids == segment_id)
    np.testing.assert_array_equal(encoded == 0, ids == 0)


def test_unlisted_ids_become_void():
    np.testing.assert_array_equal(encode_ids(np.array([[3, 9, 4]]), [9, 3]), [[2, 1, 0]])
