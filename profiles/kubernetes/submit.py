#!/usr/bin/env python
"""submit.py SCRIPT: send a job of Snakemake to Kubernetes and print the name it has there.

CPUs, memory (MB), minutes and GPUs are those that Snakemake wrote into the script; everything else
is in job.yaml beside this file.
"""

import json
import subprocess
import sys
from pathlib import Path

import yaml
from snakemake.utils import read_job_properties


def manifest(script: Path, template: dict) -> dict:
    """The Kubernetes Job that runs `script`."""
    job = read_job_properties(script)
    needs = job["resources"]
    limits = {"cpu": str(job["threads"]), "memory": f"{needs['mem_mb']}M"}
    found, gpu = template["job"], template["gpu"]
    pod = found["spec"]["template"]["spec"]
    if needs.get("gpu"):
        pod |= gpu["spec"]
        limits[gpu["resource"]] = str(needs["gpu"])
    pod["activeDeadlineSeconds"] = 60 * needs["runtime"]
    pod["containers"][0] |= {
        "command": ["/bin/sh", str(script)],
        "resources": {"requests": limits, "limits": limits},
    }
    name = job["rule"] if job["type"] == "single" else job["groupid"]
    found["metadata"]["generateName"] = f"reco-{name.replace('_', '-')}-"
    return found


if __name__ == "__main__":
    template = yaml.safe_load(Path(__file__).with_name("job.yaml").read_text(encoding="utf-8"))
    text = json.dumps(manifest(Path(sys.argv[1]), template))
    create = ["kubectl", "create", "--filename=-", "--output=jsonpath={.metadata.name}"]
    sys.exit(subprocess.run(create, input=text, text=True, check=False).returncode)
