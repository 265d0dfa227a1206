"""Registries and objects by name."""

import pytest
import torch
from detectron2.utils.registry import Registry, _convert_target_to_string, locate


class Outer:
    class Inner:
        pass


def test_registry():
    registry = Registry("THINGS")

    @registry.register()
    def made():
        pass

    registry.register(Outer)
    assert registry.get("made") is made and registry.get("Outer") is Outer
    assert "made" in registry and "nope" not in registry and "THINGS" in repr(registry)
    assert dict(registry) == {"made": made, "Outer": Outer}
    with pytest.raises(KeyError, match="No object named 'nope' found in 'THINGS'"):
        registry.get("nope")
    with pytest.raises(AssertionError, match="already registered"):
        registry.register(Outer)


@pytest.mark.parametrize("name", ["torch.nn.Conv2d", "torch.optim.sgd.SGD", "builtins.int"])
def test_locate(name):
    assert locate(name).__name__ == name.split(".")[-1]


@pytest.mark.parametrize("name", ["no_such_module.X", "torch.nn.NoSuchLayer", "math.nope.x"])
def test_locate_nothing(name):
    with pytest.raises(ImportError, match=name.split(".")[-1]):
        locate(name)


def test_names_are_shortened_to_where_they_resolve():
    assert _convert_target_to_string(torch.optim.SGD) == "torch.optim.SGD"
    assert _convert_target_to_string(torch.nn.Conv2d) == "torch.nn.Conv2d"
    name = _convert_target_to_string(Outer.Inner)
    assert name.endswith("Outer.Inner")
