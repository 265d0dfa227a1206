"""Instances: fields, indexing, joining, errors."""

import copy
import pickle

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks


def make(n=3, size=(10, 20)):
    return Instances(
        size,
        boxes=Boxes(torch.arange(4.0 * n).reshape(n, 4)),
        scores=torch.arange(n) / 10,
        names=[f"thing{i}" for i in range(n)],
        masks=BitMasks(torch.eye(5)[:n, None, :].bool()),
        polygons=PolygonMasks([[[0.0, 0, i + 1, 0, 0, 1]] for i in range(n)]),
    )


def test_fields():
    instances = make()
    assert instances.image_size == (10, 20) and len(instances) == 3
    assert instances.has("scores") and not instances.has("image_size")
    assert instances.get("scores") is instances.scores is instances.get_fields()["scores"]
    instances.labels = [1, 2, 3]
    assert instances.get("labels") == [1, 2, 3]
    instances.set("labels", [3, 2, 1])
    assert instances.labels == [3, 2, 1]
    instances.remove("labels")
    assert not instances.has("labels")
    assert list(instances.get_fields()) == ["boxes", "scores", "names", "masks", "polygons"]
    instances._note = 5
    assert not instances.has("_note") and instances._note == 5


def test_missing_fields():
    instances = make()
    with pytest.raises(AttributeError, match="Cannot find field 'nothing' in the given Instances"):
        instances.nothing  # noqa: B018
    with pytest.raises(KeyError):
        instances.get("nothing")
    with pytest.raises(KeyError):
        instances.remove("nothing")
    assert getattr(instances, "nothing", 1) == 1


def test_lengths():
    with pytest.raises(AssertionError, match="Adding a field of length 2 to a Instances of length"):
        make().labels = torch.zeros(2)
    with pytest.raises(TypeError):
        Instances((1, 1), number=5)
    with pytest.raises(NotImplementedError, match="Empty Instances does not support __len__"):
        len(Instances((1, 1)))
    with pytest.raises(NotImplementedError, match="not iterable"):
        iter(make())
    single = Instances((1, 1), a=[1])
    with pytest.raises(AssertionError):
        single.a = [1, 2]  # not even in place of the only field


@pytest.mark.parametrize(
    "item, kept",
    [
        (0, [0]),
        (-1, [2]),
        (-2, [1]),
        (slice(1, None), [1, 2]),
        (slice(None, None, 2), [0, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.tensor([2, 0]), [2, 0]),
        (torch.zeros(3, dtype=torch.bool), []),
        (torch.zeros(0, dtype=torch.int64), []),
    ],
)
def test_indexing(item, kept):
    instances = make()
    if isinstance(item, torch.Tensor):
        instances.remove("names")  # a list has no such index
    part = instances[item]
    assert len(part) == len(kept) and part.image_size == (10, 20)
    assert torch.equal(part.scores, instances.scores[kept])
    assert torch.equal(part.boxes.tensor, instances.boxes.tensor[kept])
    assert torch.equal(part.masks.tensor, instances.masks.tensor[kept])
    assert [p[0][2] for p in part.polygons] == [k + 1 for k in kept]
    if instances.has("names"):
        assert part.names == [f"thing{k}" for k in kept]


@pytest.mark.parametrize("item", [3, -4])
def test_index_out_of_range(item):
    with pytest.raises(IndexError, match="Instances index out of range"):
        make()[item]


def test_cat():
    first, second = make(2), make(3)
    both = Instances.cat([first, second])
    assert len(both) == 5 and both.image_size == (10, 20)
    assert both.names == first.names + second.names
    assert torch.equal(both.scores, torch.cat([first.scores, second.scores]))
    assert len(both.boxes) == len(both.masks) == len(both.polygons) == 5
    assert Instances.cat([first]) is first


def test_cat_with_none():
    both = Instances.cat([make(0), make(2)])
    assert len(both) == 2 and both.scores.tolist() == make(2).scores.tolist()


def test_cat_refuses():
    with pytest.raises(AssertionError):
        Instances.cat([])
    with pytest.raises(AssertionError):
        Instances.cat([make(), 5])
    with pytest.raises(AssertionError):
        Instances.cat([make(size=(1, 2)), make(size=(2, 1))])
    with pytest.raises(ValueError, match="Unsupported type .*tuple.* for concatenation"):
        Instances.cat([Instances((1, 1), a=(1,)), Instances((1, 1), a=(2,))])


def test_to_converts_what_it_can():
    instances = make()
    moved = instances.to("cpu")
    assert moved is not instances and moved.names == instances.names
    moved.extra = [0, 0, 0]
    assert not instances.has("extra")
    half = Instances((1, 1), scores=torch.ones(2)).to(torch.float16)
    assert half.scores.dtype == torch.float16


def test_repr():
    instances = Instances((10, 20), labels=[1, 2])
    text = "Instances(num_instances=2, image_height=10, image_width=20, fields=[labels: [1, 2]])"
    assert str(instances) == repr(instances) == text


def test_copies():
    instances = make()
    for other in (copy.deepcopy(instances), copy.copy(instances)):
        assert other.names == instances.names and other.image_size == (10, 20)
    other = pickle.loads(pickle.dumps(instances))
    assert torch.equal(other.boxes.tensor, instances.boxes.tensor)


def test_tracing_keeps_the_length():
    def second_half(x):
        instances = Instances((4, 4), x=x)
        return instances[x[:, 0] > 0.5].x

    traced = torch.jit.trace(second_half, torch.rand(4, 1))
    assert traced(torch.tensor([[0.0], [1.0], [1.0], [1.0], [0.0], [1.0]])).shape == (4, 1)


def test_export():
    class Keep(torch.nn.Module):
        def forward(self, x):
            instances = Instances((4, 4), boxes=Boxes(x), scores=x[:, 0])
            instances = instances[instances.scores > 0.5]
            return instances.boxes.tensor, instances.scores

    exported = torch.export.export(Keep(), (torch.rand(3, 4),), strict=False).module()
    boxes, scores = exported(torch.tensor([[0.0] * 4, [1.0] * 4, [2.0] * 4]))
    assert boxes.shape == (2, 4) and scores.tolist() == [1, 2]
