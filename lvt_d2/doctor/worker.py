"""The process that runs probes: ``python -m lvt_d2.doctor.worker FILE PROBE ...``."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict

from lvt_d2.doctor import data, devices, engine, packages, training
from lvt_d2.doctor.advice import explain, one_line, place
from lvt_d2.doctor.rows import PROBLEM, Row, check

PROBES: dict[str, Callable[[], list[Row]]] = {
    "versions": packages.versions,
    "devices": devices.devices,
    "requirements": packages.requirements,
    "torch": devices.torch_and_numpy,
    "gpu": devices.gpus,
    "torchvision": devices.torchvision,
    "pycocotools": packages.pycocotools,
    "libraries": packages.libraries,
    "engine": engine.engine,
    "data": data.data_sets,
    "detectron2": engine.detectron2,
    "training": training.training_step,
}
"""In the order of the report; the last one proves what the others can only suspect."""


def run_probe(name: str) -> list[Row]:
    """Rows of a probe, whatever it raises."""
    try:
        return PROBES[name]()
    except ImportError as error:
        text, remedy = explain(error, name)
        return [check(name, text, PROBLEM, remedy)]
    except BaseException as error:  # sys.exit() in an import, too
        text = f"the check itself failed: {one_line(error)} ({place(error)})"
        return [check(name, text, PROBLEM, "mend what the other checks name first")]


def main(path: str, names: list[str]) -> None:
    """Append a line of JSON for every probe that came to its end."""
    for name in names:
        rows = [asdict(row) for row in run_probe(name)]
        with open(path, "a") as file:
            file.write(json.dumps([name, rows]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
