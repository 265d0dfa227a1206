"""The engine switch: Detectron2 where it is installed, d2lite where it is not.

Everything else in this project says ``from detectron2 ...`` and never asks which one it got.
The environment variable ``LVT_D2_ENGINE`` overrides the choice:

* ``auto`` (default): an installed Detectron2, else d2lite, whose folder is appended to
  ``sys.path`` so that it can never shadow an installation;
* ``detectron2``: the real one or an ImportError;
* ``d2lite``: d2lite even beside an installed Detectron2.
"""

import importlib.util
import os
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "LVT_D2_ENGINE"
CHOICES = ("auto", "detectron2", "d2lite")
INSTALL_PAGE = "https://detectron2.readthedocs.io/tutorials/install.html"


def d2lite_site() -> Path:
    """Folder that holds d2lite's package called ``detectron2``.

    Raises:
        ImportError: neither an installed d2lite nor a source checkout has it.
    """
    spec = find_spec("d2lite")
    candidates = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    candidates.append(Path(__file__).parents[1] / "projects" / "d2lite" / "d2lite")
    for package in candidates:
        if (package / "_site" / "detectron2" / "__init__.py").is_file():
            return package / "_site"
    raise ImportError(
        f"d2lite was not found in {[str(c) for c in candidates]}; reinstall the project with "
        "`pip install -e .` from its root"
    )


def _origin_of_detectron2() -> Path | None:
    """File of the ``detectron2`` that an import would get now, None where there is none."""
    if "detectron2" in sys.modules:
        file = getattr(sys.modules["detectron2"], "__file__", None)
        return Path(file) if file else None
    spec = importlib.util.find_spec("detectron2")
    # A spec without an origin is a namespace package: just a folder of that name.
    return Path(spec.origin) if spec and spec.origin else None


def _refuse_hidden_installation() -> None:
    """Raise where a distribution of Detectron2 exists but a plain folder hides its package."""
    try:
        installed = distribution("detectron2")
    except PackageNotFoundError:
        return
    spec = importlib.util.find_spec("detectron2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    hidden_by = f"the folder {folders[0]} hides it" if folders else "its files are missing"
    raise ImportError(
        f"detectron2 {installed.version} is installed but can't be imported: {hidden_by}. Run from "
        f"another directory, rename that folder, or set {VARIABLE}=d2lite"
    )


def way_out(engine: str) -> str:
    """Words behind a remedy: d2lite, where it is Detectron2 that fails."""
    return f", or run on d2lite: export {VARIABLE}=d2lite" if engine == "detectron2" else ""


def _use_d2lite(site: Path, first: bool) -> str:
    if first:
        sys.path[:] = [str(site), *(p for p in sys.path if p != str(site))]
    elif str(site) not in sys.path:
        sys.path.append(str(site))
    if not getattr(sys.modules.get("detectron2"), "__file__", None):
        # Somebody imported a plain folder of that name: its module would hide the package.
        sys.modules.pop("detectron2", None)
    importlib.invalidate_caches()
    return "d2lite"


def activate() -> str:
    """Make ``import detectron2`` work and return the engine's name.

    Returns:
        ``"detectron2"`` or ``"d2lite"``.

    Raises:
        ValueError: ``LVT_D2_ENGINE`` is none of the known choices.
        ImportError: the engine asked for can't be had, with the reason and the remedy.
    """
    choice = os.environ.get(VARIABLE) or "auto"
    if choice not in CHOICES:
        raise ValueError(f"{VARIABLE} is {choice!r}; expected one of {', '.join(CHOICES)}")
    site = d2lite_site() if choice != "detectron2" else None
    origin = _origin_of_detectron2()
    is_lite = bool(origin and "_site" in origin.parts and "d2lite" in origin.parts)
    is_real = origin is not None and not is_lite

    if choice == "d2lite":
        if is_real and "detectron2" in sys.modules:
            raise ImportError(
                f"{VARIABLE}=d2lite, but the installed detectron2 ({origin}) is imported already; "
                "import lvt_d2 before detectron2"
            )
        return _use_d2lite(site, first=True)
    if is_real:
        return "detectron2"
    if not is_lite:
        _refuse_hidden_installation()
    if choice == "detectron2":
        raise ImportError(
            f"{VARIABLE}=detectron2, but it is not installed. Install it ({INSTALL_PAGE}) "
            f"or unset {VARIABLE} to run on d2lite"
        )
    return _use_d2lite(site, first=False)
