"""Pre-training and validation of LVT on ImageNet, on the parts of timm."""
