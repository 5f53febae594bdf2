"""The paper's tables as grids of cells, and the names of their runs.

A cell is one method with one number of labelled images and one λ_sadv, run with several seeds.
Tables 1, 2 and 4 (GTA5) share their runs, and so do Tables 3 and 5 (SYNTHIA): the same cell has
the same name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fastass.config import paper
from fastass.config.schema import LAMBDA_SADV
from fastass.errors import UserError

TOYCITY_COUNTS = (5, 10, 20, 50, 300)
TOYCITY_LAMBDA_COUNTS = (10, 50)
CLAIMS = "claims"  # not a table: ToyCity's test of what the paper claims
# Method → head of its column, in the paper's order. `joint` is L_seg on both domains. `control` is
# GA with λ_gadv = 0: it forwards I_tu, so batch norm sees it, and adapts nothing.
HEADS = {
    "source_only": "Source only",
    "oracle": "Oracle",
    "joint": "Joint",
    "control": "Control",
    "ga": "GA",
    "ga+fcsa": "GA+FCSA",
    "ga+csa": "GA+CSA",
    "joint+mix": "Joint+mix",
    "ga+csa+mix": "GA+CSA+mix",
}
WITHOUT_LABELS = ("source_only", "control", "ga", "joint+mix")  # ToyCity's row 0


@dataclass(frozen=True)
class Cell:
    """One figure of a table. sadv: None if the method has no λ_sadv, or for that of Table 1.

    paper: the mIoU that the paper reports, in percent; None if there is none. part: of Table 2.
    """

    method: str
    labelled: int
    sadv: float | None = None
    paper: float | None = None
    part: str = ""

    def name(self, seed: int) -> str:
        """Directory of one of its runs."""
        usual = self.sadv is None or self.sadv == LAMBDA_SADV.get(self.method)
        λ = "" if usual else f"-λ{self.sadv:g}"
        return f"{self.method.replace('+', '_')}-{self.labelled}{λ}-seed{seed}"

    @property
    def flags(self) -> list[str]:
        """The method as flags of `fastass train`."""
        if self.method == "control":
            return ["--method", "ga", "--no-mix", "--loss-gadv", "0"]
        base = self.method.removesuffix("+mix")
        return ["--method", base, "--no-mix" if self.method == base else "--mix"]

    @property
    def column(self) -> str:
        """Head of its column."""
        if self.part:
            return f"λ = {self.sadv:g}"
        return HEADS[self.method]

    def preset(self, source: str) -> str:
        """The preset of its configuration on the paper's data."""
        return f"{source}_to_cityscapes_{self.method.replace('ga+', '')}_{self.labelled}"


def start_name(seed: int) -> str:
    """Directory of the supervised start that ToyCity's runs of a seed share."""
    return f"start-seed{seed}"


@dataclass(frozen=True)
class Grid:
    """A table: its number, the source domain and the cells in reading order.

    improve: the methods whose best the last column sets against the oracle (Tables 1 and 3).
    per_class: IoU class by class (Tables 4 and 5), beside `others`, rows of other papers.
    """

    table: str
    source: str
    cells: tuple[Cell, ...]
    improve: tuple[str, ...] = ()
    per_class: bool = False


def grid(
    table: str,
    counts: Sequence[int] | None,
    toycity: bool,
    methods: Sequence[str] | None = None,
) -> Grid:
    """The grid of a table, of the rows `counts` and columns `methods` (none: all).

    UserError where no cell is left, and for a method that is no column.
    """
    built = GRIDS[table](counts, toycity)
    if not built.cells:
        text = ",".join(map(str, counts or ()))
        raise UserError(f"--counts: none of {text} is a row of {table}")
    if methods is None:
        return built
    columns = dict.fromkeys(cell.method for cell in built.cells)
    for method in methods:
        if method not in columns:
            raise UserError(
                f"--methods: {method} is not a column of {table}; it has {', '.join(columns)}"
            )
    cells = tuple(cell for cell in built.cells if cell.method in methods)
    return replace(built, cells=cells)


def _methods(
    table: str,
    source: str,
    methods: Sequence[str],
    rows: Mapping[int, tuple[float | None, ...]],
    improve: tuple[str, ...],
    counts: Sequence[int] | None,
    toycity: bool,
) -> Grid:
    """Methods × labelled images.

    ToyCity adds what the paper leaves out, to compare its methods with: a row without labels, the
    columns `joint` and `control`, and self-training (`mix`).
    """
    if toycity:
        row_0 = WITHOUT_LABELS if counts is None or 0 in counts else ("source_only",)
        cells = [Cell(m, 0) for m in row_0]
        columns = [m for m in HEADS if m in ("joint", "control", *methods) or m.endswith("+mix")]
        cells += [Cell(m, n) for n in counts or TOYCITY_COUNTS if n for m in columns]
    else:
        cells = [
            Cell(method, n, paper=figure)
            for n in counts or rows
            for method, figure in zip(methods, rows.get(n, ()), strict=False)
            if figure is not None
        ]
    return Grid(table, source, tuple(cells), improve)


def _table1(counts: Sequence[int] | None, toycity: bool) -> Grid:
    methods, rows = paper.TABLE_1_METHODS, paper.TABLE_1
    return _methods("table1", "gta5", methods, rows, ("ga+csa",), counts, toycity)


def _table3(counts: Sequence[int] | None, toycity: bool) -> Grid:
    methods, rows = paper.TABLE_3_METHODS, paper.TABLE_3
    return _methods("table3", "synthia", methods, rows, ("ga", "ga+csa"), counts, toycity)


def _table2(counts: Sequence[int] | None, toycity: bool) -> Grid:
    cells = []
    parts = (
        ("(a) FCSA", "ga+fcsa", paper.TABLE_2A),
        ("(b) CSA", "ga+csa", paper.TABLE_2B),
    )
    for part, method, rows in parts:
        λs = next(iter(rows.values()))
        for n in counts or (TOYCITY_LAMBDA_COUNTS if toycity else rows):
            for λ in λs:
                figure = None if toycity else rows.get(n, {}).get(λ)
                if toycity or figure is not None:
                    cells.append(Cell(method, n, λ, figure, part))
    return Grid("table2", "gta5", tuple(cells))


def _classes(
    table: str,
    source: str,
    rows: Mapping[str, tuple[float, ...]],
    counts: Sequence[int] | None,
    toycity: bool,
) -> Grid:
    """The oracle with all labels and the paper's method, class by class.

    That is GA+CSA, and GA in the rows of Table 5 that carry GA's figures.
    """
    all_ = TOYCITY_COUNTS[-1] if toycity else paper.COUNTS[-1]
    of_ga = paper.TABLE_5_GA if table == "table5" and not toycity else ()
    wanted = [("oracle", all_)]
    wanted += [
        ("ga" if n in of_ga else "ga+csa", n)
        for n in (TOYCITY_COUNTS if toycity else paper.COUNTS[1:])
    ]
    cells = [
        Cell(method, n, paper=None if toycity else rows[paper.row_name(method, n)][-1])
        for method, n in wanted
        if counts is None or n in counts
    ]
    return Grid(table, source, tuple(cells), per_class=True)


def _table4(counts: Sequence[int] | None, toycity: bool) -> Grid:
    return _classes("table4", "gta5", paper.TABLE_4, counts, toycity)


def _table5(counts: Sequence[int] | None, toycity: bool) -> Grid:
    return _classes("table5", "synthia", paper.TABLE_5, counts, toycity)


GRIDS: dict[str, Callable[[Sequence[int] | None, bool], Grid]] = {
    "table1": _table1,
    "table2": _table2,
    "table3": _table3,
    "table4": _table4,
    "table5": _table5,
}
