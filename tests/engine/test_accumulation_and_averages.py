"""Several batches to an iteration, and averages of the weights."""

import copy

import pytest
import torch
from detectron2.engine import create_ddp_model, launch as run_processes
from detectron2.utils import comm
from torch import nn

from lvt_d2.engine import Trainer, build_ema
from lvt_d2.errors import NonFiniteLossError


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 1))

    def forward(self, batch):
        y = self.layers(torch.stack([image["image"] for image in batch]))
        return {"loss_a": y.square().mean(), "loss_b": (y - 1).abs().mean()}


def _image(i):
    image = torch.randn(3, generator=torch.Generator().manual_seed(i))
    return {"image": image, "file_name": f"{i}.jpg"}


def _loader(size, first=0, step=None):
    while True:
        yield [_image(i) for i in range(first, first + size)]
        first += step or size


def _trainer(loader, accumulate, model=None, dtype=None):
    model = _Model() if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    return Trainer(model, loader, optimizer, dtype, accumulate)


def _assert_same(one, other, atol=1e-6):
    for (name, ours), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=atol), name


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_equals_one_large_batch(accumulate):
    parts, whole = _trainer(_loader(8 // accumulate), accumulate), _trainer(_loader(8), 1)
    parts.train(0, 6)
    whole.train(0, 6)
    _assert_same(parts.model, whole.model)
    for name in ("loss_a", "loss_b", "total_loss"):
        ours, theirs = (trainer.storage.history(name).values() for trainer in (parts, whole))
        assert [i for _, i in ours] == list(range(6))
        assert [v for v, _ in ours] == pytest.approx([v for v, _ in theirs], abs=1e-6)


def test_gradient_scaler_sees_the_mean():
    parts = _trainer(_loader(4), 2, dtype=torch.bfloat16)
    whole = _trainer(_loader(8), 1, dtype=torch.bfloat16)
    parts.train(0, 3)
    whole.train(0, 3)
    _assert_same(parts.model, whole.model, atol=0.02)


def test_a_bad_loss_of_any_batch_stops_before_the_update():
    def poisoned():
        for number, batch in enumerate(_loader(2)):
            if number == 4:
                batch[1]["image"] = batch[1]["image"] * float("nan")
            yield batch

    trainer, reference = _trainer(poisoned(), 2), _trainer(_loader(2), 2)
    reference.train(0, 2)
    with pytest.raises(NonFiniteLossError, match="At iteration 2 .*8.jpg, 9.jpg, 10.jpg, 11.jpg"):
        trainer.train(0, 5)
    _assert_same(trainer.model, reference.model, atol=0)


def _worker(output):
    rank, sent = comm.get_rank(), []
    model = create_ddp_model(_Model(), broadcast_buffers=False, device_ids=None)

    def count(state, bucket):
        sent.append(1)
        work = torch.distributed.all_reduce(bucket.buffer().div_(2), async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    model.register_comm_hook(None, count)
    trainer = _trainer(_loader(2, 2 * rank, 4), 2, model)
    trainer.train(0, 3)
    if comm.is_main_process():
        torch.save((model.module.state_dict(), len(sent)), output)


def test_two_processes_talk_once_an_iteration(tmp_path):
    output = tmp_path / "two.pt"
    run_processes(_worker, num_gpus_per_machine=2, dist_url="auto", args=(str(output),))
    state, sent = torch.load(output, weights_only=True)
    assert sent == 3, "one bucket in each of three iterations of two batches"
    whole = _trainer(_loader(8), 1)
    whole.train(0, 3)
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(value, state[name], rtol=0, atol=1e-6), name


def test_average_of_weights_and_buffers():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = build_ema(model, 0.75)
    expected = None
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(4, 2))
        ema.update_parameters(model)
        now = {name: value.double().clone() for name, value in model.state_dict().items()}
        if expected is None:
            expected = now
        expected = {name: 0.75 * value + 0.25 * now[name] for name, value in expected.items()}
    for name, value in ema.module.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value.double(), expected[name], atol=1e-6), name
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_average_goes_on_from_its_state():
    model = _Model()
    ema = build_ema(model, 0.9)
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    ema.update_parameters(model)
    _assert_same(ema.module, model, atol=0)  # the first update copies: loaded weights, too
    other = build_ema(_Model(), 0.9)
    other.load_state_dict(copy.deepcopy(ema.state_dict()))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    for average in (ema, other):
        average.update_parameters(model)
    _assert_same(ema.module, other.module, atol=0)
    assert torch.allclose(next(other.module.parameters()), torch.tensor(0.9))
