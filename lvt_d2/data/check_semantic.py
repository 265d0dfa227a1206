"""Finds what is missing or broken in a set of images and label PNGs."""

import os
from dataclasses import dataclass
from functools import partial

from lvt_d2.data.check import Progress, Report, check_image, run_checks
from lvt_d2.data.reading import LABEL_MODES, read_label_values
from lvt_d2.data.semantic_labels import decode_values
from lvt_d2.data.semantic_sets import IMAGE_SUFFIXES, LABEL_SUFFIXES, files_by_stem
from lvt_d2.errors import DatasetError


@dataclass(frozen=True)
class SemanticSource:
    """Where one set lies.

    Args:
        name: what reports call it.
        image_root: folder of the images.
        sem_seg_root: folder of the label PNGs; None for a set without labels.
        num_classes: of the labels.
        reduce_zero_label: as for `lvt_d2.data.register_semantic_dataset`.
        optional: whether nothing of it need be there.
    """

    name: str
    image_root: str
    sem_seg_root: str | None
    num_classes: int
    reduce_zero_label: bool = False
    optional: bool = False


def check_semantic_source(
    source: SemanticSource,
    full: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Check one set.

    Args:
        source: where it lies.
        full: decode everything, and look for labels outside the class list.
        workers: processes.
        progress: wraps the results of the images, given their number (a progress bar).
    """
    report = Report()
    folders = [f for f in (source.image_root, source.sem_seg_root) if f is not None]
    missing = [f for f in folders if not os.path.isdir(f)]
    if source.optional and missing == folders:
        report.absent = True
        return report
    report.problems += [f"{folder}: this folder is missing" for folder in missing]
    if missing:
        return report
    try:
        tasks = _tasks(source, report.problems)
    except DatasetError as error:
        report.problems.append(str(error))
        return report
    report.images = len(tasks)
    run_checks(partial(_check_pair, source=source, full=full), tasks, report, workers, progress)
    return report


def _tasks(source: SemanticSource, problems: list[str]) -> list[tuple[str, str | None]]:
    """Pairs of image and labels; files that lack the other are problems."""
    images = files_by_stem(source.image_root, "images", IMAGE_SUFFIXES)
    if source.sem_seg_root is None:
        return [(path, None) for _, path in sorted(images.items())]
    labels = files_by_stem(source.sem_seg_root, "label PNGs", LABEL_SUFFIXES)
    for stem, path in sorted(images.items()):
        if stem not in labels:
            problems.append(f"{path}: {source.sem_seg_root} has no label PNG of this name")
    for stem, path in sorted(labels.items()):
        if stem not in images:
            problems.append(f"{path}: {source.image_root} has no image of this name")
    return [(images[stem], labels[stem]) for stem in sorted(images.keys() & labels.keys())]


def _check_pair(task: tuple[str, str | None], source: SemanticSource, full: bool) -> list[str]:
    image, labels = task
    problems, size = check_image(image, None, full)
    if labels is None:
        return problems
    more, found = check_image(labels, None, full=False, modes=LABEL_MODES)
    problems += more
    if size and found and found != size:
        problems.append(
            f"{labels}: {found[0]}x{found[1]} pixels (height x width), its image {image} has "
            f"{size[0]}x{size[1]}"
        )
    if full and not more:
        try:
            values = read_label_values(labels)
            decode_values(values, source.num_classes, source.reduce_zero_label, labels)
        except DatasetError as error:
            problems.append(str(error))
    return problems
