"""Why there is no TPU, on machines made of files."""

import os

import pytest

from aillm_tf.chips import chips, packages_problem, why_no_tpu

GOOD = {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.21.1"}


@pytest.fixture
def machine(tmp_path):
    """A machine of eight v5e chips whose driver answers."""
    for i in range(8):
        device = tmp_path / "sys/bus/pci/devices" / f"0000:00:{i:02}.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x1ae0\n")
        (device / "device").write_text("0x0063\n")
        (tmp_path / "dev").mkdir(exist_ok=True)
        (tmp_path / "dev" / f"accel{i}").touch()
    return tmp_path


def hold(machine, pid):
    """Makes a process that has the fourth chip open."""
    folder = machine / "proc" / str(pid) / "fd"
    folder.mkdir(parents=True)
    os.symlink("/dev/accel3", folder / "7")
    folder.with_name("cmdline").write_bytes(b"python\0train.py\0")


def test_chips_their_kind_files_and_holders_are_found(machine):
    hold(machine, 4321)
    found = chips(machine)
    assert (found.count, found.kind, found.files[0]) == (8, "v5e", "/dev/accel0")
    assert found.holders == {4321: "python train.py"}


def test_other_devices_of_google_are_no_chips(tmp_path):
    device = tmp_path / "sys/bus/pci/devices/0000:00:01.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x1ae0\n")
    (device / "device").write_text("0x0042\n")  # a network card
    assert chips(tmp_path).count == 0


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ({"tensorflow": "2.21.0"}, "bash tpu/setup_vm.sh"),
        ({}, "not installed"),
        ({**GOOD, "libtpu": "0.0.52"}, "pip install libtpu==0.0.21.1"),
        ({"tensorflow-tpu": "2.20.0"}, "pip install libtpu==0.0.21.1"),
        ({**GOOD, "tensorflow": "2.20.0"}, "pip uninstall -y tensorflow tensorflow-tpu"),
    ],
)
def test_a_wrong_installation_is_named_with_its_mend(versions, told, machine):
    assert told in why_no_tpu(versions, machine, {})


def test_a_busy_chip_is_named_with_its_process(machine):
    hold(machine, 4321)
    assert "in use by process 4321 (python train.py): wait for it, or kill 4321" in why_no_tpu(GOOD, machine, {})


def test_the_lock_of_another_user_is_named(machine):
    (machine / "tmp").mkdir()
    (machine / "tmp" / "libtpu_lockfile").touch()
    assert "sudo lsof -w /dev/accel0" in why_no_tpu(GOOD, machine, {})


def test_a_runtime_that_does_not_fit_the_chips_is_named(machine):
    for file in (machine / "dev").iterdir():
        file.unlink()
    assert "runtime version does not fit" in why_no_tpu(GOOD, machine, {})


def test_being_told_to_leave_the_chips_alone_is_named(machine):
    assert "unset TPU_LOAD_LIBRARY" in why_no_tpu(GOOD, machine, {"TPU_LOAD_LIBRARY": "0"})


def test_a_machine_without_chips_is_named_as_that(tmp_path):
    assert "has no TPU chip" in why_no_tpu(GOOD, tmp_path, {})


def test_a_sound_installation_has_no_problem():
    assert packages_problem(GOOD) is None
    assert packages_problem({"tensorflow": "2.21.0", "libtpu": "0.0.52"}) is None
