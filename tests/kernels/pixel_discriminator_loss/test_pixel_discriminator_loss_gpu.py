"""pixel_discriminator_loss: the Triton kernels, in Triton's interpreter, against float64."""

import torch
from child import interpreted
from pixel_losses import MODES, SMALL, double, error, inputs, run

from fastass.kernels.pixel_discriminator_loss import op


def check_triton() -> None:
    """Runs where TRITON_INTERPRET=1."""
    for domain, adversarial in MODES:
        for dtype in (torch.float32, torch.bfloat16):
            features, labels, weights = inputs(SMALL, dtype)
            labels[1] = 255  # whole tiles are ignored
            aligned = domain == 0
            out = op._cuda(
                *(features, labels, *weights),
                *(domain, adversarial, 0.2, 255, True, adversarial, aligned),
            )
            loss, adversarial_loss, scale, hidden, *gradients = out
            ours = [loss, adversarial_loss, *gradients]
            truth = run(
                features.double(),
                labels,
                double(weights),
                "reference",
                domain=domain,
                adversarial=adversarial,
                aligned=aligned,
            )
            expected = [*truth[:2], *(gradient / 1.7 for gradient in truth[3:])]
            if adversarial:
                ours.append(
                    op._backward_cuda(
                        *(torch.tensor(0.3), scale, hidden, labels, weights[0]),
                        *([9, 13], 7, 255, aligned),
                    )
                )
                expected.append(truth[2])
            tolerance = 1e-6 if dtype == torch.float32 else 1e-2
            for a, t in zip(ours, expected, strict=True):
                assert error(a, t) <= tolerance * max(float(t.abs().max()), 1e-30)
    frozen = op._cuda(features, labels, *weights, 0, True, 0.2, 255, False, True, False)
    both = op._cuda(features, labels, *weights, 0, True, 0.2, 255, True, True, False)
    assert all(torch.equal(a, b) for a, b in zip(frozen[:4], both[:4], strict=True))
    assert all(tensor.numel() == 0 for tensor in frozen[4:])
    # No class, nor ignored: out of the gradients, and the losses say so, as the reference's do.
    features, labels, weights = inputs(SMALL, torch.float32)
    labels[1, :25] = 7
    for domain, adversarial in MODES:
        given = [tensor.clone().requires_grad_() for tensor in (features, *weights)]
        losses = op.reference(given[0], labels, *given[1:], domain=domain, adversarial=adversarial)
        of_weights = torch.autograd.grad(losses[0], given[1:])
        how = (domain, adversarial, 0.2, 255, True, adversarial, False)
        out = op._cuda(features, labels, *weights, *how)
        assert losses[0].isnan()
        torch.testing.assert_close(torch.stack(out[:2]), torch.stack(losses), equal_nan=True)
        for a, t in zip(out[4:], of_weights, strict=True):
            torch.testing.assert_close(a, t, rtol=1e-5, atol=1e-6)
        if adversarial:
            (expected_features,) = torch.autograd.grad(losses[1], given[:1])
            one, size = torch.tensor(1.0), [9, 13]
            a = op._backward_cuda(one, out[2], out[3], labels, weights[0], size, 7, 255, False)
            torch.testing.assert_close(a, expected_features, rtol=1e-5, atol=1e-6)


def test_triton_in_the_interpreter() -> None:
    interpreted(__file__)


if __name__ == "__main__":
    check_triton()
