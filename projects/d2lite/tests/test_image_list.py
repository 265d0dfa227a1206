"""ImageList: padding of images of different sizes to one batch."""

import pytest
import torch
from detectron2.structures import ImageList


@pytest.mark.parametrize(
    "sizes, divisibility, padded",
    [
        ([(10, 20), (12, 15)], 0, (12, 20)),
        ([(10, 20), (12, 15)], 1, (12, 20)),
        ([(10, 20), (12, 15)], 8, (16, 24)),
        ([(16, 32)], 16, (16, 32)),
        ([(5, 7)], 4, (8, 8)),
    ],
)
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_padding(sizes, divisibility, padded, lead):
    images = [torch.rand(*lead, h, w) for h, w in sizes]
    batch = ImageList.from_tensors(images, divisibility, pad_value=-7)
    assert batch.tensor.shape == (len(sizes), *lead, *padded)
    assert batch.tensor.is_contiguous()
    assert [tuple(size) for size in batch.image_sizes] == sizes and len(batch) == len(sizes)
    for i, image in enumerate(images):
        assert torch.equal(batch[i], image)
        margin = padded[0] * padded[1] - sizes[i][0] * sizes[i][1]
        assert (batch.tensor[i] == -7).sum() == margin * image[..., 0, 0].numel()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("count", [1, 2])
def test_dtype(dtype, count):
    batch = ImageList.from_tensors([torch.ones(2, 3, dtype=dtype)] * count, 4, 255)
    assert batch.tensor.dtype == dtype
    assert batch.tensor[..., -1, -1].tolist() == [255] * count


def test_padding_constraints():
    images = [torch.rand(3, 10, 20), torch.rand(3, 12, 8)]
    square = {"square_size": 64}
    for count in (1, 2):
        result = ImageList.from_tensors(images[:count], 32, padding_constraints=square)
        assert result.tensor.shape[-2:] == (64, 64)
    finer = {"square_size": 0, "size_divisibility": 4}
    result = ImageList.from_tensors(images, 32, padding_constraints=finer)
    assert result.tensor.shape[-2:] == (12, 20)
    odd = {"square_size": 30, "size_divisibility": 8}
    assert ImageList.from_tensors(images, padding_constraints=odd).tensor.shape[-2:] == (32, 32)


def test_result_is_a_copy():
    image = torch.zeros(3, 4, 4)
    ImageList.from_tensors([image]).tensor.fill_(1)
    assert image.sum() == 0


def test_gradient_reaches_the_images():
    images = [torch.rand(1, 3, 4, requires_grad=True), torch.rand(1, 5, 2, requires_grad=True)]
    (ImageList.from_tensors(images, 4).tensor * 2).sum().backward()
    assert all(torch.equal(image.grad, torch.full_like(image, 2)) for image in images)


def test_to_and_device():
    batch = ImageList.from_tensors([torch.rand(3, 4, 4)])
    half = batch.to(dtype=torch.float16)
    assert half.tensor.dtype == torch.float16 and half.image_sizes == batch.image_sizes
    assert half.device == torch.device("cpu")


@pytest.mark.parametrize(
    "wrong", [[], torch.rand(2, 3, 4, 4), [torch.rand(3, 4, 4), torch.rand(1, 4, 4)], [5]]
)
def test_refuses(wrong):
    with pytest.raises(AssertionError):
        ImageList.from_tensors(wrong)


@pytest.mark.parametrize("count", [1, 2])
def test_a_traced_graph_takes_other_sizes(count):
    def pad(images):
        batch = ImageList.from_tensors(images, 4)
        return batch.tensor, batch.image_sizes

    traced = torch.jit.trace(pad, ([torch.rand(3, 12, 11)] * count,))
    images = [torch.rand(3, 25, 20), torch.rand(3, 10, 10)][:count]
    tensor, sizes = traced(images)
    assert tensor.shape == (count, 3, 28, 20)
    assert torch.equal(tensor, pad(images)[0])
    assert [size.tolist() for size in sizes] == [list(image.shape[1:]) for image in images]


@pytest.mark.parametrize("count", [1, 2])
def test_scripting(count):
    def pad(images: list[torch.Tensor]):
        batch = ImageList.from_tensors(images, 10)
        first = batch[torch.tensor(0)]
        assert torch.equal(batch[0], first)
        return batch.tensor, batch.image_sizes, first, len(batch)

    images = [torch.rand(10, 20), torch.rand(12, 22)][:count]
    tensor, sizes, first, length = torch.jit.script(pad)(images)
    assert torch.equal(tensor, pad(images)[0])
    assert sizes == pad(images)[1] and torch.equal(first, images[0]) and length == count


@pytest.mark.parametrize("strict", [True, False])
def test_export(strict):
    class Pad(torch.nn.Module):
        def forward(self, a, b):
            return ImageList.from_tensors([a, b], 32, 1.0).tensor

    images = torch.rand(3, 30, 40), torch.rand(3, 50, 20)
    exported = torch.export.export(Pad(), images, strict=strict).module()
    assert torch.equal(exported(*images), ImageList.from_tensors(list(images), 32, 1.0).tensor)
