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
            return self._load_pkl(filename)
        if filename.endswith(".pyth"):
            with self.path_manager.open(filename, "rb") as file:
                data = load_torch(filename, file)
            assert "model_state" in data, (
                f"Cannot load .pyth file {filename}; pycls checkpoints must contain 'model_state'."
            )
            model = {
                key: value
                for key, value in data["model_state"].items()
                if not key.endswith("num_batches_tracked")
            }
            return {"model": model, "__author__": "pycls", "matching_heuristics": True}
        return self._apply_query(self._torch_load(filename))

    def _load_pkl(self, filename):
        with self.path_manager.open(filename, "rb") as file:
            data = load_pickle(filename, file)
        if "model" in data and "__author__" in data:
            self.logger.info(f"Reading a file from '{data['__author__']}'")
            return data
        blobs = data.get("blobs", data)  # Caffe2's detection models have it, its ImageNet ones not
        blobs = {key: value for key, value in blobs.items() if not key.endswith("_momentum")}
        return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}

    def _torch_load(self, filename):
        return load_torch(filename)

    def _apply_query(self, loaded):
        if "model" not in loaded:
            loaded = {"model": loaded}
        url = self._parsed_url_during_load
        assert url is not None, "`_load_file` must be called inside `load`"
        queries = parse_qs(url.query)
        if queries.pop("matching_heuristics", ["False"]) == ["True"]:
            loaded["matching_heuristics"] = True
        if queries:
            raise ValueError(
                f"Unsupported query remaining: {queries}, original filename: {url.geturl()}"
            )
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
        own_buffers = dict(self.model.named_buffers(recurse=False))
        for name in ("pixel_mean", "pixel_std"):
            if name in own_buffers and name in incompatible.missing_keys:
                incompatible.missing_keys.remove(name)
        incompatible.unexpected_keys[:] = [
            key
            for key in incompatible.unexpected_keys
            if "anchor_generator.cell_anchors" not in key
        ]
        return incompatible
