"""Merging instances and semantic labels; results and inputs of the whole models."""

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork, detector_postprocess
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from projects.d2lite.tests.panoptic_reference import build_panoptic_fpn

SHARED_PARTS = ("backbone", "proposal_generator", "roi_heads", "pixel_mean", "pixel_std")


def square(y, x, side, size=(20, 20)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[y : y + side, x : x + side] = True
    return mask


def instances(masks, scores, classes=None):
    return Instances(
        (20, 20),
        scores=torch.tensor(scores),
        pred_classes=torch.arange(len(scores)) if classes is None else torch.tensor(classes),
        pred_masks=torch.stack(masks) if masks else torch.zeros(0, 20, 20, dtype=torch.bool),
    )


def slow_combine(results, semantic, overlap, stuff_area, score_limit):
    panoptic = np.zeros(semantic.shape, int)
    segments = []
    for i in sorted(range(len(results)), key=lambda i: -results.scores[i].item()):
        if results.scores[i] < score_limit:
            continue
        mask = results.pred_masks[i].numpy().astype(bool)
        if not mask.any() or (mask & (panoptic > 0)).sum() / mask.sum() > overlap:
            continue
        panoptic[mask & (panoptic == 0)] = len(segments) + 1
        segments.append((True, results.pred_classes[i].item()))
    for label in np.unique(semantic.numpy()):
        mask = (semantic.numpy() == label) & (panoptic == 0)
        if label != 0 and mask.sum() >= stuff_area:
            panoptic[mask] = len(segments) + 1
            segments.append((False, int(label)))
    return panoptic, segments


@pytest.mark.parametrize("seed", range(5))
def test_merge_equals_a_slow_loop(seed):
    rng = np.random.RandomState(seed)
    masks = [square(*rng.randint(0, 12, 2), rng.randint(0, 9)) for _ in range(12)]
    results = instances(masks, rng.permutation(12).astype(float) / 12, rng.randint(0, 80, 12))
    semantic = torch.from_numpy(rng.randint(0, 4, (4, 4)).repeat(5, 0).repeat(5, 1))
    arguments = (results, semantic, 0.3, 20, 0.25)
    panoptic, segments = combine_semantic_and_instance_outputs(*arguments)
    expected, expected_segments = slow_combine(*arguments)
    assert panoptic.dtype == torch.int32
    np.testing.assert_array_equal(panoptic.numpy(), expected)
    assert [(s["isthing"], s["category_id"]) for s in segments] == expected_segments
    assert [s["id"] for s in segments] == list(range(1, len(segments) + 1))


def test_merged_segments_hold_what_is_documented():
    results = instances([square(0, 0, 10), square(0, 8, 10), square(0, 1, 10)], [0.5, 0.9, 0.8])
    semantic = torch.zeros(20, 20, dtype=torch.int64)
    semantic[15:] = 7
    panoptic, segments = combine_semantic_and_instance_outputs(results, semantic, 0.5, 50, 0.5)
    assert [s.get("instance_id") for s in segments] == [1, 2, None]
    assert segments[0] == {
        "id": 1,
        "isthing": True,
        "score": pytest.approx(0.9),
        "category_id": 1,
        "instance_id": 1,
    }
    assert segments[2] == {"id": 3, "isthing": False, "category_id": 7, "area": 100}
    assert (panoptic[0, :8] == torch.tensor([0, 2, 2, 2, 2, 2, 2, 2])).all()


def test_merge_of_nothing():
    segments = combine_semantic_and_instance_outputs(
        instances([], []), torch.zeros(20, 20, dtype=torch.int64), 0.5, 10, 0.5
    )
    assert segments[0].dtype == torch.int32 and not segments[0].any() and segments[1] == []


def test_limits_of_the_merge():
    results = instances([square(0, 0, 10), square(0, 5, 10)], [0.9, 0.5])
    semantic = torch.ones(20, 20, dtype=torch.int64)

    def things(overlap, score):
        _, segments = combine_semantic_and_instance_outputs(results, semantic, overlap, 0, score)
        return sum(s["isthing"] for s in segments)

    assert things(0.5, 0.5) == 2  # a half is not more than a half; 0.5 is not below 0.5
    assert things(0.49, 0.5) == 1
    assert things(0.5, 0.51) == 1
    for area, count in ((400, 1), (401, 0)):
        _, segments = combine_semantic_and_instance_outputs(
            instances([], []), semantic, 0.5, area, 0
        )
        assert len(segments) == count


# --- the model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_panoptic_fpn()


def image(height=70, width=100):
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def training_input(num_instances=2):
    boxes = torch.tensor([[5.0, 6, 60, 50], [30, 20, 90, 66]])[:num_instances]
    truth = Instances(
        (70, 100), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([3, 4])[:num_instances]
    )
    truth.gt_masks = BitMasks(torch.ones(num_instances, 70, 100, dtype=torch.bool))
    return {
        "image": image(),
        "instances": truth,
        "sem_seg": torch.zeros(70, 100, dtype=torch.int64),
    }


def detector(model, **options):
    return GeneralizedRCNN(
        **{k: getattr(model, k) for k in SHARED_PARTS[:3]}, **statistics(model), **options
    )


def statistics(model):
    return {k: getattr(model, k).flatten().tolist() for k in SHARED_PARTS[3:]}


def test_results_of_inference(model):
    model.eval()
    with torch.no_grad():
        first, second = model(
            [{"image": image(), "height": 140, "width": 200}, {"image": image(64, 64)}]
        )
        raw_instances, raw_sem_seg = model.inference([{"image": image()}], do_postprocess=False)
    assert set(first) == {"sem_seg", "instances", "panoptic_seg"}
    assert first["sem_seg"].shape == (54, 140, 200)
    assert first["panoptic_seg"][0].shape == first["instances"].image_size == (140, 200)
    assert second["sem_seg"].shape == (54, 64, 64)
    assert raw_sem_seg.shape == (1, 54, 96, 128)
    assert raw_instances[0].image_size == (70, 100)


@pytest.mark.parametrize("num_instances", [0, 2])
def test_training(model, num_instances):
    model.train()
    model.zero_grad()
    with EventStorage():
        losses = model([training_input(num_instances), training_input()])
    assert list(losses) == [
        "loss_sem_seg",
        "loss_rpn_cls",
        "loss_rpn_loc",
        "loss_cls",
        "loss_box_reg",
        "loss_mask",
    ]
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_training_needs_labels(model):
    inputs = training_input()
    del inputs["sem_seg"]
    with pytest.raises(AssertionError, match="sem_seg"), EventStorage():
        model.train()([inputs])


def test_names_of_parameters(model):
    assert {k.split(".")[0] for k in model.state_dict()} == {
        "backbone",
        "proposal_generator",
        "roi_heads",
        "sem_seg_head",
    }


def test_unknown_arguments_are_refused(model):
    parts = {k: getattr(model, k) for k in SHARED_PARTS[:3]}
    with pytest.raises(TypeError, match="combine_on"):
        type(model)(sem_seg_head=model.sem_seg_head, combine_on=True, **parts, **statistics(model))


def test_detector_takes_proposals_and_detections(model):
    rcnn = detector(model).eval()
    with torch.no_grad():
        usual = rcnn([{"image": image()}])[0]["instances"]
        raw = rcnn.inference([{"image": image()}], do_postprocess=False)
        assert set(raw[0].get_fields()) == {"pred_boxes", "scores", "pred_classes", "pred_masks"}
        given = Instances(
            raw[0].image_size, pred_boxes=raw[0].pred_boxes, pred_classes=raw[0].pred_classes
        )
        again = rcnn.inference([{"image": image()}], [given], do_postprocess=False)
        torch.testing.assert_close(again[0].pred_masks, raw[0].pred_masks)

        images = rcnn.preprocess_image([{"image": image()}])
        proposals, _ = rcnn.proposal_generator(images, rcnn.backbone(images.tensor))
        rcnn.proposal_generator = None
        same = rcnn([{"image": image(), "proposals": proposals[0]}])[0]["instances"]
        torch.testing.assert_close(same.scores, usual.scores)
        with pytest.raises(AssertionError, match="proposals"):
            rcnn([{"image": image()}])
    with pytest.raises(AssertionError):
        rcnn.train().inference([{"image": image()}])


def test_pictures_in_training(model):
    with pytest.raises(AssertionError, match="input_format"):
        detector(model, vis_period=2)
    rcnn = detector(model, vis_period=2, input_format="BGR").train()
    with EventStorage(start_iter=1) as storage:
        rcnn([training_input()])
        assert not storage._vis_data
    with EventStorage(start_iter=2) as storage:
        rcnn([training_input(), training_input()])
        (name, picture, _), *others = storage._vis_data
    assert name == "Left: GT bounding boxes;  Right: Predicted proposals"
    assert not others
    assert picture.shape == (3, 70, 200)
    # Most pixels are those of the image, channels in order
    rgb = convert_image_to_rgb(image().permute(1, 2, 0), "BGR").transpose(2, 0, 1)
    assert np.median(np.abs(picture[:, :, :100].astype(int) - rgb.astype(int))) <= 2


def test_proposal_network(model):
    network = ProposalNetwork(
        backbone=model.backbone, proposal_generator=model.proposal_generator, **statistics(model)
    )
    with EventStorage():
        losses = network.train()([training_input()])
        assert list(losses) == ["loss_rpn_cls", "loss_rpn_loc"]
    with torch.no_grad():
        result = network.eval()([{"image": image(), "height": 140, "width": 200}])[0]["proposals"]
        small = network([{"image": image()}])[0]["proposals"]
    assert result.image_size == (140, 200)
    torch.testing.assert_close(
        result.proposal_boxes.tensor[:50], 2 * small.proposal_boxes.tensor[:50], atol=1e-3, rtol=0
    )


# --- resizing of detections


def test_detector_postprocess():
    boxes = torch.tensor([[1.0, 2, 5, 6], [3, 3, 3, 8], [8, 8, 30, 30]])
    results = Instances(
        (10, 20),
        pred_boxes=Boxes(boxes.clone()),
        scores=torch.tensor([0.9, 0.8, 0.7]),
        pred_masks=torch.ones(3, 1, 28, 28),
    )
    resized = detector_postprocess(results, 20, 60)
    assert resized.image_size == (20, 60)
    # The second box is empty, the third is cut off
    assert resized.pred_boxes.tensor.tolist() == [[3, 4, 15, 12], [24, 16, 60, 20]]
    torch.testing.assert_close(resized.scores, torch.tensor([0.9, 0.7]))
    masks = resized.pred_masks
    assert masks.shape == (2, 20, 60) and masks.dtype == torch.bool
    assert masks[0].sum() == 12 * 8 and masks[0, 4:12, 3:15].all()


def test_detector_postprocess_threshold_and_proposals():
    results = Instances(
        (10, 10),
        pred_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10]])),
        pred_masks=torch.full((1, 1, 4, 4), 0.4),
    )
    assert not detector_postprocess(results, 10, 10).pred_masks.any()
    assert detector_postprocess(results, 10, 10, mask_threshold=0.3).pred_masks.any()
    proposals = Instances((10, 10), proposal_boxes=Boxes(torch.tensor([[1.0, 1, 2, 2]])))
    boxes = detector_postprocess(proposals, 20, 30).proposal_boxes.tensor
    assert boxes.tolist() == [[3, 2, 6, 4]]
    with pytest.raises(AssertionError, match="must contain boxes"):
        detector_postprocess(Instances((10, 10)), 20, 20)


def test_detector_postprocess_of_nothing():
    results = Instances(
        (10, 10), pred_boxes=Boxes(torch.zeros(0, 4)), pred_masks=torch.zeros(0, 1, 28, 28)
    )
    resized = detector_postprocess(results, 30, 40)
    assert len(resized) == 0 and resized.pred_masks.shape == (0, 30, 40)
