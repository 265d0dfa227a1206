"""Every setting of the training: a key of the YAML files and an option of the command line."""

import argparse
from typing import NamedTuple

from lvt_d2.errors import ConfigError
from lvt_imagenet.kinds import Kind, arguments, choice, flag, number, optional, several, text, whole


class Option(NamedTuple):
    """A setting: what values it takes, and what it means."""

    kind: Kind
    help: str


_fraction = number(0, 1)

OPTIONS: dict[str, dict[str, Option]] = {
    "model": {
        "model": Option(text, "any model of timm; LVT's are lvt_cls (the published one) and lvt"),
        "num_classes": Option(optional(whole(2)), "classes; none: as many as the data set names"),
        "in_chans": Option(whole(1), "channels of the image: 3 is colour, 1 is grey"),
        "img_size": Option(several(whole(32), (1, 2)), "pixels of a side, or height and width"),
        "drop_path_rate": Option(number(0, 0.99), "stochastic depth of the last block"),
        "model_kwargs": Option(arguments, "other arguments of the model, name=value"),
        "init_checkpoint": Option(optional(text), "weights to start from; a head that does not fit "
                                  "the classes of the data set starts anew"),
        "init_ema": Option(flag, "take its averaged weights"),
        "grad_checkpointing": Option(flag, "recompute activations in the backward pass"),
        "channels_last": Option(flag, "memory format of the images"),
        "compile": Option(flag, "torch.compile the model"),
    },
    "data": {
        "dataset": Option(text, "as timm names it: empty is a folder (or .tar files) of images, "
                          "others wds/, hfds/NAME, torch/NAME"),
        "train_split": Option(text, "name of the training part"),
        "val_split": Option(optional(text), "name of the validation part; none evaluates nothing"),
        "class_map": Option(optional(text), "file with a class name a line, in order"),
        "input_key": Option(optional(text), "where a sample has its image (wds, hfds)"),
        "target_key": Option(optional(text), "where a sample has its class (wds, hfds)"),
        "num_samples": Option(optional(whole(1)), "images of the training part, where its format "
                              "does not say (wds)"),
        "download": Option(flag, "let data sets that can do so download themselves"),
        "batch_size": Option(whole(1), "images of a process at a time"),
        "val_batch_size": Option(optional(whole(1)), "the same in evaluation; none: batch_size"),
        "workers": Option(optional(whole(0)), "loading processes of each training process; none: "
                          "the machine's cores shared out, at most 8"),
    },
    "augmentation": {
        "augment": Option(flag, "if not: resize and crop the centre, nothing else"),
        "scale": Option(several(_fraction, (2,)), "area of the random crop, share of the image"),
        "ratio": Option(several(number(0.01), (2,)), "width : height of the random crop"),
        "hflip": Option(_fraction, "probability of a horizontal flip"),
        "vflip": Option(_fraction, "probability of a vertical flip"),
        "color_jitter": Option(optional(number()), "used where auto_augment is none"),
        "auto_augment": Option(optional(text), "timm's AutoAugment policy"),
        "train_interpolation": Option(choice("random", "bilinear", "bicubic"), "of the crop"),
        "interpolation": Option(choice("bilinear", "bicubic"), "of the evaluation's resize"),
        "crop_pct": Option(number(0.01, 1), "centre crop of the evaluation, share of a side"),
        "mean": Option(optional(several(number(), (1, 3))), "of pixels; none: the model's"),
        "std": Option(optional(several(number(1e-6), (1, 3))), "of pixels; none: the model's"),
        "reprob": Option(_fraction, "probability of random erasing"),
        "remode": Option(choice("const", "rand", "pixel"), "what erased boxes are filled with"),
        "recount": Option(whole(1), "boxes to erase at most"),
        "mixup": Option(number(), "alpha of mixup"),
        "cutmix": Option(number(), "alpha of cutmix"),
        "mix_prob": Option(_fraction, "probability that a batch is mixed by mixup or cutmix"),
        "mix_switch_prob": Option(_fraction, "probability of cutmix where both are on"),
        "smoothing": Option(_fraction, "label smoothing"),
    },
    "token labels": {
        "token_labels": Option(optional(text), "folder of label maps; none trains on classes"),
        "official_crop_order": Option(flag, "exchange rows and columns of the crop, as the "
                                      "published target builder does by mistake"),
        "mix_token": Option(flag, "mix the tokens of two images, with token labels"),
        "dense_weight": Option(number(), "weight of the tokens' loss"),
        "cls_weight": Option(number(), "weight of the class token's loss"),
        "ground_truth": Option(flag, "blend the ground truth into the class token's target"),
    },
    "optimisation": {
        "opt": Option(text, "any optimizer of timm"),
        "lr": Option(number(), "rate after the warm-up, for the batch of all processes"),
        "weight_decay": Option(number(), "not for biases, norms, class token"),
        "opt_betas": Option(optional(several(_fraction, (2,))), "none: the optimizer's own"),
        "opt_eps": Option(optional(number()), "none: the optimizer's own"),
        "momentum": Option(number(), "of optimizers that have one"),
        "layer_decay": Option(optional(number(0, 1)), "factor of the rate from layer to layer"),
        "clip_grad": Option(optional(number()), "clip gradients at this"),
        "clip_mode": Option(choice("norm", "value", "agc"), "how to clip them"),
        "grad_accum_steps": Option(whole(1), "batches of each process for one update"),
        "amp": Option(choice("none", "float16", "bfloat16"), "mixed precision"),
        "epochs": Option(whole(1), "epochs of the schedule"),
        "sched": Option(choice("cosine", "tanh", "poly", "step", "none"), "schedule of the rate"),
        "sched_on_updates": Option(flag, "change the rate at every update, not every epoch"),
        "warmup_epochs": Option(whole(0), "epochs of linear warm-up, part of the schedule"),
        "warmup_lr": Option(number(), "rate that the warm-up begins with"),
        "min_lr": Option(number(), "rate that the schedule ends with"),
        "cooldown_epochs": Option(whole(0), "epochs at min_lr, after the schedule"),
        "decay_epochs": Option(whole(1), "epochs between the drops of sched=step"),
        "decay_rate": Option(number(), "factor of these drops; power of sched=poly"),
        "ema": Option(flag, "average the weights, and evaluate the average too"),
        "ema_decay": Option(_fraction, "share of the old average at every update"),
        "ema_warmup": Option(flag, "begin with a smaller share"),
    },
    "run": {
        "output": Option(text, "folder of checkpoints and logs"),
        "resume": Option(flag, "go on from the last checkpoint of the output folder, if any"),
        "device": Option(optional(choice("cpu", "cuda")), "none: a GPU where there is one"),
        "seed": Option(whole(0), "of everything random"),
        "keep": Option(whole(0), "checkpoints of the best epochs to keep, beside best and last"),
        "checkpoint_updates": Option(whole(0), "updates between checkpoints within an epoch; 0: "
                                     "only at its end"),
        "stop_after": Option(optional(whole(1)), "end after so many epochs of the schedule"),
        "log_interval": Option(whole(1), "updates between two lines of the log"),
        "tensorboard": Option(flag, "write TensorBoard files"),
        "wandb": Option(optional(text), "project at Weights & Biases to log to"),
    },
}  # fmt: skip
"""All options, under the headings of ``--help``."""

ALL: dict[str, Option] = {
    name: option for group in OPTIONS.values() for name, option in group.items()
}


def check(settings: argparse.Namespace) -> None:
    """Find settings that contradict each other.

    Raises:
        ConfigError: some do.
    """
    mixing = settings.mixup > 0 or settings.cutmix > 0
    if settings.token_labels and mixing:
        raise ConfigError(
            f"mixup is {settings.mixup:g} and cutmix {settings.cutmix:g}, but token labels are "
            "mixed by mix_token alone: set both to 0, or token_labels to none"
        )
    if (mixing or (settings.token_labels and settings.mix_token)) and settings.batch_size % 2:
        raise ConfigError(
            f"batch_size is {settings.batch_size}, but images are mixed in pairs (mixup, cutmix, "
            "or mix_token with token labels): give an even number, or switch mixing off"
        )
    if settings.warmup_epochs > settings.epochs:
        raise ConfigError(
            f"warmup_epochs is {settings.warmup_epochs}, more than epochs ({settings.epochs}), so "
            "the rate would never be reached; give --warmup-epochs too"
        )
    if not settings.output:
        raise ConfigError("output is empty; give a folder, --output FOLDER")
