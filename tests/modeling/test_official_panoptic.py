"""Panoptic FPN with LVT against numbers recorded from the official code, for the same weights.

The weights go through a file in the official format, which the checkpointer reads; the model is
that of ``configs/panoptic_lvt.py``. Official maps hold ``class + 1000 * instance`` for things,
80..132 for stuff and 133 where nothing is seen; official semantic channels are stuff 0..52, things
53.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import paste_masks_in_image
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from lvt_d2.checkpoint import LVTCheckpointer

CONFIG = Path(__file__).parents[2] / "configs/panoptic_lvt.py"
OWN_NUMBERS = Path(__file__).parents[1] / "data/panoptic_lvt_outputs.json"
LEVELS = ("p2", "p3", "p4", "p5", "p6")
IMAGE_SIZE = (250, 310)  # of the synthetic image inside its padding
ORIGINAL_SIZE = (200, 248)
VOID = 133


@pytest.fixture(scope="module")
def cfg():
    return LazyConfig.load(str(CONFIG))


@pytest.fixture(scope="module")
def recorded(goldens):
    """All arrays of the panoptic models' recordings."""
    arrays = {}
    for name in ("pan", "panextra"):
        with np.load(goldens / f"official/{name}.npz") as file:
            arrays |= {key: file[key] for key in file}
    return arrays


@pytest.fixture(scope="module")
def facts(goldens):
    folder = goldens / "official"
    return json.loads((folder / "pan.json").read_text()) | json.loads(
        (folder / "panextra.json").read_text()
    )


@pytest.fixture(scope="module")
def model(cfg, goldens, synth, tmp_path_factory):
    keys = json.loads((goldens / "official/keys_pan.json").read_text())
    arrays = synth.state_dict(keys, stored=np.load(goldens / "official/stored_pan.npz"))
    content = {
        "meta": {"epoch": 36, "CLASSES": ["person"], "config": "model = dict()"},
        "state_dict": {name: torch.as_tensor(array) for name, array in arrays.items()},
        "optimizer": {"state": {}, "param_groups": []},
    }
    return load_panoptic(cfg, tmp_path_factory.mktemp("official"), content)


def load_panoptic(cfg, folder: Path, content: dict) -> torch.nn.Module:
    """The config's model with the weights of a file in the official format."""
    path = folder / "panoptic_fpn_lvt_fpn_coco.pth"
    torch.save(content, path)
    model = instantiate(cfg.model).eval()
    LVTCheckpointer(model).load(str(path))
    return model


@pytest.fixture(scope="module")
def features(model, synth):
    with torch.no_grad():
        return model.backbone(network_input(synth))


def network_input(synth, batch=1):
    """What the network gets after normalisation and padding."""
    return torch.from_numpy(synth.normal(0, (batch, 3, 256, 320)))


def assert_near(actual: Tensor, expected: np.ndarray, tolerance: float) -> None:
    assert tuple(actual.shape) == expected.shape
    difference = np.abs(actual.detach().numpy() - expected).max() if expected.size else 0
    assert difference <= tolerance, f"differs by {difference:.3g}"


def stuff_first(channels: Tensor, dim: int) -> Tensor:
    """Official order of semantic channels."""
    return channels.roll(-1, dim)


def test_parameters(model):
    assert sum(p.numel() for p in model.parameters()) == 5_349_770


def test_fpn(features, recorded):
    for i, level in enumerate(LEVELS):
        assert_near(features[level], recorded[f"fpn{i + 2}_s0"], 2e-4)


def test_rpn_head(model, features, recorded):
    with torch.no_grad():
        logits, deltas = model.proposal_generator.rpn_head([features[level] for level in LEVELS])
    for i in range(5):
        assert_near(logits[i], recorded[f"rpn_cls{i + 2}_s0"], 1e-4)
        assert_near(deltas[i], recorded[f"rpn_reg{i + 2}_s0"], 1e-4)


def test_anchors(model, features, recorded, facts):
    generator = model.proposal_generator.anchor_generator
    anchors = [boxes.tensor for boxes in generator([features[level] for level in LEVELS])]
    assert [len(boxes) for boxes in anchors] == facts["anchors_per_level"]
    first = torch.stack([boxes[:12] for boxes in anchors])
    last = torch.stack([boxes[-3:] for boxes in anchors])
    assert_near(first, recorded["anchors_first12_per_level"], 1e-5)
    assert_near(last, recorded["anchors_last3_per_level"], 1e-5)


def test_proposals(model, features, synth, recorded, facts):
    images = ImageList(network_input(synth), [IMAGE_SIZE])
    with torch.no_grad():
        (proposals,), _ = model.proposal_generator(images, features)
    assert len(proposals) == facts["n_proposals_s0"]
    actual = boxes_and_scores(proposals.proposal_boxes, proposals.objectness_logits.sigmoid())
    assert_near(actual[:50], recorded["proposals_top50_s0"], 2e-3)
    assert_near(actual[-5:], recorded["proposals_last5_s0"], 2e-3)


def boxes_and_scores(boxes: Boxes, scores: Tensor) -> Tensor:
    return torch.cat([boxes.tensor, scores.unsqueeze(1)], dim=1)


def test_box_head(model, features, recorded):
    rois = torch.from_numpy(recorded["rois8"])[:, 1:]
    heads = model.roi_heads
    with torch.no_grad():
        pooled = heads.box_pooler([features[f] for f in heads.box_in_features], [Boxes(rois)])
        scores, deltas = heads.box_predictor(heads.box_head(pooled))
    assert_near(pooled[:, :4], recorded["roifeat8_ch0_3_s0"], 1e-4)
    assert_near(scores, recorded["bbox_cls_score_s0"], 5e-4)
    assert_near(deltas, recorded["bbox_pred_s0"], 5e-4)
    assert_near(scores.softmax(1), recorded["bbox_scores_s0"], 1e-5)
    decoded = Boxes(heads.box_predictor.box2box_transform.apply_deltas(deltas, rois).view(-1, 4))
    decoded.clip(IMAGE_SIZE)
    decoded = decoded.tensor.view(8, -1)[:, :40]
    assert_near(decoded, recorded["bbox_decoded_noscale_s0"], 2e-3)
    assert_near(decoded / 1.25, recorded["bbox_decoded_rescaled_s0"], 2e-3)


def test_mask_head(model, features, recorded):
    rois = torch.from_numpy(recorded["rois4"])[:, 1:]
    labels = torch.from_numpy(recorded["labels4"])
    heads = model.roi_heads
    with torch.no_grad():
        pooled = heads.mask_pooler([features[f] for f in heads.mask_in_features], [Boxes(rois)])
        logits = heads.mask_head.layers(pooled)[torch.arange(4), labels]
    assert_near(logits, recorded["mask_logits_sel_s0"], 5e-4)
    boxes = Boxes(rois / 1.25)
    masks = paste_masks_in_image(logits.sigmoid(), boxes, ORIGINAL_SIZE, threshold=0.5)
    area = masks.sum(dim=(1, 2)).numpy()
    assert np.abs(area - recorded["pasted_area_ge_half_s0"]).max() <= 3
    # With a negative threshold the soft masks come as bytes.
    soft = paste_masks_in_image(logits.sigmoid(), boxes, ORIGINAL_SIZE, threshold=-1)
    assert_near(soft[:, ::4, ::4].float() / 255, recorded["pasted_soft_sub4_s0"], 1.01 / 255)


def test_semantic_head(model, features, recorded):
    inputs = []
    hook = model.sem_seg_head.predictor.register_forward_pre_hook(
        lambda _, args: inputs.append(args[0])
    )
    with torch.no_grad():
        logits = model.sem_seg_head.layers(features)
    hook.remove()
    assert_near(inputs[0][:, :8], recorded["sem_feats_ch0_7_s0"], 2e-4)
    assert_near(stuff_first(logits, 1), recorded["sem_logits4_s0"], 2e-4)


@dataclass
class Prediction:
    """What is compared for an image, in its own size."""

    proposals: Instances
    detections: Instances  # those that the merge takes
    sem_seg: Tensor
    panoptic: np.ndarray  # official numbering


def predict(model, sample: dict, images: ImageList | None = None) -> Prediction:
    """Run the model; ``images`` stands in for its preprocessing of the sample."""
    height, width = sample["height"], sample["width"]
    proposals = []
    hook = model.proposal_generator.register_forward_hook(
        lambda _, args, output: proposals.extend(output[0])
    )
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        if images is not None:
            patch.setattr(model, "preprocess_image", lambda _: images)
        (selected,), _ = model.inference([sample], do_postprocess=False)
        (result,) = model([sample])
    hook.remove()
    merged = detector_postprocess(selected[selected.for_merge], height, width)
    return Prediction(
        proposals[0], merged, result["sem_seg"], official_map(*result["panoptic_seg"])
    )


def official_map(panoptic: Tensor, segments: list[dict]) -> np.ndarray:
    """Detectron2's panoptic map in the official numbering."""
    result = np.full(tuple(panoptic.shape), VOID)
    instances = 0
    for segment in segments:
        value = 79 + segment["category_id"]
        if segment["isthing"]:
            instances += 1
            value = segment["category_id"] + 1000 * instances
        result[(panoptic == segment["id"]).numpy()] = value
    return result


def assert_same_prediction(prediction: Prediction, recorded: dict, facts: dict, name: str) -> None:
    proposals = prediction.proposals
    assert len(proposals) == facts[name]["n_proposals"]
    actual = boxes_and_scores(proposals.proposal_boxes, proposals.objectness_logits.sigmoid())
    assert_near(actual[:50], recorded[f"proposals50_{name}"], 2e-3)

    detections = prediction.detections
    assert detections.pred_classes.tolist() == recorded[f"det_labels_{name}"].tolist()
    actual = boxes_and_scores(detections.pred_boxes, detections.scores)
    assert_near(actual, recorded[f"det_bboxes_{name}"], 5e-3)
    masks = detections.pred_masks.numpy()
    assert np.abs(masks.sum(axis=(1, 2)) - recorded[f"mask_area_{name}"]).max() <= 3
    bits = np.unpackbits(recorded[f"masks_bits_{name}"], count=masks.size)
    assert (masks.ravel() == bits).mean() >= 0.9999

    step = 8 if f"seglogits_sub8_{name}" in recorded else 16
    logits = stuff_first(prediction.sem_seg, 0)[:, ::step, ::step]
    assert_near(logits, recorded[f"seglogits_sub{step}_{name}"], 5e-4)

    expected = recorded[f"pan_{name}"]
    assert (prediction.panoptic == expected).mean() >= 0.9998
    assert np.array_equal(np.unique(prediction.panoptic), np.unique(expected))
    areas = {segment[0]: segment[3] for segment in facts[name]["segments_id_cat_inst_area"]}
    assert dict(zip(*np.unique(expected, return_counts=True), strict=True)) == areas


def test_synthetic_image(model, synth, recorded, facts):
    """From a normalised input, padding not blank: nothing of the data pipeline takes part."""
    images = ImageList(network_input(synth), [IMAGE_SIZE])
    sample = dict(zip(("height", "width"), ORIGINAL_SIZE, strict=True))
    prediction = predict(model, sample, images)
    assert_same_prediction(prediction, recorded, facts, "synthetic_s0")


@pytest.mark.parametrize("name", ["142238", "439180"])
def test_coco_image(model, cfg, coco_sample, recorded, facts, name):
    """From the file, through the config's own mapper, as ``--eval-only`` does it."""
    path = coco_sample / f"images/{int(name):012d}.jpg"
    height, width, _ = facts[name]["meta"]["ori_shape"]
    mapper = instantiate(cfg.dataloader.test.mapper)
    sample = mapper({"file_name": str(path), "image_id": int(name)})
    check_input(model, sample, recorded, facts, name)
    prediction = predict(model, {**sample, "height": height, "width": width})
    assert_same_prediction(prediction, recorded, facts, name)


def test_rule_image(model, cfg, synth, recorded, facts):
    name = "rule_s21_333x500"
    image = synth.image_u8(21, 333, 500, 32)[:, :, ::-1]  # made as BGR
    resize = instantiate(cfg.dataloader.test.mapper.augmentations[0])
    resized = np.ascontiguousarray(resize.get_transform(image).apply_image(image))
    sample = {"image": torch.from_numpy(resized).permute(2, 0, 1), "height": 333, "width": 500}
    check_input(model, sample, recorded, facts, name)
    assert_same_prediction(predict(model, sample), recorded, facts, name)


def check_input(model, sample: dict, recorded: dict, facts: dict, name: str) -> None:
    """The network's input is the official one, to the bit of the 8-bit image."""
    images = model.preprocess_image([sample])
    meta = facts[name]["meta"]
    assert tuple(images.image_sizes[0]) == tuple(meta["img_shape"][:2])
    assert tuple(images.tensor.shape[2:]) == tuple(meta["pad_shape"][:2])
    assert_near(images.tensor[0, :, ::16, ::16], recorded[f"input_sub16_{name}"], 1e-5)


@pytest.mark.parametrize("case", range(4))
def test_merge(model, synth, recorded, facts, case):
    spec = facts[f"fusion_case{case}"]
    boxes, labels, masks, logits = synth.fusion_case(spec["seed"], spec["k"])
    if case == 2:
        masks[3] = 0.2
        masks[4] = 0.95 * masks[0]
    instances = Instances(
        masks.shape[1:],
        pred_boxes=Boxes(torch.from_numpy(boxes[:, :4])),
        scores=torch.from_numpy(boxes[:, 4]),
        pred_classes=torch.from_numpy(labels),
        pred_masks=torch.from_numpy(masks) >= 0.5,
    )
    channels = torch.from_numpy(logits).argmax(0)
    panoptic = combine_semantic_and_instance_outputs(
        instances,
        torch.where(channels == 53, 0, channels + 1),
        model.combine_overlap_thresh,
        model.combine_stuff_area_thresh,
        model.combine_instances_score_thresh,
    )
    assert sum(segment["isthing"] for segment in panoptic[1]) == spec["kept"]
    assert np.array_equal(official_map(*panoptic), recorded[f"fusion_case{case}"])


def training_batch(synth):
    """Instances and semantic labels of the recorded training step."""
    boxes, labels, masks, segments = synth.panoptic_train_batch(0, 2, 256, 320)
    targets = [
        Instances(
            IMAGE_SIZE,
            gt_boxes=Boxes(torch.from_numpy(boxes[i])),
            gt_classes=torch.from_numpy(labels[i]),
            gt_masks=BitMasks(torch.from_numpy(masks[i])),
        )
        for i in range(2)
    ]
    # Recorded at stride 4; the head takes every fourth pixel of what it gets.
    segments = np.kron(segments[:, 0], np.ones((1, 4, 4), np.int64))
    semantic = np.where(segments == 255, 255, np.where(segments < 80, 0, segments - 79))
    return targets, torch.from_numpy(semantic)


def test_losses_and_gradients(cfg, model, synth, facts):
    """All samples are taken, so nothing is random."""
    trained = instantiate(cfg.model).train()
    trained.load_state_dict(model.state_dict())
    trained.proposal_generator.batch_size_per_image = 10**7
    trained.roi_heads.batch_size_per_image = 10**7
    images = ImageList(network_input(synth, batch=2), [IMAGE_SIZE] * 2)
    targets, semantic = training_batch(synth)
    with EventStorage():
        features = trained.backbone(images.tensor)
        rpn = trained.proposal_generator
        proposals, losses = rpn(images, features, targets)
        losses |= trained.roi_heads(images, features, proposals, targets)[1]
        losses |= trained.sem_seg_head(features, semantic)[1]
        # Detectron2 divides by the number of anchors asked for, the official code by those taken.
        anchors = rpn.anchor_generator([features[level] for level in LEVELS])
        labels, _ = rpn.label_and_sample_anchors(anchors, targets)
    taken = sum((label >= 0).sum().item() for label in labels)
    for name in ("loss_rpn_cls", "loss_rpn_loc"):
        losses[name] = losses[name] * (2 * rpn.batch_size_per_image / taken)
    expected = facts["losses_all"]
    for official, ours in (
        ("loss_rpn_cls", "loss_rpn_cls"),
        ("loss_rpn_bbox", "loss_rpn_loc"),
        ("loss_cls", "loss_cls"),
        ("loss_bbox", "loss_box_reg"),
        ("loss_mask", "loss_mask"),
        ("loss_seg", "loss_sem_seg"),
    ):
        assert losses[ours].item() == pytest.approx(expected[official], rel=1e-4), ours
    sum(losses.values()).backward()
    names = official_names()
    for name, parameter in trained.named_parameters():
        norm = facts["grad_all"][names[name]]
        assert parameter.grad.norm().item() == pytest.approx(norm, rel=2e-3), name


def official_names() -> dict[str, str]:
    """Our name -> the official one."""
    from lvt_d2.checkpoint.official import TABLES

    return {entry.name: official for official, entry in TABLES["panoptic"]().items()}


def own_outputs(model, image: Tensor) -> dict[str, Tensor]:
    """A few outputs of every head for a normalised image, and the detections of its merge."""
    size = tuple(image.shape[2:])
    rois = Boxes(torch.tensor([[8.0, 12.0, 90.0, 70.0], [30.0, 2.0, 60.0, 100.0]]))
    heads = model.roi_heads
    with torch.no_grad():
        features = model.backbone(image)
        maps = [features[f] for f in heads.box_in_features]
        logits, deltas = model.proposal_generator.rpn_head([features[f] for f in LEVELS])
        scores, box_deltas = heads.box_predictor(heads.box_head(heads.box_pooler(maps, [rois])))
        masks = heads.mask_head.layers(heads.mask_pooler(maps, [rois]))
        semantic = model.sem_seg_head.layers(features)
        proposals, _ = model.proposal_generator(ImageList(image, [size]), features)
    return {
        **features,
        "rpn_logits": logits[1],
        "rpn_deltas": deltas[1],
        "box_scores": scores,
        "box_deltas": box_deltas,
        "mask_logits": masks,
        "sem_seg_logits": semantic,
        "proposals": proposals[0].proposal_boxes.tensor[:20],
    }


def test_own_numbers(cfg, rule_weights, rule_image, tmp_path):
    """As above, where the recorded numbers are not at hand."""
    weights = rule_weights("panoptic", instantiate(cfg.model))
    model = load_panoptic(cfg, tmp_path, {"state_dict": weights})
    recorded = json.loads(OWN_NUMBERS.read_text())
    outputs = own_outputs(model, rule_image(*recorded["size"]))
    assert outputs.keys() == recorded["outputs"].keys()
    for name, expected in recorded["outputs"].items():
        actual = outputs[name].flatten()[:: expected["n"]]
        tolerance = 2e-3 if name == "proposals" else 2e-4
        assert_near(actual, np.array(expected["every_nth"]), tolerance)
