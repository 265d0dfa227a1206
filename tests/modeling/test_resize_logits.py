"""One step from the stride to the image's pixels against the two interpolations it stands for."""

import pytest
import torch
import torch.nn.functional as F

from lvt_d2.modeling.resize_logits import resize_logits

CASES = [  # map, stride, image inside, wanted size
    ((16, 20), 4, (61, 77), (200, 131)),
    ((16, 20), 4, (64, 80), (64, 80)),
    ((40, 9), 4, (150, 33), (31, 70)),
    ((5, 7), 8, (40, 51), (1, 200)),
    ((1, 1), 4, (3, 4), (9, 2)),
]


@pytest.mark.parametrize(("shape", "stride", "image", "size"), CASES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_two_interpolations(shape, stride, image, size, layout):
    torch.manual_seed(0)
    logits = torch.randn(1, 3, *shape).to(memory_format=layout)
    full = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    full = full[..., : image[0], : image[1]]
    expected = F.interpolate(full, size=size, mode="bilinear", align_corners=False)[0]
    found = resize_logits(logits[0], stride, image, size)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6)


def test_keeps_the_type_and_computes_in_float32():
    logits = torch.randn(2, 6, 6)
    exact = resize_logits(logits.bfloat16().float(), 4, (24, 24), (48, 48))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = resize_logits(logits.bfloat16(), 4, (24, 24), (48, 48))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact.bfloat16())
