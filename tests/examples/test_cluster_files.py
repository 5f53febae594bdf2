"""The files for clusters: words of fastass, keys of Kubernetes, and signals that arrive."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_blocks import ROOT

from fastass.cli.main import build_parser

FOLDER = ROOT / "examples"
SCRIPTS = ("torchrun.sh", "slurm.sbatch", "slurm-container.sbatch")
CONTAINER = "slurm-container.sbatch"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))


def command_of(name: str) -> list[str]:
    """The words after `-m fastass`."""
    if name.endswith(".yaml"):
        last = documents(name)[-1]["spec"]
        if "trainer" in last:
            words = last["trainer"]["command"]
        else:
            (container,) = last["template"]["spec"]["containers"]
            words = container["command"]
    else:
        text = (FOLDER / name).read_text(encoding="utf-8").replace("\\\n", " ")
        (line,) = [x for x in text.splitlines() if "-m fastass" in x and not x.startswith("#")]
        words = shlex.split(line.removesuffix("&"))
    return words[words.index("fastass") + 1 :]


@pytest.mark.parametrize("name", [*SCRIPTS, "kubernetes.yaml", "kubeflow.yaml"])
def test_the_command_is_one_of_fastass(name: str) -> None:
    arguments = build_parser().parse_args(command_of(name))
    assert arguments.resume
    given = vars(arguments)
    assert any(str(value).endswith("data/resnet101.pth") for value in given.values())  # --init


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_reads_it(name: str) -> None:
    subprocess.run(["bash", "-n", FOLDER / name], check=True)


def test_kubernetes() -> None:
    reason = "kubernetes-validate is not installed"
    validate = pytest.importorskip("kubernetes_validate", reason=reason)
    kinds = []
    for document in documents("kubernetes.yaml"):
        validate.validate(document, validate.latest_version(), strict=True)
        kinds.append(document["kind"])
    assert kinds == ["Service", "Job"]
    wrong = documents("kubernetes.yaml")[1]
    wrong["spec"]["templates"] = wrong["spec"].pop("template")
    with pytest.raises(validate.ValidationError):
        validate.validate(wrong, validate.latest_version(), strict=True)


def test_kubeflow_trains_what_kubernetes_does() -> None:
    (job,) = documents("kubeflow.yaml")
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert command_of("kubeflow.yaml") == command_of("kubernetes.yaml")
    assert job["spec"].keys() == {"runtimeRef", "trainer", "podTemplateOverrides"}
    text = (FOLDER / "kubeflow.yaml").read_text(encoding="utf-8")
    assert "has not been run on a cluster" in text


# In place of Slurm. srun waits for SIGTERM as the ranks do, and notes what it was given.
STANDINS = {
    "srun": """\
echo "$SRUN_CPUS_PER_TASK $*" > "$NOTES/srun"
[ -z "$FAIL" ] || exit "$FAIL"
trap 'echo saved > "$NOTES/saved"; exit 143' TERM
echo $$ > "$NOTES/pid"
for i in $(seq 200); do sleep 0.1; done
""",
    "scontrol": """\
if [ "$1" = show ]; then printf 'node1\\nnode2\\n'; else echo "$*" > "$NOTES/scontrol"; fi
""",
    "scancel": """\
echo "$*" > "$NOTES/scancel"
kill -TERM "$(cat "$NOTES/pid")"
""",
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    for name, body in STANDINS.items():
        file = tmp_path / name
        file.write_text(f"#!/bin/bash\n{body}")
        file.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "NOTES": str(tmp_path / "notes"),
        "FAIL": "",
        "SLURM_CPUS_PER_TASK": "64",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "7",
        "SLURM_NNODES": "2",
    }


def test_out_of_time_it_is_queued_again(slurm: dict[str, str], tmp_path: Path) -> None:
    notes = Path(slurm["NOTES"])
    notes.mkdir()
    job = subprocess.Popen(["bash", FOLDER / CONTAINER], env=slurm, cwd=tmp_path)
    for _ in range(200):
        if (notes / "pid").exists():
            break
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 0
    assert (notes / "saved").read_text() == "saved\n"
    assert (notes / "scancel").read_text() == "--signal=TERM 7\n"
    assert (notes / "scontrol").read_text() == "requeue 7\n"
    given = (notes / "srun").read_text()
    assert given.startswith("64 apptainer exec --nv ")
    assert "fastass.sif torchrun --nnodes 2 " in given
    assert "--rdzv-endpoint node1:29400" in given


def test_a_failure_is_not_queued_again(slurm: dict[str, str], tmp_path: Path) -> None:
    notes = Path(slurm["NOTES"])
    notes.mkdir()
    done = subprocess.run(["bash", FOLDER / CONTAINER], env={**slurm, "FAIL": "3"}, cwd=tmp_path)
    assert done.returncode == 3
    assert not (notes / "scontrol").exists()
