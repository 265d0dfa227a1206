"""Trains the toy project in processes that are killed at random moments, and prints how it went.

    python tests/tools/toy_killer.py FOLDER KILLS SEED

One process imports everything and forks the others, which saves each of them some seconds.
"""

import importlib.util
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("toy_resume_config.py")
OPTIONS = ["train.max_iter=100000", "train.eval_period=14", "train.log_period=10"]


def load_tool():
    path = ROOT / "tools/lazyconfig_train_net.py"
    spec = importlib.util.spec_from_file_location("lazyconfig_train_net", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(tool, folder, seed, *options):
    """A process that trains; its output goes to a file beside the folder."""
    child = os.fork()
    if child:
        return child
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    arguments = ["--config-file", str(CONFIG), "--num-gpus", "0", "--resume", *OPTIONS, *options]
    os._exit(tool.run([*arguments, f"train.output_dir={folder}", f"train.seed={seed}"]))


def kill(child):
    """The process's end; raises if it had come to one by itself."""
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"ended by itself, status {status}"


def inspect(folder):
    """Iteration that a run would go on from; every checkpoint must be whole."""
    from lvt_d2.checkpoint import read_checkpoint

    iterations = {path.name: read_checkpoint(path)["iteration"] for path in folder.glob("*.pth")}
    tag = folder / "last_checkpoint"
    return iterations[tag.read_text()] if tag.exists() else -1


def tagged_iteration(folder):
    tag = folder / "last_checkpoint"
    return int(tag.read_text().removeprefix("model_").removesuffix(".pth")) if tag.exists() else -1


def wait_for_start(log, seen):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (
        not log.exists() or "Starting training" not in log.read_text()[seen:]
    ):
        time.sleep(0.02)


def resumed_iteration(log, seen):
    """What the last process's log says it has started from, and how long the log is now."""
    text = log.read_text()[seen:]
    starts = [line for line in text.splitlines() if "Starting training from iteration" in line]
    return int(starts[-1].split()[-1]) if starts else None, seen + len(text)


def main(folder, kills, seed):
    sys.path.insert(0, str(ROOT))
    tool = load_tool()
    rng = random.Random(seed)
    report, seen, last = [], 0, -1
    for number in range(kills):
        # Only a run from the start is decided by its seed.
        child = start(tool, folder, 3 if last < 0 else 100 + number)
        if rng.random() < 0.9:  # else it is killed before training has begun
            wait_for_start(Path(f"{folder}.log"), seen)
        time.sleep(rng.uniform(0.0, 1.5))
        kill(child)
        begun, seen = resumed_iteration(Path(f"{folder}.log"), seen)
        assert begun in (None, last + 1), f"started from {begun}, last checkpoint {last}"
        before, last = last, inspect(folder) if folder.exists() else -1
        assert last >= before
        report.append({"started_from": begun, "last_checkpoint": last})
    straight = folder.with_name("straight")
    child = start(tool, straight, 3)
    deadline = time.monotonic() + 300
    while tagged_iteration(straight) < last and time.monotonic() < deadline:
        time.sleep(0.2)
    kill(child)  # before anything can fail: it would train on for itself
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
