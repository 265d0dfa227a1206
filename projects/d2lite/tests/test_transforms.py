"""Images, labels, boxes and polygons change together, and as the augmentations say."""

import numpy as np
import pytest
from detectron2.data import transforms as T
from fvcore.transforms import transform as fvcore_transforms
from hypothesis import given, settings, strategies as st
from PIL import Image

sides = st.integers(20, 60)


def scene(h: int, w: int, x0: int, y0: int, x1: int, y1: int):
    """An image with one bright rectangle, its label map, and its box."""
    image = np.zeros((h, w, 3), dtype=np.uint8)
    image[y0:y1, x0:x1] = 255
    labels = np.zeros((h, w), dtype=np.uint8)
    labels[y0:y1, x0:x1] = 7
    return image, labels, np.array([[x0, y0, x1, y1]], dtype=np.float64)


def box_around(mask: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(mask)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


AUGMENTATIONS = {
    "flip": T.RandomFlip(prob=1.0),
    "vertical flip": T.RandomFlip(prob=1.0, horizontal=False, vertical=True),
    "resize": T.Resize((90, 45)),
    "shortest edge": T.ResizeShortestEdge([25, 80], 120),
    "scale": T.ResizeScale(0.5, 2.0, 64, 64),
    "random size": T.RandomResize([(30, 50), (70, 40)]),
    "fixed crop": T.FixedSizeCrop((48, 48), pad_value=0, seg_pad_value=0),
    "crop": T.RandomCrop("relative_range", (0.9, 0.9)),
    "extent": T.RandomExtent((0.9, 1.3), (0.1, 0.1)),
    "right angles": T.RandomRotation([90, 180, 270], sample_style="choice"),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
@settings(max_examples=20, deadline=None)
@given(h=sides, w=sides, seed=st.integers(0, 1000), data=st.data())
def test_boxes_masks_and_images_agree(name, h, w, seed, data):
    x0 = data.draw(st.integers(0, w - 10))
    y0 = data.draw(st.integers(0, h - 10))
    x1, y1 = data.draw(st.integers(x0 + 8, w)), data.draw(st.integers(y0 + 8, h))
    image, labels, boxes = scene(h, w, x0, y0, x1, y1)
    np.random.seed(seed)
    aug_input = T.AugInput(image, boxes=boxes, sem_seg=labels)
    tfm = AUGMENTATIONS[name](aug_input)

    corners = tfm.apply_coords(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=float))
    around = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    np.testing.assert_allclose(around, aug_input.boxes[0], atol=1e-3)
    out_h, out_w = aug_input.image.shape[:2]
    assert aug_input.sem_seg.shape == (out_h, out_w)
    # As in Detectron2, where ExtentTransform interpolates labels.
    assert set(np.unique(aug_input.sem_seg)) <= ({0, 7} if name != "extent" else set(range(8)))
    box = np.clip(aug_input.boxes[0], 0, [out_w, out_h, out_w, out_h])
    if min(box[2] - box[0], box[3] - box[1]) < 3:
        return
    # Within a pixel: resampling rounds edges to pixels.
    np.testing.assert_allclose(box_around(aug_input.sem_seg > 3), box, atol=1.01)
    bright = aug_input.image[..., 0] > 127
    np.testing.assert_allclose(box_around(bright), box, atol=1.01)


@settings(max_examples=30, deadline=None)
@given(h=sides, w=sides, new_h=sides, new_w=sides, flip=st.booleans())
def test_polygons_follow_boxes(h, w, new_h, new_w, flip):
    tfms = [T.ResizeTransform(h, w, new_h, new_w)] + [T.HFlipTransform(new_w)] * flip
    tfms = T.TransformList(tfms)
    box = np.array([[2.0, 3.0, 15.5, 17.25]])
    polygon = np.array([[2.0, 3.0], [15.5, 3.0], [15.5, 17.25], [2.0, 17.25]])
    out = tfms.apply_polygons([polygon])[0]
    np.testing.assert_allclose([*out.min(0), *out.max(0)], tfms.apply_box(box)[0])


def test_fvcore_transforms_are_reexported():
    for name in fvcore_transforms.__all__:
        assert getattr(T, name) is getattr(fvcore_transforms, name)
        assert name in T.__all__
    assert T.TransformGen is T.Augmentation
    assert T.StandardAugInput is T.AugInput
    assert T.apply_transform_gens is T.apply_augmentations


# ---- transforms


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_resize_keeps_layout_and_type(shape, dtype):
    image = (np.random.rand(*shape) * 2).astype(dtype)
    out = T.ResizeTransform(20, 30, 13, 40).apply_image(image)
    assert out.shape == (13, 40, *shape[2:]) and out.dtype == dtype
    labels = T.ResizeTransform(20, 30, 13, 40).apply_segmentation(image)
    assert set(np.unique(labels)) <= set(np.unique(image))


def test_resize_of_bytes_is_pil():
    image = np.random.randint(0, 256, (20, 30, 3), dtype=np.uint8)
    for interp in (Image.NEAREST, Image.BILINEAR, Image.BICUBIC):
        expected = np.asarray(Image.fromarray(image).resize((17, 11), interp))
        out = T.ResizeTransform(20, 30, 11, 17, interp).apply_image(image)
        np.testing.assert_array_equal(out, expected)
        flipped = T.ResizeTransform(20, 30, 11, 17, interp).apply_image(image[:, :, ::-1])
        np.testing.assert_array_equal(flipped, expected[:, :, ::-1])


def test_resize_of_floats_is_bilinear_without_antialiasing():
    x = np.arange(8, dtype=np.float32)
    image = np.broadcast_to(x, (4, 8))[:, ::-1]
    out = T.ResizeTransform(4, 8, 4, 4).apply_image(image)
    np.testing.assert_allclose(out, np.broadcast_to([6.5, 4.5, 2.5, 0.5], (4, 4)))


def test_resize_checks_size_and_inverts():
    tfm = T.ResizeTransform(20, 30, 10, 60)
    with pytest.raises(AssertionError, match=r"\(21, 30\)"):
        tfm.apply_image(np.zeros((21, 30), dtype=np.uint8))
    coords = np.array([[3.0, 4.0]])
    there = tfm.apply_coords(coords.copy())
    np.testing.assert_allclose(there, [[6, 2]])
    np.testing.assert_allclose(tfm.inverse().apply_coords(there), coords)
    expected = f"ResizeTransform(h=10, w=60, new_h=20, new_w=30, interp={tfm.interp!r})"
    assert repr(tfm.inverse()) == expected


def test_extent_cuts_scales_and_fills():
    image = np.arange(48, dtype=np.uint8).reshape(6, 8)
    cut = T.ExtentTransform((2, 1, 6, 5), (4, 4))
    np.testing.assert_array_equal(cut.apply_image(image), image[1:5, 2:6])
    np.testing.assert_array_equal(cut.apply_image(image[..., None]), image[1:5, 2:6, None])
    np.testing.assert_allclose(cut.apply_coords(np.array([[2.0, 1.0], [6, 5]])), [[0, 0], [4, 4]])
    beyond = T.ExtentTransform((-4, 0, 8, 6), (6, 12), fill=9)
    assert (beyond.apply_image(image)[:, :4] == 0).all()  # `fill` has no effect, as in Detectron2
    color = np.zeros((6, 8, 3), dtype=np.uint8)
    assert (beyond.apply_image(color + 5)[:, :3] == 0).all()
    labels = np.array([[0, 10]], dtype=np.uint8)
    assert T.ExtentTransform((0, 0, 2, 1), (1, 4)).apply_segmentation(labels)[0, 1] == 2  # bilinear


def rotated_slowly(image: np.ndarray, tfm: T.RotationTransform) -> np.ndarray:
    """Bilinear sampling, pixel by pixel, outside black."""
    h, w = image.shape
    matrix = np.vstack([tfm.rm_image, [0, 0, 1]])
    inverse = np.linalg.inv(matrix)
    out = np.zeros((tfm.bound_h, tfm.bound_w))
    for y in range(tfm.bound_h):
        for x in range(tfm.bound_w):
            sx, sy, _ = inverse @ (x, y, 1)
            x0, y0 = int(np.floor(sx)), int(np.floor(sy))
            for yy, wy in ((y0, 1 - (sy - y0)), (y0 + 1, sy - y0)):
                for xx, wx in ((x0, 1 - (sx - x0)), (x0 + 1, sx - x0)):
                    if 0 <= yy < h and 0 <= xx < w:
                        out[y, x] += wy * wx * image[yy, xx]
    return out


@pytest.mark.parametrize("angle", [17, 90, 200, -45])
@pytest.mark.parametrize("expand", [True, False])
def test_rotation_equals_a_slow_one(angle, expand):
    image = np.random.rand(11, 15)
    tfm = T.RotationTransform(11, 15, angle, expand=expand)
    np.testing.assert_allclose(tfm.apply_image(image), rotated_slowly(image, tfm), atol=1e-9)
    rounded = np.rint(rotated_slowly((image * 255).astype(np.uint8), tfm))
    off = tfm.apply_image((image * 255).astype(np.uint8)).astype(float) - rounded
    assert np.abs(off).max() <= 1


def test_rotation_by_right_angles():
    image = np.random.randint(0, 256, (6, 9, 3), dtype=np.uint8)
    tfm = T.RotationTransform(6, 9, 90)
    np.testing.assert_array_equal(tfm.apply_image(image), np.rot90(image))
    # Counter-clockwise: the upper right corner becomes the upper left one.
    np.testing.assert_allclose(tfm.apply_coords([[9, 0], [0, 0]]), [[0, 0], [0, 9]], atol=1e-9)
    assert (tfm.bound_h, tfm.bound_w) == (9, 6)
    whole = T.RotationTransform(6, 9, 360)
    assert whole.apply_image(image) is image
    assert T.RotationTransform(6, 9, 30).apply_coords(np.zeros((0, 2))).shape == (0, 2)


@given(st.floats(-180, 180), sides, sides, st.booleans())
@settings(max_examples=30, deadline=None)
def test_rotation_moves_pixels_as_coordinates(angle, h, w, expand):
    image = np.zeros((h, w), dtype=np.uint8)
    cy, cx = h // 2, w // 3
    image[cy - 2 : cy + 2, cx - 2 : cx + 2] = 255
    tfm = T.RotationTransform(h, w, angle, expand=expand)
    out = tfm.apply_image(image).astype(float)
    x, y = tfm.apply_coords([[cx, cy]])[0]
    if not (4 < x < tfm.bound_w - 4 and 4 < y < tfm.bound_h - 4):
        return
    ys, xs = np.mgrid[: tfm.bound_h, : tfm.bound_w] + 0.5
    assert (out * xs).sum() / out.sum() == pytest.approx(x, abs=0.1)
    assert (out * ys).sum() / out.sum() == pytest.approx(y, abs=0.1)


@given(st.floats(1, 359), sides, sides)
@settings(max_examples=30, deadline=None)
def test_rotation_inverts(angle, h, w):
    tfm = T.RotationTransform(h, w, angle)
    coords = np.array([[1.0, 2.0], [w - 1, h - 2]])
    back = tfm.inverse().apply_coords(tfm.apply_coords(coords))
    # The two expansions round their sizes to pixels.
    np.testing.assert_allclose(back, coords, atol=1.5)
    assert tfm.inverse().apply_image(tfm.apply_image(np.zeros((h, w)))).shape == (h, w)
    with pytest.raises(NotImplementedError):
        T.RotationTransform(h, w, angle, expand=False).inverse()


def test_color_transforms():
    image = np.full((4, 5, 3), 10, dtype=np.uint8)
    assert (T.ColorTransform(lambda x: x * 2).apply_image(image) == 20).all()
    pil = T.PILColorTransform(lambda x: x.point(lambda v: v + 1))
    assert (pil.apply_image(image) == 11).all()
    coords = np.array([[1.0, 2.0]])
    assert pil.apply_coords(coords) is coords and pil.apply_segmentation(image) is image
    assert isinstance(pil.inverse(), T.NoOpTransform)
    for cls in (T.ColorTransform, T.PILColorTransform):
        with pytest.raises(ValueError, match="callable"):
            cls(3)


# ---- augmentations


def test_apply_augmentations_to_arrays_and_inputs():
    image = np.random.randint(0, 256, (20, 30, 3), dtype=np.uint8)
    out, tfms = T.apply_augmentations([T.Resize((10, 15)), T.HFlipTransform(15)], image)
    assert out.shape == (10, 15, 3) and isinstance(tfms, T.TransformList)
    np.testing.assert_array_equal(tfms.apply_image(image), out)
    aug_input = T.AugInput(image, sem_seg=image[..., 0])
    same, _ = T.apply_augmentations([T.Resize((10, 15))], aug_input)
    assert same is aug_input and aug_input.sem_seg.shape == (10, 15)


def test_arguments_are_attributes_of_the_input():
    class Crop(T.Augmentation):
        def get_transform(self, image, sem_seg):
            assert image.shape[:2] == sem_seg.shape
            return T.CropTransform(0, 0, 5, 6)

    aug_input = T.AugInput(np.zeros((9, 9, 3), np.uint8), sem_seg=np.zeros((9, 9), np.uint8))
    Crop()(aug_input)
    assert aug_input.sem_seg.shape == (6, 5)

    class Flow(T.Augmentation):
        def get_transform(self, image, flow):
            return T.NoOpTransform()

    with pytest.raises(AttributeError, match="needs input attribute 'flow'"):
        Flow()(aug_input)
    aug_input.flow = None
    Flow()(aug_input)

    class Any(T.Augmentation):
        def get_transform(self, image, *args):
            return T.NoOpTransform()

    with pytest.raises(TypeError, match="variable-length"):
        Any()(aug_input)

    class Renamed(T.Augmentation):
        def get_transform(self, whatever):
            assert whatever.ndim == 3
            return None

    with pytest.raises(AssertionError, match="must return an instance of Transform"):
        Renamed()(aug_input)


def test_lists_nest_and_print():
    augs = T.AugmentationList([T.AugmentationList([T.RandomFlip(0.0)]), T.Resize(8)])
    assert str(augs) == (
        "AugmentationList[AugmentationList[RandomFlip(prob=0.0)], Resize(shape=(8, 8))]"
    )
    tfms = augs(T.AugInput(np.zeros((4, 4, 3), np.uint8)))
    assert [type(x).__name__ for x in tfms.transforms] == ["NoOpTransform", "ResizeTransform"]
    assert str(T.RandomCrop("relative", (100, 100))) == (
        "RandomCrop(crop_type='relative', crop_size=(100, 100))"
    )
    with pytest.raises(AssertionError):
        T.AugmentationList([lambda x: x])


def test_images_are_arrays():
    with pytest.raises(AssertionError, match="Needs an numpy array"):
        T.AugInput([[1]])
    with pytest.raises(AssertionError):
        T.AugInput(np.zeros((1, 2, 3, 4)))


def test_random_apply():
    image = np.random.randint(0, 256, (5, 6, 3), dtype=np.uint8)
    flip = T.RandomFlip(1.0)
    for prob, changed in ((1.0, True), (0.0, False)):
        for aug in (flip, T.HFlipTransform(6)):
            random = T.RandomApply(aug, prob)
            out, _ = T.apply_augmentations([random], image)
            assert np.array_equal(out, image[:, ::-1]) == changed
            assert isinstance(random.get_transform(image), T.HFlipTransform) == changed
    with pytest.raises(AssertionError):
        T.RandomApply(flip, 1.5)


def test_random_apply_passes_on_all_inputs():
    crop = T.RandomCrop_CategoryAreaConstraint("absolute", (4, 4), 0.9)
    aug_input = T.AugInput(np.zeros((9, 9, 3), np.uint8), sem_seg=np.zeros((9, 9), np.uint8))
    T.RandomApply(crop, 1.0)(aug_input)
    assert aug_input.sem_seg.shape == (4, 4)


def test_flip_directions():
    for arguments in ({"vertical": True}, {"horizontal": False}):
        with pytest.raises(ValueError):
            T.RandomFlip(**arguments)
    rate = np.mean(
        [
            isinstance(T.RandomFlip(0.3).get_transform(np.zeros((2, 2))), T.HFlipTransform)
            for _ in range(2000)
        ]
    )
    assert rate == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    "size, edge, max_size, expected",
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((200, 640), 800, 1333, (417, 1333)),
        ((100, 100), 33, 1333, (33, 33)),
        ((640, 200), 800, 1333, (1333, 417)),
    ],
)
def test_shortest_edge_sizes(size, edge, max_size, expected):
    assert T.ResizeShortestEdge.get_output_shape(*size, edge, max_size) == expected
    tfm = T.ResizeShortestEdge(edge, max_size).get_transform(np.zeros(size))
    assert (tfm.new_h, tfm.new_w) == expected


def test_shortest_edge_samples():
    image = np.zeros((10, 10))
    ranged = {T.ResizeShortestEdge((5, 8)).get_transform(image).new_h for _ in range(200)}
    assert ranged == {5, 6, 7, 8}
    chosen = {
        T.ResizeShortestEdge([5, 8, 20], sample_style="choice").get_transform(image).new_h
        for _ in range(200)
    }
    assert chosen == {5, 8, 20}
    assert isinstance(T.ResizeShortestEdge(0).get_transform(image), T.NoOpTransform)
    with pytest.raises(AssertionError, match="two values"):
        T.ResizeShortestEdge((1, 2, 3))
    with pytest.raises(AssertionError):
        T.ResizeShortestEdge((1, 2), sample_style="both")


def test_shortest_edge_takes_config_lists():
    omegaconf = pytest.importorskip("omegaconf")
    lengths = omegaconf.OmegaConf.create([12, 24])
    tfm = T.ResizeShortestEdge(lengths, sample_style="choice").get_transform(np.zeros((6, 6)))
    assert tfm.apply_image(np.zeros((6, 6), np.uint8)).shape[0] in (12, 24)


def test_scale_fits_into_its_target():
    tfm = T.ResizeScale(2.0, 2.0, 100, 50).get_transform(np.zeros((30, 60)))
    assert (tfm.new_h, tfm.new_w) == (50, 100)


def test_fixed_crop_crops_and_pads():
    image = np.ones((10, 30, 3), dtype=np.uint8)
    aug = T.FixedSizeCrop((20, 20), pad_value=3.0)
    aug_input = T.AugInput(image, sem_seg=image[..., 0])
    tfms = aug(aug_input)
    assert aug_input.image.shape == (20, 20, 3)
    assert (aug_input.image[10:] == 3).all() and (aug_input.image[:10] == 1).all()
    assert (aug_input.sem_seg[10:] == 255).all()
    assert len(tfms.transforms) == 2
    only_crop = T.FixedSizeCrop((20, 20), pad=False).get_transform(image)
    assert only_crop.apply_image(image).shape == (10, 20, 3)


@pytest.mark.parametrize(
    "crop_type, crop_size, heights, widths",
    [
        ("relative", (0.5, 0.25), {20}, {15}),
        ("absolute", (10, 100), {10}, {60}),
        ("relative_range", (0.5, 0.5), set(range(20, 41)), set(range(30, 61))),
        ("absolute_range", (38, 50), {38, 39, 40}, set(range(38, 51))),
    ],
)
def test_crop_sizes(crop_type, crop_size, heights, widths):
    aug = T.RandomCrop(crop_type, crop_size)
    seen = [aug.get_crop_size((40, 60)) for _ in range(200)]
    assert {h for h, _ in seen} <= heights and {w for _, w in seen} <= widths
    for _ in range(20):
        out, _ = T.apply_augmentations([aug], np.zeros((40, 60, 3), np.uint8))
        assert out.shape[0] in heights and out.shape[1] in widths
    with pytest.raises(AssertionError):
        T.RandomCrop("none", crop_size)


def test_category_constraint():
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[:, 20:] = 1
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    np.random.seed(0)
    largest = []
    for _ in range(50):
        aug_input = T.AugInput(image, sem_seg=labels)
        T.RandomCrop_CategoryAreaConstraint("absolute", (10, 10), 0.75)(aug_input)
        largest.append(np.bincount(aug_input.sem_seg.ravel()).max() / 100)
    # Ten tries can all fail, but rarely do.
    assert np.mean(np.array(largest) < 0.75) > 0.8
    # With label 1 ignored there is never a second one, but a crop is returned still.
    aug = T.RandomCrop_CategoryAreaConstraint("absolute", (10, 10), 0.75, ignored_category=1)
    assert aug.get_transform(image, labels).apply_image(image).shape == (10, 10, 3)


def test_iou_crop():
    np.random.seed(0)
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    boxes = np.array([[10.0, 10, 40, 50], [30, 20, 70, 55]])
    seen = set()
    for _ in range(60):
        tfm = T.MinIoURandomCrop().get_transform(image, boxes)
        seen.add(type(tfm).__name__)
        if isinstance(tfm, T.CropTransform):
            out = tfm.apply_image(image)
            assert out.shape[:2] == (tfm.h, tfm.w)
            assert tfm.h >= 0.3 * 60 - 1 and tfm.w >= 0.3 * 80 - 1
            assert 0.4 < tfm.h / tfm.w < 2.2
    assert seen == {"NoOpTransform", "CropTransform"}
    assert isinstance(T.MinIoURandomCrop().get_transform(image, None), T.NoOpTransform)
    T.MinIoURandomCrop().get_transform(image, np.zeros((0, 4)))


def test_intensities():
    image = np.random.randint(0, 256, (6, 7, 3), dtype=np.uint8)

    def out(aug):
        return T.apply_augmentations([aug], image)[0]

    for cls in (T.RandomBrightness, T.RandomContrast, T.RandomSaturation):
        np.testing.assert_allclose(out(cls(1, 1)).astype(int), image, atol=1)
    np.testing.assert_array_equal(out(T.RandomBrightness(0.5, 0.5)), image // 2)
    assert np.ptp(out(T.RandomContrast(0, 0))) == 0
    grey = out(T.RandomSaturation(0, 0))
    assert (grey[..., 0] == grey[..., 1]).all()
    assert grey[0, 0, 0] == int(image[0, 0] @ [0.299, 0.587, 0.114])
    np.testing.assert_allclose(out(T.RandomLighting(0)).astype(int), image)
    with pytest.raises(AssertionError, match="RGB"):
        T.RandomSaturation(1, 1).get_transform(image[..., :1])
    with pytest.raises(AssertionError, match="RGB"):
        T.RandomLighting(1).get_transform(image[..., :1])


def test_random_numbers_come_from_numpy():
    image = np.random.randint(0, 256, (30, 40, 3), dtype=np.uint8)
    augs = [
        T.ResizeShortestEdge((20, 60)),
        T.RandomFlip(),
        T.RandomCrop("relative_range", (0.5, 0.5)),
    ]
    outs = []
    for _ in range(2):
        np.random.seed(3)
        outs.append(T.apply_augmentations(augs, image)[0])
    np.testing.assert_array_equal(*outs)


def test_rotation_choices():
    image = np.zeros((20, 30, 3), np.uint8)
    assert isinstance(T.RandomRotation(0).get_transform(image), T.NoOpTransform)
    tfm = T.RandomRotation([30, 60], center=(0.5, 0.25), expand=False).get_transform(image)
    assert 30 <= tfm.angle <= 60 and tfm.center == (15, 5)
    choice = T.RandomRotation([10, 20], center=[(0, 0), (1, 1)], sample_style="choice")
    seen = {(t.angle, t.center) for t in (choice.get_transform(image) for _ in range(100))}
    assert seen == {(a, c) for a in (10, 20) for c in ((0, 0), (30, 20))}
