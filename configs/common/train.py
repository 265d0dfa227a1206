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
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5000, max_to_keep=100),
    eval_period=5000,
    log_period=20,
)
