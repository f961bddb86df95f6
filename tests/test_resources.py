"""What jobs ask a cluster for, and what they say of the machine they had."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CORES, ROOT, SHAPES

from reco import device as module
from reco.config import check_config
from reco.device import cpu_threads, read_devices, resolve_device
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.progress import open_log
from reco.workflow.record import describe_run
from reco.workflow.resources import memory_mb


def test_memory_grows_with_workers_labels_pixels_and_tries():
    a_worker = memory_mb(9, 171, 320) - memory_mb(8, 171, 320)
    assert 350 + 0.6 * 2**30 / 1e6 < a_worker < 1200  # libraries, 0.6 GiB, and what waits
    assert 10_000 < memory_mb(8, 171, 320) < 12_000, "4 GB were asked for, once"
    assert memory_mb(0, 0, 0) == 1800 and memory_mb(8, 0, 0) == 4600
    few, pixels = memory_mb(8, 27, 320), memory_mb(8, 171, 640)
    assert few < 7200 and pixels > 2.5 * memory_mb(8, 171, 320)
    assert [memory_mb(2, 27, 320, attempt) for attempt in (2, 3)] == [
        attempt * memory_mb(2, 27, 320) for attempt in (2, 3)
    ]


def test_rules_ask_for_what_their_labels_need(project):
    said = project.run("--dry-run", train={**project.config["train"], "student": "deeplab"})
    jobs = {
        found[1]: found[0]
        for found in re.finditer(r"rule (\w+):\n(?:    .*\n)+", said)
        if "mem_mb=" in found[0]
    }
    asked = {rule: int(re.search(r"mem_mb=(\d+)", text)[1]) for rule, text in jobs.items()}
    labels = memory_mb(CORES, len(SHAPES), 78)
    assert asked["segment_split"] == asked["segment_plus"] == labels
    assert asked["train"] == memory_mb(CORES, 0, 0)
    assert "gpu=1" in jobs["segment_split"] and "gpu=" not in jobs["record"]
    assert ("threads" in jobs["catalog"]) == (CORES > 1)


def experiment() -> Experiment:
    return Experiment(check_config({"experiment": "tiny", "device": "cpu"}))


def test_jobs_note_their_device_and_the_record_gathers_it(tmp_path, monkeypatch):
    """The record is of the jobs' machines, not of the one that writes it down."""
    logs = tmp_path / "logs"
    for name in ("embed/1-of-2", "embed/2-of-2", "train", "segment/photos"):
        device = "cuda" if name == "train" else "cpu"
        monkeypatch.setattr("reco.device._resolve", lambda wanted, device=device: device)
        monkeypatch.setattr("reco.device._name", lambda device: f"a (fast) {device}")
        open_log(logs / f"{name}.log")
        assert resolve_device("auto") == device
    open_log(None)
    found = describe_run(experiment(), logs=logs, stages=["embed", "text", "train"])
    assert found["devices"] == {
        "embed": {"cpu": ["a (fast) cpu"]},
        "train": {"cuda": ["a (fast) cuda"]},
    }
    assert found["device"] == "cpu, cuda" and found["device_name"] == "a (fast) cpu, a (fast) cuda"
    assert describe_run(experiment())["device"] is None


def test_a_job_says_what_its_device_is(tmp_path):
    open_log(tmp_path / "x.log")
    resolve_device("cpu")
    with pytest.raises(RecoError, match=r"from cuda:0 on|not on this machine"):
        resolve_device("cuda:99")
    open_log(None)
    [(device, [name])] = read_devices([Path(tmp_path, "x.log")]).items()
    assert device == "cpu" and name


@pytest.mark.parametrize(
    ("given", "threads"), [("1", 1), ("3", 3), ("0", None), ("", None), ("4,2", None), (None, None)]
)
def test_threads_are_those_that_the_job_was_given(monkeypatch, given, threads):
    """OMP_NUM_THREADS, as Snakemake sets it; else every processor that the process may use."""
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    assert cpu_threads() == (threads or allowed)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are no such files")
@pytest.mark.parametrize("seen", [False, True])
def test_only_where_the_system_shows_a_gpu_pytorch_is_asked(tmp_path, seen):
    """Its import takes seconds."""
    (tmp_path / "gpu").touch()
    code = (
        "import sys; from reco import device; device.GPU_DEVICES = (sys.argv[1],); "
        "found = device.resolve_device('auto'); "
        "assert found in ('cpu', 'cuda'), found; "
        "print('torch' in sys.modules)"
    )
    file = tmp_path / ("gpu" if seen else "none")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(seen)


def test_without_pytorch_auto_is_the_cpu_and_a_gpu_one_line(monkeypatch):
    monkeypatch.setattr(module, "GPU_DEVICES", (str(ROOT),))
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "torch", None)  # an import raises ImportError
    assert resolve_device("auto") == "cpu" and resolve_device("cpu") == "cpu"
    with pytest.raises(RecoError, match="pip install 'reco\\[torch\\]'") as caught:
        resolve_device("cuda")
    assert "\n" not in str(caught.value)
