"""The workflow through profiles/kubernetes, on an imitation of Kubernetes.

There is no cluster: a local server answers kubectl as the API of Kubernetes does for Jobs, and runs
the command of each pod on this machine. kubectl, the profile and its commands are the real ones.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from conftest import CORES, ROOT, SHAPES, Project, job_counts

from reco.data.tables import read_table
from reco.workflow.resources import memory_mb


def kubectl_version() -> int:
    """Its minor version, 0 where there is none."""
    if not shutil.which("kubectl"):
        return 0
    ask_version = ["kubectl", "version", "--client", "--output=json"]
    done = subprocess.run(ask_version, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["clientVersion"]["minor"].rstrip("+"))


# Older ones ask the server for what this imitation does not know.
pytestmark = pytest.mark.skipif(kubectl_version() < 27, reason="needs kubectl 1.27 or newer")


GPU_RULES = {"embed", "embed_split", "text", "features", "segment_split"}
# Training only takes time here: to the cluster it is one more job on a GPU.
CHANGES = {"train": None}
# All but the figures.
TARGETS = ["results/tiny/metrics.csv", "results/tiny/run.json"]
ON_KUBERNETES = ["--workflow-profile", "profiles/kubernetes"]
ON_KUBERNETES += ["--latency-wait", "5", "--seconds-between-status-checks", "1"]
NODE = {"cpu": 8, "memory": 16_000, "nvidia.com/gpu": 1}
JOBS = "/apis/batch/v1/namespaces/lab/jobs"
# What kubectl asks before it sends a Job: are there Jobs, and does the server check their fields?
DISCOVERY = {
    "/openapi/v3": {
        "paths": {"apis/batch/v1": {"serverRelativeURL": "/openapi/v3/apis/batch/v1?hash=1"}}
    },
    "/openapi/v3/apis/batch/v1": {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1"},
        "paths": {
            "/apis/batch/v1/namespaces/{namespace}/jobs/{name}": {
                "patch": {
                    "parameters": [
                        {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
                    ],
                    "responses": {},
                    "x-kubernetes-group-version-kind": {
                        "group": "batch",
                        "version": "v1",
                        "kind": "Job",
                    },
                }
            }
        },
    },
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {
                "name": "batch",
                "versions": [{"groupVersion": "batch/v1", "version": "v1"}],
                "preferredVersion": {"groupVersion": "batch/v1", "version": "v1"},
            }
        ],
    },
    "/apis/batch/v1": {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": "batch/v1",
        "resources": [
            {
                "name": "jobs",
                "singularName": "job",
                "namespaced": True,
                "kind": "Job",
                "verbs": ["create", "delete", "get", "list"],
            }
        ],
    },
}


@dataclass
class Job:
    """A Job as it was sent, the processes of its pods, and what has become of it."""

    manifest: dict
    phase: str = "Pending"  # Running, Complete, Failed, Deleted
    disrupted: bool = False  # does the pod end with the condition DisruptionTarget?
    pods: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.manifest["metadata"]["name"]

    @property
    def rule(self) -> str:
        return self.name.removeprefix("reco-").rpartition("-")[0].replace("-", "_")

    @property
    def spec(self) -> dict:
        return self.manifest["spec"]["template"]["spec"]

    @property
    def container(self) -> dict:
        [container] = self.spec["containers"]
        return container

    @property
    def needs(self) -> dict[str, int]:
        """What the scheduler counts, memory in MB."""
        requests = self.container["resources"]["requests"]
        return {name: int(amount.removesuffix("M")) for name, amount in requests.items()}

    def answer(self) -> dict:
        """The Job as kubectl gets it."""
        ended = self.phase in ("Complete", "Failed")
        conditions = [{"type": self.phase, "status": "True"}] if ended else []
        return {**self.manifest, "status": {"conditions": conditions}}


class Cluster:
    """One node that runs pods as processes, and the server that kubectl talks to.

    Args:
        folder: where logs and kubectl's config go.
        volume: the folder behind the claim `lab`; pods must mount it under its own path.
    """

    def __init__(self, folder: Path, volume: Path) -> None:
        self.folder, self.volume = folder, volume
        self.jobs: dict[str, Job] = {}
        # By rule, what befalls its first pod while the rule runs.
        self.mishaps: dict[str, Callable[[Job], None]] = {}
        self.down_until, self.unanswered = 0.0, 0
        self.lock = threading.RLock()
        self.stopped = threading.Event()
        self.server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (Handler,), {"cluster": self})
        )
        self.threads = [
            threading.Thread(target=self.server.serve_forever),
            threading.Thread(target=self.control),
        ]
        (folder / "home").mkdir(parents=True)
        self.kubeconfig = folder / "kubeconfig"
        address = f"http://127.0.0.1:{self.server.server_port}"
        config = {
            "clusters": [{"name": "test", "cluster": {"server": address}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "namespace": "lab"}}],
            "current-context": "test",
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self.server.shutdown()
        for thread in self.threads:
            thread.join()
        self.server.server_close()
        for job in self.jobs.values():
            self.kill(job)

    def create(self, manifest: dict) -> Job:
        """Take a Job on; ValueError says why the API would not."""
        metadata = manifest["metadata"]
        name = f"{metadata['generateName'][:58]}{len(self.jobs):05d}"
        if not re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", name):
            raise ValueError(f"metadata.name: {name!r}")
        job = Job({**manifest, "metadata": {**metadata, "name": name, "namespace": "lab"}})
        limits = job.container["resources"]["limits"]
        for resource, amount in job.container["resources"]["requests"].items():
            if "/" in resource and limits.get(resource) != amount:
                raise ValueError(f"{resource}: limit must be set for non overcommitable resources")
        self.jobs[name] = job
        return job

    def kill(self, job: Job) -> None:
        """End the pod at once, as `kubectl delete pod` does, or the kernel for want of memory."""
        with self.lock:
            if job.phase == "Running":
                os.killpg(job.pods[-1].pid, signal.SIGKILL)
                job.pods[-1].wait()

    def evict(self, job: Job) -> None:
        """Preempt the pod, drain its node, or lose it."""
        with self.lock:
            job.disrupted = True
            self.kill(job)

    def delete(self, job: Job) -> None:
        with self.lock:
            self.kill(job)
            job.phase = "Deleted"

    def control(self) -> None:
        """Note what ended and start what fits onto the node, until stopped."""
        while not self.stopped.wait(0.1):
            with self.lock:
                free = dict(NODE)
                for job in self.jobs.values():
                    if job.phase == "Running":
                        job.phase = self.phase_of_running(job)
                    if job.phase == "Running":
                        if (
                            job.rule in self.mishaps
                            and f"rule {job.rule}:" in self.log(job, len(job.pods) - 1).read_text()
                        ):
                            self.mishaps.pop(job.rule)(job)
                        free = {name: free[name] - job.needs.get(name, 0) for name in free}
                for job in self.jobs.values():
                    fits = all(job.needs.get(name, 0) <= free[name] for name in free)
                    if job.phase == "Pending" and fits:
                        self.start_pod(job)
                        break

    def phase_of_running(self, job: Job) -> str:
        """What the controller of Jobs makes of the pod: one try, but for what is ignored."""
        status = job.pods[-1].poll()
        if status is None:
            return "Running"
        if status == 0:
            return "Complete"
        assert job.manifest["spec"]["backoffLimit"] == 0
        disruption = [{"type": "DisruptionTarget", "status": "True"}]
        rules = job.manifest["spec"]["podFailurePolicy"]["rules"]
        ignored = {"action": "Ignore", "onPodConditions": disruption} in rules
        again, job.disrupted = job.disrupted and ignored, False
        return "Pending" if again else "Failed"

    def start_pod(self, job: Job) -> None:
        """Run the command with the environment of a bare image and what the Job adds."""
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self.folder / "home")}
        environment |= {found["name"]: found["value"] for found in job.container["env"]}
        with self.log(job, len(job.pods)).open("wb") as log:
            pod = subprocess.Popen(
                job.container["command"],
                cwd="/",
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        job.pods.append(pod)
        job.phase = "Running"

    def log(self, job: Job, pod: int) -> Path:
        return self.folder / f"{job.name}.{pod}.log"

    def logs(self) -> str:
        """The end of what every pod printed."""
        found = sorted(self.folder.glob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in found)


class Handler(BaseHTTPRequestHandler):
    """The API of Kubernetes as far as kubectl create, get and delete of a Job need it."""

    cluster: Cluster

    def answer(self, body: dict, code: int = 200) -> None:
        text = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def refuse(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
        self.answer(status | {"reason": reason, "code": code, "message": message}, code)

    def job(self) -> Job | None:
        """The Job at this address."""
        folder, _, name = urlsplit(self.path).path.rpartition("/")
        job = self.cluster.jobs.get(name) if folder == JOBS else None
        return job if job and job.phase != "Deleted" else None

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        with self.cluster.lock:
            if path in DISCOVERY:
                self.answer(DISCOVERY[path])
            elif time.monotonic() < self.cluster.down_until:
                self.cluster.unanswered += 1
                self.refuse(503, "ServiceUnavailable", "the server is restarting")
            elif not path.startswith(JOBS):
                self.refuse(403, "Forbidden", f"the role of head.yaml does not allow {path}")
            elif job := self.job():
                self.answer(job.answer())
            else:
                self.refuse(404, "NotFound", f"{path} not found")

    def do_POST(self) -> None:
        manifest = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.cluster.lock:
            try:
                self.answer(self.cluster.create(manifest).answer(), 201)
            except ValueError as error:
                self.refuse(422, "Invalid", str(error))

    def do_DELETE(self) -> None:
        with self.cluster.lock:
            if job := self.job():
                self.cluster.delete(job)
                self.answer(job.answer())
            else:
                self.refuse(404, "NotFound", f"{self.path} not found")

    def log_message(self, *_: object) -> None:
        with (self.cluster.folder / "requests.txt").open("a") as log:
            log.write(self.requestline + "\n")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A running imitation, found by the kubectl of whatever this test starts."""
    found = Cluster(tmp_path / "cluster", volume=tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig))
    monkeypatch.setenv("KUBECACHEDIR", str(found.folder / "kubectl"))
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def project(tmp_path, cluster):
    """A copy of the project on the volume, its job.yaml adapted to this cluster."""
    found = Project(tmp_path)
    file = found.folder / "profiles/kubernetes/job.yaml"
    template = yaml.safe_load(file.read_text())
    container = template["job"]["spec"]["template"]["spec"]["containers"][0]
    container["volumeMounts"][0]["mountPath"] = str(cluster.volume)
    container["env"] = [
        {"name": "XDG_CACHE_HOME", "value": str(cluster.volume / "cache")},
        {"name": "PYTHONPATH", "value": str(found.folder / "src")},
    ]
    file.write_text(yaml.safe_dump(template))
    return found


def ask(command: str, argument: str) -> str:
    """Run a command of the profile as Snakemake does; what it printed."""
    path = ROOT / "profiles/kubernetes" / command
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [path, argument],
        env={**os.environ, "PATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(job: Job, phase: str) -> None:
    deadline = time.monotonic() + 30
    while job.phase != phase and time.monotonic() < deadline:
        time.sleep(0.05)
    assert job.phase == phase


def test_commands_tell_snakemake_what_became_of_a_job(tmp_path, cluster):
    def submit(shell: str, **resources: int) -> Job:
        needs = {"mem_mb": 500, "runtime": 7, **resources}
        properties = {"type": "single", "rule": "a_b", "threads": 3, "resources": needs}
        script = tmp_path / "job.sh"
        script.write_text(f"#!/bin/sh\n# properties = {json.dumps(properties)}\n{shell}\n")
        return cluster.jobs[ask("submit.py", str(script))]

    job = submit("exit 0", gpu=1)
    assert job.rule == "a_b" and job.spec["activeDeadlineSeconds"] == 420
    assert job.needs == {"cpu": 3, "memory": 500, "nvidia.com/gpu": 1}
    wait_for(job, "Complete")
    assert ask("status", job.name) == "success\n"
    job = submit("exit 3")
    wait_for(job, "Failed")
    assert ask("status", job.name) == "failed\n"

    job = submit("sleep 60")
    wait_for(job, "Running")
    assert ask("status", job.name) == "running\n"
    cluster.evict(job)
    assert ask("status", job.name) == "running\n"
    cluster.down_until = time.monotonic() + 1
    assert ask("status", job.name) == "running\n" and cluster.unanswered
    time.sleep(1)
    wait_for(job, "Running")
    assert len(job.pods) == 2
    ask("cancel", job.name)
    assert job.phase == "Deleted" and job.pods[-1].poll() is not None
    assert ask("status", job.name) == "failed\n"
    ask("cancel", job.name)

    # A pod that no node can hold waits.
    job = submit("exit 0", gpu=2)
    time.sleep(0.5)
    assert job.phase == "Pending" and ask("status", job.name) == "running\n"


@pytest.mark.slow
def test_runs_on_kubernetes_and_survives_the_loss_of_pods(tmp_path, cluster, project, converted):
    project.take(converted)
    local = Project(tmp_path / "local", data=tmp_path).take(converted)

    def fall_silent(_: Job) -> None:
        cluster.down_until = time.monotonic() + 4

    mishaps = {"text": cluster.evict, "evaluate": cluster.kill, "precision": cluster.delete}
    cluster.mishaps = {**mishaps, "segment_split": fall_silent}
    with ThreadPoolExecutor() as pool:
        running = pool.submit(local.run, *TARGETS, **CHANGES)
        done = project.snakemake(*TARGETS, *ON_KUBERNETES, **CHANGES)
        running.result()
    text = done.stdout + done.stderr
    assert done.returncode == 0, text + cluster.logs()
    jobs = list(cluster.jobs.values())
    print(*(f"{job.name} {job.needs}" for job in jobs), sep="\n")

    # Concepts share a pod.
    assert job_counts(text)["cosegment"] > 1
    assert len([job for job in jobs if job.rule == "cosegment"]) == 1
    # What Kubernetes took away, it starts again; what was lost otherwise, Snakemake submits again.
    assert not cluster.mishaps and cluster.unanswered
    phases = {rule: [job.phase for job in jobs if job.rule == rule] for rule in mishaps}
    assert phases["text"] == ["Complete"]
    assert phases["evaluate"] == ["Failed", "Complete"]
    assert phases["precision"] == ["Deleted", "Complete"]
    assert {job.rule: len(job.pods) for job in jobs if len(job.pods) != 1} == {"text": 2}
    assert text.count("Trying to restart") == 2

    # Every pod mounts the volume, and has limits that it also asks for.
    for job in jobs:
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in job.spec["volumes"]
            if "persistentVolumeClaim" in volume
        }
        mounts = {m["mountPath"]: m["name"] for m in job.container["volumeMounts"]}
        assert claims[mounts[str(cluster.volume)]] == "lab"
        assert Path(job.container["command"][-1]).is_relative_to(cluster.volume)
        assert job.container["resources"]["limits"] == job.container["resources"]["requests"]
        assert job.spec["activeDeadlineSeconds"] >= 60
    # GPUs for the rules with gpu=1, and for no others.
    on_gpu = {job.rule for job in jobs if job.needs.get("nvidia.com/gpu")}
    assert on_gpu == GPU_RULES
    for job in jobs:
        tolerations = job.spec.get("tolerations", [])
        assert ("nvidia.com/gpu" in {t["key"] for t in tolerations}) == (job.rule in GPU_RULES)
    asked = {job.rule: (job.needs["cpu"], job.needs["memory"]) for job in jobs}
    side = round(1.5**0.5 * 64)  # pictures are taken as 3:2
    needs = memory_mb(CORES, len(SHAPES), side)
    assert asked["segment_split"] == (CORES, needs) and asked["evaluate"] == (1, 2000), asked

    # The same numbers and masks as without it, and nothing left to do for either profile.
    for name in ("metrics.csv", "retrieval.csv", "per_class.csv"):
        here, there = (read_table(p.folder / "results/tiny" / name) for p in (project, local))
        assert here == there, name
    masks = sorted((local.folder / "data/tiny/masks").rglob("*.png"))
    assert masks
    for path in masks:
        twin = project.folder / path.relative_to(local.folder)
        assert twin.read_bytes() == path.read_bytes(), path
    again = project.run("--dry-run", *TARGETS, **CHANGES)
    assert job_counts(again) == {}


@pytest.mark.slow
def test_ctrl_c_ends_what_runs(tmp_path, cluster, project):
    project.plan(**CHANGES)
    command = [sys.executable, "-m", "snakemake", "--configfile", "tiny.yaml", *ON_KUBERNETES]
    environment = {**os.environ, "PYTHONPATH": str(project.folder / "src")}
    log = tmp_path / "interrupted.log"
    with log.open("w") as out:
        snakemake = subprocess.Popen(
            command, cwd=project.folder, env=environment, stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + 60
        while not cluster.jobs and time.monotonic() < deadline:
            time.sleep(0.2)
        assert cluster.jobs, log.read_text()
        [job] = cluster.jobs.values()
        assert 1 < job.needs["cpu"] <= 8  # a group's jobs run side by side
        wait_for(job, "Running")
        while "external jobid" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.2)  # Snakemake cancels what it knows of
        snakemake.send_signal(signal.SIGINT)
        snakemake.wait(180)
    finally:
        snakemake.kill()
    assert snakemake.returncode, log.read_text()
    assert {job.phase for job in cluster.jobs.values()} == {"Deleted"}
