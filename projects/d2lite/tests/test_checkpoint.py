import logging
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detectron2.checkpoint import Checkpointer, DetectionCheckpointer, PeriodicCheckpointer
from detectron2.checkpoint.c2_model_loading import (
    align_and_update_state_dicts,
    convert_basic_c2_names,
    convert_c2_detectron_names,
)
from torch import nn


class _Net(nn.Module):
    """Nested twice, with the buffers that detectors have."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.block1 = nn.Sequential(OrderedDict(layer1=nn.Linear(2, 3), layer2=nn.Linear(3, 2)))
        self.block1.layer1.bias.requires_grad_(False)
        self.register_buffer("pixel_mean", torch.full((3,), 7.0))


def _equal(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


class _Counter:
    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_save_and_resume(tmp_path):
    model = _Net()
    checkpointer = DetectionCheckpointer(model, str(tmp_path), counter=_Counter(5))
    assert not checkpointer.has_checkpoint()
    checkpointer.save("model_1", iteration=3)
    assert checkpointer.has_checkpoint()
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_1.pth")
    assert checkpointer.get_all_checkpoint_files() == [str(tmp_path / "model_1.pth")]

    other, counter = _Net(1), _Counter()
    loader = DetectionCheckpointer(other, str(tmp_path), counter=counter)
    assert loader.resume_or_load("", resume=True) == {"iteration": 3}
    assert _equal(model, other) and counter.value == 5
    # without resume only the model is loaded
    other, counter = _Net(1), _Counter()
    loader = DetectionCheckpointer(other, str(tmp_path), counter=counter)
    loader.resume_or_load(str(tmp_path / "model_1.pth"), resume=False)
    assert _equal(model, other) and counter.value == 0
    assert DetectionCheckpointer(_Net()).load("") == {}


def test_save_to_disk_can_be_off(tmp_path):
    DetectionCheckpointer(_Net(), str(tmp_path), save_to_disk=False).save("x")
    assert not list(tmp_path.iterdir())


def test_periodic(tmp_path):
    periodic = PeriodicCheckpointer(
        Checkpointer(_Net(), str(tmp_path)), period=2, max_iter=7, max_to_keep=2
    )
    for i in range(7):
        periodic.step(i)
    names = sorted(p.name for p in tmp_path.glob("*.pth"))
    assert names == ["model_0000003.pth", "model_0000005.pth", "model_final.pth"]


def test_data_parallel_prefix(tmp_path):
    wrapped = nn.DataParallel(_Net())
    torch.save({"model": wrapped.state_dict()}, tmp_path / "a.pth")
    model = _Net(1)
    DetectionCheckpointer(model).load(str(tmp_path / "a.pth"))
    assert _equal(model, wrapped.module)
    back = nn.DataParallel(_Net(2))
    DetectionCheckpointer(back).load(str(tmp_path / "a.pth"))
    assert _equal(back.module, wrapped.module)


@pytest.fixture
def messages(caplog):
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore")]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.propagate = True
    with caplog.at_level(logging.INFO):
        yield caplog
    for logger, value in zip(loggers, before, strict=True):
        logger.propagate = value


def test_bare_state_dict_and_buffers_of_old_files(tmp_path, messages):
    model = _Net()
    state = {k: v for k, v in model.state_dict().items() if k != "pixel_mean"}
    state["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    torch.save(state, tmp_path / "bare.pth")
    other = _Net(1)
    DetectionCheckpointer(other).load(str(tmp_path / "bare.pth"))
    assert _equal(model, other)
    assert "pixel_mean" not in messages.text and "cell_anchors" not in messages.text


def test_misfits_are_logged_not_raised(tmp_path, messages):
    state = _Net().state_dict()
    state["block1.layer1.weight"] = torch.zeros(9, 9)
    state["extra.weight"] = state.pop("block1.layer2.bias")
    torch.save({"model": state}, tmp_path / "a.pth")
    before = _Net(1)
    model = _Net(1)
    DetectionCheckpointer(model).load(str(tmp_path / "a.pth"))
    assert torch.equal(model.block1.layer1.weight, before.block1.layer1.weight)
    assert "block1.layer1.weight" in messages.text and "(9, 9)" in messages.text
    assert "block1.layer2" in messages.text and "extra" in messages.text


def test_missing_file(tmp_path):
    checkpointer = DetectionCheckpointer(_Net())
    for _ in range(2):  # a failure leaves the checkpointer usable
        with pytest.raises(AssertionError, match="not found"):
            checkpointer.load(str(tmp_path / "none.pth"))


def test_matching_heuristics(tmp_path):
    model = _Net()
    state = {k.removeprefix("block1."): v for k, v in model.block1.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    other = _Net(1)
    DetectionCheckpointer(other).load(f"{tmp_path}/a.pth?matching_heuristics=True")
    assert _equal(model, other)
    with pytest.raises(ValueError, match="Unsupported query"):
        DetectionCheckpointer(other).load(f"{tmp_path}/a.pth?colour=blue")


def test_pkl_of_the_zoo(tmp_path):
    model = _Net()
    arrays = {k: v.numpy() for k, v in model.state_dict().items()}
    data = {"model": arrays, "__author__": "somebody", "score": np.float64(1.5), "epoch": 3}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"p{protocol}.pkl"
        path.write_bytes(pickle.dumps(data, protocol))
        other = _Net(1)
        extra = DetectionCheckpointer(other).load(str(path))
        assert _equal(model, other)
        assert extra["score"] == 1.5 and extra["epoch"] == 3


def test_pkl_with_tensors(tmp_path):
    model, other = _Net(), _Net(1)
    data = {"model": model.state_dict(), "__author__": "x", "matching_heuristics": True}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(data))
    DetectionCheckpointer(other).load(str(tmp_path / "a.pkl"))
    assert _equal(model, other)


def test_numpy_in_torch_file(tmp_path):
    model, other = _Net(), _Net(1)
    arrays = {k: v.numpy() for k, v in model.state_dict().items()}
    torch.save({"model": arrays, "best": np.float64(3)}, tmp_path / "a.pth")
    assert DetectionCheckpointer(other).load(str(tmp_path / "a.pth"))["best"] == 3
    assert _equal(model, other)


class _Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("kind", ["pkl", "pth", "pyth"])
def test_pickled_code_does_not_run(tmp_path, kind):
    data = {"model": {}, "model_state": {}, "__author__": "x", "evil": _Evil(tmp_path / "owned")}
    path = tmp_path / f"a.{kind}"
    if kind == "pkl":
        path.write_bytes(pickle.dumps(data))
    else:
        torch.save(data, path)
    with pytest.raises(pickle.UnpicklingError, match="open"):
        DetectionCheckpointer(_Net()).load(str(path))
    assert not (tmp_path / "owned").exists()


def test_pyth(tmp_path):
    model, other = _Net(), _Net(1)
    state = {**model.state_dict(), "bn.num_batches_tracked": torch.tensor(3)}
    torch.save({"model_state": state, "epoch": 4}, tmp_path / "a.pyth")
    DetectionCheckpointer(other).load(str(tmp_path / "a.pyth"))
    assert _equal(model, other)
    torch.save({"weights": state}, tmp_path / "b.pyth")
    with pytest.raises(AssertionError, match="model_state"):
        DetectionCheckpointer(other).load(str(tmp_path / "b.pyth"))


def _weights(**shapes):
    return {
        k.replace("__", "."): torch.full(s, float(i)) for i, (k, s) in enumerate(shapes.items())
    }


def test_align_takes_the_longest_suffix():
    model = _weights(a__head__conv__weight=(2,), a__bighead__conv__weight=(2,), b__weight=(1,))
    checkpoint = _weights(conv__weight=(2,), head__conv__weight=(2,), other__weight=(4,))
    found = align_and_update_state_dicts(model, checkpoint, c2_conversion=False)
    assert torch.equal(found["a.head.conv.weight"], checkpoint["head.conv.weight"])
    assert torch.equal(found["a.bighead.conv.weight"], checkpoint["conv.weight"])
    assert torch.equal(found["other.weight"], checkpoint["other.weight"])
    assert set(found) == {"a.head.conv.weight", "a.bighead.conv.weight", "other.weight"}


def test_align_refuses_ambiguity_and_keeps_misfits(messages):
    model = _weights(a__conv__weight=(2,), b__conv__weight=(2,))
    with pytest.raises(ValueError, match="Cannot match one checkpoint key to multiple keys"):
        align_and_update_state_dicts(model, _weights(conv__weight=(2,)), c2_conversion=False)
    model = _weights(a__x=(2,), a__y=(3,))
    checkpoint = _weights(x=(2,), y=(9,))
    found = align_and_update_state_dicts(model, checkpoint, c2_conversion=False)
    assert set(found) == {"a.x", "y"}
    assert "will not be loaded" in messages.text
    unrelated = _weights(q=(1,))
    assert align_and_update_state_dicts(model, unrelated, c2_conversion=False) is unrelated


def test_caffe2_names():
    names = ["conv1_w", "res_conv1_bn_s", "res_conv1_bn_b", "res2_0_branch1_w", "res2_0_branch2c_w"]
    names += ["res2_0_branch2a_bn_s", "res2_0_branch2b_bn_riv", "pred_w", "x_gn_b", "x_bn_rm"]
    expected = ["stem.conv1.weight", "stem.conv1.norm.weight", "stem.conv1.norm.bias"]
    expected += ["res2.0.shortcut.weight", "res2.0.conv3.weight", "res2.0.conv1.norm.weight"]
    expected += ["res2.0.conv2.norm.running_var", "linear.weight", "x.norm.bias"]
    expected += ["x.norm.running_mean"]
    assert convert_basic_c2_names(names) == expected


def test_caffe2_detection_names_and_background():
    rows = torch.arange(12.0).view(12, 1)
    weights = {
        "conv_rpn_fpn2_w": rows,
        "rpn_bbox_pred_w": rows,
        "rpn_cls_logits_fpn2_b": rows,
        "bbox_pred_w": rows,
        "cls_score_w": rows,
        "fc6_b": rows,
        "fc7_w": rows,
        "head_conv1_gn_s": rows,
        "fpn_inner_res3_3_sum_lateral_w": rows,
        "fpn_inner_res5_2_sum_gn_b": rows,
        "fpn_res2_2_sum_b": rows,
        "_[mask]_fcn1_w": rows,
        "conv5_mask_w": rows,
        "mask_fcn_logits_w": rows,
    }
    found, originals = convert_c2_detectron_names(weights)
    assert set(found) == {
        "proposal_generator.rpn_head.conv.weight",
        "proposal_generator.rpn_head.anchor_deltas.weight",
        "proposal_generator.rpn_head.objectness_logits.bias",
        "bbox_pred.weight",
        "cls_score.weight",
        "box_head.fc1.bias",
        "box_head.fc2.weight",
        "box_head.conv1.norm.weight",
        "fpn_lateral3.weight",
        "fpn_lateral5.norm.bias",
        "fpn_output2.bias",
        "mask_head.mask_fcn1.weight",
        "mask_head.deconv.weight",
        "mask_head.predictor.weight",
    }
    assert originals["box_head.fc1.bias"] == "fc6_b"
    assert found["bbox_pred.weight"].flatten().tolist() == list(range(4, 12))
    assert found["mask_head.predictor.weight"].flatten().tolist() == list(range(1, 12))
    assert found["cls_score.weight"].flatten().tolist() == [*range(1, 12), 0]


def test_caffe2_file(tmp_path):
    class Stem(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.ModuleDict(
                {"stem": nn.ModuleDict({"conv1": nn.Conv2d(1, 2, 1, bias=False)})}
            )

    weight = np.arange(2, dtype="float32").reshape(2, 1, 1, 1)
    blobs = {"conv1_w": weight, "conv1_w_momentum": weight}
    (tmp_path / "c2.pkl").write_bytes(pickle.dumps({"blobs": blobs}, 2))
    model = Stem()
    DetectionCheckpointer(model).load(str(tmp_path / "c2.pkl"))
    assert model.backbone.stem.conv1.weight.flatten().tolist() == [0, 1]
