"""Actions that wait for an import."""

import importlib
import importlib.util
import subprocess
import sys

import pytest

from lvt_d2._after_import import after_import


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Name of a package on the path that is not imported yet."""
    (tmp_path / "slow_package").mkdir()
    (tmp_path / "slow_package/__init__.py").write_text("value = 1\n")
    (tmp_path / "slow_package/part.py").write_text("import slow_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders = sys.meta_path[:]
    yield "slow_package"
    sys.meta_path[:] = finders
    for name in ("slow_package", "slow_package.part"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("first", ["slow_package", "slow_package.part"])
def test_action_follows_the_import_once(package, first):
    finders = len(sys.meta_path)
    seen = []
    after_import(package, lambda: seen.append(sys.modules[package].value))
    assert importlib.util.find_spec(package) is not None  # looking is not importing
    assert seen == []
    importlib.import_module(first)
    assert seen == [1]
    module = importlib.reload(sys.modules[package])
    assert seen == [1] and len(sys.meta_path) == finders
    assert type(module.__loader__) is type(module.__spec__.loader) is type(pytest.__loader__)


def test_imported_already(package):
    importlib.import_module(package)
    seen = []
    after_import(package, lambda: seen.append(1))
    assert seen == [1]


def test_absent_package(package):
    after_import("absent_package", lambda: pytest.fail("called"))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("absent_package")


@pytest.mark.parametrize("lines", ["import timm, lvt_d2", "import lvt_d2.timm_models, timm"])
def test_models_are_registered_in_any_order(lines):
    script = f"{lines}\nprint(timm.list_models('lvt*'))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert output.stdout.strip() == "['lvt', 'lvt_cls']", output.stderr


def test_import_of_the_library_alone_is_light():
    script = "import lvt_d2, sys\nprint({'torch', 'timm', 'detectron2'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert output.stdout.strip() == "set()", output.stderr
