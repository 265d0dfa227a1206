"""datasets/README.md: its commands can be found, its names are those of the code."""

import re
from pathlib import Path

from detectron2.data import DatasetCatalog

from lvt_d2.data.shapes_meta import SHAPES_CATEGORIES

TEXT = (Path(__file__).resolve().parents[2] / "datasets/README.md").read_text()


def test_every_block_says_what_it_is():
    kinds = re.findall(r"^```(.*)\n[^`]*^```$", TEXT, flags=re.M)
    assert set(kinds) == {"bash", "python", "text"}
    shell = re.findall(r"^```bash\n([^`]*)^```$", TEXT, flags=re.M)
    commands = [line for block in shell for line in block.splitlines()]
    assert sum(line.startswith("python datasets/") for line in commands) == 6
    assert len(re.findall("^python ", TEXT, flags=re.M)) == 6  # none stands elsewhere


def test_names_are_registered():
    table = TEXT[TEXT.index("| name in configs") :].split("\n\n")[0]
    names = re.findall(r"`([\w-]+_[\w-]+)`(?=[,| ])", table)
    names = [name for name in names if name not in ("coco_sample", "release_test")]  # folders
    assert len(names) == 14 and set(names) <= set(DatasetCatalog.list())


def test_classes_of_the_shapes():
    for isthing in (1, 0):
        names = [c["name"] for c in SHAPES_CATEGORIES if c["isthing"] == isthing]
        assert f"({', '.join(names)})" in TEXT.replace("\n", " ")
