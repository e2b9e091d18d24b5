"""The script that compares transports with the usual tools runs, in small, and says what it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from adbd import require_adb
from sshd import require_sshd

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "transport_speed.py"


@pytest.mark.adb
@pytest.mark.ssh
@pytest.mark.slow
def test_a_small_comparison(tmp_path: Path) -> None:
    require_adb()
    require_sshd()
    argv = [sys.executable, str(SCRIPT), "--mb", "1", "--commands", "3", "--rounds", "1", "--out", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*-transport-speed.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    assert len(result["adb"]["push_s"]["direct"]) == len(result["ssh"]["push_s"]["sftp"]) == 1
    assert result["adb"]["command_time_direct_over_adb"] > 0
    assert result["ssh"]["push_speed_over_sftp"] > 0
