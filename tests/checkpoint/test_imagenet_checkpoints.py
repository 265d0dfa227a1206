"""Checkpoints of ImageNet training, as timm writes them, initialise the detectors."""

import argparse
import logging
from pathlib import Path

import pytest
import timm
import torch
from detectron2.config import LazyConfig, instantiate
from timm.utils import CheckpointSaver, ModelEmaV3

from lvt_d2.checkpoint import LVTCheckpointer
from lvt_d2.errors import CheckpointError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
WHERE = {"panoptic_lvt.py": "backbone.bottom_up.", "segformer_lvt.py": "backbone."}


@pytest.fixture(scope="module")
def detectors():
    """Models by config, on the CPU and cheap to reset."""
    return {name: instantiate(LazyConfig.load(str(CONFIGS / name)).model) for name in WHERE}


def saved_checkpoint(name, folder, **options):
    """The path of a file by timm's own saver, and the model and averages that it holds."""
    model = timm.create_model(name, num_classes=7, **options)
    for i, parameter in enumerate(model.parameters()):
        parameter.data.normal_(generator=torch.Generator().manual_seed(i))
    averages = ModelEmaV3(model, decay=0.5)
    for parameter in averages.module.parameters():
        parameter.data.mul_(2)
    optimizer = torch.optim.AdamW(model.parameters())
    saver = CheckpointSaver(
        model,
        optimizer,
        args=argparse.Namespace(model=name, lr=1e-3),
        model_ema=averages,
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(3, metric=50.0)
    return str(folder / "last.pth.tar"), model, averages.module


@pytest.mark.parametrize("name", ["lvt", "lvt_cls"])
@pytest.mark.parametrize("config", WHERE)
def test_all_148_tensors_arrive(name, config, detectors, tmp_path, caplog):
    path, model, averages = saved_checkpoint(name, tmp_path)
    detector = detectors[config]
    for query, source in (("", model), ("?ema=True", averages)):
        for tensor in detector.state_dict().values():
            tensor.zero_()
        caplog.clear()
        with caplog.at_level(logging.INFO, "lvt_d2"):
            LVTCheckpointer(detector).load(path + query)
        state = detector.state_dict()
        backbone = source.backbone.state_dict()
        assert len(backbone) == 148
        for key, tensor in backbone.items():
            assert torch.equal(state[WHERE[config] + key], tensor), key
        others = [key for key in state if not key.startswith(WHERE[config] + "stages.")]
        assert len(others) == len(state) - 148
        assert not any(state[key].any() for key in others if "pixel" not in key)
        assert f"initialises {WHERE[config].rstrip('.')}" in caplog.text
        unused = {"lvt": "head", "lvt_cls": "cls_token, class_blocks, norm, head, aux_head"}
        assert f"Not used from the file: {unused[name]}." in caplog.text
        assert ("append '?ema=True'" in caplog.text) == (query == "")


def test_files_of_our_own_trainer(detectors, tmp_path):
    path, model, averages = saved_checkpoint("lvt_cls", tmp_path)
    content = torch.load(path, weights_only=False)
    ema = {f"module.{name}": tensor for name, tensor in averages.state_dict().items()}
    content = {"model": content["state_dict"], "ema": ema, "optimizer": content["optimizer"]}
    torch.save(content, path)
    detector = detectors["panoptic_lvt.py"]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.5)
    for query, source in (("", model), ("?ema=True", averages)):
        LVTCheckpointer(detector, optimizer=optimizer).load(path + query)
        state = detector.backbone.bottom_up.state_dict()
        assert len(state) == 148
        assert all(torch.equal(t, source.backbone.state_dict()[n]) for n, t in state.items())
    assert optimizer.param_groups[0]["lr"] == 0.5
    averaged = timm.create_model(
        "lvt_cls", num_classes=7, pretrained=True,
        pretrained_cfg_overlay={"file": path, "num_classes": 7},
    )  # fmt: skip
    assert torch.equal(averaged.head.weight, averages.head.weight)


def test_models_and_files_of_classifiers(tmp_path):
    path, model, _ = saved_checkpoint("lvt_cls", tmp_path)
    same = timm.create_model("lvt_cls", num_classes=7)
    LVTCheckpointer(same).load(path)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in same.state_dict().items())
    pooled = timm.create_model("lvt", num_classes=7)
    head = pooled.head.fc.weight.clone()
    LVTCheckpointer(pooled).load(path)
    assert torch.equal(pooled.head.fc.weight, head)
    assert all(
        torch.equal(t, model.state_dict()[n])
        for n, t in pooled.state_dict().items()
        if n.startswith("backbone.")
    )


def test_no_averaged_weights(tmp_path, detectors):
    path = tmp_path / "last.pth.tar"
    torch.save({"state_dict": timm.create_model("lvt").state_dict(), "epoch": 1}, path)
    with pytest.raises(CheckpointError, match="holds no averaged weights"):
        LVTCheckpointer(detectors["panoptic_lvt.py"]).load(f"{path}?ema=True")
