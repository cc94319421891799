"""Real file systems that are full soon, for the tests of full disks."""

import contextlib
import shutil
import subprocess


@contextlib.contextmanager
def mounted(folder, megabytes):
    """A file system of its own, or None where this user may not mount one."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
