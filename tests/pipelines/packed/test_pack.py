import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dataset_files as files
import numpy as np
import processes
import pytest
from child import environment
from packed_files import SIZE, content, fails, flip, index_of, packed, replace_index

from fastass.pipelines.datasets.classes import IGNORE
from fastass.pipelines.datasets.decode import read_label
from fastass.pipelines.datasets.layouts import Dataset, open_dataset
from fastass.pipelines.file_lock import locked
from fastass.pipelines.packed.dataset import open_packed
from fastass.pipelines.packed.index import BadSample
from fastass.pipelines.packed.pack import BAD_LIMIT, PackReport, pack
from fastass.pipelines.packed.verify import verify


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return open_dataset(files.gta5(tmp_path / "source", 5, SIZE))


def run(dataset: Dataset, tmp_path: Path, **options: Any) -> PackReport:
    return pack(
        dataset, tmp_path / "out", SIZE, **{"workers": 1, "records_per_shard": 2, **options}
    )


def test_report_progress_and_manifest(tmp_path: Path, dataset: Dataset) -> None:
    calls: list[tuple[int, int]] = []
    report = run(dataset, tmp_path, progress=lambda done, of: calls.append((done, of)))
    assert report == PackReport(written=5, kept=0, bad=(), unseen=0, complete=True)
    assert calls == [(i, 5) for i in (1, 2, 3, 4, 5)]
    manifest = open_packed(tmp_path / "out").manifest
    assert (manifest.samples, manifest.labelled) == (5, 5)
    assert [entry.records for entry in manifest.shards] == [2, 2, 1]
    labels = np.stack([read_label(dataset, sample) for sample in dataset.samples])
    counts = np.bincount(labels.ravel(), minlength=256)
    assert manifest.class_pixels == tuple(counts[:19])
    assert manifest.ignored_pixels == counts[IGNORE]
    assert manifest.settings.encoder["quality"] == 95
    assert manifest.settings.encoder["subsampling"] == "4:4:4"
    assert not verify(tmp_path / "out").damages


def test_bytes_do_not_depend_on_workers_place_or_time(tmp_path: Path) -> None:
    one = packed(tmp_path / "one", workers=1)
    os.utime(one / "shard-00000.tar", (0, 0))
    two = packed(tmp_path / "elsewhere" / "two", workers=2)
    assert content(one) == content(two)


def test_a_finished_directory_is_kept(tmp_path: Path, dataset: Dataset) -> None:
    run(dataset, tmp_path)
    before = content(tmp_path / "out")
    stamp = (tmp_path / "out" / "shard-00000.tar").stat()
    assert run(dataset, tmp_path) == PackReport(0, 5, (), 0, True)
    assert content(tmp_path / "out") == before
    assert (tmp_path / "out" / "shard-00000.tar").stat().st_mtime_ns == stamp.st_mtime_ns


@pytest.mark.parametrize("damage", ["flip", "cut", "tar", "json", "idx"])
def test_a_damaged_shard_is_written_again(tmp_path: Path, dataset: Dataset, damage: str) -> None:
    run(dataset, tmp_path)
    before = content(tmp_path / "out")
    path = tmp_path / "out" / "shard-00001.tar"
    if damage == "flip":
        flip(path, 700)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        path.with_suffix(f".{damage}").unlink()
    assert run(dataset, tmp_path) == PackReport(2, 3, (), 0, True)
    assert content(tmp_path / "out") == before


def test_no_bit_of_an_index_may_flip(tmp_path: Path, dataset: Dataset) -> None:
    run(dataset, tmp_path)
    before = content(tmp_path / "out")
    path = tmp_path / "out" / "shard-00001.json"
    rng = np.random.default_rng(0)
    for _ in range(15):
        flip(path, int(rng.integers(path.stat().st_size)), int(rng.integers(8)))
        assert run(dataset, tmp_path) == PackReport(2, 3, (), 0, True)
        assert content(tmp_path / "out") == before


def test_a_changed_source_is_packed_again(tmp_path: Path, dataset: Dataset) -> None:
    run(dataset, tmp_path)
    image = files.on_disk(dataset.samples[2].image)
    files.write_image(image, files.natural(20, 32, 99))
    os.utime(image, ns=(time.time_ns(), time.time_ns() + 10**9))
    assert run(dataset, tmp_path) == PackReport(2, 3, (), 0, True)
    assert not verify(tmp_path / "out").damages


def test_samples_that_went_away(tmp_path: Path, dataset: Dataset) -> None:
    run(dataset, tmp_path)
    (tmp_path / "out" / "shard-00009.tar.part").touch()
    fewer = replace(dataset, samples=dataset.samples[:3])
    assert run(fewer, tmp_path) == PackReport(1, 2, (), 0, True)
    assert open_packed(tmp_path / "out").names == ("00001", "00002", "00003")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tar*")) == [
        "shard-00000.tar",
        "shard-00001.tar",
    ]


def spoil(dataset: Dataset) -> None:
    """Damage samples 00002 (image cut), 00003 (label with a flipped bit), 00005 (unknown id)."""
    image = files.on_disk(dataset.samples[1].image)
    image.write_bytes(image.read_bytes()[:-40])
    label = files.on_disk(dataset.samples[2].label)
    flip(label, label.stat().st_size - 20)
    files.write_palette(
        dataset.root / "labels" / "00005.png", np.full((SIZE[1], SIZE[0]), 200, np.uint8)
    )


def check_bad(report: PackReport) -> None:
    assert [bad.name for bad in report.bad] == ["00002", "00003", "00005"]
    reasons = [bad.reason for bad in report.bad]
    assert reasons[0].startswith("images/00002.png: ")
    assert "truncated" in reasons[0]
    assert reasons[1].startswith("labels/00003.png: ")
    assert "checksum" in reasons[1]
    assert "label value 200 is outside" in reasons[2]
    assert not any("\n" in reason for reason in reasons)


def test_bad_samples_stop(tmp_path: Path, dataset: Dataset) -> None:
    good = {sample: sample.image.read_bytes() for sample in dataset.samples}
    labels = {s: s.label.read_bytes() for s in dataset.samples if s.label is not None}
    spoil(dataset)
    report = run(dataset, tmp_path)
    check_bad(report)
    assert (report.written, report.kept, report.unseen, report.complete) == (0, 0, 0, False)
    fails(lambda: open_packed(tmp_path / "out"), "still being packed")
    for sample in dataset.samples[:2]:
        files.on_disk(sample.image).write_bytes(good[sample])
    report = run(dataset, tmp_path)
    assert [bad.name for bad in report.bad] == ["00003", "00005"]
    assert report.written == 2
    for sample, data in labels.items():
        files.on_disk(sample.label).write_bytes(data)
    os.utime(tmp_path / "out" / "shard-00000.json", ns=(time.time_ns(), time.time_ns() + 10**9))
    assert run(dataset, tmp_path) == PackReport(3, 2, (), 0, True)
    assert open_packed(tmp_path / "out").names == ("00001", "00002", "00003", "00004", "00005")


def test_bad_samples_skipped_and_counted(tmp_path: Path, dataset: Dataset) -> None:
    spoil(dataset)
    report = run(dataset, tmp_path, on_bad_sample="skip")
    check_bad(report)
    assert (report.written, report.complete) == (2, True)
    data = open_packed(tmp_path / "out")
    assert data.names == ("00001", "00004")
    assert data.manifest.bad == report.bad
    assert [entry.records for entry in data.manifest.shards] == [1, 1, 0]
    assert not verify(tmp_path / "out").damages
    again = run(dataset, tmp_path, on_bad_sample="skip")
    assert again == PackReport(0, 2, report.bad, 0, True)
    # What was skipped is not accepted in silence by a call that asks for all samples.
    assert not run(dataset, tmp_path).complete


def test_a_data_set_without_a_good_sample_is_not_packed(tmp_path: Path, dataset: Dataset) -> None:
    for sample in dataset.samples:
        files.on_disk(sample.image).write_bytes(b"")
    reason = "no good sample: all 5 are damaged; 00001: "
    fails(lambda: run(dataset, tmp_path, on_bad_sample="skip"), "out: ", reason)
    fails(lambda: open_packed(tmp_path / "out"), "it is still being packed")


def test_a_packed_directory_without_images_is_refused(tmp_path: Path) -> None:
    """Earlier versions packed such a data set."""
    root = packed(tmp_path, count=1)
    full, bad = index_of(root, 0), (BadSample("00001", "damaged"),)
    empty = replace(full, records=(), bad=bad, class_pixels=(0,) * 19, ignored_pixels=0)
    replace_index(root, 0, empty)
    fails(lambda: open_packed(root), "packed: holds no images: all 1 were damaged and left out")


def test_stop_gives_up_after_many_bad_samples(tmp_path: Path, dataset: Dataset) -> None:
    for sample in dataset.samples:
        files.on_disk(sample.image).write_bytes(b"")
    many = replace(dataset, samples=dataset.samples * 6)
    report = run(many, tmp_path)
    assert (len(report.bad), report.unseen, report.complete) == (BAD_LIMIT, 30 - BAD_LIMIT, False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": "webp"}, ("image 'webp'", "jpeg, png")),
        ({"label": "tiff"}, ("label 'tiff'", "raw, png")),
        ({"on_bad_sample": "ignore"}, ("'ignore'", "stop, skip")),
        ({"quality": 0}, ("quality 0", "1 … 100")),
        ({"workers": 0}, ("workers 0",)),
        ({"records_per_shard": 0}, ("records_per_shard 0",)),
    ],
)
def test_arguments(
    tmp_path: Path, dataset: Dataset, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    fails(lambda: run(dataset, tmp_path, **options), *words)
    fails(lambda: pack(dataset, tmp_path / "out", (0, 5)), "width 0")
    assert not (tmp_path / "out").exists()


def test_directory_of_something_else(tmp_path: Path, dataset: Dataset) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    fails(lambda: run(dataset, tmp_path), str(out), "not empty", "--out")
    fails(lambda: pack(dataset, out / "thesis.tex", SIZE), "is a file")
    fails(lambda: pack(dataset, out / "thesis.tex" / "x", SIZE), "Not a directory")
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]


def test_directory_packed_otherwise(tmp_path: Path, dataset: Dataset) -> None:
    run(dataset, tmp_path)
    before = content(tmp_path / "out")
    out = str(tmp_path / "out")
    fails(lambda: run(dataset, tmp_path, image="png"), out, "image jpeg, not png", "--out")
    fails(lambda: run(dataset.with_classes(("car",)), tmp_path), out, "other classes")
    assert content(tmp_path / "out") == before
    files.on_disk(dataset.samples[0].image).write_bytes(b"")
    assert not run(dataset, tmp_path).complete
    fails(lambda: run(dataset, tmp_path, quality=90), "encoder")


def test_two_processes_do_not_pack_into_one_directory(tmp_path: Path, dataset: Dataset) -> None:
    files.on_disk(dataset.samples[0].image).write_bytes(b"")
    assert not run(dataset, tmp_path).complete
    with locked(tmp_path / "out" / "packing.lock", ""):
        fails(lambda: run(dataset, tmp_path), f"process {os.getpid()} on", "is packing into it")
    (tmp_path / "out" / "packing.json").write_text("{")
    fails(lambda: run(dataset, tmp_path), "packing.json", "damaged")


# Packs again and again, in children that are killed at random moments, until `sys.argv[3]` were
# killed and the last directory is finished; fails if a finished one differs from the first, which
# no kill disturbed.
KILLER = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import torch
from packed_files import content
from fastass.pipelines.errors import DataError
from fastass.pipelines.file_lock import locked
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.packed.pack import pack
from fastass.pipelines.file_lock import locked
from fastass.pipelines.packed.dataset import open_packed

torch.set_num_threads(1)
dataset, out = open_dataset(sys.argv[1]), Path(sys.argv[2])

def run():
    pack(dataset, out, (40, 30), workers=1, records_per_shard=2)

begin = time.monotonic()
run()
whole = time.monotonic() - begin
wanted = content(out)
random.seed(0)
kills = 0
while kills < int(sys.argv[3]):
    shutil.rmtree(out)
    finished = False
    while not finished:
        child = os.fork()
        if child == 0:
            run()
            os._exit(0)
        time.sleep(random.uniform(0, 1.5 * whole))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        kills += status != 0
        try:
            open_packed(out)
            finished = True
        except DataError as error:
            assert status != 0, error
    (out / "packing.lock").unlink(missing_ok=True)  # its holder was killed after finishing
    assert content(out) == wanted, (content(out), wanted)
"""


def pack_under_fire(tmp_path: Path, kills: int) -> None:
    source = files.gta5(tmp_path / "source", 11, (48, 28))
    command = [sys.executable, "-c", KILLER, str(source), str(tmp_path / "out"), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr


def test_resumes_after_sigkill_at_any_moment(tmp_path: Path) -> None:
    pack_under_fire(tmp_path, 12)


@pytest.mark.slow
def test_resumes_after_many_kills(tmp_path: Path) -> None:
    pack_under_fire(tmp_path, 200)


PARENT = """
import sys
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.packed.pack import pack

if __name__ == "__main__":
    pack(open_dataset(sys.argv[1]), sys.argv[2], (40, 30), workers=2, records_per_shard=2,
         progress=lambda done, of: print(done, flush=True))
"""


def test_killed_processes_leave_no_others_behind(tmp_path: Path) -> None:
    source = files.gta5(tmp_path / "source", 300, (48, 28))

    def start() -> subprocess.Popen[str]:
        process = processes.start(PARENT, tmp_path, source, tmp_path / "out")
        assert process.stdout is not None
        for _ in range(10):  # samples done: some shards are finished, and much is to be done
            process.stdout.readline()
        return process

    processes.check_workers_end(start, "a packing worker was killed")
    fails(lambda: open_packed(tmp_path / "out"), "still being packed")
    assert index_of(tmp_path / "out", 0).records


def test_a_damaged_manifest_is_written_again(tmp_path: Path, dataset: Dataset) -> None:
    run(dataset, tmp_path)
    whole = content(tmp_path / "out")
    flip(tmp_path / "out" / "manifest.json", 300)
    fails(lambda: run(dataset, tmp_path, quality=80), "manifest.json: is damaged", "run the same")
    assert run(dataset, tmp_path).kept == 5
    assert content(tmp_path / "out") == whole
