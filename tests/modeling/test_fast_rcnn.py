"""The two selections of detections: for average precision, and for the panoptic merge."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances, pairwise_iou

from lvt_d2.modeling import PanopticFastRCNNOutputLayers, SymmetricBox2BoxTransform

NUM_CLASSES = 4
ARGUMENTS = dict(
    box2box_transform=SymmetricBox2BoxTransform((10.0, 10.0, 5.0, 5.0)),
    num_classes=NUM_CLASSES,
    test_score_thresh=0.05,
)


def make_inputs(count: int, seed: int = 0):
    """Logits, small deltas and proposals around a few centres, so that many boxes overlap."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randint(20, 100, (6, 2), generator=generator)[
        torch.randint(0, 6, (count,), generator=generator)
    ]
    sizes = torch.randint(15, 30, (count, 2), generator=generator)
    boxes = torch.cat([centres - sizes, centres + sizes], 1).float()
    logits = 3 * torch.randn(count, NUM_CLASSES + 1, generator=generator)
    deltas = 0.3 * torch.randn(count, NUM_CLASSES * 4, generator=generator)
    return (logits, deltas), [Instances((120, 130), proposal_boxes=Boxes(boxes))]


def slow_selection(predictor, predictions, proposals):
    """Scores above 0.6 in falling order; one is dropped if a kept one overlaps it by over 0.5."""
    boxes = predictor.predict_boxes(predictions, proposals)[0].view(-1, NUM_CLASSES, 4)
    scores = predictor.predict_probs(predictions, proposals)[0]
    candidates = [
        (scores[r, c].item(), r, c)
        for r in range(len(boxes))
        for c in range(NUM_CLASSES)
        if scores[r, c] > 0.6
    ]
    kept = []
    for score, r, c in sorted(candidates, reverse=True):
        box = Boxes(boxes[r, c][None].clone())
        box.clip(proposals[0].image_size)
        if all(pairwise_iou(box, other).item() <= 0.5 for _, _, other in kept):
            kept.append((score, c, box))
    return kept


def test_selects_twice():
    torch.manual_seed(0)
    predictor = PanopticFastRCNNOutputLayers(ShapeSpec(channels=8), **ARGUMENTS)
    plain = FastRCNNOutputLayers(ShapeSpec(channels=8), **ARGUMENTS)
    predictions, proposals = make_inputs(80)
    (both,), (rows,) = predictor.inference(predictions, proposals)
    (expected,), _ = plain.inference(predictions, proposals)
    detected, merged = both[both.for_detection], both[both.for_merge]
    assert len(both) == len(rows) == len(detected) + len(merged)
    torch.testing.assert_close(detected.scores, expected.scores)
    torch.testing.assert_close(detected.pred_boxes.tensor, expected.pred_boxes.tensor)
    slow = slow_selection(predictor, predictions, proposals)
    assert 3 < len(slow) < len(detected)
    torch.testing.assert_close(merged.scores, torch.tensor([s for s, _, _ in slow]))
    assert merged.pred_classes.tolist() == [c for _, c, _ in slow]
    torch.testing.assert_close(
        merged.pred_boxes.tensor, torch.cat([box.tensor for _, _, box in slow])
    )


def test_topk_and_nothing_at_all():
    predictor = PanopticFastRCNNOutputLayers(ShapeSpec(channels=8), merge_topk=2, **ARGUMENTS)
    (both,), _ = predictor.inference(*make_inputs(80))
    assert both.for_merge.sum() == 2
    for count in (0, 3):
        (logits, deltas), proposals = make_inputs(count)
        logits[:, -1] = 50  # all background
        (both,), (rows,) = predictor.inference((logits, deltas), proposals)
        assert len(both) == len(rows) == 0
        assert both.for_merge.dtype == torch.bool
