"""The workflow on a real Slurm of one node, through profiles/slurm.

Slurm and munge run from a folder of the test, on ports and a socket of their own: an installed
Slurm is neither read nor changed.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Project, job_counts

from reco.data.tables import read_table

pytestmark = pytest.mark.slurm

PACKAGES = ["slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge"]
PROGRAMS = ["/usr/sbin/munged", "/usr/sbin/slurmctld", "/usr/sbin/slurmd", "/usr/bin/sbatch"]
GPU_RULES = {"embed", "embed_split", "text", "features", "segment_split"}
# Training only takes time here: to the queue it is one more job on a GPU.
CHANGES = {"train": None}
# All stages; of tables and figures, enough for a group.
TARGETS = [
    f"results/tiny/{name}"
    for name in ("tables/methods.md", "figures/archive_size.png", "figures/precision.png")
]
# What this cluster has not (accounts of jobs, a network file system), and patience.
OVERRIDES = [
    *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5"),
    *("--latency-wait", "5"),
]

# The node has two CPUs, memory and a GPU as far as Slurm knows. A job that is preempted waits for
# its credential to expire before it starts again: by default two minutes.
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge.socket,cred_expire=30
CredType=cred/munge
StateSaveLocation={state}/state
SlurmdSpoolDir={state}/spool
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
SlurmdParameters=config_overrides
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
ReturnToService=2
MinJobAge=3600
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
MailProg=/bin/true
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=20000 Gres=gpu:1 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
PartitionName=urgent Nodes={host} PriorityTier=10 MaxTime=INFINITE State=UP
"""
GRES_CONF = "AutoDetect=off\nNodeName={host} Name=gpu File=/dev/null Count=1\n"
PARTITIONS = "partitions:\n  cpu: {max_runtime: 7d}\n  gpu: {max_runtime: 7d, max_gpu: 1}\n"


def require_slurm() -> None:
    """Install Slurm from Debian's packages where it is missing, or skip."""
    if os.geteuid() != 0:
        pytest.skip("starting a Slurm of one's own needs root")
    if all(Path(program).exists() for program in PROGRAMS):
        return
    if not shutil.which("apt-get"):
        pytest.skip("Slurm is not installed, and without apt-get it cannot be")
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"apt-get does not install Slurm: {done.stderr.strip()[-300:]}")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


class Cluster:
    """A Slurm of one node with its state in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[subprocess.Popen[bytes]] = []
        host = socket.gethostname().split(".")[0]
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir(parents=True)
        self.conf = folder / "slurm.conf"
        self.conf.write_text(SLURM_CONF.format(host=host, ports=free_ports(2), state=folder))
        (folder / "gres.conf").write_text(GRES_CONF.format(host=host))
        self.partitions = folder / "partitions.yaml"
        self.partitions.write_text(PARTITIONS)
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        # The plugin hides Slurm's variables from the srun inside a job, this one included.
        srun = folder / "bin/srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.conf} exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        self.environment = {
            "SLURM_CONF": str(self.conf),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        }

    def start(self) -> None:
        """Start the daemons, in the foreground so that they are ours to end, and wait for them."""
        names = {"socket": "socket", "key-file": "key", "pid-file": "pid"}
        names |= {"log-file": "log", "seed-file": "seed"}
        files = [f"--{option}={self.folder}/munge.{name}" for option, name in names.items()]
        commands = [
            ["/usr/sbin/munged", "--foreground", "--force", *files],
            ["/usr/sbin/slurmctld", "-D"],
            ["/usr/sbin/slurmd", "-D"],
        ]
        environment = {**os.environ, **self.environment}
        for command in commands:
            log = self.folder / f"{Path(command[0]).name}.out"
            with log.open("wb") as out:
                self.daemons.append(
                    subprocess.Popen(command, env=environment, stdout=out, stderr=out)
                )
            time.sleep(1)
        for _ in range(30):
            if self.ask("sinfo", "--noheader", "--format=%T", check=False).split()[:1] == ["idle"]:
                return
            time.sleep(1)
        logs = [path.read_text()[-1000:] for path in sorted(self.folder.glob("*.[lo]*[gt]"))]
        pytest.fail("Slurm does not start:\n" + "\n".join(logs))

    def stop(self) -> None:
        if len(self.daemons) == 3:
            self.ask("scancel", "--user=root", check=False)
            time.sleep(1)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def ask(self, *command: str, check: bool = True) -> str:
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=check
        ).stdout

    def jobs(self) -> list[dict[str, str]]:
        """Every job that Slurm remembers, which is all of the last hour."""
        fields = ["jobid", "partition", "numcpus", "minmemory", "tres-per-job", "state"]
        fields += ["restartcnt"]
        wanted = ",".join(f"{field}:40" for field in fields) + ",comment:200"
        text = self.ask("squeue", "--states=all", "--noheader", "--Format", wanted)
        names = [*fields, "comment"]
        return [dict(zip(names, line.split(), strict=True)) for line in text.splitlines()]

    def await_job(self, rule: str, snakemake: Future[str]) -> str:
        """Wait until a job of a rule or group runs; its number."""
        while not snakemake.done():
            for job in self.jobs():
                if job["state"] == "RUNNING" and job["comment"].startswith(f"rule_{rule}_"):
                    return job["jobid"]
            time.sleep(0.3)
        pytest.fail(f"no job of {rule} was seen running:\n{snakemake.result()}")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A running Slurm, found by whatever this test starts; ended whatever happens."""
    require_slurm()
    found = Cluster(tmp_path / "slurm")
    try:
        found.start()
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found
    finally:
        found.stop()


def submissions(text: str) -> list[str]:
    """Slurm's numbers of the jobs that Snakemake says it submitted."""
    return re.findall(r"has been submitted with SLURM jobid (\d+)", text)


def test_runs_on_slurm_through_preemption_and_a_cancelled_job(
    tmp_path, cluster, project, converted
):
    on_slurm = ["--workflow-profile", "profiles/slurm", "--set-scatter", "embed=2", *OVERRIDES]
    on_slurm += ["--slurm-partition-config", str(cluster.partitions)]
    local = Project(tmp_path / "local", data=tmp_path).take(converted)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(local.run, *TARGETS, **CHANGES)
        slurm = pool.submit(project.run, *TARGETS, *on_slurm, **CHANGES)
        # A job of a partition that goes first needs the GPU: Slurm takes it from the one that runs.
        preempted = cluster.await_job("embed", slurm)
        urgent = [
            "--partition=urgent",
            "--gpus=1",
            "--mem=100",
            "--output=/dev/null",
            "--comment=-",
        ]
        cluster.ask("sbatch", *urgent, "--wrap=sleep 1")
        # Someone cancels a job: Snakemake submits it again.
        cancelled = cluster.await_job("cosegment", slurm)
        cluster.ask("scancel", cancelled)
        text = slurm.result()
        running.result()

    # Slurm ran it all, in few submissions, and gave a GPU to those that asked for one.
    count = sum(job_counts(text).values())
    everything = cluster.jobs()
    jobs = [job for job in everything if job["partition"] != "urgent"]
    print(f"{count} jobs in {len(jobs)} submissions")
    assert {job["jobid"] for job in jobs} == set(submissions(text))
    on_gpu = {job["comment"] for job in jobs if job["partition"] == "gpu"}
    assert {re.sub("rule_|_wildcards.*", "", comment) for comment in on_gpu} == GPU_RULES
    assert all(("gpu" in job["tres-per-job"]) == (job["partition"] == "gpu") for job in jobs)
    # A group is one submission, runs one job after another, and asks for no more than that takes.
    groups = {
        "prepare": (1, "2", "2000M"),  # catalog takes both CPUs
        "cosegment": (2, "1", "1000M"),
        "figures": (1, "1", "500M"),
    }
    for group, (times, cpus, memory) in groups.items():
        found = [job for job in jobs if job["comment"].startswith(f"rule_{group}_")]
        needs = [(job["numcpus"], job["minmemory"]) for job in found]
        assert needs == [(cpus, memory)] * times, group

    # Slurm started the preempted job again, Snakemake waited for it; the cancelled one has a twin.
    assert [job["state"] for job in everything if job["partition"] == "urgent"] == ["COMPLETED"]
    assert {job["jobid"]: job["restartcnt"] for job in jobs if job["restartcnt"] != "0"} == {
        preempted: "1"
    }
    states = {job["jobid"]: job["state"] for job in jobs}
    assert states.pop(cancelled) == "CANCELLED"
    assert set(states.values()) == {"COMPLETED"}
    assert f"JOB {cancelled} " in text and "CANCELLED" in text and "Trying to restart" in text

    # The same numbers and masks as without all that, and nothing left to do for either profile.
    for name in ("metrics.csv", "retrieval.csv", "per_class.csv"):
        here, there = (read_table(p.folder / "results/tiny" / name) for p in (project, local))
        assert here == there, name
    made = [
        path
        for folder in ("embeddings", "archives", "references", "masks")
        for path in sorted((local.folder / "data/tiny" / folder).rglob("*.*"))
        if path.name != ".snakemake_timestamp"
    ]
    kinds = {".csv", ".json", ".npy", ".png", ".safetensors", ".sha256"}
    assert {path.suffix for path in made} == kinds
    for path in made:
        twin = project.folder / path.relative_to(local.folder)
        assert twin.read_bytes() == path.read_bytes(), path
    again = project.run("--dry-run", *TARGETS, **CHANGES)
    assert job_counts(again) == {}, again
