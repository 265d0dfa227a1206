"""``token_labels.json``: who wrote the label maps of a folder, and for which classes."""

import json
import os
from pathlib import Path
from typing import Any

from lvt_d2.errors import DatasetError

FILE = "token_labels.json"


def read_info(root: Path) -> dict[str, Any]:
    """The content of the file beside label maps; empty where there is none.

    Raises:
        DatasetError: it is no JSON.
    """
    path = (root if root.is_dir() else root.parent) / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DatasetError(
            f"{path} is no JSON ({error}); restore it, or delete it to do without its checks."
        ) from error
    return content if isinstance(content, dict) else {}


def write_info(root: Path, info: dict[str, Any]) -> None:
    """Write the file, or find that a run with other settings has written here before.

    Raises:
        DatasetError: it has.
    """
    there = read_info(root)
    other = sorted(key for key in info if there and there.get(key) != info[key])
    if other:
        told = "; ".join(
            f"{key}: {_short(there.get(key))}, now {_short(info[key])}" for key in other
        )
        raise DatasetError(
            f"{root} holds token labels that were written with other settings ({told}). Give "
            "another --output, or delete them."
        )
    if not there:
        partial = root / f".{FILE}.{os.getpid()}"
        partial.write_text(json.dumps(info, indent=1, ensure_ascii=False), encoding="utf-8")
        partial.replace(root / FILE)


def check_classes(root: Path, class_names: dict[int, str]) -> None:
    """Compare the classes of label maps with those of a data set, where both are told.

    Sets that share no name are taken for two ways to name the same classes.

    Raises:
        DatasetError: the same names stand in another order, or some are missing.
    """
    theirs = read_info(root).get("classes")
    ours = [class_names[i] for i in sorted(class_names)]
    if not theirs or not ours or theirs == ours or not set(theirs) & set(ours):
        return
    if set(theirs) == set(ours):
        i = next(i for i, pair in enumerate(zip(theirs, ours, strict=True)) if len(set(pair)) == 2)
        what = f"class {i} is {theirs[i]!r} for the token labels and {ours[i]!r} for the data set"
    else:
        odd = sorted(set(ours) ^ set(theirs))[0]
        where = "the data set" if odd in ours else "the token labels"
        what = f"{len(theirs)} and {len(ours)} classes; only {where} know {odd!r}"
    raise DatasetError(
        f"The token labels in {root} were written for other classes than those of the data set: "
        f"{what}. Write them again, or give the class map they were written with."
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
