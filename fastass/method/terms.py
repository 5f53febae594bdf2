"""The loss terms of Eq. 9 and 10 and of self-training, in one table.

To add a term, add a field to `LossTerms`, the method's one list of terms, and compute it in
`fastass.method.adaptation`. The weighted sum, the weights of accumulated and distributed batches,
the progress line, the logs and the report all read this table.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Annotated, Literal, NamedTuple, get_type_hints

from torch import Tensor


class Term(NamedTuple):
    """What the rest of the code needs to know about one loss term.

    counts: the items that the term is a mean over. `pixels`: labelled pixels of the image.
    `semantic`: items of D_s, which are labelled positions of the feature map for CSA and present
    (image, class) pairs for FCSA. `images`: images, each with the same number of outputs of D_g or
    of pixels.
    """

    symbol: str  # in the paper
    words: str  # for a reader who does not know the symbol
    weight: str  # its λ: a field of LossConfig
    stream: Literal["source", "labelled", "unlabelled", "mixed"]  # a field of StepBatch
    counts: Literal["pixels", "semantic", "images"]

    @property
    def symbol_html(self) -> str:
        """The symbol with its indices as HTML subscripts."""
        head, _, argument = self.symbol.partition("(")
        return f"{_subscript(head)}({_subscript(argument.rstrip(')'))})"


def _subscript(symbol: str) -> str:
    letter, _, index = symbol.partition("_")
    return f"{letter}<sub>{index}</sub>"


class LossTerms(NamedTuple):
    """The terms of one step: unweighted 0-d tensors; None where the step has no such term."""

    seg_source: Annotated[
        Tensor | None,
        Term("L_seg(I_s)", "segmentation, source", "seg", "source", "pixels"),
    ] = None
    seg_target: Annotated[
        Tensor | None,
        Term("L_seg(I_tl)", "segmentation, labelled target", "seg", "labelled", "pixels"),
    ] = None
    gadv: Annotated[
        Tensor | None,
        Term("L_gadv(I_s)", "global adversarial", "gadv", "source", "images"),
    ] = None
    gadv_target: Annotated[
        Tensor | None,
        Term("L_gadv(I_tu)", "global adversarial, target", "gadv", "unlabelled", "images"),
    ] = None
    sadv: Annotated[
        Tensor | None,
        Term("L_sadv(I_s)", "semantic adversarial", "sadv", "source", "semantic"),
    ] = None
    gd_source: Annotated[
        Tensor | None,
        Term("L_gd(F_s)", "global discriminator, source", "gd", "source", "images"),
    ] = None
    gd_target: Annotated[
        Tensor | None,
        Term("L_gd(F_tu)", "global discriminator, target", "gd", "unlabelled", "images"),
    ] = None
    sd_source: Annotated[
        Tensor | None,
        Term("L_sd(F_s)", "semantic discriminator, source", "sd", "source", "semantic"),
    ] = None
    sd_target: Annotated[
        Tensor | None,
        Term("L_sd(F_tl)", "semantic discriminator, target", "sd", "labelled", "semantic"),
    ] = None
    mix: Annotated[
        Tensor | None,
        Term("L_mix(I_m)", "segmentation, mixed images", "mix", "mixed", "images"),
    ] = None


TERMS: dict[str, Term] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(LossTerms, include_extras=True).items()
}


def sum_terms(parts: Sequence[LossTerms]) -> LossTerms:
    """Each term, added up over the parts of a step that have it."""
    values = [[t for t in column if t is not None] for column in zip(*parts, strict=True)]
    return LossTerms(*(reduce(add, column) if column else None for column in values))
