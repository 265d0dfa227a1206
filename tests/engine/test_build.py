import pytest
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from lvt_d2.engine import build
from lvt_d2.errors import ConfigError, DatasetError, DatasetFileNotFoundError


class Leaf:
    def __init__(self, width=1):
        if width == "broken":
            raise DatasetError("image 7.jpg is broken")
        if width < 0:
            raise ValueError("width is -1;\nexpected 0 or more")
        self.width = width


class Tree:
    def __init__(self, leaf, height=1):
        self.leaf, self.height = leaf, height


def test_builds():
    tree = build(L(Tree)(leaf=L(Leaf)(width=3)), "model")
    assert tree.leaf.width == 3 and tree.height == 1


def _message(section):
    with pytest.raises(ConfigError) as error:
        build(section, "model")
    assert isinstance(error.value.__cause__, Exception) and "\n" not in str(error.value)
    return str(error.value)


def test_unknown_arguments_are_found():
    text = _message(L(Tree)(leaf=L(Leaf)(widht=3)))
    assert text.startswith("model (Tree) can't be built") or "Tree) can't be built" in text
    assert "unexpected keyword argument 'widht'" in text
    assert "given by model.leaf.widht" in text


def test_missing_arguments():
    assert "'leaf'" in _message(L(Tree)(height=3))


def test_refused_values_name_the_line():
    text = _message(L(Tree)(leaf=L(Leaf)(width=-1)))
    assert "ValueError: width is -1; expected 0 or more" in text
    assert f"of {__file__}" in text


def test_parts_that_are_none():
    assert "TypeError" in _message(L(Leaf)(width=None))
    assert "no_such_module" in _message(OmegaConf.create({"_target_": "no_such_module.Thing"}))
    assert "nothing" in _message(OmegaConf.create({"_target_": "builtins.int", "x": "${nothing}"}))


def test_errors_with_a_remedy_and_bugs_pass():
    with pytest.raises(DatasetError, match="^image 7.jpg is broken$"):
        build(L(Leaf)(width="broken"), "model")

    def bug():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build(L(bug)(), "model")


def test_missing_files(tmp_path):
    path = str(tmp_path / "instances.json")
    with pytest.raises(DatasetFileNotFoundError) as error:
        build(L(open)(file=path), "dataloader.train")
    text = str(error.value)
    assert path in text and text.startswith("dataloader.train") and "DETECTRON2_DATASETS" in text
