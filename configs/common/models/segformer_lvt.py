"""SegFormer's head on LVT: 3,870,586 parameters for ADE20K's 150 classes."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec

from lvt_d2.layers import sync_batch_norm
from lvt_d2.modeling import LVT, MultiViewSemanticSegmentor, SegFormerHead

model = L(MultiViewSemanticSegmentor)(
    backbone=L(LVT)(embed_dims=(64, 64, 160, 256), out_features=("res2", "res3", "res4", "res5")),
    sem_seg_head=L(SegFormerHead)(
        input_shape={
            name: L(ShapeSpec)(channels=f"${{....backbone.embed_dims.{i}}}", stride=4 * 2**i)
            for i, name in enumerate(("res2", "res3", "res4", "res5"))
        },
        num_classes=150,
        conv_dims=256,
        dropout=0.1,
        norm=L(sync_batch_norm)(),
        ignore_value=255,
        loss_weight=1.0,
        # Detectron2's heads: False
        mean_over_ignored=True,
    ),
    pixel_mean=(123.675, 116.28, 103.53),  # RGB
    pixel_std=(58.395, 57.12, 57.375),
    # How images are seen in evaluation; published: at once, neither mirrored nor scaled.
    flip=False,
    scales=(1.0,),
    window=None,
    window_stride=None,
    windows_per_batch=4,
    labels_only=True,  # False: scores, as Detectron2 has them
)
