"""Writes the outputs in dry_runs.txt anew, of the commands that it lists: python tests/tpu/make_dry_runs.py"""

import tempfile
from pathlib import Path

from test_scripts import Shell, dry_run, transcript

with tempfile.TemporaryDirectory() as folder:
    shell = Shell(Path(folder))
    parts = ["\n".join([f"$ {command}", *dry_run(command, shell)]) for command in transcript()]
Path(__file__).with_name("dry_runs.txt").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
