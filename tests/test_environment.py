"""What MindSpore and OpenMP read from the environment is set before they are loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("[a-z]*.py"))
VARIABLES = ("GLOG_v", "OMP_WAIT_POLICY")

# Ends where MindSpore would be imported first, with what it would read.
CODE = f"""
import os, runpy, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "mindspore":
            print(*(os.environ.get(variable) for variable in {VARIABLES}))
            sys.exit()

sys.meta_path.insert(0, Finder())
runpy.run_path(sys.argv[1], run_name="imported")
"""


def read_by_mindspore(script: str, **environment: str) -> str:
    variables = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", CODE, str(ROOT / "scripts" / f"{script}.py")]
    variables |= {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_set_what_mindspore_reads(script: str) -> None:
    assert read_by_mindspore(script) in ("3 passive\n", "")  # "": it does not import MindSpore


def test_what_is_set_stays() -> None:
    assert read_by_mindspore("sample", GLOG_v="1", OMP_WAIT_POLICY="active") == "1 active\n"
