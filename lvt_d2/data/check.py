"""Finds what is missing or broken in a data set, file by file, before training does."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from PIL import Image, UnidentifiedImageError

from lvt_d2.data.coco_panoptic import read_json
from lvt_d2.data.panoptic_png import check_against_json, read_panoptic_ids
from lvt_d2.errors import DatasetError

Progress = Callable[[Iterable, int], Iterable]
_TAIL = 4096  # bytes at the end of a file that are searched for the format's end marker
_END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


@dataclass(frozen=True)
class PanopticSource:
    """Where one labelled set lies.

    Args:
        name: what reports call it.
        panoptic_json: the JSON.
        image_root: folder of the images.
        panoptic_root: folder of the PNGs; None for a set without labels.
        category_ids: dataset ids that the config knows; None takes the JSON's own.
        optional: whether nothing of it need be there.
    """

    name: str
    panoptic_json: str
    image_root: str
    panoptic_root: str | None
    category_ids: frozenset[int] | None = None
    optional: bool = False


@dataclass
class Report:
    """What a check found.

    Attributes:
        images: number of images looked at.
        problems: one sentence each, naming the file.
        absent: nothing of an optional set is there.
    """

    images: int = 0
    problems: list[str] = field(default_factory=list)
    absent: bool = False


def check_image(
    path: str, size: tuple[int, int] | None, full: bool, modes: Collection[str] | None = None
) -> tuple[list[str], tuple[int, int] | None]:
    """Problems of one image file, and its height and width in pixels where it can be opened.

    Args:
        path: the image.
        size: height and width that its JSON gives; None compares with nothing.
        full: decode all pixels; otherwise the header and the end of the file are looked at, and
            only a file whose end looks cut off is decoded.
        modes: Pillow's modes that it may have; None allows all.
    """
    try:
        with open(path, "rb") as file, Image.open(file) as image:
            found = _oriented_size(image)
            mode = image.mode
            if full or not _has_end(file, image.format):
                image.load()
    except FileNotFoundError:
        return [f"{path}: missing"], None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        return [f"{path}: can't be decoded ({error})"], None
    if modes is not None and mode not in modes:
        return [f"{path}: a {mode} image, expected {' or '.join(modes)}"], found
    if size is not None and found != size:
        says = f"its JSON says {size[0]}x{size[1]}"
        return [f"{path}: {found[0]}x{found[1]} pixels (height x width), {says}"], found
    return [], found


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    """Height and width as the loader sees them: turned where EXIF says so."""
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return image.size if turned else image.size[::-1]


def _has_end(file, image_format: str | None) -> bool:
    marker = _END_MARKERS.get(image_format)
    if marker is None:
        return True
    position = file.tell()
    file.seek(0, os.SEEK_END)
    file.seek(-min(_TAIL, file.tell()), os.SEEK_END)
    found = marker in file.read()
    file.seek(position)
    return found


def check_labels(path: str, size: tuple[int, int], segments: list[dict], full: bool) -> list[str]:
    """Problems of one panoptic PNG: as `check_image`; ``full`` compares its ids with the JSON."""
    if not full:
        return check_image(path, size, full=False, modes=("RGB",))[0]
    try:
        ids = read_panoptic_ids(path)
        if ids.shape != size:
            return [
                f"{path}: {ids.shape[0]}x{ids.shape[1]} pixels (height x width), its JSON says "
                f"{size[0]}x{size[1]}"
            ]
        check_against_json(ids, segments, path)
    except FileNotFoundError:
        return [f"{path}: missing"]
    except DatasetError as error:
        return [f"{path}: {error}"]
    return []


def _check_pair(task: tuple, full: bool) -> list[str]:
    image, labels, size, segments = task
    problems, _ = check_image(image, size, full)
    if labels is not None:
        problems += check_labels(labels, size, segments, full)
    return problems


def check_source(
    source: PanopticSource,
    full: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Check one set.

    Args:
        source: where it lies.
        full: decode everything, compare every PNG's ids with the JSON.
        workers: processes.
        progress: wraps the results of the images, given their number (a progress bar).
    """
    report = Report()
    folders = [f for f in (source.image_root, source.panoptic_root) if f is not None]
    missing = [f for f in folders if not os.path.isdir(f)]
    if source.optional and missing == folders and not os.path.exists(source.panoptic_json):
        report.absent = True
        return report
    report.problems += [f"{folder}: this folder is missing" for folder in missing]
    lists = ("images",) if source.panoptic_root is None else ("images", "annotations", "categories")
    try:
        content = read_json(source.panoptic_json, lists)
        tasks = list(_tasks(source, content, report.problems))
    except DatasetError as error:
        report.problems.append(str(error))
        return report
    except (KeyError, TypeError, ValueError) as error:
        report.problems.append(f"{source.panoptic_json}: an entry lacks or garbles {error}")
        return report
    report.images = len(tasks)
    if missing:  # one line for a folder says more than one for each file in it
        return report
    run_checks(partial(_check_pair, full=full), tasks, report, workers, progress)
    return report


def run_checks(
    check: Callable[[tuple], list[str]],
    tasks: list[tuple],
    report: Report,
    workers: int,
    progress: Progress | None,
) -> None:
    """Add what ``check`` finds in each of ``tasks``; it can be pickled."""
    with _mapper(workers) as run:
        results = run(check, tasks)
        for problems in progress(results, len(tasks)) if progress else results:
            report.problems += problems


@contextmanager
def _mapper(workers: int) -> Iterator[Callable]:
    if workers <= 1:
        yield map
        return
    with ProcessPoolExecutor(workers) as pool:
        yield partial(pool.map, chunksize=16)


def _tasks(source: PanopticSource, content: dict, problems: list[str]) -> Iterator[tuple]:
    """What to look at per image; problems of the JSON itself are appended to ``problems``."""
    path = source.panoptic_json
    images = {image["id"]: image for image in content["images"]}
    if len(images) < len(content["images"]):
        problems.append(f"{path}: the list of images has an id twice")
    if source.panoptic_root is None:
        for image in content["images"]:
            yield _image_path(source, image), None, _size(image), []
        return
    known = source.category_ids
    if known is None:
        known = {category["id"] for category in content["categories"]}
    seen = set()
    for annotation in content["annotations"]:
        image_id, segments = annotation["image_id"], annotation["segments_info"]
        if image_id not in images:
            problems.append(f"{path}: annotation for image {image_id}, which is not in its images")
            continue
        if image_id in seen:
            problems.append(f"{path}: image {image_id} has two annotations")
        seen.add(image_id)
        for category in sorted({s["category_id"] for s in segments} - set(known)):
            problems.append(f"{path}: image {image_id} has the unknown category {category}")
        for segment in segments:
            _ = segment["id"], segment["area"], segment["bbox"]
        labels = os.path.join(source.panoptic_root, annotation["file_name"])
        image = images[image_id]
        yield _image_path(source, image), labels, _size(image), segments
    for image_id in sorted(images.keys() - seen):
        problems.append(f"{path}: image {image_id} has no annotation and will not be used")


def _image_path(source: PanopticSource, image: dict) -> str:
    return os.path.join(source.image_root, image["file_name"])


def _size(image: dict) -> tuple[int, int]:
    return int(image["height"]), int(image["width"])
