"""The engine switch, in fresh processes with made-up installations."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What an import would get is asked rather than imported where that will do: it is faster.
REPORT = """
import json, sys
import lvt_d2
from importlib.util import find_spec
print(json.dumps([lvt_d2.ENGINE, find_spec("detectron2").origin, sys.path]))
"""


def run(code, *folders, engine=None, cwd=None):
    """Finished process that ran `code` with `folders` on its path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LVT_D2", "PYTHON"))}
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, folders), str(ROOT)])
    if engine is not None:
        environment["LVT_D2_ENGINE"] = engine
    command = [sys.executable, "-c", code] if "\n" in code else [sys.executable, code]
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120
    )


def report(*folders, code=REPORT, **kwargs):
    finished = run(code, *folders, **kwargs)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def site():
    return ROOT / "projects" / "d2lite" / "d2lite" / "_site"


@pytest.fixture
def real(tmp_path):
    """Folder with something that looks like an installed Detectron2."""
    package = tmp_path / "real" / "detectron2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "0.6"\n')
    return tmp_path / "real"


@pytest.fixture
def folder(tmp_path):
    """Folder with a plain folder called detectron2, such as a clone of its repository."""
    (tmp_path / "plain" / "detectron2").mkdir(parents=True)
    return tmp_path / "plain"


@pytest.fixture
def metadata(tmp_path):
    """Folder that says that a distribution called detectron2 is installed, and has no package."""
    info = tmp_path / "metadata" / "detectron2-0.6.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: detectron2\nVersion: 0.6\n")
    return tmp_path / "metadata"


@pytest.mark.parametrize("engine", [None, "", "auto", "detectron2"])
def test_an_installation_is_used(real, engine):
    name, file, path = report(real, engine=engine)
    assert name == "detectron2" and str(real) in file
    assert not any("_site" in entry for entry in path)


@pytest.mark.parametrize("engine", [None, "d2lite"])
def test_d2lite_where_there_is_none(engine):
    name, file, path = report(engine=engine)
    assert name == "d2lite" and file == str(site() / "detectron2" / "__init__.py")
    position = [k for k, entry in enumerate(path) if entry.endswith("_site")]
    assert position == [len(path) - 1 if engine is None else 0]


def test_a_folder_is_no_installation(folder):
    assert report(folder)[0] == "d2lite"
    assert report(cwd=folder)[0] == "d2lite"
    version = "import detectron2\nimport lvt_d2, detectron2\nprint([detectron2.__version__])"
    finished = run(version, folder)
    assert "0.6+d2lite" in finished.stdout, finished.stderr


def test_an_installation_behind_a_folder_is_found(folder, real):
    assert report(folder, real)[0] == "detectron2"


def test_d2lite_on_demand_goes_first(real):
    late = f"import sys\nsys.path.append({str(site())!r})\n" + REPORT
    for code in (REPORT, late):
        name, file, path = report(real, code=code, engine="d2lite")
        assert name == "d2lite" and str(site()) in file and path.count(str(site())) == 1


@pytest.mark.parametrize("engine", [None, "detectron2"])
def test_a_hidden_installation_is_an_error(folder, metadata, engine):
    for folders, reason in [((folder, metadata), "hides it"), ((metadata,), "files are missing")]:
        finished = run(REPORT, *folders, engine=engine)
        assert finished.returncode == 1
        last = finished.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: detectron2 0.6 is installed but can't be imported")
        assert reason in last and "LVT_D2_ENGINE=d2lite" in last
    assert report(folder, metadata, engine="d2lite")[0] == "d2lite"


@pytest.mark.parametrize(
    "engine, words",
    [
        ("detectron2", "ImportError: LVT_D2_ENGINE=detectron2, but it is not installed"),
        ("lite", "ValueError: LVT_D2_ENGINE is 'lite'; expected one of auto, detectron2, d2lite"),
    ],
)
def test_wrong_choices(engine, words):
    finished = run(REPORT, engine=engine)
    assert finished.returncode == 1 and words in finished.stderr


def test_d2lite_is_refused_after_the_real_one(real):
    code = "import detectron2\nimport lvt_d2"
    finished = run(code, real, engine="d2lite")
    assert finished.returncode == 1
    assert "is imported already; import lvt_d2 before detectron2" in finished.stderr
    assert run(code, real).returncode == 0
    again = "import lvt_d2\nimport detectron2\nfrom lvt_d2._engine import activate\nactivate()"
    assert run(again, real, engine="d2lite").returncode == 0


WORKERS = """
import json
import multiprocessing

{imports}


def work(queue):
    import detectron2
    from detectron2.utils.registry import Registry, locate

    queue.put([detectron2.__version__, locate.__module__])


if __name__ == "__main__":
    import lvt_d2

    found = {{}}
    for method in {methods}:
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=work, args=(queue,))
        process.start()
        found[method] = queue.get(timeout=60)
        process.join()
    print(json.dumps(found))
"""


@pytest.mark.parametrize(
    "engine, imports, methods",
    [
        (None, "import lvt_d2", ("fork", "spawn", "forkserver")),
        (None, "", ("spawn",)),
        ("d2lite", "import lvt_d2", ("spawn",)),
    ],
)
def test_workers_run_on_the_same_engine(tmp_path, real, engine, imports, methods):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS.format(imports=imports, methods=methods))
    found = report(*([real] if engine else []), code=str(script), engine=engine)
    assert tuple(found) == methods
    for version, module in found.values():
        assert "d2lite" in version and module == "detectron2.utils.registry"


def test_pickles_and_targets_name_detectron2():
    from detectron2.config import CfgNode, LazyCall, LazyConfig
    from detectron2.structures import Boxes

    data = pickle.dumps([CfgNode, Boxes])
    assert b"detectron2.config.config" in data and b"d2lite" not in data
    assert "detectron2.structures.Boxes()" in LazyConfig.to_py(LazyCall(Boxes)(), prefix="")
