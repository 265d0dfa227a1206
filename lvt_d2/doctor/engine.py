"""Probes of the engine: which one answers to ``import detectron2``, why, and its fragile parts."""

import contextlib
import importlib
import io
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import lvt_d2
from lvt_d2._engine import INSTALL_PAGE, VARIABLE, activate, d2lite_site, way_out
from lvt_d2.doctor.advice import REBUILD_DETECTRON2, explain, one_line
from lvt_d2.doctor.rows import NOTE, PROBLEM, WARNING, Row, check, importable

INSTALL = "pip install --no-build-isolation --no-deps FOLDER_OF_ITS_SOURCE"


def engine() -> list[Row]:
    """What runs, what was found, and what is wrong with the choice."""
    asked = os.environ.get(VARIABLE)
    found = _found()
    rows = [
        Row("Engine", VARIABLE, repr(asked) if asked is not None else "not set, as auto"),
        Row("Engine", "find_spec", found),
        Row("Engine", "pip knows", _known_to_pip()),
    ]
    try:
        name = activate()
    except (ImportError, ValueError) as error:
        return [*rows, Row("Engine", "runs", "none"), _refused(str(error))]
    rows.append(Row("Engine", "runs", f"{name}, because {_reason(name, asked)}"))
    if not importable("torch"):
        return rows
    try:
        module = importlib.import_module("detectron2")
    except BaseException as error:
        text, remedy = explain(error, "detectron2")
        return [*rows, check("engine", f"{name} can't be imported: {text}", PROBLEM, remedy)]
    version = getattr(module, "__version__", "unknown")
    rows.append(Row("Engine", "version", f"{version}  {Path(module.__file__).parent}"))
    rows.append(check("engine", f"{name} {version} answers to `import detectron2`"))
    if name == "d2lite" and not asked:
        text = (
            "Detectron2 is not installed, and need not be. To have it: its source from "
            f"{INSTALL_PAGE}, then, since its setup.py imports torch and pins iopath,"
        )
        rows.append(check("detectron2", text, NOTE, INSTALL))
    return rows + _hidden_installation(name, module)


def _found() -> str:
    spec = find_spec("detectron2")
    if spec is None:
        return "no detectron2 on sys.path"
    if spec.origin and Path(spec.origin).parents[1] == d2lite_site():
        return "no detectron2 on sys.path but d2lite's"
    if spec.origin:
        return spec.origin
    return f"only folders of that name: {', '.join(spec.submodule_search_locations or [])}"


def _known_to_pip() -> str:
    try:
        known = distribution("detectron2")
    except PackageNotFoundError:
        return "no detectron2"
    return f"detectron2 {known.version}  {known.locate_file('')}"


def _reason(name: str, asked: str | None) -> str:
    if asked and asked != "auto":
        return f"{VARIABLE} asks for it"
    if name == "detectron2":
        return "it is installed"
    return "no Detectron2 is installed"


def _refused(text: str) -> Row:
    remedy = f"unset {VARIABLE}"
    if "is installed but can't be imported" in text:
        folder = text.partition("the folder ")[2].partition(" hides it")[0]
        remedy = f"mv {folder} {folder}-source" if folder else "pip uninstall -y detectron2"
        remedy += way_out("detectron2")
    elif "but it is not installed" in text:
        remedy = f"{INSTALL}, or run on d2lite: unset {VARIABLE}"
    elif "d2lite was not found" in text:
        remedy = "pip install -e FOLDER_OF_THE_CHECKOUT"
    return check("engine", text, PROBLEM, remedy)


def _hidden_installation(name: str, module) -> list[Row]:
    """A checkout of Detectron2 in the working directory goes before what pip has installed."""
    try:
        installed = Path(distribution("detectron2").locate_file("detectron2/__init__.py"))
    except PackageNotFoundError:
        return []
    used = Path(module.__file__)
    if name == "d2lite" or not installed.is_file() or installed.resolve() == used.resolve():
        return []
    text = (
        f"the folder {used.parent} hides the installed {installed.parent}: what is compiled there "
        "is missing here"
    )
    remedy = f"cd to another folder than {used.parents[1]}, or take it from PYTHONPATH"
    return [check("engine", text, WARNING, remedy)]


def detectron2() -> list[Row]:
    """The parts that break on a current Python, where the installed Detectron2 runs."""
    # The compiled part is linked to the libraries of torch, which has to be loaded before it.
    if lvt_d2.ENGINE != "detectron2" or not importable("torch", "detectron2"):
        return []
    rows = []
    for subject, probe, loss in (
        ("detectron2._C", _compiled, "deformable and rotated layers, and the fast COCO evaluation"),
        ("COCOeval", _compiled_evaluation, "COCOEvaluator(use_fast_impl=True), its default"),
        ("model_zoo", _model_zoo, "detectron2.model_zoo, which lvt_d2 does not use"),
        ("visualizer", _visualizer, "pictures (Visualizer, PredictionPictures, visualize_data.py)"),
        ("panopticapi", _panopticapi, "COCOPanopticEvaluator; PanopticEvaluator needs none"),
    ):
        rows.append(_part(subject, probe, loss))
    if any(row.subject == "detectron2._C" and row.level != "ok" for row in rows):
        return [row for row in rows if row.subject != "COCOeval"]  # it is part of the other
    return rows


def _part(subject: str, probe: Callable[[], None], loss: str) -> Row:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            probe()
    except BaseException as error:
        text, remedy = explain(error, "detectron2")
        if subject == "COCOeval":
            text = f"the compiled COCO evaluation fails ({one_line(error)})"
            remedy = f"dataloader.evaluator.use_fast_impl=False in the config, or {remedy}"
        elif subject == "detectron2._C" and isinstance(error, ModuleNotFoundError):
            text, remedy = "Detectron2's compiled part was never built", REBUILD_DETECTRON2
        return check(subject, f"{text}. Without it: no {loss}", WARNING, remedy)
    return check(subject, "works")


def _compiled() -> None:
    importlib.import_module("detectron2._C")


def _model_zoo() -> None:
    importlib.import_module("detectron2.model_zoo").get_config("common/train.py")


def _visualizer() -> None:
    importlib.import_module("detectron2.utils.visualizer")


def _panopticapi() -> None:
    importlib.import_module("panopticapi.evaluation")


def _compiled_evaluation() -> None:
    """One image, one object, found: an AP of 1."""
    from detectron2.evaluation.fast_eval_api import COCOeval_opt
    from pycocotools.coco import COCO

    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 40, 40]}
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 1, "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{**entry, "area": 1600, "iscrowd": 0}],
    }
    truth.createIndex()
    evaluation = COCOeval_opt(truth, truth.loadRes([{**entry, "score": 0.5}]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    if abs(evaluation.stats[0] - 1) > 1e-6:
        raise ValueError(f"a perfect detection has an AP of {evaluation.stats[0]:.3f}")
