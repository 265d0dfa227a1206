"""From an exception to what is wrong, and the command that mends it."""

import re
import traceback

from lvt_d2.doctor.rows import installed_version

_DISTRIBUTIONS = {"PIL": "pillow", "hydra": "hydra-core", "yaml": "pyyaml", "cv2": "opencv-python"}
"""Names under which pip knows modules, where they differ."""

REBUILD_DETECTRON2 = (
    "pip install --no-build-isolation --no-deps --force-reinstall FOLDER_OF_ITS_SOURCE"
)
"""Its setup.py imports torch, which an isolated build lacks; its pins would replace iopath."""

_NUMPY_ABI = re.compile(
    r"numpy\.\w+ size changed|_ARRAY_API not found|compiled using NumPy|Numpy is not available"
    r"|numpy\.core\.multiarray failed|compiled against (NumPy )?(API|ABI)",
    re.IGNORECASE,
)
_TORCH_ABI = re.compile(r"undefined symbol|lib(c10|torch)\w*\.so|DLL load failed|Symbol not found")


def one_line(error: BaseException) -> str:
    """Type and text of an exception; a long text is cut."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{'...' if len(text) > 300 else ''}"


def place(error: BaseException) -> str:
    """The line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"line {frames[-1].lineno} of {frames[-1].filename}" if frames else "no line"


def explain(error: BaseException, distribution: str) -> tuple[str, str]:
    """What an exception at the import or first use of a package means.

    Args:
        error: that was raised.
        distribution: pip's name of the package that was imported.

    Returns:
        What is wrong, and the remedy.
    """
    text = one_line(error)
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
    if missing:
        return _missing(missing.split(".")[0], text, distribution)
    if "Could not deserialize ATN" in text:
        return (
            f"the installed antlr4 runtime is not the one that hydra-core was made with ({text})",
            'pip install "antlr4-python3-runtime==4.9.*"',
        )
    if _NUMPY_ABI.search(text):
        return _numpy_abi(text, distribution)
    if "libGL" in text or "libgthread" in text:
        return (
            f"OpenCV wants the libraries of a desktop ({text})",
            "pip uninstall -y opencv-python && pip install opencv-python-headless",
        )
    if distribution == "detectron2":
        return _detectron2(text)
    if _TORCH_ABI.search(text):
        return (
            f"{distribution} was compiled against another PyTorch than the installed "
            f"{installed_version('torch') or 'one'} ({text})",
            torchvision_command()
            if distribution == "torchvision"
            else f"pip install --force-reinstall --no-deps --no-cache-dir {distribution}",
        )
    return text, f"pip install --force-reinstall --no-deps {distribution}"


def _missing(module: str, text: str, distribution: str) -> tuple[str, str]:
    if module == distribution == "detectron2":
        return _detectron2(text)
    if module == "pkg_resources":
        return (
            f"{distribution} needs pkg_resources, which setuptools has dropped with version 81 "
            f"(installed: {installed_version('setuptools') or 'none'})",
            'pip install "setuptools<81"',
        )
    if module == "cv2":
        return (
            f"{distribution} needs OpenCV without saying so to pip ({text})",
            "pip install opencv-python-headless",
        )
    if module == "panopticapi":
        return (
            f"{distribution} needs panopticapi, which PyPI has under another name only ({text})",
            "pip install --no-deps panopticapi-lite",
        )
    name = _DISTRIBUTIONS.get(module, module.replace("_", "-"))
    return f"{module} is missing ({text})", f"pip install {name}"


def _numpy_abi(text: str, distribution: str) -> tuple[str, str]:
    installed = installed_version("numpy") or "none"
    remedy = f"pip install --force-reinstall --no-deps --no-cache-dir {distribution}"
    if distribution == "torch":  # old wheels are not made anew
        remedy = 'pip install "numpy<2"'
    return (
        f"{distribution} was compiled for another numpy than the installed {installed} ({text})",
        remedy,
    )


def _detectron2(text: str) -> tuple[str, str]:
    if re.search(r"PIL\.Image|no attribute '(LINEAR|ANTIALIAS)'", text):
        return (
            f"this Detectron2 is older than the installed Pillow, as the release 0.6 is ({text})",
            f"get the main branch of Detectron2, then {REBUILD_DETECTRON2}",
        )
    if _TORCH_ABI.search(text):
        return (
            "Detectron2 was compiled against another PyTorch than the installed "
            f"{installed_version('torch') or 'one'} ({text})",
            REBUILD_DETECTRON2,
        )
    return text, f"{REBUILD_DETECTRON2}, or run on d2lite: export LVT_D2_ENGINE=d2lite"


def matching_torchvision(torch_version: str) -> str | None:
    """The torchvision that belongs to a torch: 0.15 to 2.0, and a minor version each since."""
    found = re.match(r"2\.(\d+)", torch_version)
    return f"0.{int(found[1]) + 15}" if found else None


def torchvision_command() -> str:
    """Installs the torchvision that belongs to the installed torch."""
    wanted = matching_torchvision(installed_version("torch") or "")
    name = f'"torchvision=={wanted}.*"' if wanted else "torch torchvision"
    return f"pip install --force-reinstall --no-deps --no-cache-dir {name}"
