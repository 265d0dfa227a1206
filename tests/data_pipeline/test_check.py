import numpy as np
import pytest
from PIL import Image

from lvt_d2.data.check import PanopticSource, check_image, check_source
from lvt_d2.data.panoptic_png import ids_to_rgb

from .conftest import tiny_ids


def check(tiny, full=False, workers=1, **options):
    return check_source(PanopticSource("tiny", *tiny.paths(), **options), full, workers)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_good_set(tiny, full, workers):
    report = check(tiny, full, workers)
    assert report.problems == []
    assert report.images == 2


def _truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def _swap_ids(tiny):
    ids = tiny_ids()
    ids[ids == 11] = 12345
    Image.fromarray(ids_to_rgb(ids)).save(tiny.pngs / "2.png")


QUICK = {
    "image missing": (lambda t: (t.images / "4.jpg").unlink(), r"4\.jpg: missing"),
    "png missing": (lambda t: (t.pngs / "4.png").unlink(), r"4\.png: missing"),
    "image truncated": (lambda t: _truncate(t.images / "4.jpg"), r"4\.jpg: can't be decoded"),
    "png truncated": (lambda t: _truncate(t.pngs / "4.png"), r"4\.png.* can't be decoded"),
    "no image": (lambda t: (t.images / "4.jpg").write_text("x"), r"4\.jpg: can't be decoded"),
    "image size": (
        lambda t: Image.new("RGB", (9, 40)).save(t.images / "4.jpg"),
        r"4\.jpg: 40x9 .* says 40x60",
    ),
    "png size": (
        lambda t: Image.new("RGB", (60, 9)).save(t.pngs / "4.png"),
        r"4\.png: 9x60 .* says 40x60",
    ),
    "png mode": (lambda t: Image.new("L", (60, 40)).save(t.pngs / "4.png"), r"4\.png.* L image"),
    "category": (
        lambda t: t.edit(lambda c: c["annotations"][0]["segments_info"][0].update(category_id=77)),
        r"panoptic\.json: image 4 has the unknown category 77",
    ),
    "annotation of no image": (
        lambda t: t.edit(lambda c: c["annotations"][0].update(image_id=99)),
        r"annotation for image 99",
    ),
    "no annotation": (
        lambda t: t.edit(lambda c: c["annotations"].pop(0)),
        r"image 4 has no annotation",
    ),
    "annotation twice": (
        lambda t: t.edit(lambda c: c["annotations"].append(c["annotations"][0])),
        r"image 4 has two annotations",
    ),
    "key missing": (
        lambda t: t.edit(lambda c: c["annotations"][0]["segments_info"][0].pop("area")),
        r"panoptic\.json: .*'area'",
    ),
    "json truncated": (lambda t: _truncate(t.json), r"panoptic\.json is not valid JSON"),
    "json missing": (lambda t: t.json.unlink(), r"panoptic\.json does not exist"),
    "folder missing": (lambda t: t.pngs.rename(t.root / "x"), r"panoptic: this folder is missing"),
}
FULL = {
    **QUICK,
    "ids": (_swap_ids, r"2\.png: .*a pixel: 11; .*not list: 12345"),
}


@pytest.mark.parametrize("name", QUICK)
def test_quick_check_finds(tiny, name):
    change, message = QUICK[name]
    change(tiny)
    problems = check(tiny).problems
    assert problems
    pytest.raises(ValueError, _raise, problems).match(message)


@pytest.mark.parametrize("name", FULL)
def test_full_check_finds(tiny, name):
    change, message = FULL[name]
    change(tiny)
    pytest.raises(ValueError, _raise, check(tiny, full=True).problems).match(message)


def _raise(problems):
    if problems:
        raise ValueError("\n".join(problems))


def test_every_problem_is_listed(tiny):
    (tiny.images / "2.jpg").unlink()
    _truncate(tiny.pngs / "2.png")
    (tiny.pngs / "4.png").unlink()
    assert len(check(tiny).problems) == 3


def test_known_categories(tiny):
    assert check(tiny, category_ids=frozenset({3, 5, 9, 12})).problems == []
    problems = check(tiny, category_ids=frozenset({3, 5, 9})).problems
    assert [p.split(": ")[1] for p in problems] == [
        "image 4 has the unknown category 12",
        "image 2 has the unknown category 12",
    ]


def test_sets_without_labels(tiny):
    source = PanopticSource("test", str(tiny.json), str(tiny.images), None)
    assert check_source(source).problems == []
    (tiny.images / "2.jpg").unlink()
    assert len(check_source(source).problems) == 1


def test_optional_sets_may_be_absent(tmp_path):
    paths = [str(tmp_path / name) for name in ("a.json", "images", "panoptic")]
    assert check_source(PanopticSource("a", *paths, optional=True)).absent
    assert len(check_source(PanopticSource("a", *paths)).problems) == 3


def test_turned_photographs_have_the_size_that_the_loader_sees(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert check_image(str(path), (30, 20), full=True) == ([], (30, 20))
    assert check_image(str(path), (20, 30), full=True)[0]


def test_bytes_after_the_end_are_no_problem(tmp_path):
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert check_image(str(path), (20, 30), full=False)[0] == []


def test_real_coco(coco_sample):
    source = PanopticSource(
        "sample", *(str(coco_sample / name) for name in ("panoptic.json", "images", "panoptic"))
    )
    assert check_source(source, full=True).problems == []
