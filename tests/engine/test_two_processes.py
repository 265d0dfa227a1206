"""Two processes with an image each train as one process with both images."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import create_ddp_model, launch as run_processes
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

CONFIG = Path(__file__).resolve().parents[2] / "configs/common/models/panoptic_fpn_lvt.py"


def build_model() -> torch.nn.Module:
    """The published model, with samplers that keep every candidate: nothing is random."""
    cfg = LazyConfig.load(str(CONFIG)).model
    cfg.proposal_generator.batch_size_per_image = 10**6
    cfg.proposal_generator.pre_nms_topk = (300, 300)
    cfg.proposal_generator.post_nms_topk = (20, 20)
    cfg.roi_heads.batch_size_per_image = 10**6
    torch.manual_seed(0)
    return instantiate(cfg)


def build_sample(index: int) -> dict:
    """An image with two things.

    The losses are means, so all images must hold as many positives: the things are so thin that no
    proposal overlaps them by half, and the boxes of the ground truth are the only ones.
    """
    generator = torch.Generator().manual_seed(index)
    height = width = 96
    boxes = torch.tensor([[4.0, 8.0, 90.0, 13.0], [50.0, 20.0, 55.0, 90.0]]) + 3 * index
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.tensor([3, 60 + index])
    instances.gt_masks = BitMasks(masks)
    return {
        "image": torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8),
        "instances": instances,
        "sem_seg": torch.randint(0, 54, (height, width), generator=generator),
    }


def step(model: torch.nn.Module, batch: list[dict]) -> tuple[dict, dict]:
    """Losses, and gradients by parameter name, of one forward and backward pass."""
    with EventStorage():
        losses = model(batch)
        sum(losses.values()).backward()
    network = model.module if hasattr(model, "module") else model
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def worker(output: str) -> None:
    model = create_ddp_model(build_model(), broadcast_buffers=False, device_ids=None)
    losses, gradients = step(model, [build_sample(comm.get_rank())])
    losses = comm.reduce_dict(losses)
    if comm.is_main_process():
        torch.save((losses, gradients), output)


def test_losses_and_gradients_equal_one_process(tmp_path):
    output = str(tmp_path / "two.pt")
    run_processes(worker, num_gpus_per_machine=2, dist_url="auto", args=(output,))
    two_losses, two_gradients = torch.load(output, weights_only=True)

    samples = [build_sample(0), build_sample(1)]
    one_losses, one_gradients = step(build_model(), samples)
    single, _ = step(build_model(), samples[:1])
    assert single["loss_sem_seg"] != pytest.approx(one_losses["loss_sem_seg"].item(), rel=1e-4)

    assert two_losses.keys() == one_losses.keys()
    for name, loss in one_losses.items():
        assert two_losses[name].item() == pytest.approx(loss.item(), rel=1e-4), name
    assert two_gradients.keys() == one_gradients.keys()
    for name, gradient in one_gradients.items():
        scale = gradient.abs().max().clamp(min=1e-6)
        difference = (two_gradients[name] - gradient).abs().max()
        assert difference <= 1e-4 * scale, name
