"""The step through Dynamo, AOTAutograd and inductor's code generation for an H100.

Part of `make fake-cuda`, not of `make test`: it takes minutes. No machine code is made.
"""

import pytest
import torch
from compiled_step import compiled_ops
from fake_step import configured

OWN = {
    "ga": "upsample_softmax",
    "ga+fcsa": "class_mean",
    "ga+csa": "pixel_discriminator_loss",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own imports
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", ["batch", "frozen"])
@pytest.mark.parametrize("method", OWN)
def test_forward_and_backward_are_one_graph_each(method: str, norm: str) -> None:
    ops = compiled_ops(configured(method, norm, backbone="resnet18"))
    names = [op.name.split(".")[0] for op in ops]
    assert names.count("inductor:fused") > 100
    own = f"fastass::{OWN[method]}"
    assert own in names
    if method != "ga":
        assert f"{own}_backward" in names
    # Layouts in a graph are inductor's: what cuDNN reads and returns must still be NHWC.
    for op in ops:
        if op.name.startswith("aten::convolution"):
            for given in op.inputs[:2]:
                _, N, h, w = given.shape
                if N > 1 and h * w >= 256:
                    assert given.stride[1] == 1, (op.name, given)


def test_this_torch_has_cuda() -> None:
    """The wheels that users install; `make fake-cuda` brings them."""
    assert torch.version.cuda is not None
