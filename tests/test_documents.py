"""The documents: their commands name files that exist, their tables are the data file's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md",
    "MODEL_ZOO.md",
    "CONTRIBUTING.md",
    "datasets/README.md",
    "projects/README.md",
    "projects/imagenet/README.md",
]
COMMAND = re.compile(r"^\s*(?:python|make|tools/|torchrun|\w+=\S+ python)\b.*", re.M)


def commands(page: str) -> list[str]:
    """Lines of shell blocks and inline code that call this project's files or make."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, flags=re.S)
    inline = re.findall(r"`((?:python|make|tools/|torchrun)[^`]+)`", text)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines + inline if COMMAND.match(line)]


def test_commands_are_found():
    assert len(commands("README.md")) >= 10


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_what_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for command in commands(page):
        words = command.split()
        if words[0] == "make":
            assert words[1] in targets, command
        for word in words:
            if re.fullmatch(r"(tools|configs|datasets|projects)/[\w/.]+\.(py|yaml)", word):
                assert (ROOT / word).is_file(), command


def test_tables_are_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/render_results.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_of_the_documents():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            if not link.startswith("http"):
                assert ((ROOT / page).parent / link).exists(), f"{page}: {link}"


def test_scripts_that_name_their_interpreter_can_be_executed():
    scripts = [*(ROOT / "tools").glob("*.py"), *(ROOT / "datasets").glob("*.py")]
    scripts = [path for path in scripts if path.read_text().startswith("#!")]
    assert ROOT / "tools/lazyconfig_train_net.py" in scripts
    for path in scripts:
        assert os.access(path, os.X_OK), path
