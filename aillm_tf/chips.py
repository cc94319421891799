"""The TPU chips of this machine: which are plugged in, whether their driver answers, which processes hold them.

Reads files of /sys, /dev and /proc only, and never imports TensorFlow: a libtpu that does not fit aborts the process
that touches a chip, so the reason must be found without touching one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from packaging.version import Version

LAST_LIBTPU = "0.0.31"  # the last with TensorFlow's runtime
GOOD_LIBTPU = "0.0.21.1"
GOOGLE = "0x1ae0"
PCI_DEVICES = {"0x0027": "v2 or v3", "0x005e": "v4", "0x0062": "v5p", "0x0063": "v5e", "0x006f": "v6e"}
DEVICE_FILES = ("dev/accel[0-9]*", "dev/vfio/[0-9]*")
LOCK_FILE = "tmp/libtpu_lockfile"


class Chips(NamedTuple):
    """What a machine has.

    Attributes:
        count: chips on the PCI bus.
        kind: as Google names them, such as "v5e".
        files: device files through which the driver offers them.
        holders: process number -> command line of the processes that have such a file open, as far as this user sees.
    """

    count: int
    kind: str
    files: list[str]
    holders: dict[int, str]


def chips(root: Path = Path("/")) -> Chips:
    """Looks at the machine.

    Args:
        root: of the file system.

    Example:
        >>> chips(Path("no/such/folder"))
        Chips(count=0, kind='', files=[], holders={})
    """
    kinds = []
    for vendor in sorted(root.glob("sys/bus/pci/devices/*/vendor")):
        if _read(vendor) == GOOGLE and _read(vendor.with_name("device")) in PCI_DEVICES:
            kinds.append(PCI_DEVICES[_read(vendor.with_name("device"))])
    files = sorted(f"/{path.relative_to(root)}" for pattern in DEVICE_FILES for path in root.glob(pattern))
    if files and not kinds and any("accel" in file for file in files):  # a container without /sys
        kinds = ["of unknown kind"] * len(files)
    holders = {}
    for process in root.glob("proc/[0-9]*") if kinds else ():
        if int(process.name) != os.getpid() and any(_opened(link) in files for link in _entries(process / "fd")):
            holders[int(process.name)] = _read(process / "cmdline").replace("\0", " ").strip()
    return Chips(len(kinds), kinds[0] if kinds else "", files, holders)


def packages_problem(versions: Mapping[str, str]) -> str | None:
    """What is wrong with an installation of tensorflow-tpu, and the command that mends it.

    Args:
        versions: package name -> version, as `aillm_tf.machine.versions` gives them.
    """
    plain, tpu, libtpu = (versions.get(name) for name in ("tensorflow", "tensorflow-tpu", "libtpu"))
    if plain and tpu:
        return (
            f"tensorflow {plain} and tensorflow-tpu {tpu} are both installed and overwrite each other's files: "
            "pip uninstall -y tensorflow tensorflow-tpu, then install the one you need"
        )
    if tpu and not libtpu:
        return f"tensorflow-tpu needs libtpu: pip install libtpu=={GOOD_LIBTPU}"
    if tpu and Version(libtpu) > Version(LAST_LIBTPU):
        return (
            f"libtpu {libtpu} no longer carries TensorFlow's runtime: TensorFlow aborts when it first touches a "
            f"TPU. pip install libtpu=={GOOD_LIBTPU}"
        )
    return None


def why_no_tpu(versions: Mapping[str, str], root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> str:
    """The likeliest reason why TensorFlow has no TPU here, and the command that mends it.

    Args:
        versions: see `packages_problem`.
        root: of the file system.
        environment: the process's variables.

    Returns:
        One or two sentences about the installation, libtpu, the driver, a chip in use, or a machine without one.
    """
    here = chips(root)
    names = f"{here.count} TPU {here.kind} chip{'s' * (here.count != 1)}"
    if not here.count:
        return "this machine has no TPU chip: tpu/create.sh makes a Cloud TPU, Colab's menu Runtime changes the machine"
    if "tensorflow-tpu" not in versions:
        return (
            f"there are {names}, but tensorflow {versions.get('tensorflow', '(not installed)')} is not made for them: "
            "bash tpu/setup_vm.sh installs tensorflow-tpu in an environment of its own"
        )
    problem = packages_problem(versions)
    if problem:
        return problem
    if environment.get("TPU_LOAD_LIBRARY") == "0":
        return f"there are {names}, but TPU_LOAD_LIBRARY=0 tells TensorFlow to leave them alone: unset TPU_LOAD_LIBRARY"
    if not here.files:
        return (
            f"there are {names}, but no driver offers them in /dev: the TPU's runtime version does not fit its kind. "
            "Delete it and create it with tpu/create.sh, which picks the version by the kind"
        )
    if here.holders:
        held = "; ".join(f"{pid} ({command[:80]})" for pid, command in sorted(here.holders.items()))
        return (
            f"the {names} are in use by process {held}: wait for it, or kill {' '.join(map(str, sorted(here.holders)))}"
        )
    if (root / LOCK_FILE).exists():
        return (
            f"there are {names} that none of your processes uses, and libtpu's lock is still there: another user may "
            f"hold them (sudo lsof -w {here.files[0]}), else sudo rm /{LOCK_FILE}"
        )
    return f"there are {names}, free and with their driver, but TensorFlow did not open them: /tmp/tpu_logs says why"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # another user's process, or one that has just ended
        return []


def _opened(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""
