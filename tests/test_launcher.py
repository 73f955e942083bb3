"""Processes end with the launcher that waits for them, and with no other."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import lives

ROOT = Path(__file__).parents[1]

LAUNCHER = """
import subprocess, sys, time
code = "import time; from latte_ms.launcher import end_with_launcher; end_with_launcher();"
code += " print('here', flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", code])
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="msrun is for Linux")
def test_a_process_ends_with_the_launcher_that_waits_for_it(tmp_path: Path) -> None:
    expected = {"--join=True": False, "--join True": False, "--join=False": True, "": True}
    (tmp_path / "msrun").write_text(LAUNCHER)
    launchers, workers = {}, {}
    for options in expected:
        command = [sys.executable, str(tmp_path / "msrun"), "--worker_num=1", *options.split()]
        launchers[options] = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for options, launcher in launchers.items():
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "here\n"
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
        workers[options] = int(children)
        launcher.kill()
        launcher.wait()
    time.sleep(1.0)
    found = {options: lives(pid) for options, pid in workers.items()}
    for options, pid in workers.items():
        if found[options]:
            subprocess.run(["kill", str(pid)], check=True)
    assert found == expected
