"""The checkpointer of detection models: several file formats, and names matched by heuristics."""

import logging
from urllib.parse import parse_qs, urlparse

from fvcore.common.checkpoint import Checkpointer

import detectron2.utils.comm as comm
from detectron2.utils.file_io import PathManager

from .c2_model_loading import align_and_update_state_dicts
from .safe_load import load_pickle, load_torch


class DetectionCheckpointer(Checkpointer):
    """fvcore's `Checkpointer`, which saves on the main process only, and also reads

    * ``.pkl`` files: ``{"model": ..., "__author__": ...}``, or Caffe2's blobs;
    * ``.pyth`` files of pycls;
    * any other torch file; a bare state dict is taken as the model.

    ``path?matching_heuristics=True`` matches the names of parameters by their longest suffix.
    Files are read without running code that may be pickled in them.
    """

    def __init__(self, model, save_dir="", *, save_to_disk=None, **checkpointables):
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager
        self._parsed_url_during_load = None

    def load(self, path, *args, **kwargs):
        """As fvcore's; the path may have a query (see the class)."""
        assert self._parsed_url_during_load is None
        logging.getLogger(__name__).info(f"[DetectionCheckpointer] Loading from {path} ...")
        try:
            if path:
                self._parsed_url_during_load = urlparse(path)
                path = self._parsed_url_during_load._replace(query="").geturl()
                path = self.path_manager.get_local_path(path)
            return super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None

    def _load_file(self, filename):
        if filename.endswith(".pkl"):
            data = load_pickle(filename)
            if "model" in data and "__author__" in data:
                self.logger.info(f"Reading a file from '{data['__author__']}'")
                return data
            data = data.get("blobs", data)  # Caffe2's detection models have it, its ImageNet not
            return _foreign(data, "Caffe2", ignored_suffix="_momentum")
        if filename.endswith(".pyth"):
            data = load_torch(filename)
            assert "model_state" in data, f"{filename} is no file of pycls: it has no 'model_state'"
            return _foreign(data["model_state"], "pycls", ignored_suffix="num_batches_tracked")
        loaded = load_torch(filename)
        if "model" not in loaded:
            loaded = {"model": loaded}
        url = self._parsed_url_during_load
        assert url is not None, "`_load_file` must be called inside `load`"
        queries = parse_qs(url.query)
        if queries.pop("matching_heuristics", ["False"]) == ["True"]:
            loaded["matching_heuristics"] = True
        if queries:
            raise ValueError(f"Unsupported query remaining: {queries}, filename: {url.geturl()}")
        return loaded

    def _load_model(self, checkpoint):
        if checkpoint.get("matching_heuristics", False):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = align_and_update_state_dicts(
                self.model.state_dict(),
                checkpoint["model"],
                c2_conversion=checkpoint.get("__author__", None) == "Caffe2",
            )
        incompatible = super()._load_model(checkpoint)
        # The config defines these buffers, whatever old files have or lack.
        own = {"pixel_mean", "pixel_std"} & dict(self.model.named_buffers(recurse=False)).keys()
        missing, unexpected = incompatible.missing_keys, incompatible.unexpected_keys
        missing[:] = [key for key in missing if key not in own]
        unexpected[:] = [key for key in unexpected if "anchor_generator.cell_anchors" not in key]
        return incompatible


def _foreign(weights, author, ignored_suffix):
    """A checkpoint of another library: its names are matched by heuristics."""
    model = {key: value for key, value in weights.items() if not key.endswith(ignored_suffix)}
    return {"model": model, "__author__": author, "matching_heuristics": True}
