"""Traces of training steps, kept in bench/model/traces: what one step runs, as JSON.

A trace belongs to one method, norm and mode (`MODES`) at the paper's sizes with
ResNet-101 and bf16. It is written without a GPU (`make fake-cuda-traces`), at two batches: every
number of bytes and FLOPs is a constant plus a multiple of the batch, so any batch can be modelled.
`sources` is a hash of the code that decides what a step runs; a trace with another hash is stale.
"""

import hashlib
import io
import json
import tokenize
from ast import AsyncFunctionDef, ClassDef, Constant, Expr, FunctionDef, Module, parse, walk
from dataclasses import asdict, dataclass
from pathlib import Path

from fastass.errors import UserError

FOLDER = Path(__file__).resolve().parent / "traces"
MODES = ("eager", "fused", "compiled")  # fused: eager with every switch on
REMEDY = "write the traces again: make fake-cuda-traces"
# What decides which kernels a step runs on a GPU, and how they are counted.
SOURCES = (
    "kernels/layout.py",
    "kernels/nearest*.py",
    "kernels/*/*.py",
    "kernels/*/*/*.py",
    "fastass/models/*.py",
    "fastass/method/*.py",
    "fastass/training/step.py",
    "fastass/training/optimizers/*.py",
    "bench/model/count.py",
    "bench/model/flops.py",
    "tests/fake_cuda/recorder.py",
    "tests/fake_cuda/fake_step.py",
)
LEFT_OUT = (
    "kernels/aot/*.py",
    "kernels/*/winograd/*.py",
    "kernels/*/cpu*.py",
    "kernels/*/*_cpu.py",
)


@dataclass(frozen=True)
class Row:
    """Operations of one kind: `count` of them with the same bytes, FLOPs and kernels each.

    part: of the step, as the tables name it; what: the operator. bytes and flops are (constant, per
    image of the batch). kind: of the product, a key of `rates.MATRIX`, or "" where there is none.
    """

    part: str
    what: str
    kind: str
    count: int
    kernels: int
    bytes: tuple[int, int]
    flops: tuple[int, int]


@dataclass(frozen=True)
class Trace:
    """What one step runs. `peak` are the bytes in memory, (constant, per image)."""

    method: str
    norm: str
    mode: str
    backbone: str
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    classes: int
    torch: str
    sources: str
    peak: tuple[int, int]
    rows: tuple[Row, ...]

    @property
    def kernels(self) -> int:
        """Launches of one step."""
        return sum(row.count * row.kernels for row in self.rows)

    def bytes(self, batch: int) -> int:
        """Bytes that the kernels of one step read and write."""
        return sum(row.count * at(row.bytes, batch) for row in self.rows)

    def flops(self, batch: int) -> int:
        """FLOPs of the matrix products of one step."""
        return sum(row.count * at(row.flops, batch) for row in self.rows)


def at(pair: tuple[int, int], batch: int) -> int:
    """A constant plus a multiple of the batch."""
    return pair[0] + pair[1] * batch


def path_of(method: str, norm: str, mode: str, folder: Path = FOLDER) -> Path:
    return folder / f"{method.replace('+', '_')}-{norm}-{mode}.json"


def write(trace: Trace, folder: Path = FOLDER) -> Path:
    """A row a line, so that a change shows in a diff."""
    head = asdict(trace)
    rows = head.pop("rows")
    lines = ",\n".join(f"  {json.dumps(list(row.values()), ensure_ascii=False)}" for row in rows)
    text = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    path = path_of(trace.method, trace.norm, trace.mode, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{text},\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")
    return path


def read(method: str, norm: str, mode: str, folder: Path = FOLDER) -> Trace:
    """UserError names the traces that there are."""
    path = path_of(method, norm, mode, folder)
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "none"
        raise UserError(f"no trace of method {method}, norm {norm}, mode {mode}; there: {there}")
    values = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple(
        Row(part, what, kind, count, kernels, _pair(nbytes), _pair(flops))
        for part, what, kind, count, kernels, nbytes, flops in values.pop("rows")
    )
    for name in ("source_size", "target_size", "peak"):
        values[name] = _pair(values[name])
    return Trace(**values, rows=rows)


def _pair(values: list[int]) -> tuple[int, int]:
    first, second = values
    return first, second


def checkout() -> Path | None:
    """The folder of the sources; None in an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "tests" / "fake_cuda").is_dir() else None


def sources_hash(root: Path) -> str:
    """A hash of `SOURCES` but `LEFT_OUT`, without comments, docstrings and blank lines."""
    total = hashlib.sha256()
    for path in sorted(_matching(root, SOURCES) - _matching(root, LEFT_OUT)):
        total.update(f"{path.relative_to(root).as_posix()}\n".encode())
        total.update(code_of(path.read_text(encoding="utf-8")).encode())
    return total.hexdigest()[:16]


def _matching(root: Path, patterns: tuple[str, ...]) -> set[Path]:
    return {path for pattern in patterns for path in root.glob(pattern)}


def code_of(source: str) -> str:
    """A Python file without comments, docstrings, blank lines and ends of lines."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in walk(parse(source)):
        if isinstance(node, Module | ClassDef | FunctionDef | AsyncFunctionDef) and node.body:
            match node.body[0]:
                case Expr(value=Constant(value=str()), lineno=begin, end_lineno=int(end)):
                    lines[begin - 1 : end] = [""] * (end - begin + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip()) + "\n"
