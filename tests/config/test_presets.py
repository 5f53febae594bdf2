"""The presets are the rows of the paper's tables."""

import pytest

from fastass.config import paper
from fastass.config.presets import PRESETS, preset
from fastass.errors import UserError

# Tables 1 and 3 copied from the paper's page, "-" where it has a dash.
TABLE_1 = """
0 - 42.4 - -
50 39.5 50.0 50.2 50.1
100 43.6 53.5 54.1 54.2
200 47.1 54.4 56.4 56.0
500 53.6 56.5 59.9 60.2
1000 58.6 58.0 63.8 64.5
2975 65.9 59.71 68.8 69.1
"""
TABLE_3 = """
0 - 46.7 -
50 52.6 60.7 57.4
100 57.6 62.1 58.3
200 60.8 64.8 64.5
500 66.5 69.1 69.8
1000 70.7 71.8 73.0
2975 73.8 75.0 77.1
"""


def cells(text: str, source: str, methods: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for line in text.split("\n"):
        count, *values = line.split() or [""]
        for method, value in zip(methods, values, strict=False):
            if value != "-":
                found[f"{source}_to_cityscapes_{method}_{count}"] = float(value)
    return found


def test_every_cell_of_tables_1_and_3_is_a_preset() -> None:
    wanted = cells(TABLE_1, "gta5", ("oracle", "ga", "fcsa", "csa"))
    wanted |= cells(TABLE_3, "synthia", ("oracle", "ga", "csa"))
    assert len(wanted) == 25 + 19
    assert {n: p.miou for n, p in PRESETS.items() if n != "toycity"} == wanted


def test_rows_of_tables_4_and_5_are_consistent() -> None:
    for rows, count in ((paper.TABLE_4, 20), (paper.TABLE_5, 14)):
        for name, row in rows.items():
            assert len(row) == count, name
            assert sum(row[:-1]) / (count - 1) == pytest.approx(row[-1], abs=0.16), name
    for labelled in paper.COUNTS[1:]:
        assert paper.TABLE_4[f"ours {labelled}"][-1] == paper.TABLE_1[labelled][3]


def test_section_4_2() -> None:
    config = preset("gta5_to_cityscapes_csa_500")
    o = config.optim
    assert (o.lr, o.momentum, o.nesterov, o.weight_decay, o.power) == (2.5e-4, 0.9, True, 5e-4, 0.9)
    assert (o.d_lr, o.d_betas) == (1e-4, (0.9, 0.99))
    assert (config.model.backbone, config.model.heads) == ("resnet101", "single")
    assert config.labelled == 500
    assert config.resolved().loss.sadv == 0.01
    assert preset("gta5_to_cityscapes_fcsa_500").resolved().loss.sadv == 0.04
    for row_0 in (preset("gta5_to_cityscapes_ga_0"), preset("synthia_to_cityscapes_ga_0")):
        # AdaptSegNet's own figures, so its model and its direction.
        assert (row_0.model.heads, row_0.model.aspp_branches) == ("multi", 2)
        assert row_0.loss.push == "target"
    assert (config.model.aspp_branches, config.loss.push) == (4, "source")
    synthia = preset("synthia_to_cityscapes_csa_100").data
    assert (len(synthia.classes), len(synthia.report)) == (16, 13)


def test_an_unknown_preset_names_its_neighbours() -> None:
    with pytest.raises(UserError, match="gta5_to_cityscapes_csa_500"):
        preset("gta5_to_cityscapes_csa_501")
