import json
import logging

import numpy as np
import pytest
import torch
from detectron2.utils import events
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    has_event_storage,
)


def test_storages_nest():
    assert not has_event_storage()
    with pytest.raises(AssertionError, match="with EventStorage"):
        get_event_storage()
    with EventStorage() as outer:
        with EventStorage(5) as inner:
            assert get_event_storage() is inner
            assert inner.iter == inner.iteration == 5
        assert get_event_storage() is outer
    assert not has_event_storage()


def test_storage_closes_on_errors():
    with pytest.raises(ZeroDivisionError), EventStorage():
        raise ZeroDivisionError
    assert not has_event_storage()


def test_scalars_have_histories():
    storage = EventStorage()
    for i in range(5):
        storage.put_scalar("a", torch.tensor(float(i)))
        storage.put_scalars(b=2 * i, c=3 * i, smoothing_hint=False)
        storage.step()
    storage.put_scalar("late", 1, cur_iter=99)
    assert storage.history("a").values() == [(float(i), i) for i in range(5)]
    assert storage.latest() == {"a": (4, 4), "b": (8, 4), "c": (12, 4), "late": (1, 99)}
    assert all(isinstance(value, float) for value, _ in storage.latest().values())
    assert storage.smoothing_hints() == {"a": True, "b": False, "c": False, "late": True}
    assert set(storage.histories()) == {"a", "b", "c", "late"}
    with pytest.raises(KeyError, match="nothing_here"):
        storage.history("nothing_here")
    assert "nothing_here" not in storage.histories()


def test_hint_may_not_change():
    storage = EventStorage()
    storage.put_scalar("a", 1)
    with pytest.raises(AssertionError, match="different smoothing_hint"):
        storage.put_scalar("a", 1, smoothing_hint=False)


def test_smoothed_scalars_are_medians_over_iterations_not_samples():
    storage = EventStorage()
    for i, value in enumerate([100.0, 7.0, 1.0, 5.0]):
        storage.iter = i * 10
        storage.put_scalar("smooth", value)
        storage.put_scalar("raw", value, smoothing_hint=False)
    assert storage.count_samples("smooth", 20) == 2  # at 30 and 20; 10 is out
    assert storage.count_samples("smooth", 21) == 3
    assert storage.latest_with_smoothing_hint(20) == {"smooth": (3.0, 30), "raw": (5.0, 30)}
    assert storage.latest_with_smoothing_hint(21)["smooth"] == (5.0, 30)
    assert storage.latest_with_smoothing_hint(1000)["smooth"] == (6.0, 30)


def test_name_scope():
    storage = EventStorage()
    with storage.name_scope("head/"):
        storage.put_scalar("loss", 1)
    storage.put_scalar("loss", 2)
    assert storage.latest() == {"head/loss": (1, 0), "loss": (2, 0)}


def test_histogram():
    storage = EventStorage(3)
    values = torch.tensor([0.0, 1.0, 1.0, 4.0])
    storage.put_histogram("h", values, bins=4)
    (found,) = storage._histograms
    assert found["bucket_counts"] == [1, 2, 0, 1]
    assert found["bucket_limits"] == [1, 2, 3, 4]
    assert (found["min"], found["max"], found["num"]) == (0, 4, 4)
    assert (found["sum"], found["sum_squares"], found["global_step"]) == (6, 18, 3)
    storage.clear_histograms()
    assert not storage._histograms


def test_json_writer_writes_each_value_once(tmp_path):
    file = tmp_path / "metrics.json"
    writer = JSONWriter(str(file), window_size=2)
    with EventStorage() as storage:
        storage.put_scalar("loss", 4.0)
        storage.step()
        storage.put_scalar("loss", 2.0)
        storage.put_scalar("lr", 0.1, smoothing_hint=False)
        writer.write()
        writer.write()
        storage.step()
        storage.put_scalar("loss", 0.0)
        storage.put_scalar("AP", 7, cur_iter=9)
        writer.write()
    writer.close()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows == [
        {"iteration": 1, "loss": 3.0, "lr": 0.1},
        {"iteration": 2, "loss": 1.0},
        {"iteration": 9, "AP": 7.0},
    ]
    # a second writer appends
    with EventStorage(20) as storage:
        storage.put_scalar("loss", 5)
        again = JSONWriter(str(file))
        again.write()
        again.close()
    assert len(file.read_text().splitlines()) == 4


def _tensorboard_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def test_tensorboard_writer(tmp_path):
    writer = TensorboardXWriter(str(tmp_path), window_size=20)
    writer.close()
    assert not list(tmp_path.iterdir()), "nothing written, nothing opened"
    with EventStorage(1) as storage:
        storage.put_scalar("loss", 2.0)
        storage.put_image("picture", torch.zeros(3, 4, 5, dtype=torch.uint8))
        storage.put_histogram("h", torch.arange(5.0))
        writer.write()
        writer.write()
        assert not storage._vis_data
    writer.close()
    found = _tensorboard_events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 2.0)]
    assert [(e.step, e.width, e.height) for e in found.Images("picture")] == [(1, 5, 4)]
    assert found.Tags()["histograms"] == ["h"]


def _line(caplog, printer):
    caplog.clear()
    with caplog.at_level(logging.INFO, "detectron2.utils.events"):
        printer.write()
    return caplog.messages[-1] if caplog.messages else None


@pytest.fixture
def caplog_of_detectron2(caplog):
    """caplog that sees the engine's logger even after `setup_logger` stopped its propagation."""
    logger = logging.getLogger("detectron2")
    before, logger.propagate = logger.propagate, True
    yield caplog
    logger.propagate = before


def test_metric_printer_line(caplog_of_detectron2):
    with EventStorage(9) as storage:
        storage.put_scalars(total_loss=3, loss_cls=1.23456, time=0.5, data_time=0.25)
        storage.put_scalar("lr", 0.0123, smoothing_hint=False)
        storage.put_scalar("[metric]acc", 0.5)
        line = _line(caplog_of_detectron2, CommonMetricPrinter(max_iter=110))
        assert "eta: 0:00:50  iter: 9  total_loss: 3  loss_cls: 1.235" in line
        assert "[metric]acc: 0.5  time: 0.5000  last_time: 0.5000  data_time: 0.2500" in line
        assert "last_data_time: 0.2500   lr: 0.0123" in line
        assert storage.latest()["eta_seconds"] == (50.0, 9)
        assert storage.smoothing_hints()["eta_seconds"] is False


def test_metric_printer_without_timer_or_rate(caplog_of_detectron2):
    printer = CommonMetricPrinter(max_iter=20)
    with EventStorage() as storage:
        first = _line(caplog_of_detectron2, printer)
        assert "eta" not in first and "lr: N/A" in first and "time" not in first
        storage.iter = 10
        assert "eta: 0:00:0" in _line(caplog_of_detectron2, printer)
        assert "eta" not in _line(caplog_of_detectron2, CommonMetricPrinter())
        storage.iter = 20
        assert _line(caplog_of_detectron2, printer) is None, "silent after training"


def test_writer_base_and_exports():
    with pytest.raises(NotImplementedError):
        EventWriter().write()
    assert EventWriter().close() is None
    for name in events.__all__:
        assert hasattr(events, name)


def test_median_matches_numpy():
    rng = np.random.default_rng(0)
    storage = EventStorage()
    values = rng.normal(size=50)
    for value in values:
        storage.put_scalar("x", value)
        storage.step()
    for window in (1, 2, 7, 20, 100):
        expected = np.median(values[-window:])
        assert storage.latest_with_smoothing_hint(window)["x"][0] == pytest.approx(expected)
