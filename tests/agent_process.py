"""Runs the real agent process for the tests: job in, messages out, stdin kept open as a host must."""

import subprocess
import sys
from pathlib import Path

from harness.agent.protocol import Job, decode_message, encode_job

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"


def start(argv=(), *, module="harness.agent", cwd=ROOT, code=None, **settings):
    how = ["-c", code] if code is not None else ["-m", module]
    return subprocess.Popen(
        [sys.executable, *how, *argv],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **settings,
    )


def send(process, job):
    text = encode_job(job) if isinstance(job, Job) else job
    process.stdin.write(text.encode() + b"\n")
    process.stdin.flush()


def finish(process):
    """(exit code, messages, stderr) of a started agent; every line of stdout must be a message."""
    messages = [decode_message(line.decode()) for line in process.stdout]
    errors = process.stderr.read().decode(errors="replace")
    code = process.wait(timeout=30)
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()
    return code, messages, errors


def run(job, **settings):
    process = start(**settings)
    send(process, job)
    return finish(process)


def of(messages, kind):
    return [message for message in messages if message["type"] == kind]
