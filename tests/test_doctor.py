"""The doctor, in fresh processes with made-up installations in front of the real ones."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from pycocotools.cocoeval import COCOeval

from lvt_d2.doctor import isolation
from lvt_d2.doctor.advice import explain, matching_torchvision
from lvt_d2.doctor.engine import _compiled_evaluation, _part
from lvt_d2.doctor.worker import PROBES
from tests.synthetic_coco import write_coco_instances

ROOT = Path(__file__).parents[1]
SITE = ROOT / "projects/d2lite/d2lite/_site"

# As much of a PyTorch as the probes ask for before they import anything that stands on it.
TORCH = """
__version__ = "2.14.1"
float32 = "float32"


class Tensor:
    def __matmul__(self, other):
        return self

    def numpy(self):
        return __import__("numpy").ones(6)


def from_numpy(array):
    return Tensor()


def ones(*shape, device="cpu"):
    return Tensor()


class version:
    cuda = "13.0"


class cuda:
    @staticmethod
    def is_available():
        return False
"""


def environment(path, variables):
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LVT_D2", "PYTHON", "CUDA_", "DETECTRON2"))
    }
    kept["PYTHONPATH"] = os.pathsep.join([str(path), str(ROOT)])
    return kept | {"OMP_NUM_THREADS": "1"} | {name: str(v) for name, v in variables.items()}


class Machine:
    """A folder in front of what is installed, and what the doctor says with it."""

    def __init__(self, folder):
        self.path = folder / "site"
        self.path.mkdir()
        self.file = folder / "rows.jsonl"

    def module(self, name, text):
        """Put a module there: a package, or a file where its package is there already."""
        *parents, last = name.split(".")
        folder = self.path.joinpath(*parents)
        if parents:
            folder.mkdir(parents=True, exist_ok=True)
            for depth in range(1, len(parents) + 1):
                self.path.joinpath(*parents[:depth], "__init__.py").touch()
        package = folder / last
        file = package / "__init__.py" if package.is_dir() else folder / f"{last}.py"
        file.write_text(text)
        return self

    def distribution(self, name, version, *requires):
        info = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        return self

    def detectron2(self):
        """Something that looks and works like an installed Detectron2."""
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(SITE / "detectron2", self.path / "detectron2", ignore=ignored)
        return self

    def probe(self, *names, cwd=None, **variables):
        """Rows of some probes by subject; the last one of each."""
        return {row["subject"]: row for row in self.rows(*names, cwd=cwd, **variables)}

    def rows(self, *names, cwd=None, **variables):
        """Rows of some probes."""
        command = [sys.executable, "-m", "lvt_d2.doctor.worker", str(self.file), *names]
        self.file.unlink(missing_ok=True)
        done = subprocess.run(
            command,
            env=environment(self.path, variables),
            cwd=cwd or self.path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return [row for line in self.file.read_text().splitlines() for row in json.loads(line)[1]]

    def doctor(self, cwd=None, **variables):
        """The whole report."""
        return subprocess.run(
            [sys.executable, "-m", "lvt_d2.doctor"],
            env=environment(self.path, variables),
            cwd=cwd or self.path,
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def is_row(row, level, words, remedy):
    assert row["level"] == level, row
    assert words in row["text"], row
    assert remedy in row["remedy"], row


def test_what_works(machine, tmp_path):
    done = machine.doctor(DETECTRON2_DATASETS=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout
    titles = [line for line in text.splitlines() if line and line == line.lstrip()]
    assert titles == ["Versions", "Devices", "Engine", "Data", "Checks", "Training would work."]
    for word in (
        "pycocotools",
        "cores",
        "runs d2lite, because no Detectron2 is installed",
        f"{tmp_path} (DETECTRON2_DATASETS is '{tmp_path}')",
        "--no-build-isolation",
        "one step of Mask R-CNN on LVT",
        "loss_mask",
    ):
        assert word in " ".join(text.split()), text
    assert max(len(line) for line in text.splitlines()) <= 110 and not done.stderr


def test_a_detectron2_with_all_its_troubles(machine):
    """Training works without everything that breaks there; the report says what mends it."""
    machine.detectron2().distribution("detectron2", "0.6", "iopath<0.1.9,>=0.1.7")
    machine.distribution("panopticapi-lite", "0.2.0", "numpy<1.0")
    machine.module("cv2", "raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')")
    lost = "raise ModuleNotFoundError(\"No module named '{0}'\", name='{0}')"
    machine.module("pkg_resources", lost.format("pkg_resources"))
    machine.module("panopticapi", lost.format("panopticapi"))
    machine.module("detectron2._C", "raise ImportError('_C.so: undefined symbol: _ZN3c106detail')")
    for name, line in (
        ("model_zoo", "import pkg_resources\n"),
        ("utils/visualizer", "import cv2\n"),
    ):
        file = machine.path / "detectron2" / name
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        file.write_text(line + file.read_text())
    done = machine.doctor()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs           detectron2, because it is installed" in done.stdout
    lines = [line.strip() for line in done.stdout.splitlines()]
    for remedy in (
        'pip install "setuptools<81"',
        "pip install opencv-python-headless",
        "pip install --no-deps panopticapi-lite",
        "pip install --no-build-isolation --no-deps --force-reinstall FOLDER_OF_ITS_SOURCE",
        "nothing to mend",
        "nothing to mend; keep numpy",
    ):
        assert f"-> {remedy}" in lines, done.stdout
    text = " ".join(done.stdout.split())
    for words in (
        "Detectron2 asks pip for iopath<0.1.9,>=0.1.7, but 0.1",
        "panopticapi-lite asks pip for numpy<1.0",
        "setuptools has dropped with version 81",
        "compiled against another PyTorch than the installed",
        "COCOeval" not in text and "Training would work. Warnings: detectron2._C, model_zoo, ",
    ):
        assert words in text, done.stdout


def test_parts_that_are_there_and_fail(machine):
    machine.detectron2().module("detectron2._C", "")
    machine.module(
        "detectron2.evaluation.fast_eval_api",
        "class COCOeval_opt:\n    def __init__(self, *a):\n"
        "        raise TypeError('COCOevalEvaluateImages(): incompatible function arguments')",
    )
    library = "libGL.so.1: cannot open shared object file"
    machine.module("cv2", f"raise ImportError('{library}')")
    machine.module("detectron2.utils.visualizer", "import cv2")
    machine.module("panopticapi.evaluation", "")
    rows = machine.probe("detectron2")
    words = "the compiled COCO evaluation fails (TypeError: COCOevalEvaluateImages()"
    is_row(rows["COCOeval"], "warning", words, "dataloader.evaluator.use_fast_impl=False")
    remedy = "pip uninstall -y opencv-python && pip install opencv-python-headless"
    is_row(rows["visualizer"], "warning", library, remedy)
    for subject in ("detectron2._C", "model_zoo", "panopticapi"):
        assert rows[subject]["level"] == "ok", rows


def test_compiled_evaluation_that_works(capsys):
    """The same calls on pycocotools' own, which has the same interface."""
    from detectron2.evaluation import COCOEvaluator  # noqa: F401  (imports its package)

    module = ModuleType("detectron2.evaluation.fast_eval_api")
    module.COCOeval_opt = COCOeval
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        assert _part("COCOeval", _compiled_evaluation, "nothing").level == "ok"
        patch.setattr(COCOeval, "accumulate", lambda self: None)
        assert _part("COCOeval", _compiled_evaluation, "nothing").level == "warning"
    assert not capsys.readouterr().out


def test_detectron2_that_can_not_be_imported(machine):
    """Its own modules missing, or too old for Pillow: the way out is named."""
    machine.module(
        "detectron2", "raise AttributeError(\"module 'PIL.Image' has no attribute 'LINEAR'\")"
    )
    rows = machine.probe("engine", "training")
    is_row(rows["engine"], "problem", "as the release 0.6 is", "get the main branch")
    is_row(rows["training"], "problem", "LINEAR", "export LVT_D2_ENGINE=d2lite")


@pytest.mark.parametrize(
    "engine, words, remedy",
    [
        ("lite", "expected one of auto, detectron2, d2lite", "unset LVT_D2_ENGINE"),
        ("detectron2", "but it is not installed", "--no-build-isolation --no-deps"),
    ],
)
def test_wrong_choices_of_the_engine(machine, engine, words, remedy):
    machine.module("torch", TORCH)
    rows = machine.probe("engine", LVT_D2_ENGINE=engine)
    is_row(rows["engine"], "problem", words, remedy)
    assert rows["LVT_D2_ENGINE"]["text"] == repr(engine) and rows["runs"]["text"] == "none"


def test_folder_that_hides_an_installation(machine):
    machine.module("torch", TORCH).distribution("detectron2", "0.6")
    folder = machine.path / "detectron2"
    folder.mkdir()
    done = machine.doctor()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"-> mv {folder} {folder}-source, or run on d2lite" in done.stdout
    assert "detectron2 0.6 is installed but can't be imported" in " ".join(done.stdout.split())
    assert f"only folders of that name: {folder}" in " ".join(done.stdout.split())
    assert done.stdout.splitlines()[-1].startswith("Training would not work as things are.")
    folder.rmdir()
    remedy = "pip uninstall -y detectron2"
    is_row(machine.probe("engine")["engine"], "problem", "its files are missing", remedy)


def test_checkout_that_hides_an_installation(machine, tmp_path):
    machine.detectron2().distribution("detectron2", "0.6")
    checkout = tmp_path / "checkout"
    shutil.copytree(machine.path / "detectron2", checkout / "detectron2")
    row = machine.probe("engine", cwd=checkout)["engine"]
    is_row(row, "warning", "hides the installed", f"cd to another folder than {checkout}")


def test_torchvision_of_another_torch(machine):
    machine.module("torch", TORCH).distribution("torch", "2.14.1")
    machine.distribution("torchvision", "0.19.0")
    machine.module("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    row = machine.probe("torchvision")["torchvision"]
    words = "torchvision 0.19.0 does not belong to torch 2.14.1, which needs 0.29"
    is_row(row, "problem", words, '"torchvision==0.29.*"')
    assert "nms does not exist" in row["text"]


@pytest.mark.parametrize(
    "own, text, words, remedy",
    [
        ("0.29.1+cpu", "RuntimeError('no nms')", "different builds", "from one package index"),
        (
            "0.29.1",
            'RuntimeError("Couldn\'t load custom C++ ops")',
            "its compiled part does not load",
            '"torchvision==0.29.*"',
        ),
        ("0.29.1", "ImportError('_C.so: undefined symbol: x')", "another PyTorch", "==0.29.*"),
        ("0.29.1", "ModuleNotFoundError('gone', name='torchvision')", "is missing", "torchvision"),
    ],
)
def test_torchvision_that_does_not_load(machine, own, text, words, remedy):
    machine.module("torch", TORCH).distribution("torch", "2.14.1")
    machine.distribution("torchvision", own).module("torchvision", f"raise {text}")
    is_row(machine.probe("torchvision")["torchvision"], "problem", words, remedy)


def test_wrong_numbers_of_an_operator(machine):
    machine.module("torchvision.ops", "import torch\nnms = lambda b, s, t: torch.tensor([0])\n"
                   "roi_align = lambda x, *a, **k: x.mean()")  # fmt: skip
    machine.module("torchvision.__init__", "__version__ = '0.29.1'")
    row = machine.probe("torchvision", CUDA_VISIBLE_DEVICES="")["torchvision"]
    assert row["level"] == "problem" and "nms keeps [0]" in row["text"]


def test_numpy_of_another_binary_interface(machine):
    broken = TORCH.replace("return Tensor()", "raise RuntimeError('Numpy is not available')", 1)
    machine.module("torch", broken)
    size = "numpy.dtype size changed, may indicate binary incompatibility"
    machine.module("pycocotools.mask", f"raise ValueError('{size}')")
    rows = machine.probe("torch", "pycocotools")
    words = "was compiled for another numpy than the installed"
    is_row(rows["torch"], "problem", words, 'pip install "numpy<2"')
    remedy = "--force-reinstall --no-deps --no-cache-dir pycocotools"
    is_row(rows["pycocotools"], "problem", words, remedy)


@pytest.mark.parametrize(
    "raised, words, remedy",
    [
        ("ImportError('libtorch_cpu.so: undefined symbol: iJIT')", "undefined symbol", "torch"),
        ("ModuleNotFoundError('no torch', name='torch')", "torch is missing", "pip install torch"),
        ("SystemExit(3)", "SystemExit", ""),
    ],
)
def test_torch_that_can_not_be_imported(machine, raised, words, remedy):
    machine.module("torch", f"raise {raised}")
    done = machine.doctor()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    text = " ".join(done.stdout.split())
    assert words in text and remedy in text
    assert "Problems: torch, training." in text, "nothing is told twice"


def test_crashes_hangs_and_exits(machine, monkeypatch):
    for name, value in environment(machine.path, {}).items():
        monkeypatch.setenv(name, value)
    machine.module("torch", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    first = isolation.run_probes(["requirements", "torch", "training"])
    assert [row.subject for row in first][-1] == "torch" and "SIGSEGV" in first[-1].text
    machine.module("torch", TORCH).module("pycocotools.mask", "import os\nos._exit(7)")
    rows = isolation.run_probes(["pycocotools", "torch"])
    assert [(row.subject, row.level) for row in rows] == [
        ("pycocotools", "problem"),
        ("torch", "ok"),
    ]
    assert "exit status 7" in rows[0].text
    machine.module("pycocotools.mask", "import time\ntime.sleep(60)")
    monkeypatch.setattr(isolation, "TIMEOUT", 4)
    (row,) = isolation.run_probes(["pycocotools"])
    assert "did not end within 4 seconds" in row.text


@pytest.fixture
def driver(tmp_path):
    """A folder with an nvidia-smi that has a GPU."""
    tool = tmp_path / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'Some GPU, 81559 MiB, 470.42.01'\n")
    tool.chmod(0o755)
    return f"{tool.parent}{os.pathsep}{os.environ['PATH']}"


def test_no_gpu(machine, tmp_path):
    (tmp_path / "empty").mkdir()
    machine.module("torch", TORCH)
    rows = machine.probe("devices", "gpu", PATH=tmp_path / "empty")
    is_row(rows["gpu"], "note", "--num-gpus 0", "")
    assert rows["driver"]["text"] == "no NVIDIA driver answers"


def test_driver_older_than_the_build(machine, driver):
    warning = "__import__('warnings').warn('The NVIDIA driver on your system is too old')"
    machine.module("torch", TORCH.replace("        return False", f"        {warning}"))
    rows = machine.probe("devices", "gpu", PATH=driver)
    words = "built for CUDA 13.0, which the driver 470.42.01 does not serve (The NVIDIA driver on"
    is_row(rows["gpu"], "problem", words, "update NVIDIA's driver")
    assert "older CUDA than cu130" in rows["gpu"]["remedy"]
    assert rows["driver"]["text"] == "Some GPU, 81559 MiB, 470.42.01"


def test_build_without_cuda_beside_a_gpu(machine, driver):
    machine.module("torch", TORCH.replace('"13.0"', "None"))
    row = machine.probe("gpu", PATH=driver)["gpu"]
    is_row(row, "problem", "built for the CPU alone", "--force-reinstall torch torchvision")
    hidden = machine.probe("gpu", PATH=driver, CUDA_VISIBLE_DEVICES="")["gpu"]
    is_row(hidden, "note", "hides 1", "")


def test_gpu_that_the_build_does_not_know(machine):
    text = TORCH.replace("return False", "return True")
    text = text.replace('device="cpu"):\n', 'device="cpu"):\n    if device != "cpu": fail()\n')
    text += """
    @staticmethod
    def device_count():
        return 1

    @staticmethod
    def get_device_properties(i):
        class properties:
            name, major, minor, total_memory = "Old GPU", 3, 5, 2**33
        return properties

    @staticmethod
    def get_arch_list():
        return ["sm_75", "sm_90"]


def fail():
    raise RuntimeError("CUDA error: no kernel image is available")
"""
    row = machine.module("torch", text).probe("gpu")["gpu 0"]
    is_row(row, "problem", "built for sm_75, sm_90, can't compute on it", "names this capability")
    assert "Old GPU, 8 GiB, capability 3.5" in row["text"]


@pytest.mark.parametrize(
    "module, raised, subject, words, remedy",
    [
        (
            "hydra",
            "Exception('Could not deserialize ATN with version 3 (expected 4)')",
            "hydra-core",
            "antlr4 runtime is not the one",
            'pip install "antlr4-python3-runtime==4.9.*"',
        ),
        (
            "tabulate",
            "ModuleNotFoundError('none', name='pkg_resources')",
            "tabulate",
            "setuptools has dropped",
            'pip install "setuptools<81"',
        ),
        (
            "iopath",
            "ModuleNotFoundError('none', name='portalocker')",
            "iopath",
            "portalocker is missing",
            "pip install portalocker",
        ),
        ("yacs", "SyntaxError('old')", "yacs", "old", "--force-reinstall --no-deps yacs"),
    ],
)
def test_libraries(machine, module, raised, subject, words, remedy):
    machine.module("torch", "raise ImportError('skips what stands on it')")
    machine.module(module, f"raise {raised}")
    rows = machine.probe("libraries")
    is_row(rows[subject], "problem", words, remedy)
    assert "timm" not in rows and "omegaconf" in rows["libraries"]["text"]


def test_requirements(machine):
    machine.distribution("lvt-d2", "9", "no-such-package>=1", "numpy>=99", 'x>=1; extra == "y"')
    machine.distribution("detectron2", "0.6", "black", "another-missing>=2")
    rows = {row["remedy"]: row for row in machine.rows("requirements")}
    for remedy, level, words in (
        ("no-such-package>=1", "problem", "lvt-d2 needs no-such-package>=1; it is not installed"),
        ("numpy>=99", "problem", f"lvt-d2 needs numpy>=99; {version('numpy')} installed"),
        ("another-missing>=2", "warning", "Detectron2 asks pip for another-missing>=2; it is not"),
    ):
        is_row(rows[f'pip install "{remedy}"'], level, words, "")
    assert not any("x>=1" in remedy for remedy in rows)


def test_data(machine, tmp_path):
    write_coco_instances(tmp_path, n_train=2, n_val=3)
    rows = machine.probe("data", DETECTRON2_DATASETS=tmp_path)
    assert rows["COCO instances"]["text"] == "there: 2 in train2017, 3 in val2017"
    assert rows["COCO panoptic"]["text"].startswith(
        "lacks coco/annotations/panoptic_train2017.json"
    )
    assert rows["ADE20K"]["text"] == "not there"
    assert str(tmp_path) in rows["folder"]["text"]
    machine.module("torch", "raise ImportError('x')")
    rows = machine.probe("data", DETECTRON2_DATASETS=tmp_path / "none")
    assert "does not exist" in rows["folder"]["text"] and "not looked at" in rows["sets"]["text"]


def test_torchvision_versions():
    assert (
        matching_torchvision("2.4.0+cu121") == "0.19" and matching_torchvision("2.14.1") == "0.29"
    )
    assert matching_torchvision("") is None and matching_torchvision("1.13") is None


def test_errors_that_nothing_is_known_about():
    text, remedy = explain(KeyError("x"), "fvcore")
    assert text == "KeyError: 'x'" and remedy.endswith("fvcore")
    assert len(explain(ValueError("y" * 999), "fvcore")[0]) < 400


def test_other_programs_still_refuse_a_broken_engine(machine):
    done = subprocess.run(
        [sys.executable, "-c", "import lvt_d2"],
        env=environment(machine.path, {"LVT_D2_ENGINE": "lite"}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "ValueError: LVT_D2_ENGINE is 'lite'" in done.stderr


def test_help():
    done = subprocess.run(
        [sys.executable, "-m", "lvt_d2.doctor", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0 and "exit status is 0" in " ".join(done.stdout.split())
    assert list(PROBES)[-1] == "training"
