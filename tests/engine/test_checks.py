import os

import pytest
from omegaconf import OmegaConf

from lvt_d2.engine import check_output_dir, check_weights
from lvt_d2.errors import ConfigError


def test_output_folders_are_left_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "a/b", tmp_path, "./a", "a"):
        check_output_dir(str(path))
    assert list(tmp_path.iterdir()) == []


def test_output_folder_that_can_not_be(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "file", tmp_path / "file/folder", tmp_path / "dangling"):
        with pytest.raises(ConfigError, match=f"train.output_dir is '{path}', where nothing can"):
            check_output_dir(str(path))
    with pytest.raises(ConfigError, match="train.output_dir is empty"):
        check_output_dir("")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_folder_of_others(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="Permission denied"):
        check_output_dir(str(tmp_path))


def test_weights_to_evaluate(tmp_path):
    train = OmegaConf.create({"init_checkpoint": "", "output_dir": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"train.init_checkpoint is empty.*--resume"):
        check_weights(train, resume=False)
    with pytest.raises(ConfigError, match=r"--eval-only --resume.* has no checkpoint"):
        check_weights(train, resume=True)
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    check_weights(train, resume=True)
    with pytest.raises(ConfigError, match="is empty"):
        check_weights(train, resume=False)
    train.init_checkpoint = "some.pth"  # whether it can be read shows when it is
    check_weights(train, resume=False)
