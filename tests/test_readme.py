"""The README: its commands, its example and its links are what a newcomer will try first."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from see_rnn_like import Run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize(
    "command", ["pip install . && python sandbox.py", 'pip install ".[test]" && python -m pytest']
)
def test_commands_stand_on_lines_of_their_own(command):
    assert command in README.splitlines()


def test_examples_run_as_they_stand(tmp_path):
    code = "\n".join(EXAMPLES)
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert len([line for line in EXAMPLES[0].splitlines() if line]) == 8
    assert Run.open(tmp_path / "run.sqlite").steps[:3] == [0, 10, 20]
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", README))))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()
