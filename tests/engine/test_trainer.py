import math

import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from lvt_d2.engine import Trainer, amp_dtype
from lvt_d2.errors import ConfigError, LVTError, NonFiniteLossError


class _Model(nn.Module):
    def __init__(self, as_tensor=False):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.as_tensor = as_tensor
        self.seen_dtype = None

    def forward(self, batch):
        y = self.layer(torch.stack([image["image"] for image in batch]))
        self.seen_dtype = y.dtype
        loss = y.float().square().mean()
        return loss if self.as_tensor else {"loss_a": loss, "loss_b": y.float().abs().mean()}


def _loader(poison=None):
    """Two images a batch; at iteration 2 the first one is ``poison``."""
    i = 0
    while True:
        images = [
            {"image": torch.full((2,), 0.1 * (j + 1)), "file_name": f"{2 * i + j}.jpg"}
            for j in (0, 1)
        ]
        if poison is not None and i == 2:
            images[0]["image"] = images[0]["image"] * poison
        yield images
        i += 1


def _trainer(poison=None, dtype=None, as_tensor=False, loader=None):
    torch.manual_seed(0)
    model = _Model(as_tensor)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.9)
    return Trainer(model, loader or _loader(poison), optimizer, amp_dtype=dtype)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_trains_like_a_plain_loop(as_tensor):
    trainer, reference = _trainer(as_tensor=as_tensor), _trainer(as_tensor=as_tensor)
    trainer.train(0, 5)
    batches = _loader()
    for _ in range(5):
        output = reference.model(next(batches))
        reference.optimizer.zero_grad()
        (output if as_tensor else sum(output.values())).backward()
        reference.optimizer.step()
    for ours, theirs in zip(trainer.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert len(trainer.storage.history("total_loss").values()) == 5


@pytest.mark.parametrize(("poison", "word"), [(math.nan, "nan"), (math.inf, "inf")])
def test_bad_loss_stops_before_the_update(poison, word, caplog):
    trainer, reference = _trainer(poison), _trainer()
    reference.train(0, 2)
    with pytest.raises(NonFiniteLossError) as error:
        trainer.train(0, 5)
    text = str(error.value)
    assert "iteration 2" in text and f"loss_a is {word}" in text
    assert "4.jpg, 5.jpg" in text and "0.25" in text and "optimizer.lr" in text
    for ours, theirs in zip(trainer.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), "parameters of the iteration before"
    assert [i for _, i in trainer.storage.history("total_loss").values()] == [0, 1]
    assert isinstance(error.value, FloatingPointError) and isinstance(error.value, LVTError)
    assert "Exception during training" not in caplog.text


def test_finite_losses_are_listed_too():
    class OneBad(_Model):
        def forward(self, batch):
            return {**super().forward(batch), "loss_c": self.layer.weight.sum() * math.nan}

    model = OneBad()
    trainer = Trainer(model, _loader(), torch.optim.SGD(model.parameters(), lr=1.0))
    with pytest.raises(NonFiniteLossError, match=r"0 loss_c is nan \(the other losses: loss_a 0\."):
        trainer.train(0, 1)


def test_models_that_refuse_to_compute_a_loss():
    class Proposals(_Model):
        def forward(self, batch):
            if batch[0]["file_name"] == "4.jpg":
                raise FloatingPointError("Predicted boxes or scores\n contain Inf/NaN.")
            return super().forward(batch)

    model = Proposals()
    trainer = Trainer(model, _loader(), torch.optim.SGD(model.parameters(), lr=0.25))
    with pytest.raises(NonFiniteLossError) as error:
        trainer.train(0, 5)
    text = str(error.value)
    assert "iteration 2 the model gave no loss (Predicted boxes or scores contain Inf/NaN)" in text
    assert "4.jpg, 5.jpg" in text and "0.25" in text and "optimizer.lr" in text
    assert not error.value.on_all_ranks and NonFiniteLossError.on_all_ranks
    assert [i for _, i in trainer.storage.history("total_loss").values()] == [0, 1]


def test_batches_without_names():
    def loader():
        while True:
            yield torch.full((2, 2), math.nan)

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def forward(self, x):
            return self.layer(x).mean()

    model = Plain()
    trainer = Trainer(model, loader(), torch.optim.SGD(model.parameters(), lr=1.0))
    with pytest.raises(NonFiniteLossError, match="total_loss is nan.*gives no file_name"):
        trainer.train(0, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_on_the_cpu(dtype):
    trainer, reference = _trainer(dtype=dtype), _trainer()
    # The default scale overflows float16 at first, which skips the first updates.
    trainer.grad_scaler = torch.amp.GradScaler(
        "cpu", init_scale=128.0, enabled=trainer.grad_scaler.is_enabled()
    )
    trainer.train(0, 5)
    reference.train(0, 5)
    assert trainer.model.seen_dtype is dtype
    assert reference.model.seen_dtype is torch.float32
    for ours, theirs in zip(trainer.model.parameters(), reference.model.parameters(), strict=True):
        assert ours.dtype is torch.float32
        assert torch.allclose(ours, theirs, atol=0.02)
        assert not torch.equal(ours, theirs)


def test_scaler_state_is_kept():
    trainer = _trainer(dtype=torch.float16)
    trainer.train(0, 2)
    trainer.grad_scaler.update(128.0)
    state = trainer.state_dict()
    other = _trainer(dtype=torch.float16)
    other.load_state_dict(state)
    assert other.iter == 2 and other.grad_scaler.get_scale() == 128.0
    # a run in another precision takes the rest
    plain = _trainer(dtype=torch.bfloat16)
    plain.load_state_dict(state)
    assert "grad_scaler" not in plain.state_dict()
    _trainer(dtype=torch.float16).load_state_dict(plain.state_dict())


def test_hooks_see_gradients_before_the_update():
    class Clip(HookBase):
        def after_backward(self):
            for p in self.trainer.model.parameters():
                p.grad.zero_()

    trainer = _trainer()
    trainer.register_hooks([Clip()])
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train(0, 3)
    for ours, theirs in zip(trainer.model.parameters(), before, strict=True):
        assert torch.equal(ours, theirs)


def test_evaluation_mode_is_refused():
    trainer = _trainer()
    trainer.model.eval()
    with pytest.raises(RuntimeError, match="model.train()"):
        trainer.train(0, 1)


def test_amp_dtype():
    assert amp_dtype(True, "float16") is torch.float16
    assert amp_dtype(True, "bfloat16") is torch.bfloat16
    assert amp_dtype(False, "float16") is None
    for enabled in (True, False):
        with pytest.raises(ConfigError, match="train.amp.dtype is 'int8'"):
            amp_dtype(enabled, "int8")
