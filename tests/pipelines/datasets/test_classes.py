import numpy as np
import pytest
from packed_files import fails

from fastass.pipelines.datasets.classes import CITYSCAPES, GTA5, IGNORE, NAMES, SYNTHIA, ClassTable


@pytest.mark.parametrize("table", [CITYSCAPES, GTA5, SYNTHIA])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_encode_follows_the_table(table: ClassTable, dtype: type[np.unsignedinteger]) -> None:
    known = [value for value in table.train_ids if value >= 0]
    raw = np.array([known, known[::-1]], dtype)
    encoded = table.encode(raw, "x")
    assert encoded.dtype == np.uint8
    assert encoded.tolist() == [[table.train_ids[int(v)] for v in row] for row in raw]


@pytest.mark.parametrize(("value", "dtype"), [(35, np.uint8), (254, np.uint8), (60000, np.uint16)])
def test_encode_names_a_value_outside(value: int, dtype: type[np.unsignedinteger]) -> None:
    raw = np.full((2, 3), 7, dtype)
    raw[1, 2] = value
    fails(lambda: GTA5.encode(raw, "label.png"), "label.png", f"label value {value} ", "gta5")


def test_encode_with_as_many_classes_as_fit() -> None:
    names = tuple(map(str, range(255)))
    table = ClassTable("many", names, ((0, 0, 0),) * 255, {i: i for i in range(255)})
    raw = np.arange(255, dtype=np.uint8)[None]
    np.testing.assert_array_equal(table.encode(raw, "x"), raw)
    fails(lambda: table.encode(np.array([[255]], np.uint8), "x"), "label value 255 ")


def test_encode_of_no_pixels() -> None:
    assert GTA5.encode(np.zeros((0, 4), np.uint8), "x").shape == (0, 4)


def test_subset_renumbers() -> None:
    fewer = GTA5.subset(("car", "road"))
    car, road = 26, 7
    assert fewer.encode(np.array([[car, road, 8]]), "x").tolist() == [[0, 1, IGNORE]]
    assert fewer.names == ("car", "road")
    assert fewer.colors[0] == GTA5.colors[NAMES.index("car")]
    fails(lambda: GTA5.subset(("tram",)), "'tram'")
    fails(lambda: GTA5.subset(("road", "car", "road")), "class 'road' is listed twice")
