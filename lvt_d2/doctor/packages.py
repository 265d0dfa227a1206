"""Probes of Python, of what pip has installed, and of the libraries that training imports."""

import importlib
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution

import lvt_d2
from lvt_d2.doctor.advice import explain
from lvt_d2.doctor.rows import NOTE, PROBLEM, WARNING, Row, check, importable, installed_version

SHOWN = (
    "torch torchvision numpy pillow scipy matplotlib fvcore iopath omegaconf hydra-core "
    "antlr4-python3-runtime yacs pycocotools timm cloudpickle setuptools tensorboard tqdm"
).split()
OPTIONAL = "detectron2 panopticapi panopticapi-lite opencv-python opencv-python-headless".split()
"""Shown where they are installed."""

LIBRARIES = {
    "pillow": "PIL.Image",
    "scipy": "scipy.ndimage",
    "matplotlib": "matplotlib.figure",
    "iopath": "iopath.common.file_io",
    "fvcore": "fvcore.common.checkpoint",
    "omegaconf": "omegaconf",
    "hydra-core": "hydra.core.override_parser.overrides_parser",
    "yacs": "yacs.config",
    "cloudpickle": "cloudpickle",
    "termcolor": "termcolor",
    "tabulate": "tabulate",
    "tqdm": "tqdm",
    "tensorboard": "torch.utils.tensorboard",
    "timm": "timm",
}
"""Imported one by one: pip's name, and the module that training needs of it."""
_STAND_ON = {
    "fvcore": ("torch",),
    "tensorboard": ("torch",),
    "timm": ("torch", "torchvision.ops"),
}
"""What has checks of its own, whose failures would be told twice."""


def versions() -> list[Row]:
    """Python's and all packages' versions, nothing imported."""
    rows = [
        Row("Versions", "lvt-d2", lvt_d2.__version__),
        Row("Versions", "python", f"{platform.python_version()}  {sys.executable}"),
        Row("Versions", "platform", platform.platform()),
    ]
    for name in SHOWN:
        rows.append(Row("Versions", name, installed_version(name) or "not installed"))
    for name in OPTIONAL:
        if found := installed_version(name):
            rows.append(Row("Versions", name, found))
    return rows


def requirements() -> list[Row]:
    """Whether what is installed is what this project asks for, and what Detectron2 asks for."""
    rows = []
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        found = platform.python_version()
        text = f"Python is {found}; expected 3.10 to 3.13"
        rows.append(check("python", text, WARNING, "make a virtual environment with python3.12"))
    if installed_version("lvt-d2") is None:
        text = "lvt-d2 runs from a checkout that pip does not know: versions were not compared"
        rows.append(check("requirements", text, NOTE, "pip install -e FOLDER_OF_THE_CHECKOUT"))
    else:
        unmet = _unmet("lvt-d2")
        for wanted, found in unmet:
            text = f"lvt-d2 needs {wanted}; {found or 'it is not'} installed"
            rows.append(check("requirements", text, PROBLEM, f'pip install "{wanted}"'))
        if not unmet:
            rows.append(check("requirements", "all that lvt-d2 asks for is installed"))
    for wanted, found in _unmet("detectron2"):
        rows.append(_unmet_by_detectron2(wanted, found))
    if installed_version("panopticapi-lite"):
        for wanted, found in _unmet("panopticapi-lite"):
            text = f"panopticapi-lite asks pip for {wanted}; {found or 'none'} works as well"
            rows.append(check("panopticapi-lite", text, NOTE, "nothing to mend; keep numpy"))
    return rows


def _unmet_by_detectron2(wanted: str, found: str | None) -> Row:
    if wanted.startswith("iopath") and found:
        text = (
            f"Detectron2 asks pip for {wanted}, but {found} works as well; only `pip check` "
            "complains. Whoever installs Detectron2 anew keeps iopath by --no-deps"
        )
        return check("iopath", text, NOTE, "nothing to mend")
    text = f"Detectron2 asks pip for {wanted}; {found or 'it is not'} installed"
    return check("requirements", text, WARNING, f'pip install "{wanted}"')


def _unmet(name: str) -> list[tuple[str, str | None]]:
    """Requirements of an installed distribution, and the versions found that don't meet them."""
    from packaging.requirements import Requirement

    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:
        return []
    unmet = []
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = installed_version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            unmet.append((re.sub(r"\s", "", wanted), found))
    return unmet


def pycocotools() -> list[Row]:
    """Whether its compiled part works with the installed numpy."""
    if not importable("numpy"):
        return []
    try:
        import numpy as np
        import pycocotools.mask as mask_util
        from pycocotools.cocoeval import COCOeval  # noqa: F401

        mask = np.zeros((4, 6), np.uint8, order="F")
        mask[1:3, 2:5] = 1
        code = mask_util.encode(mask)
        if mask_util.area(code) != 6 or not (mask_util.decode(code) == mask).all():
            raise ValueError("a mask is another one once it has been encoded and decoded")
    except Exception as error:
        text, remedy = explain(error, "pycocotools")
        return [check("pycocotools", text, PROBLEM, remedy)]
    return [check("pycocotools", "encodes and decodes masks")]


def libraries() -> list[Row]:
    """Whether everything else can be imported."""
    rows, working = [], []
    for name, module in LIBRARIES.items():
        if not importable(*_STAND_ON.get(name, ())):
            continue
        try:
            importlib.import_module(module)
            if name == "hydra-core":
                parser = importlib.import_module(module).OverridesParser.create()
                parser.parse_override("train.max_iter=1")
        except BaseException as error:  # SystemExit, too
            text, remedy = explain(error, name)
            rows.append(check(name, text, PROBLEM, remedy))
        else:
            working.append(name)
    return [*rows, check("libraries", f"can be imported: {', '.join(working)}")]
