"""Do the tests notice a small mistake? `make mutation`, or `make mutation ROOMS="order ema"`.

`ROOMS=checkpoint/run_lock` takes one file of a room.

cosmic-ray changes one comparison, sign, factor, constant, condition or decorator at a time, and the
tests of the same room run on each change. All of it happens in a copy, in build/mutation. Results
are kept there: a second run goes on where the first one stopped, starts anew with a file that was
changed, and tries survivors again when their tests were changed.

Each mutant is tried in a fork of this process, which has imported torch and nothing of fastass.

A mutant that survives is either explained in explained.txt or makes the run fail.
"""

import hashlib
import importlib
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import cosmic_ray.mutating
import pytest
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.work_db import use_db
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkItem, WorkResult
from explained_mutants import Mutant, explained, from_diff

ROOT = Path(__file__).resolve().parent.parent.parent
WORK = ROOT / "build" / "mutation"
COPY, SESSIONS = WORK / "copy", WORK / "sessions"
TIMED_OUT = "timeout"
PATIENCE = 5  # times as long as without a mutation, and some seconds


class Room(NamedTuple):
    """Files to mutate, and the tests that should notice, as arguments of pytest."""

    sources: str
    tests: tuple[str, ...]


# They train, or make up files, for a minute; the other tests are of single functions.
LONG = ("hostile_files", "run_directory", "run_directory_properties")

ROOMS = {
    "method": Room("fastass/method/*.py", ("tests/method",)),
    "order": Room("pipelines/loaders/order.py", ("tests/pipelines/loaders/test_order.py",)),
    "ema": Room("fastass/models/ema.py", ("tests/models/test_ema.py",)),
    "optimizers": Room(
        "fastass/training/optimizers/*.py",
        (
            "tests/training/test_large_batch.py",
            "tests/training/test_repeated_updates.py",
            "tests/training/test_optimizers.py",
        ),
    ),
    "checkpoint": Room(
        "fastass/checkpoint/*.py",
        ("tests/checkpoint", *(f"--ignore=tests/checkpoint/test_{name}.py" for name in LONG)),
    ),
}

# Of cosmic-ray's operators, those that make mistakes of people: `+` for `-`, not `+` for `<<`.
OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mod|Mod_FloorDiv|Pow_Mul)"
    r"|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Is_IsNot|IsNot_Is)"
    r"|ReplaceUnaryOperator_(USub_UAdd|Delete_Not)|ReplaceTrueWithFalse|ReplaceFalseWithTrue"
    r"|ReplaceAndWithOr|ReplaceOrWithAnd|AddNot|ReplaceBreakWithContinue|ReplaceContinueWithBreak"
    r"|ExceptionReplacer|NumberReplacer|RemoveDecorator|ZeroIterationForLoop)"
)

# An editable install finds fastass before PYTHONPATH does: the copy's processes go without it.
SITECUSTOMIZE = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
"""


def make_copy() -> None:
    """Copy what git knows, and the native library, to build/mutation/copy."""
    shutil.rmtree(COPY, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if os.path.lexists(ROOT / name):
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, COPY / name, follow_symlinks=False)
    where = "from fastass.kernels.native_library import library; print(library()._name)"
    installed = subprocess.check_output([sys.executable, "-c", where], cwd=ROOT, text=True).strip()
    shutil.copy2(installed, COPY / "kernels")
    (COPY / "sitecustomize.py").write_text(SITECUSTOMIZE)


def run_tests(command: str, timeout: float, quiet: bool = True) -> tuple[TestOutcome, str]:
    """cosmic-ray's function of this name, in a fork. command: arguments of pytest."""
    arguments = (command.split(), quiet)
    process = multiprocessing.get_context("fork").Process(target=_pytest, args=arguments)
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        return TestOutcome.KILLED, TIMED_OUT
    return (TestOutcome.KILLED if process.exitcode else TestOutcome.SURVIVED), ""


def _pytest(arguments: list[str], quiet: bool) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2) if quiet else (0,):
        os.dup2(nothing, descriptor)
    sys.path.insert(0, str(COPY))
    os._exit(pytest.main(["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *arguments]))


def digest(paths: list[Path]) -> str:
    """Of the files' contents, folders included."""
    files = [f for p in paths for f in (sorted(p.rglob("*.py")) if p.is_dir() else [p])]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:12]


def is_mistake(item: WorkItem, lines: list[str]) -> bool:
    """Whether `OPERATORS` has the mutant, and it changes no `*` that is not an operator."""
    (mutation,) = item.mutations
    row, column = mutation.start_pos
    before, rest = lines[row - 1][:column].rstrip(), lines[row - 1][column:].lstrip("*")
    unpacks = before[-1:] in ("", "(", "[", "{", ",") and rest[:1] != " "
    starred = mutation.operator_name.endswith(("_Mul_Div", "_Pow_Mul"))
    return bool(OPERATORS.fullmatch(mutation.operator_name)) and not (starred and unpacks)


def is_survivor(result: WorkResult) -> bool:
    return result.test_outcome == TestOutcome.SURVIVED


def mutate(
    source: str, tests: tuple[str, ...], timeout: float, reasons: dict[Mutant, str]
) -> tuple[Counter[str], list[str]]:
    """The mutants of one file by outcome, and the diffs of those that survived unexplained."""
    session = SESSIONS / f"{source.replace('/', '.')}-{digest([COPY / source])}.sqlite"
    tried_with = session.with_suffix(".tests")
    own = f"{tests[0]}/test_{Path(source).name}"  # fails first, if it does
    first = (COPY / own).exists() and f"--ignore={own}" not in tests
    arguments = " ".join([*([own] if first else []), *tests])
    now = digest([COPY / path for path in tests if path[0] != "-"])
    complete = session.exists() and tried_with.exists()
    with use_db(session) as db:
        if not complete:
            init([source], db, {})
            tried_with.write_text(now)
        lines = (COPY / source).read_text(encoding="utf-8").splitlines()
        skipped = [item.job_id for item in db.work_items if not is_mistake(item, lines)]
        db.set_multiple_results(skipped, WorkResult(WorkerOutcome.SKIPPED))
        todo = list(db.pending_work_items)
        if tried_with.read_text() != now:
            todo += [item for item, result in db.completed_work_items if is_survivor(result)]
        for n, item in enumerate(todo, 1):
            print(f"\r{source}: {n} of {len(todo)} ", end="", flush=True)
            db.set_result(item.job_id, mutate_and_test(item.mutations, arguments, timeout))
        tried_with.write_text(now)
        results = [r for _, r in db.results if r.worker_outcome != WorkerOutcome.SKIPPED]
    survivors = [r.diff or "" for r in results if is_survivor(r)]
    unexplained = [diff for diff in survivors if from_diff(source, diff) not in reasons]
    counts = Counter(
        mutants=len(results),
        noticed=len(results) - len(survivors),
        late=sum(r.output == TIMED_OUT for r in results),
        explained=len(survivors) - len(unexplained),
    )
    if results:
        print(f"\r{source}: {shares(counts)}")
    return counts, unexplained


def shares(counts: Counter[str]) -> str:
    """How many mutants were noticed, of all and of those that no reason explains."""
    mutants, noticed, explained = counts["mutants"], counts["noticed"], counts["explained"]
    return (
        f"{noticed} of {mutants} noticed ({noticed / max(1, mutants):.1%}; by the time limit: "
        f"{counts['late']}), {explained} explained, {mutants - noticed - explained} neither"
    )


def main(names: list[str]) -> int:
    """Mutate the rooms, or files as ROOM/STEM, of that name, or all. 0: each survivor explained."""
    make_copy()
    SESSIONS.mkdir(exist_ok=True)
    os.chdir(COPY)
    inherited = os.environ.get("PYTHONPATH", "")
    os.environ |= {
        "PYTHONPATH": f"{COPY}{os.pathsep}{inherited}",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    for package in ("safetensors.torch", "PIL.Image", "yaml"):  # and torch: for the forks
        importlib.import_module(package)
    where = "import fastass; print(fastass.__file__)"
    found = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True).stdout
    if not found.startswith(str(COPY)):
        sys.exit(f"the tests would import {found.strip() or 'nothing'}, not the copy in {COPY}")
    sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
    cosmic_ray.mutating.run_tests = run_tests
    reasons, total, left = explained(), Counter[str](), list[str]()
    for chosen in names or list(ROOMS):
        name, _, stem = chosen.partition("/")
        room = ROOMS[name]
        sys.dont_write_bytecode = False
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        began = time.monotonic()
        if run_tests(" ".join(room.tests), 3600, quiet=False)[0] != TestOutcome.SURVIVED:
            sys.exit(f"{' '.join(room.tests)}: fails without any mutation: mend it first")
        # It has left bytecode of all that is not changed; that of mutants is not to be kept.
        sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
        timeout = 20 + PATIENCE * (time.monotonic() - began)
        for path in sorted(COPY.glob(room.sources)):
            if stem not in ("", path.stem):
                continue
            source = str(path.relative_to(COPY))
            counts, unexplained = mutate(source, room.tests, timeout, reasons)
            total += counts
            left += unexplained
    print(*left, sep="\n\n")
    print(f"all: {shares(total)}")
    return bool(left)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
