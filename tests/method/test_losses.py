"""The loss of D_s over class means, from its formula."""

import math

import pytest
import torch

from fastass.method.losses import SOURCE, TARGET, class_mean_loss, domain_loss

# D_s of 2 classes: the probabilities of (class 0, source), (1, source), (0, target), (1, target).
P = torch.tensor([[[0.1, 0.2, 0.3, 0.4], [0.25, 0.35, 0.15, 0.25]]])


@pytest.mark.parametrize(
    ("counts", "domain", "probabilities"),
    [
        ([3, 0], SOURCE, [0.1]),
        ([1, 0], SOURCE, [0.1]),  # one pixel makes a class present
        ([1, 0], TARGET, [0.3]),
        ([0, 1], SOURCE, [0.35]),
        ([0, 7], TARGET, [0.25]),
        ([2, 1], SOURCE, [0.1, 0.35]),
        ([2, 1], TARGET, [0.3, 0.25]),
        ([0, 0], TARGET, []),
    ],
)
def test_the_mean_over_the_classes_that_are_present(
    counts: list[int], domain: int, probabilities: list[float]
) -> None:
    loss = class_mean_loss(P.log(), torch.tensor([counts]), domain)
    wanted = sum(-math.log(p) for p in probabilities) / max(1, len(probabilities))
    assert loss.item() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("domain", "wanted"), [(SOURCE, -math.log(0.8)), (TARGET, -math.log(0.2))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_loss_of_a_domain(domain: int, wanted: float, dtype: torch.dtype) -> None:
    """A logit of log(¼) is a probability of 0.2 for the target."""
    logits = torch.full((2, 1, 3, 4), math.log(0.25), dtype=dtype)
    loss = domain_loss(logits, domain)
    assert loss.item() == pytest.approx(wanted, rel=5e-3)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    least_squares = domain_loss(torch.full((2, 1, 3, 4), 0.25), domain, "ls").item()
    assert least_squares == pytest.approx((0.25 - domain) ** 2)
