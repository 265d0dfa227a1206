"""Where an annotator's label maps go: which images are left to do, and writing what is done."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from lvt_d2.errors import DatasetError
from lvt_imagenet.token_labels.batch import LabelMap
from lvt_imagenet.token_labels.compact import SUFFIX, CompactFile, image_id, save_compact
from lvt_imagenet.token_labels.official import official_path, save_official

Names = Sequence[tuple[str, str]]


class Output(Protocol):
    """One process's part of the label maps of a data set.

    Attributes:
        pending: indices of images that are left to do, in the order that they must be given in.
        done: count of this process's images that an earlier run has written.
    """

    pending: list[int]
    done: int

    def add(self, index: int, label_map: LabelMap | None) -> None:
        """Take the next image's map; None if the image is unreadable."""


class OfficialOutput:
    """Writes ``<class>/<image stem>.pt``; process i of n does every n-th image.

    Args:
        root: the folder, which exists.
        names: class and stem of all images.
        num_classes: of the annotator.
        shard: i, from 0.
        shards: n.
    """

    def __init__(self, root: Path, names: Names, num_classes: int, shard: int, shards: int):
        self._root = root
        self._names = names
        self._num_classes = num_classes
        written = {path.relative_to(root).as_posix() for path in root.glob("*/*.pt")}
        mine = range(shard, len(names), shards)
        self.pending = [
            i for i in mine if official_path(Path(), *names[i]).as_posix() not in written
        ]
        self.done = len(mine) - len(self.pending)

    def add(self, index: int, label_map: LabelMap | None) -> None:
        if label_map is not None:
            save_official(self._root, *self._names[index], label_map, self._num_classes)


class CompactOutput:
    """Writes ``labels-NUMBER-of-COUNT.tokenlabels``; process i of n does every n-th file.

    A file is written when its last image is there, so an interrupted run loses a part of one.

    Args:
        root: the folder, which exists.
        names: class and stem of all images.
        num_classes: of the annotator.
        shard: i, from 0.
        shards: n.
        images_per_file: images of a file; of the last one, what is left.

    Raises:
        DatasetError: the folder holds files of another division, or of other images.
    """

    def __init__(
        self,
        root: Path,
        names: Names,
        num_classes: int,
        shard: int,
        shards: int,
        images_per_file: int = 1000,
    ):
        self._names = names
        self._num_classes = num_classes
        self._per_file = images_per_file
        count = -(-len(names) // images_per_file)
        self._paths = [root / f"labels-{n:05d}-of-{count:05d}{SUFFIX}" for n in range(count)]
        strangers = sorted(set(root.glob(f"*{SUFFIX}")) - set(self._paths))
        if strangers:
            raise DatasetError(
                f"{strangers[0]} is not of this run, which writes {count} files of "
                f"{images_per_file} images. Give the --images-per-file of the run that began "
                "here, or another --output."
            )
        self.pending, self.done = [], 0
        for number in range(shard, count, shards):
            images = self._images(number)
            if self._paths[number].exists():
                self._check(number)
                self.done += len(images)
            else:
                self.pending.extend(images)
        self._labels: list[tuple[str, LabelMap]] = []

    def add(self, index: int, label_map: LabelMap | None) -> None:
        if label_map is not None:
            self._labels.append((image_id(*self._names[index]), label_map))
        number = index // self._per_file
        if index == self._images(number)[-1]:
            save_compact(self._paths[number], self._labels, self._num_classes)
            self._labels = []

    def _images(self, number: int) -> range:
        first = number * self._per_file
        return range(first, min(first + self._per_file, len(self._names)))

    def _check(self, number: int) -> None:
        wanted = {image_id(*self._names[i]) for i in self._images(number)}
        odd = [name for name in CompactFile(self._paths[number]).ids if name not in wanted]
        if odd:
            raise DatasetError(
                f"{self._paths[number]} has labels of {odd[0]}, which is not among the images "
                "that belong there: the data set has changed since. Give another --output."
            )


def check_unique(names: Names) -> None:
    """Raise a `DatasetError` if two images would share their label map."""
    if len(set(names)) < len(names):
        seen: set[tuple[str, str]] = set()
        twice = next(name for name in names if name in seen or seen.add(name))
        raise DatasetError(
            f"Two images are called {'/'.join(twice)} but for their suffix; token labels are found "
            "by class and stem. Rename one."
        )
