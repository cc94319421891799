"""Checkpoints: what is written comes back, and every way a disk or a kill can spoil one is noticed."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from small_disks import mounted

from aillm_tf.training import checkpoint_files
from aillm_tf.training.checkpoint import Checkpoints, DamagedCheckpoint

ROOT = Path(__file__).parents[2]


def tensors(step: int, size: int = 1000) -> dict[str, dict[str, np.ndarray]]:
    return {
        "model": {"backbone/w": np.full(size, step, np.float32), "bias": np.arange(3, dtype=np.float32)},
        "optimizer": {"iterations": np.array(step, np.int64)},
    }


def filled(directory, steps, **options) -> Checkpoints:
    checkpoints = Checkpoints(directory, **options)
    for step in steps:
        checkpoints.save(step, tensors(step), {"position": step})
    return checkpoints


def steps_in(directory) -> list[int]:
    return sorted(int(path.name.removeprefix("step_")) for path in Path(directory).glob("step_*"))


def hidden_in(directory) -> list[str]:
    return [path.name for path in Path(directory).iterdir() if path.name.startswith(".")]


# What is written comes back


def test_tensors_and_state_come_back_equal(tmp_path):
    state = {"position": [3, 17], "seed": 5, "epoch": 1.5, "name": "推文", "none": None, "deep": {"a": [True]}}
    Checkpoints(tmp_path).save(120, tensors(120), state, score=0.25)
    saved = Checkpoints(tmp_path).latest()
    assert (saved.step, saved.state, saved.score, saved.groups) == (120, state, 0.25, ("model", "optimizer"))
    for group, values in tensors(120).items():
        read = saved.group(group)
        assert read.keys() == values.keys()
        for name, value in values.items():
            np.testing.assert_array_equal(read[name], value, strict=True)


@pytest.mark.parametrize("dtype", sorted(checkpoint_files.SAFETENSORS_DTYPES))
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)], ids=str)
def test_dtype_and_shape_are_kept(tmp_path, dtype, shape):
    pytest.importorskip("ml_dtypes")  # registers bfloat16
    value = (np.arange(np.prod(shape, dtype=int)) + 1).reshape(shape).astype(dtype)
    Checkpoints(tmp_path).save(1, {"model": {"byte": np.zeros(3, np.uint8), "value": value}}, {})
    np.testing.assert_array_equal(Checkpoints(tmp_path).latest().group("model")["value"], value, strict=True)


def test_bfloat16_is_read_by_a_process_that_never_heard_of_it(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    Checkpoints(tmp_path).save(1, {"model": {"w": np.full(3, 1.5, ml_dtypes.bfloat16)}}, {})
    program = (
        "import sys; from aillm_tf.training.checkpoint import Checkpoints\n"
        "w = Checkpoints(sys.argv[1]).latest().group('model')['w']; print(w.dtype, w.astype(float).tolist())\n"
        "assert 'tensorflow' not in sys.modules"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.split(maxsplit=1) == ["bfloat16", "[1.5, 1.5, 1.5]\n"]


def test_strided_and_big_endian_arrays_are_stored_by_value(tmp_path):
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    Checkpoints(tmp_path).save(1, {"model": {"transposed": matrix.T, "big": matrix.astype(">f4")}}, {})
    read = Checkpoints(tmp_path).latest().group("model")
    np.testing.assert_array_equal(read["transposed"], matrix.T)
    np.testing.assert_array_equal(read["big"], matrix)


def test_files_are_ordinary_safetensors(tmp_path):
    numpy_reader = pytest.importorskip("safetensors.numpy")
    path = Checkpoints(tmp_path).save(7, tensors(7), {})
    read = numpy_reader.load_file(path / "model.safetensors")
    np.testing.assert_array_equal(read["backbone/w"], tensors(7)["model"]["backbone/w"], strict=True)


def test_numpy_numbers_in_the_state_become_python_numbers(tmp_path):
    Checkpoints(tmp_path).save(1, {}, {"step": np.int64(3), "loss": np.float32(0.5)})
    assert Checkpoints(tmp_path).latest().state == {"step": 3, "loss": 0.5}


def test_missing_group_names_those_that_exist(tmp_path):
    with pytest.raises(KeyError, match=r"'ema'.*model.*optimizer"):
        filled(tmp_path, [1]).latest().group("ema")


# What cannot be stored is refused before anything is written


@pytest.mark.parametrize(
    ("groups", "state", "error", "text"),
    [
        ({"model": {"names": np.array(["a"])}}, {}, ValueError, "'names' of group 'model'"),
        ({"../model": {}}, {}, ValueError, "no file name"),
        ({}, {"rng": {1: 2}}, TypeError, r"state\['rng'\] has the key 1"),
        ({}, {"order": [0, np.zeros(3)]}, TypeError, r"state\['order'\]\[1\] is a ndarray"),
    ],
)
def test_what_cannot_be_stored_is_named(tmp_path, groups, state, error, text):
    with pytest.raises(error, match=text):
        Checkpoints(tmp_path / "run").save(1, groups, state)
    assert not (tmp_path / "run").exists()


def test_url_is_refused(tmp_path):
    with pytest.raises(ValueError, match="mount it"):
        Checkpoints("gs://bucket/run")


# Which checkpoints stay


def test_no_directory_means_no_checkpoint_and_makes_none(tmp_path):
    assert Checkpoints(tmp_path / "run").latest() is None
    assert not (tmp_path / "run").exists()


def test_the_newest_are_kept(tmp_path):
    filled(tmp_path, [1, 2, 3, 4], keep=2)
    assert steps_in(tmp_path) == [3, 4]


@pytest.mark.parametrize(("best", "expected"), [("accuracy", 2), ("-loss", 3)])
def test_the_best_is_never_deleted(tmp_path, best, expected):
    checkpoints = Checkpoints(tmp_path, keep=1, best=best)
    scores = {1: 0.5, 2: 0.9, 3: 0.1, 4: 0.5, 5: float("nan"), 6: None}
    for step, score in scores.items():
        checkpoints.save(step, tensors(step), {}, score)
    assert steps_in(tmp_path) == [expected, 6]
    assert checkpoints.best().step == expected


def test_the_earlier_of_equal_scores_is_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3, best="accuracy")
    for step in (1, 2, 3):
        checkpoints.save(step, {}, {}, 0.5)
    assert checkpoints.best().step == 1


def test_scores_of_another_name_are_not_compared(tmp_path):
    Checkpoints(tmp_path, best="-loss").save(1, {}, {}, 9.0)
    checkpoints = Checkpoints(tmp_path, best="accuracy")
    checkpoints.save(2, {}, {}, 0.5)
    assert checkpoints.best().step == 2


@pytest.mark.parametrize(("best", "name"), [("accuracy", "accuracy"), ("-loss", "loss"), (None, None)])
def test_the_name_of_the_best_has_no_sign(tmp_path, best, name):
    assert Checkpoints(tmp_path, best=best).best_name == name


def test_best_without_scores_is_none(tmp_path):
    assert filled(tmp_path, [1], best="accuracy").best() is None


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints = filled(tmp_path, [1, 2])
    checkpoints.save(2, tensors(2), {"position": "new"})
    assert checkpoints.latest().state == {"position": "new"}
    assert steps_in(tmp_path) == [1, 2]


def test_going_back_behind_an_intact_checkpoint_is_refused(tmp_path):
    checkpoints = filled(tmp_path, [100])
    with pytest.raises(FileExistsError, match="step_00000100 is of a later step than 10"):
        checkpoints.save(10, {}, {})
    assert steps_in(tmp_path) == [100]


def test_going_back_behind_a_damaged_checkpoint_deletes_it(tmp_path):
    checkpoints = filled(tmp_path, [100, 120])
    (tmp_path / "step_00000120" / "state.json").unlink()
    checkpoints.save(110, tensors(110), {})
    assert steps_in(tmp_path) == [100, 110]


def test_due_counts_from_the_last_save_and_takes_strides(tmp_path):
    checkpoints = Checkpoints(tmp_path, every_steps=10)
    assert [step for step in range(8, 24, 4) if checkpoints.due(step)] == [12, 16, 20]
    checkpoints.save(12, {}, {})
    assert [step for step in range(16, 28, 4) if checkpoints.due(step)] == [20, 24]
    resumed = Checkpoints(tmp_path, every_steps=10)
    resumed.latest()
    assert not resumed.due(19)
    assert resumed.due(20)


# Damage


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "truncated": ("model.safetensors", lambda path: os.truncate(path, path.stat().st_size // 2), "truncated"),
    "longer": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes() + b"\0"), "longer than written"),
    "flipped bit": ("model.safetensors", flip_bit, "checksum differs"),
    "no tensors": ("optimizer.safetensors", Path.unlink, "missing"),
    "no state": ("state.json", Path.unlink, "missing"),
    "torn state": ("state.json", lambda path: os.truncate(path, 40), "no valid JSON"),
    "empty state": ("state.json", lambda path: os.truncate(path, 0), "no valid JSON"),
    "changed state": (
        "state.json",
        lambda path: path.write_text(path.read_text().replace('"position": 3', '"position": 4')),
        "checksum differs",
    ),
    "foreign state": ("state.json", lambda path: path.write_text("[1]"), "no valid JSON"),
    "unreadable": ("model.safetensors", lambda path: (path.unlink(), path.mkdir()), "model.safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_one_before_is_used(tmp_path, damage):
    file, spoil, problem = DAMAGES[damage]
    checkpoints = filled(tmp_path, [2, 3])
    path = tmp_path / "step_00000003" / file
    spoil(path)
    with pytest.warns(UserWarning) as caught:
        saved = checkpoints.latest()
    assert (saved.step, saved.state, int(saved.group("optimizer")["iterations"])) == (2, {"position": 2}, 2)
    (message,) = [str(warning.message) for warning in caught]
    assert str(path) in message and problem in message and "using step 2" in message


def test_every_bit_of_a_checkpoint_is_guarded(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    path = checkpoints.save(1, {"model": {"w": np.arange(4, dtype=np.float32)}}, {"seed": 7}, score=0.5)
    for file in path.iterdir():
        whole = file.read_bytes()
        for position in range(len(whole)):
            spoiled = bytearray(whole)
            spoiled[position] ^= 1 << (position % 8)
            if spoiled.split() == whole.split():  # white space between the tokens of state.json means nothing
                continue
            file.write_bytes(spoiled)
            with pytest.raises(DamagedCheckpoint, match=file.name):
                checkpoints.latest()
        file.write_bytes(whole)
    assert checkpoints.latest().state == {"seed": 7}


def test_a_renamed_directory_is_damage(tmp_path):
    filled(tmp_path, [1])
    os.rename(tmp_path / "step_00000001", tmp_path / "step_00000009")
    with pytest.raises(DamagedCheckpoint, match="is of step 1, the directory was renamed"):
        Checkpoints(tmp_path).latest()


def test_all_damaged_is_an_error_that_lists_each(tmp_path):
    checkpoints = filled(tmp_path, [1, 2])
    (tmp_path / "step_00000001" / "state.json").unlink()
    os.truncate(tmp_path / "step_00000002" / "model.safetensors", 5)
    with pytest.raises(DamagedCheckpoint, match=r"(?s)every checkpoint.*truncated \(5 bytes.*missing.*start again"):
        checkpoints.latest()


def test_a_damaged_best_falls_back_to_the_next_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3, best="accuracy")
    for step, score in [(1, 0.8), (2, 0.9), (3, 0.7)]:
        checkpoints.save(step, tensors(step), {}, score)
    flip_bit(tmp_path / "step_00000002" / "model.safetensors")
    with pytest.warns(UserWarning, match="checksum"):
        assert checkpoints.best().step == 1


# Failures while saving


def assert_only_intact(directory, step: int) -> None:
    """The directory holds the checkpoint of `step`, nothing half written and no rubbish."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        saved = Checkpoints(directory).latest()
    assert saved.step == step
    assert int(saved.group("optimizer")["iterations"]) == step
    assert hidden_in(directory) == []


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 1 MB."""
    with mounted(tmp_path, 1) as disk:
        if disk is None:
            pytest.skip("this user may not mount a small tmpfs; the test with RLIMIT_FSIZE covers the same path")
        yield disk


def test_full_disk_is_explained_and_leaves_the_one_before(small_disk):
    checkpoints = Checkpoints(small_disk / "run")
    checkpoints.save(1, tensors(1, size=100_000), {})
    with pytest.raises(OSError, match=r"step 2 was not saved: No space.*needs 2\.0 MB.*steps \[1\]") as error:
        checkpoints.save(2, tensors(2, size=500_000), {})
    assert error.value.errno == errno.ENOSPC
    assert_only_intact(small_disk / "run", 1)
    checkpoints.save(3, tensors(3, size=100_000), {})
    assert_only_intact(small_disk / "run", 3)


def test_full_disk_while_replacing_a_step_keeps_the_old_one(small_disk):
    checkpoints = Checkpoints(small_disk / "run")
    checkpoints.save(1, tensors(1, size=150_000), {})
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(1, tensors(1, size=150_000), {})
    assert_only_intact(small_disk / "run", 1)


def test_write_refused_by_the_system_leaves_the_one_before(tmp_path):
    resource = pytest.importorskip("resource")
    checkpoints = filled(tmp_path, [1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OSError, match="step 2 was not saved: File too large") as error:
            checkpoints.save(2, tensors(2, size=100_000), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert error.value.errno == errno.EFBIG
    assert_only_intact(tmp_path, 1)


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_no_system_call_may_fail_unnoticed(tmp_path, monkeypatch, call):
    checkpoints = filled(tmp_path, [1])

    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(OSError, match="step 2 was not saved: Input/output error"):
            checkpoints.save(2, tensors(2), {})
    assert_only_intact(tmp_path, 1)


def test_interrupt_leaves_no_rubbish(tmp_path, monkeypatch):
    checkpoints = filled(tmp_path, [1])

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "_fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(2, tensors(2), {})
    assert_only_intact(tmp_path, 1)


def test_read_only_disk_is_explained_and_can_be_read(small_disk):
    filled(small_disk / "run", [1])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    checkpoints = Checkpoints(small_disk / "run")
    assert checkpoints.latest().step == 1
    with pytest.raises(OSError, match="step 2 was not saved: Read-only file system") as error:
        checkpoints.save(2, tensors(2), {})
    assert error.value.errno == errno.EROFS


@pytest.fixture
def without_root():
    """Root may write anywhere: drop its rights for the length of a test."""
    if not hasattr(os, "seteuid"):
        pytest.skip("directory permissions as tested here are POSIX")
    user = os.geteuid()
    yield lambda: user or os.seteuid(65534)
    os.seteuid(user)


def test_read_only_directory_is_explained_and_can_be_read(tmp_path, monkeypatch, without_root):
    filled(tmp_path / "run", [1])
    (tmp_path / "run").chmod(0o555)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the folders above belong to root
    without_root()
    checkpoints = Checkpoints("run")
    with pytest.raises(PermissionError, match="step 2 was not saved: Permission denied"):
        checkpoints.save(2, tensors(2), {})
    assert checkpoints.latest().step == 1


def test_two_processes_do_not_save_to_one_directory(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    checkpoints = filled(tmp_path, [1])
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process is saving"):
            checkpoints.save(2, tensors(2), {})
    finally:
        os.close(handle)
    assert_only_intact(tmp_path, 1)


# Leftovers of killed processes


def test_leftovers_of_a_dead_process_are_removed(tmp_path):
    filled(tmp_path, [1])
    for name in (".step_00000002.writing-0a1b2c3d", ".step_00000000.deleted-0a1b2c3d"):
        shutil.copytree(tmp_path / "step_00000001", tmp_path / name)
    (tmp_path / ".step_notes").mkdir()
    Checkpoints(tmp_path)
    assert hidden_in(tmp_path) == [".step_notes"]


def test_a_checkpoint_that_was_being_replaced_is_brought_back(tmp_path):
    filled(tmp_path, [1])
    os.rename(tmp_path / "step_00000001", tmp_path / ".step_00000001.replaced-0a1b2c3d")
    assert Checkpoints(tmp_path).latest().step == 1


def test_leftovers_of_a_living_process_stay(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / ".step_00000002.writing-0a1b2c3d").mkdir()
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        Checkpoints(tmp_path)
    finally:
        os.close(handle)
    assert hidden_in(tmp_path) == [".step_00000002.writing-0a1b2c3d"]


SAVE_FOR_EVER = """
import sys, numpy as np
from aillm_tf.training.checkpoint import Checkpoints
directory, first, stride = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
checkpoints = Checkpoints(directory, keep=1, best="accuracy")
number = first
while True:
    model = {f"w{i}": np.full(100_000, number, np.float32) for i in range(5)}
    step = 1 + number * stride
    checkpoints.save(step, {"model": model, "optimizer": {"n": np.array(number)}}, {"number": number}, score=number)
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("stride", [1, 0], ids=["each step once", "the same step again and again"])
def test_kill_9_at_any_moment_loses_nothing(tmp_path, stride):
    chance = random.Random(stride)
    number = 0
    for _ in range(12):
        command = [sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path), str(number), str(stride)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        printed = process.stdout.readline()
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        printed += process.communicate()[0]
        completed = int(printed.split()[-1])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            saved = Checkpoints(tmp_path).latest()
        # The kill may fall between the rename and the print.
        assert saved.state["number"] in (completed, completed + 1)
        assert saved.step == 1 + saved.state["number"] * stride
        for value in (*saved.group("model").values(), saved.group("optimizer")["n"]):
            assert np.all(value == saved.state["number"])
        assert hidden_in(tmp_path) == []
        number = saved.state["number"] + 1


def test_state_file_is_readable_by_people(tmp_path):
    path = Checkpoints(tmp_path, best="accuracy").save(5, tensors(5), {"seed": 3}, score=0.5)
    content = json.loads((path / "state.json").read_text())
    assert content["files"].keys() == {"model.safetensors", "optimizer.safetensors"}
    assert (content["step"], content["score"], content["score_name"], content["state"]) == (
        5,
        0.5,
        "accuracy",
        {"seed": 3},
    )
