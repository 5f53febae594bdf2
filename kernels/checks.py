"""Checks that the operators share: an error names the argument, what it got and what it expects."""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
MAX_CLASSES = 64  # of every operator; the compile check compiles each with as many


def check_map(name: str, tensor: Tensor, implementation: str) -> None:
    """A float feature or score map [B, channels, h, w]; float64 belongs to the reference."""
    shape = tuple(tensor.shape)
    if tensor.dim() != 4 or 0 in shape:
        raise ValueError(f"{name}: got shape {shape}, expected non-empty [B, channels, h, w]")
    check_float(name, tensor, implementation)


def check_float(name: str, tensor: Tensor, implementation: str) -> None:
    if tensor.dtype in FLOATS or (tensor.dtype == torch.float64 and implementation == "reference"):
        return
    remedy = " (float64: choose kernels=reference)" if tensor.dtype == torch.float64 else ""
    raise TypeError(f"{name}: got {tensor.dtype}, expected float32, bfloat16 or float16{remedy}")


def check_labels(labels: Tensor, like: Tensor, name: str) -> None:
    """uint8 labels [B, H, W] that belong to the map `like`, which is called `name`."""
    if labels.dtype != torch.uint8:
        raise TypeError(f"labels: got {labels.dtype}, expected torch.uint8")
    shape = tuple(labels.shape)
    if labels.dim() != 3 or 0 in shape:
        raise ValueError(f"labels: got shape {shape}, expected non-empty [B, H, W]")
    if shape[0] != like.shape[0]:
        raise ValueError(f"labels: got batch {shape[0]}, expected {like.shape[0]} as in {name}")
    if labels.device != like.device:
        raise ValueError(f"labels: got device {labels.device}, expected {like.device} as {name}")


def check_classes(num_classes: int, ignore_index: int) -> None:
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"num_classes: got {num_classes}, expected 1 to {MAX_CLASSES}")
    if not 0 <= ignore_index <= 255:
        raise ValueError(f"ignore_index: got {ignore_index}, expected 0 to 255")


def unknown_labels(labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """bool: where a label is neither a class nor `ignore_index`.

    One rule for every operator. On a CPU such a label is a ValueError. On CUDA, where reading it
    back would stall the queue, its pixel is left out of sums, counts and gradients as if ignored,
    and what it belongs to becomes NaN (counts: -1), which no later sum can hide.
    """
    return (labels >= num_classes) & (labels != ignore_index)


def check_label_values(labels: Tensor, num_classes: int, ignore_index: int) -> None:
    """For the reference on a CPU; native code checks as it reads. CUDA labels are not read back."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = labels[unknown_labels(labels, num_classes, ignore_index)]
    if wrong.numel():
        raise ValueError(
            f"labels: got {int(wrong[0])}, expected a class below {num_classes} or ignore_index "
            f"{ignore_index}"
        )
