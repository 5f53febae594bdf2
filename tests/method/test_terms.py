"""The table of loss terms fits the configuration, the batch and the paper's notation."""

from dataclasses import fields

import pytest
import torch

from fastass.config.schema import LossConfig
from fastass.method.adaptation import objective
from fastass.method.item_weights import ItemCounts
from fastass.method.terms import TERMS, LossTerms, sum_terms
from fastass.pipelines.loaders.batch import StepBatch


def test_every_term_has_a_row_that_names_what_exists() -> None:
    assert list(TERMS) == list(LossTerms._fields)
    for name, term in TERMS.items():
        assert term.weight in {field.name for field in fields(LossConfig)}, name
        assert term.stream in StepBatch._fields, name
        assert term.counts in ItemCounts._fields, name
    assert len({term.symbol for term in TERMS.values()}) == len(TERMS)


def test_symbols() -> None:
    assert TERMS["seg_target"].symbol == "L_seg(I_tl)"
    assert TERMS["seg_target"].symbol_html == "L<sub>seg</sub>(I<sub>tl</sub>)"
    assert TERMS["gd_target"].symbol_html == "L<sub>gd</sub>(F<sub>tu</sub>)"


@pytest.mark.parametrize("name", LossTerms._fields)
def test_the_objective_weights_each_term_with_its_own_λ(name: str) -> None:
    λ = {"seg": 2.0, "gadv": 3.0, "sadv": 5.0, "gd": 7.0, "sd": 11.0, "mix": 13.0}
    total = objective(LossTerms(**{name: torch.tensor(0.5)}), LossConfig(**λ))  # type: ignore[arg-type]
    assert float(total) == 0.5 * λ[name.partition("_")[0]]


def test_a_λ_that_is_unset_weighs_nothing() -> None:
    terms = LossTerms(seg_source=torch.tensor(0.5), sadv=torch.tensor(0.5))
    assert float(objective(terms, LossConfig(seg=2.0, sadv=None))) == 1.0


def test_terms_add_up_over_the_parts_that_have_them() -> None:
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    total = sum_terms([LossTerms(gadv=one, sadv=two), LossTerms(gadv=two)])
    assert (total.gadv, total.sadv, total.seg_source) == (3.0, two, None)
