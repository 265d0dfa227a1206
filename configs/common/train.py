"""What the training tool reads under ``train``; Detectron2's keys, and those of ours marked so."""

train = dict(
    output_dir="./output",
    init_checkpoint="",  # ours or official; the model is trained from scratch without one
    max_iter=90000,
    device="cuda",
    seed=-1,  # ours: below 0, every run is another one
    cudnn_benchmark=False,  # ours
    # ours: dtype float16 (with a gradient scaler) or bfloat16; both work on GPU and CPU
    amp=dict(enabled=False, dtype="float16"),
    accumulate=1,  # ours: batches whose gradients are averaged into one iteration's
    # ours: average of the weights over about 1 / (1 - decay) iterations, saved beside them;
    # evaluate: whether evaluation (--eval-only too) and the best checkpoint take the average
    ema=dict(enabled=False, decay=0.9999, evaluate=True),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5000, max_to_keep=100),
    # ours: model_best.pth holds the weights of the evaluation with the largest ("max") or smallest
    # ("min") value of a metric, such as "panoptic_seg/PQ"; "" keeps none
    best_checkpointer=dict(val_metric="", mode="max"),
    hooks=[],  # ours: LazyCalls of hooks of your own, on every process, before the checkpoint
    eval_period=5000,
    log_period=20,
)
