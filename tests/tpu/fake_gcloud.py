"""A `gcloud` for tests: TPUs and queued resources in a JSON file, their workers' homes and the buckets as folders.

What `ssh` is asked to run really runs, once for each worker, with that worker's home as HOME. The folder is FAKE_CLOUD.
Files in it change what happens: `preempted` (holds the name of the TPU that is taken away), `no_quota`, `no_capacity`,
`sticky_queue` (deleting a queued resource leaves it there), `bad_worker` (holds the number of a worker on which the
environment cannot be built), `no_access` (the bucket cannot be read), `slow_download` (what comes from a bucket waits
until that file is gone), `no_scp` (nothing can be copied from a TPU).
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CLOUD = Path(os.environ["FAKE_CLOUD"])
# Stands for `aillm`: six steps, kept in runs/r/step; behind the third it waits for the file `permit`.
JOB = """#!/bin/bash
echo "aillm $* with backend ${KERAS_BACKEND:-tensorflow}"
[ "$2" != broken ] || { echo "ValueError: no such recipe"; exit 2; }
trap 'echo saved; exit 143' TERM
mkdir -p runs/r
step=$(cat runs/r/step 2>/dev/null || echo 0)
echo "begins at $step"
while [ "$step" -lt 6 ]; do
    step=$((step + 1))
    echo "$step" >runs/r/step
    printf 'step %s\\r' "$step"
    while [ "$step" = 3 ] && [ ! -e "$FAKE_CLOUD/permit" ]; do sleep 0.05; done
done
"""
SETUP = """#!/bin/bash
if [ "$(cat "$FAKE_CLOUD/bad_worker" 2>/dev/null)" = "$FAKE_WORKER" ]; then echo "No space left on device"; exit 1; fi
mkdir -p ~/aillm_env/bin && cp "$FAKE_CLOUD/job" ~/aillm_env/bin/aillm && chmod +x ~/aillm_env/bin/aillm
echo "setup_vm.sh $*" >~/set_up
"""


def home(node, worker):
    return CLOUD / "homes" / node / str(worker)


def stop(message, status=1):
    print(f"ERROR: (gcloud) {message}", file=sys.stderr)
    sys.exit(status)


def main(argv):
    with open(CLOUD / "calls", "a") as calls:
        calls.write(shlex.join(["gcloud", *argv]) + "\n")
    words = [word for word in argv if not word.startswith("--")]
    options = dict(word[2:].partition("=")[::2] for word in argv if word.startswith("--"))
    if words[0] == "storage":
        return storage(words[1], words[2:], options)
    file = CLOUD / "cloud.json"
    cloud = json.loads(file.read_text()) if file.exists() else {"tpu-vm": {}, "queued-resources": {}}
    before = json.dumps(cloud)
    kind, action, *rest = words[2:]
    if action in ("ssh", "scp"):
        return {"ssh": ssh, "scp": scp}[action](cloud, rest, options)
    if (CLOUD / "preempted").exists():
        name = (CLOUD / "preempted").read_text()
        switch_off(name)
        cloud["tpu-vm"][name]["state"] = "PREEMPTED"  # a name that can be deleted
        (CLOUD / "preempted").unlink()
    {"create": create, "describe": describe, "delete": delete, "list": listing}[action](cloud, kind, rest, options)
    if json.dumps(cloud) != before:
        file.write_text(json.dumps(cloud))
    return 0


def create(cloud, kind, words, options):
    if (CLOUD / "no_quota").exists():
        stop('{"code": 8, "message": "Quota limit \'TPUV5sLitepodPerProjectPerZoneForTPUAPI\' has been exceeded."}')
    if (CLOUD / "no_capacity").exists():
        stop('{"code": 8, "message": "There is no more capacity in the zone \\"us-west4-a\\""}')
    if words[0] in cloud[kind]:
        stop(f"ALREADY_EXISTS: Resource {words[0]} already exists")
    family, _, size = options["accelerator-type"].rpartition("-")
    chips = int(size) // (2 if family in ("v4", "v5p") else 1)
    single = 4 if family in ("v4", "v5p") else 8  # chips of the largest TPU with one host
    workers = 1 if chips <= single else chips // 4
    node = {"state": "READY", "workers": workers, "type": options["accelerator-type"]}
    if kind == "tpu-vm":
        start(cloud, words[0], node)
    else:
        cloud[kind][words[0]] = {"state": "WAITING_FOR_RESOURCES", "node": node}


def switch_off(name):
    """The workers' processes end and their disks are gone."""
    for pid in (CLOUD / "homes" / name).glob("*/job/*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)
    shutil.rmtree(CLOUD / "homes" / name, ignore_errors=True)


def start(cloud, name, node):
    cloud["tpu-vm"][name] = node
    for worker in range(node["workers"]):
        home(name, worker).mkdir(parents=True)


def describe(cloud, kind, words, options):
    found = cloud[kind].get(words[0])
    if not found:
        stop(f"NOT_FOUND: Resource 'projects/p/locations/z/{kind}/{words[0]}' was not found")
    if options["format"] == "value(networkEndpoints.len())":
        print(found["workers"])
    elif options["format"] in ("value(state)", "value(state.state)"):
        print(found["state"])
        if found["state"] == "WAITING_FOR_RESOURCES":  # at the next look it is there
            found["state"] = "ACTIVE"
            start(cloud, words[0], found["node"])
    elif options["format"].startswith("table"):
        print(found["type"])


def delete(cloud, kind, words, options):
    name = words[0]
    if kind == "queued-resources":
        if name in cloud["tpu-vm"] and "force" not in options:
            stop("FAILED_PRECONDITION: the queued resource has nodes")
        cloud["tpu-vm"].pop(name, None)
        switch_off(name)
        if (CLOUD / "sticky_queue").exists():
            cloud[kind][name]["state"] = "DELETING"
            return
    elif name in cloud["queued-resources"] and not (CLOUD / "sticky_queue").exists():
        stop("FAILED_PRECONDITION: the node belongs to a queued resource")
    del cloud[kind][name]
    if kind == "tpu-vm":
        switch_off(name)


def listing(cloud, kind, words, options):
    for name, found in cloud[kind].items():
        print(f"{name}\t{found['state']}")


def workers_of(cloud, name, options):
    node = cloud["tpu-vm"].get(name)
    if not node or node["state"] != "READY":
        stop(f"the TPU {name} is {node['state'] if node else 'not there'}")
    return range(node["workers"]) if options["worker"] == "all" else [int(options["worker"])]


def ssh(cloud, words, options):
    (CLOUD / "job").write_text(JOB)
    worst = 0
    for worker in workers_of(cloud, words[0], options):
        folder = home(words[0], worker)
        if "setup_vm.sh" in options["command"]:
            (folder / "aillm_tf" / "tpu" / "setup_vm.sh").write_text(SETUP)
        environment = {**os.environ, "HOME": str(folder), "FAKE_WORKER": str(worker)}
        log = Path(options.get("output-directory", CLOUD), f"{worker}.log")
        with log.open("wb") as output:
            done = subprocess.run(
                ["bash", "-c", options["command"]], cwd=folder, env=environment, stdout=output, stderr=output
            )
        worst = worst or done.returncode
    return worst


def scp(cloud, words, options):
    source, target = words
    if ":" in source and (CLOUD / "no_scp").exists():
        stop("Connection closed by remote host")
    name = next(word for word in words if ":" in word).partition(":")[0]
    for worker in workers_of(cloud, name, options):
        there = f"{home(name, worker)}/"
        copy = ["cp", "-R", source.replace(f"{name}:", there), target.replace(f"{name}:", there)]
        subprocess.run(copy, check=True)


def storage(action, words, options):
    folders = [Path(str(word).replace("gs://", f"{CLOUD}/buckets/")) for word in words]
    if (CLOUD / "no_access").exists():
        stop("HTTPError 403: permission denied")
    if action == "ls":
        if not folders[0].exists():
            stop("One or more URLs matched no objects.")
        return 0
    while words[0].startswith("gs://") and (CLOUD / "slow_download").exists():
        time.sleep(0.02)
    if "delete-unmatched-destination-objects" in options:
        shutil.rmtree(folders[1], ignore_errors=True)
    subprocess.run(["mkdir", "-p", folders[1]], check=True)
    subprocess.run(["cp", "-R", f"{folders[0]}/.", folders[1]], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
