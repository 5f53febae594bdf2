"""torchrun's groups under faults: a rank killed, hung, stopped, or with an error of its own."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from child import ROOT
from processes import children, command_line
from ranks import free_port

from fastass.checkpoint.files import find_checkpoint, read_weights
from fastass.checkpoint.pointers import list_checkpoints
from fastass.pipelines.toycity import generate

SMALL = (
    "--method ga+csa --labelled 3 --steps 60 --batch 1 --data-source-size 96x56 --workers 0 "
    "--data-target-size 96x48 --model-width 16 --discriminator-width 4 --start-steps 0 "
    "--discriminator-hidden 16 --eval-every 0 --save-every 5 --log-every 1 --plain --resume"
).split()


@pytest.fixture(scope="module")
def toycity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "toycity"
    generate(root, source=5, target=4, val=2, workers=1)
    return root


def arguments(toycity: Path, out: Path, *more: str) -> list[str]:
    data = ["--data-source", str(toycity / "gta5"), "--data-target", str(toycity / "cityscapes")]
    return ["-m", "fastass", "train", "toycity", *SMALL, *data, "--out", str(out), *more]


@contextlib.contextmanager
def torchrun(
    words: list[str], ranks: int = 2, restarts: int = 0
) -> Iterator[subprocess.Popen[str]]:
    """A group of ranks, ended at the end."""
    group = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(ranks),
        "--max-restarts",
        str(restarts),
        "--monitor-interval",
        "0.1",
        "--master-port",
        str(free_port()),
    ]
    agent = subprocess.Popen(
        [*group, *words],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        yield agent
    finally:
        for process in [*ranks_of(agent), agent.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        with contextlib.suppress(ValueError):  # `until` has read it to its end
            agent.communicate()


def ranks_of(agent: subprocess.Popen[str]) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [p for p in children(agent.pid) if b"fastass" in command_line(p)]
    return []


def until(condition: Callable[[], bool], agent: subprocess.Popen[str], within: float = 90) -> None:
    end = time.monotonic() + within
    while not condition():
        assert agent.poll() is None, agent.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def has_other_lines(run: Path, than: int) -> bool:
    return lines(run) != than


def both_past(run: Path, after: int, agent: subprocess.Popen[str]) -> bool:
    """Both ranks run, and have logged at least `after` lines."""
    return lines(run) >= after and len(ranks_of(agent)) == 2


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_weights(find_checkpoint(run / "last"))


@pytest.mark.slow
def test_a_killed_rank_costs_nothing(toycity: Path, tmp_path: Path) -> None:
    """torchrun restarts the group from the last checkpoint; the weights are those of no kill."""
    calm, run = tmp_path / "calm", tmp_path / "run"
    with torchrun(arguments(toycity, calm)) as agent:
        assert "mIoU" in agent.communicate(timeout=120)[0]
    with torchrun(arguments(toycity, run), restarts=2) as agent:
        for rank, after in ((1, 12), (0, 31)):
            until(partial(both_past, run, after, agent), agent)
            os.kill(ranks_of(agent)[rank], signal.SIGKILL)
            killed_at = lines(run)
            until(partial(has_other_lines, run, killed_at), agent)
        output = agent.communicate(timeout=120)[0]
    assert output.count("resuming") == 2, output
    assert agent.returncode == 0, output
    for name, value in weights(calm).items():
        assert torch.equal(value, weights(run)[name]), name


@pytest.mark.slow
def test_a_hung_rank_ends_the_run_with_a_line(toycity: Path, tmp_path: Path) -> None:
    words = arguments(toycity, tmp_path / "run", "--distributed-timeout", "3")
    with torchrun(words) as agent:
        until(lambda: lines(tmp_path / "run") >= 8, agent)
        os.kill(ranks_of(agent)[1], signal.SIGSTOP)
        stopped = ranks_of(agent)[1]
        assert agent.stdout is not None
        found = ""
        for line in agent.stdout:
            if line.startswith("fastass:"):
                found = line
                break
        os.kill(stopped, signal.SIGCONT)
        agent.communicate(timeout=60)
    assert re.search(
        r"rank 1 did not answer for 3 s at step \d+ \(--distributed-timeout\): it hangs or is",
        found,
    ), found
    assert list_checkpoints(tmp_path / "run")


@pytest.mark.slow
def test_sigterm_saves_once_and_every_rank_ends(toycity: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with torchrun(arguments(toycity, run, "--save-every", "1000")) as agent:
        until(lambda: lines(run) >= 3, agent)
        agent.send_signal(signal.SIGTERM)
        output = agent.communicate(timeout=60)[0]
    assert output.count("SIGTERM: saved at step") == 1, output
    assert len(list_checkpoints(run)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--labelled", "99"], ["--model-norm", "sync", "--compile"]])
def test_an_error_of_the_user_is_told_once(toycity: Path, tmp_path: Path, more: list[str]) -> None:
    with torchrun(arguments(toycity, tmp_path / "run", *more)) as agent:
        output = agent.communicate(timeout=60)[0]
    assert output.count("fastass: ") == 1, output
    assert "fastass: rank" in output
    assert "UserError: rank" in output.split("Root Cause")[1], "torchrun's report lacks our line"
    assert "cli.py" not in output, "a traceback of ours"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_ranks_share_statistics_and_find_their_batch(toycity: Path, tmp_path: Path) -> None:
    """`--model-norm sync` on CPUs, `--batch auto`: the number is in the run's configuration."""
    run = tmp_path / "run"
    more = ("--model-norm", "sync", "--batch", "auto", "--steps", "6")
    with torchrun(arguments(toycity, run, *more, "--stop-at", "3")) as agent:
        output = agent.communicate(timeout=120)[0]
    assert output.count("--batch auto: 2 images per stream (estimated: ") == 1, output
    assert "on rank " in output
    assert "norm sync: its statistics, and so the result, depend on the batch" in output
    with torchrun(arguments(toycity, run, *more)) as agent:
        output = agent.communicate(timeout=120)[0]
    assert agent.returncode == 0, output
    assert "--batch auto" not in output, "a resumed run keeps its number"
    assert "\nbatch: 2\n" in (run / "config.yaml").read_text()


@pytest.mark.slow
def test_memory_that_ends_on_one_rank_ends_all(toycity: Path, tmp_path: Path) -> None:
    """With a frozen norm one process would go on; several ranks end, with a batch to try."""
    script = tmp_path / "short_of_memory.py"
    script.write_text(SHORT_OF_MEMORY)
    words = arguments(toycity, tmp_path / "run", "--batch", "2", "--model-norm", "frozen")
    with torchrun([str(script), *words[2:]]) as agent:
        output = agent.communicate(timeout=120)[0]
    assert output.count("fastass: ") == 1, output
    assert "out of memory" in output
    assert "all ranks would have to cut theirs at the same time; try --batch 1" in output


SHORT_OF_MEMORY = """
import os, sys, torch
from fastass.cli.main import main
from fastass.training.step import TrainStep

forward = TrainStep._forward_and_backward
calls = 0

def limited(self, *arguments):
    global calls
    calls += 1
    if os.environ["RANK"] == "1" and calls == 4:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return forward(self, *arguments)

TrainStep._forward_and_backward = limited
sys.exit(main())
"""


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all(toycity: Path, tmp_path: Path) -> None:
    """A damaged image that one rank reads first."""
    damaged = tmp_path / "data"
    shutil.copytree(toycity, damaged)
    image = sorted((damaged / "gta5" / "images").rglob("*.png"))[2]
    image.write_bytes(image.read_bytes()[:200])
    began = time.monotonic()
    with torchrun(arguments(damaged, tmp_path / "run")) as agent:
        output = agent.communicate(timeout=60)[0]
    assert time.monotonic() - began < 50
    assert output.count("fastass: ") == 1, output
    assert image.name in output
    assert "cli.py" not in output


@pytest.mark.slow
def test_ranks_of_a_killed_launcher_keep_their_directory(toycity: Path, tmp_path: Path) -> None:
    """A second launcher is refused while they train, and goes on once they have ended."""
    run = tmp_path / "run"
    words = arguments(toycity, run)
    with torchrun([*words, "--steps", "4000"]) as first:
        until(lambda: lines(run) >= 5, first)
        orphans = ranks_of(first)
        first.kill()
        first.wait()
        try:
            with torchrun([*words, "--steps", "4000"]) as second:
                output = second.communicate(timeout=90)[0]
            assert f"{run}: process {orphans[0]} on " in output, output
            assert "is training there" in output
        finally:
            for process in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
    with torchrun([*words, "--steps", "4000", "--stop-at", "12"]) as third:
        assert "resuming" in third.communicate(timeout=90)[0]


def namespaces() -> list[str]:
    """A command with network namespaces of its own; skips where they are not permitted."""
    words = ["unshare", "--map-root-user", "--net", "--mount"]
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("no two nodes: there is no unshare, or no ip")
    probe = "mount -t tmpfs none /run && mkdir /run/netns && ip netns add probe"
    tried = subprocess.run([*words, "sh", "-c", probe], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no two nodes: namespaces are refused: {tried.stderr.strip()}")
    return words


@pytest.mark.slow
def test_a_node_that_is_cut_off_for_a_while_costs_nothing(toycity: Path, tmp_path: Path) -> None:
    """Two nodes in network namespaces; the cable between them is cut, and mended."""
    calm, run = tmp_path / "calm", tmp_path / "run"
    unshare = namespaces()
    with torchrun(arguments(toycity, calm)) as agent:
        assert "mIoU" in agent.communicate(timeout=120)[0]
    script = [str(ROOT / "tests" / "support" / "two_nodes.sh"), str(run), "12", "8"]
    words = arguments(toycity, run, "--distributed-timeout", "4")[2:]
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # torchrun
    done = subprocess.run(
        [*unshare, "bash", *script, *words],
        capture_output=True,
        text=True,
        timeout=400,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": tools},
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    assert "cable back" in output
    assert "resuming" in output, output[-4000:]
    for name, value in weights(calm).items():
        assert torch.equal(value, weights(run)[name]), name
