"""Detectors that look at proposed regions."""

import numpy as np
import torch
from torch import nn

from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.utils.events import get_event_storage

from .._options import configurable, options
from ..postprocessing import detector_postprocess
from ..proposal_generator import build_proposal_generator
from ..roi_heads import build_roi_heads
from .build import META_ARCH_REGISTRY
from .image_model import ImageModel, output_size


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(ImageModel):
    """Features of an image, proposals, and predictions for each of them.

    Args:
        backbone: makes feature maps.
        proposal_generator: makes proposals of them; None if inputs bring their ``proposals``.
        roi_heads: module like `ROIHeads`.
        pixel_mean: of every channel, in the range of the images.
        pixel_std: likewise.
        input_format: order of the channels, as in `read_image`; needed for pictures.
        vis_period: iterations between pictures of ground truth and proposals; 0 for none.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone,
        proposal_generator: nn.Module,
        roi_heads: nn.Module,
        pixel_mean: tuple[float],
        pixel_std: tuple[float],
        input_format: str | None = None,
        vis_period: int = 0,
    ):
        super().__init__(backbone, pixel_mean, pixel_std)
        self.proposal_generator, self.roi_heads = proposal_generator, roi_heads
        self.input_format, self.vis_period = input_format, vis_period
        assert vis_period <= 0 or input_format is not None, "Pictures need an input_format!"

    @classmethod
    def from_config(cls, cfg):
        ret = super().from_config(cfg) | options(cfg, "VIS_PERIOD")
        shapes = ret["backbone"].output_shape()
        ret["proposal_generator"] = build_proposal_generator(cfg, shapes)
        return ret | {"roi_heads": build_roi_heads(cfg, shapes), "input_format": cfg.INPUT.FORMAT}

    def visualize_training(self, batched_inputs, proposals):
        """Put a picture of the first image's ground truth and 20 best proposals into storage."""
        # Drawing needs matplotlib, which training without pictures does not.
        from detectron2.utils.visualizer import Visualizer

        image = convert_image_to_rgb(batched_inputs[0]["image"].permute(1, 2, 0), self.input_format)
        best = proposals[0].proposal_boxes[:20].tensor.cpu().numpy()
        both = (batched_inputs[0]["instances"].gt_boxes, best)
        drawn = [Visualizer(image, None).overlay_instances(boxes=boxes) for boxes in both]
        picture = np.concatenate([side.get_image() for side in drawn], axis=1)
        title = "Left: GT bounding boxes;  Right: Predicted proposals"
        get_event_storage().put_image(title, picture.transpose(2, 0, 1))

    def forward(self, batched_inputs: list[dict[str, torch.Tensor]]):
        """Train or predict.

        Args:
            batched_inputs: one dictionary for each image, as `DatasetMapper` makes them:
                ``image`` (C, H, W); ``instances``, the ground truth, in training; ``proposals``
                where they are precomputed; ``height`` and ``width`` of the wanted output.

        Returns:
            in training the losses by name; else for each image ``{"instances": Instances}``
            with ``pred_boxes``, ``pred_classes``, ``scores`` and maybe ``pred_masks``.
        """
        if not self.training:
            return self.inference(batched_inputs)
        truth, extracted = self._gather_instances(batched_inputs), self._extract(batched_inputs)
        proposals, _, rpn_losses, roi_losses = self._detect(batched_inputs, *extracted, truth)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        return {**roi_losses, **rpn_losses}

    def inference(self, batched_inputs, detected_instances=None, do_postprocess: bool = True):
        """Predict.

        Args:
            batched_inputs: as in `forward`.
            detected_instances: of every image, with ``pred_boxes`` and ``pred_classes``: only
                what is missing is then predicted for these.
            do_postprocess: bring the results to the sizes that the inputs ask for.

        Returns:
            as `forward`; without ``do_postprocess`` a list of `Instances` in the coordinates
            of the network's input.
        """
        assert not self.training, "inference() needs the model in eval mode"
        images, features = self._extract(batched_inputs)
        if detected_instances is None:
            _, results, *_ = self._detect(batched_inputs, images, features)
        else:
            detected_instances = [x.to(self.device) for x in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, detected_instances)
        if not do_postprocess:
            return results
        return GeneralizedRCNN._postprocess(results, batched_inputs, images.image_sizes)

    def _detect(self, batched_inputs, images, features, gt_instances=None):
        """Proposals, generated or from the inputs; detections; the losses of either."""
        if self.proposal_generator is not None:
            proposals, rpn_losses = self.proposal_generator(images, features, gt_instances)
        else:
            assert "proposals" in batched_inputs[0], "Nothing generates 'proposals': give them"
            proposals, rpn_losses = [x["proposals"].to(self.device) for x in batched_inputs], {}
        results, roi_losses = self.roi_heads(images, features, proposals, gt_instances)
        return proposals, results, rpn_losses, roi_losses

    @staticmethod
    def _postprocess(instances, batched_inputs, image_sizes, name="instances"):
        """Bring the detections to the wanted sizes, and wrap them as results."""
        return [
            {name: detector_postprocess(result, *output_size(inputs, size))}
            for result, inputs, size in zip(instances, batched_inputs, image_sizes, strict=True)
        ]


@META_ARCH_REGISTRY.register()
class ProposalNetwork(ImageModel):
    """A model that ends with its proposals.

    Args:
        backbone: makes feature maps.
        proposal_generator: makes proposals of them.
        pixel_mean: of every channel, in the range of the images.
        pixel_std: likewise.
    """

    @configurable
    def __init__(self, *, backbone, proposal_generator, pixel_mean, pixel_std):
        super().__init__(backbone, pixel_mean, pixel_std)
        self.proposal_generator = proposal_generator

    @classmethod
    def from_config(cls, cfg):
        ret = super().from_config(cfg)
        shapes = ret["backbone"].output_shape()
        return ret | {"proposal_generator": build_proposal_generator(cfg, shapes)}

    def forward(self, batched_inputs):
        """Train or predict; inputs as of `GeneralizedRCNN`.

        Returns:
            in training the losses by name; else for each image ``{"proposals": Instances}``
            with ``proposal_boxes`` and ``objectness_logits``.
        """
        images, features = self._extract(batched_inputs)
        gt_instances = self._gather_instances(batched_inputs)
        proposals, losses = self.proposal_generator(images, features, gt_instances)
        # In training proposals are only made because the generator always makes them.
        if self.training:
            return losses
        sizes = images.image_sizes
        return GeneralizedRCNN._postprocess(proposals, batched_inputs, sizes, "proposals")
