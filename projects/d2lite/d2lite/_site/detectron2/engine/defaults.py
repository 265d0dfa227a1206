"""What most training scripts start with, and the trainer and predictor of yacs configs."""

import argparse
import logging
import os
import sys
import weakref
from collections import OrderedDict

import torch
from fvcore.nn.precise_bn import get_bn_modules
from omegaconf import OmegaConf
from torch.nn.parallel import DistributedDataParallel

from detectron2 import data, evaluation
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, LazyConfig
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

from . import hooks
from .train_loop import AMPTrainer, SimpleTrainer, TrainerBase

__all__ = ["DefaultPredictor", "DefaultTrainer", "create_ddp_model", "default_argument_parser"]
__all__ += ["default_setup", "default_writers"]

logger = logging.getLogger(__name__)


def create_ddp_model(model, *, fp16_compression=False, **kwargs):
    """Wrap a model in DistributedDataParallel, if there are other processes.

    Args:
        model: on the device of this process.
        fp16_compression: send gradients in half precision.
        kwargs: of ``DistributedDataParallel``; ``device_ids`` is this process's GPU by default.
    """
    if comm.get_world_size() == 1:
        return model
    kwargs.setdefault("device_ids", [comm.get_local_rank()])
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks import default as comm_hooks

        ddp.register_comm_hook(state=None, hook=comm_hooks.fp16_compress_hook)
    return ddp


def default_argument_parser(epilog=None):
    """Parser of the arguments that Detectron2's scripts share.

    Args:
        epilog: text after the help, examples by default.
    """
    script = sys.argv[0]
    examples = f"""Examples:
Run on single machine:
    $ {script} --num-gpus 8 --config-file cfg.yaml
Change some config options:
    $ {script} --config-file cfg.yaml MODEL.WEIGHTS /path/to/weight.pth SOLVER.BASE_LR 0.001
Run on multiple machines:
    (machine0)$ {script} --machine-rank 0 --num-machines 2 --dist-url <URL> [--other-flags]
    (machine1)$ {script} --machine-rank 1 --num-machines 2 --dist-url <URL> [--other-flags]
"""
    parser = argparse.ArgumentParser(
        epilog=epilog or examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="path to config file")
    add("--resume", action="store_true", help="go on from the output folder's last checkpoint")
    add("--eval-only", action="store_true", help="perform evaluation only")
    add("--num-gpus", type=int, default=1, help="number of gpus *per machine*")
    add("--num-machines", type=int, default=1, help="total number of machines")
    add("--machine-rank", type=int, default=0, help="unique number of this machine, from 0")
    # A port of its own for every user, so that two of them can train on one machine.
    user = os.getuid() if sys.platform != "win32" else 1
    url = f"tcp://127.0.0.1:{2**15 + 2**14 + hash(user) % 2**14}"
    add("--dist-url", default=url, help="where the processes meet, as in torch.distributed")
    options = 'config options to change: "KEY VALUE" pairs (yacs), or "key=value" (LazyConfig)'
    add("opts", default=None, nargs=argparse.REMAINDER, help=options)
    return parser


def _try_get_key(cfg, *keys, default=None):
    """The first of several dotted keys that the config has."""
    if isinstance(cfg, CfgNode):
        cfg = OmegaConf.create(cfg.dump())
    found = (OmegaConf.select(cfg, key) for key in keys)
    return next((value for value in found if value is not None), default)


def default_setup(cfg, args):
    """Loggers, a copy of the config, random seeds and cuDNN, as config and arguments say.

    Args:
        cfg: a CfgNode or a LazyConfig; its output folder, seed and cudnn_benchmark are read.
        args: the parsed command line, which is logged.
    """
    output_dir = _try_get_key(cfg, "OUTPUT_DIR", "output_dir", "train.output_dir")
    rank = comm.get_rank()
    writes = comm.is_main_process() and output_dir
    if writes:
        PathManager.mkdirs(output_dir)
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)
    logger.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    logger.info("Environment info:\n" + collect_env_info())
    logger.info(f"Command line arguments: {args}")
    if config_file := getattr(args, "config_file", ""):
        with PathManager.open(config_file, "r") as file:
            logger.info(f"Contents of args.config_file={config_file}:\n{file.read()}")
    if writes:
        path = os.path.join(output_dir, "config.yaml")
        if isinstance(cfg, CfgNode):
            logger.info(f"Running with full config:\n{cfg.dump()}")
            with PathManager.open(path, "w") as file:
                file.write(cfg.dump())
        else:
            LazyConfig.save(cfg, path)
        logger.info(f"Full config saved to {path}")

    seed = _try_get_key(cfg, "SEED", "train.seed", default=-1)
    seed_all_rng(None if seed < 0 else seed + rank)
    # Benchmarking costs more than it gains on the few sizes of a validation set.
    if not getattr(args, "eval_only", False):
        benchmark = _try_get_key(cfg, "CUDNN_BENCHMARK", "train.cudnn_benchmark", default=False)
        torch.backends.cudnn.benchmark = benchmark


def default_writers(output_dir: str, max_iter: int | None = None):
    """Writers to the log, to ``metrics.json`` and to TensorBoard.

    Args:
        output_dir: made if it does not exist.
        max_iter: total number of iterations, for the time left.
    """
    PathManager.mkdirs(output_dir)
    metrics = JSONWriter(os.path.join(output_dir, "metrics.json"))
    return [CommonMetricPrinter(max_iter), metrics, TensorboardXWriter(output_dir)]


class DefaultPredictor:
    """The model of a yacs config, its weights loaded, applied to one image at a time."""

    def __init__(self, cfg):
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg)
        self.model.eval()
        if len(cfg.DATASETS.TEST):
            self.metadata = data.MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        size = cfg.INPUT.MIN_SIZE_TEST
        self.aug = data.transforms.ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)
        self.input_format = cfg.INPUT.FORMAT
        assert self.input_format in ("RGB", "BGR"), self.input_format

    def __call__(self, original_image):
        """Predict.

        Args:
            original_image: (H, W, 3) array, BGR.

        Returns:
            The model's output for it.
        """
        with torch.no_grad():
            if self.input_format == "RGB":
                original_image = original_image[:, :, ::-1]
            height, width = original_image.shape[:2]
            image = self.aug.get_transform(original_image).apply_image(original_image)
            image = torch.as_tensor(image.astype("float32").transpose(2, 0, 1))
            image = image.to(self.cfg.MODEL.DEVICE)
            return self.model([{"image": image, "height": height, "width": width}])[0]


class DefaultTrainer(TrainerBase):
    """A trainer with everything built from a yacs config; subclasses replace what they want.

    Attributes:
        scheduler, checkpointer, cfg: as built.
        model, data_loader, optimizer: those of the trainer inside.
    """

    def __init__(self, cfg):
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        model = create_ddp_model(model, broadcast_buffers=False)
        trainer_type = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = trainer_type(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        this = weakref.proxy(self)
        self.checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=this)
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume=True):
        """Continue from the last checkpoint of the output folder if asked and there, else load
        ``MODEL.WEIGHTS`` and start at iteration 0.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            self.start_iter = self.iter + 1  # the checkpoint's iteration is done

    def build_hooks(self):
        """Timer, schedule, precise BN, checkpoints, evaluation and writers, in this order."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0  # for precise BN: its workers would idle

        def test_and_save_results():
            self._last_eval_results = self.test(self.cfg, self.model)
            return self._last_eval_results

        built = [hooks.IterationTimer(), hooks.LRScheduler()]
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            period, count = cfg.TEST.EVAL_PERIOD, cfg.TEST.PRECISE_BN.NUM_ITER
            loader = self.build_train_loader(cfg)
            built.append(hooks.PreciseBN(period, self.model, loader, count))
        # The checkpoint comes before the evaluation, so that a failure there loses nothing.
        if comm.is_main_process():
            period = cfg.SOLVER.CHECKPOINT_PERIOD
            built.append(hooks.PeriodicCheckpointer(self.checkpointer, period))
        built.append(hooks.EvalHook(cfg.TEST.EVAL_PERIOD, test_and_save_results))
        if comm.is_main_process():
            built.append(hooks.PeriodicWriter(self.build_writers(), period=20))
        return built

    def build_writers(self):
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self):
        """Train from ``start_iter`` to ``max_iter``.

        Returns:
            The last results on the main process, if ``TEST.EXPECTED_RESULTS`` asks for a check.
        """
        super().train(self.start_iter, self.max_iter)
        if len(self.cfg.TEST.EXPECTED_RESULTS) and comm.is_main_process():
            assert hasattr(self, "_last_eval_results"), "No evaluation results during training!"
            evaluation.verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results

    def run_step(self):
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self):
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg):
        model = build_model(cfg)
        logger.info(f"Model:\n{model}")
        return model

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg):
        return data.build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return data.build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        raise NotImplementedError("A subclass must implement `build_evaluator()` to evaluate.")

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """Evaluate on every data set of ``DATASETS.TEST``.

        Args:
            cfg: a CfgNode.
            model: in any mode.
            evaluators: one, or one for each data set; those of ``build_evaluator`` if None.

        Returns:
            Results by data set, or those of the only one.
        """
        names = cfg.DATASETS.TEST
        if isinstance(evaluators, evaluation.DatasetEvaluator):
            evaluators = [evaluators]
        assert evaluators is None or len(evaluators) == len(names), (evaluators, names)
        results = OrderedDict()
        for i, name in enumerate(names):
            loader = cls.build_test_loader(cfg, name)
            try:
                evaluator = evaluators[i] if evaluators else cls.build_evaluator(cfg, name)
            except NotImplementedError:
                logger.warning("No evaluator found: give `evaluators`, or define build_evaluator.")
                results[name] = {}
                continue
            found = results[name] = evaluation.inference_on_dataset(model, loader, evaluator)
            if comm.is_main_process():
                assert isinstance(found, dict), f"Evaluator must return a dict. Got {found}."
                logger.info(f"Evaluation results for {name} in csv format:")
                evaluation.print_csv_format(found)
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg, num_workers: int):
        """Scale batch, rate and schedule from ``SOLVER.REFERENCE_WORLD_SIZE`` processes to others.

        Args:
            cfg: a CfgNode.
            num_workers: number of processes.

        Returns:
            The same config if the reference is 0 or equal, else a scaled copy.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        was_frozen = cfg.is_frozen()
        cfg = cfg.clone()
        cfg.defrost()
        solver = cfg.SOLVER
        assert solver.IMS_PER_BATCH % reference == 0, "Invalid REFERENCE_WORLD_SIZE in config!"
        scale = num_workers / reference

        def fewer(iterations):
            return int(round(iterations / scale))

        solver.IMS_PER_BATCH = int(round(solver.IMS_PER_BATCH * scale))
        solver.BASE_LR = solver.BASE_LR * scale
        for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
            solver[key] = fewer(solver[key])
        solver.STEPS = tuple(fewer(step) for step in solver.STEPS)
        cfg.TEST.EVAL_PERIOD = fewer(cfg.TEST.EVAL_PERIOD)
        solver.REFERENCE_WORLD_SIZE = num_workers
        logger.info(
            f"Auto-scaling the config to batch_size={solver.IMS_PER_BATCH}, learning_rate="
            f"{solver.BASE_LR}, max_iter={solver.MAX_ITER}, warmup={solver.WARMUP_ITERS}."
        )
        if was_frozen:
            cfg.freeze()
        return cfg


def _inner(name: str) -> property:
    """An attribute of the trainer inside."""
    return property(
        lambda self: getattr(self._trainer, name),
        lambda self, value: setattr(self._trainer, name, value),
    )


for _name in ("model", "data_loader", "optimizer"):
    setattr(DefaultTrainer, _name, _inner(_name))
