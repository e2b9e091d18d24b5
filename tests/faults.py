"""The fault matrix: what may go wrong, on which way to a device, and how a session must end. Drives tests/test_faults.py and
is written to docs/faults.md:

    python tests/faults.py
"""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "faults.md"

TRANSPORTS = {"local": "this machine", "ssh": "SSH", "adb": "ADB"}

# Outcome → what it means, in full.
OUTCOMES = {
    "measured": "everything is measured as if nothing had happened",
    "tried again": "the lost work is done again over a new connection; the run keeps the error under `retried`, every row is ok",
    "failed row": "one row fails and says why and what to do; every other variant is measured",
    "failed rows": "each variant that could not be brought to the device fails with the device's own words; the session ends in order",
    "device lost": "the device is recorded as lost with the reason, after the waits between tries; what was measured before stays;"
    " nothing runs on there, its settings are put back by the guardian, and its files go when it is next opened",
    "refused": "nothing begins: exit code 3 in less than five seconds, with what to do next",
    "interrupted": "the partial run is kept, settings are put back, the device is cleaned, exit code 130; `--resume` goes on",
    "resumed": "finished runs are in the store; agent and guardian end by themselves and put settings back; `--resume` makes what"
    " is missing in the same session, and the device is clean after it",
}

# Fault → what happens, and transport → outcome (or why it cannot happen there, after a dash).
NO_LINK = "– no link"
MATRIX: dict[str, tuple[str, dict[str, str]]] = {
    "drop mid-push": (
        "the connection breaks in the middle of a file",
        {"local": NO_LINK, "ssh": "tried again", "adb": "tried again"},
    ),
    "stall mid-push": (
        "the connection stays open and carries nothing any more",
        {"local": NO_LINK, "ssh": "tried again", "adb": "tried again"},
    ),
    "truncated packet": (
        "a packet arrives damaged (SSH) or cut off (ADB)",
        {"local": NO_LINK, "ssh": "tried again", "adb": "tried again"},
    ),
    "drop mid-run": (
        "the connection breaks while the agent measures",
        {"local": NO_LINK, "ssh": "tried again", "adb": "tried again"},
    ),
    "slow link": ("two megabytes a second", {"local": NO_LINK, "ssh": "measured", "adb": "measured"}),
    "unauthorized": (
        "the key is not accepted when the session begins",
        {"local": "– no key", "ssh": "refused", "adb": "refused"},
    ),
    "unauthorized mid-run": (
        "the key is revoked while the agent measures",
        {"local": "– no key", "ssh": "device lost", "adb": "device lost"},
    ),
    "offline": (
        "the device does not answer when the session begins",
        {"local": NO_LINK, "ssh": "refused", "adb": "refused"},
    ),
    "offline mid-run": (
        "the device disappears while the agent measures, and stays away",
        {"local": NO_LINK, "ssh": "device lost", "adb": "device lost"},
    ),
    "device reboots mid-run": (
        "everything on the device dies at once and is back a second later",
        {"local": "– is the host", "ssh": "tried again", "adb": "tried again"},
    ),
    "no space on the device": (
        "the file system of the work folder is full",
        {"local": "failed rows", "ssh": "failed rows", "adb": "failed rows"},
    ),
    "agent killed for want of memory": (
        "SIGKILL to the agent while it measures",
        {"local": "failed row", "ssh": "failed row", "adb": "failed row"},
    ),
    "agent hangs": (
        "the agent stops and says nothing",
        {"local": "failed row", "ssh": "failed row", "adb": "failed row"},
    ),
    "clock of the device jumps": (
        "the wall clock goes 400 days back while the agent measures",
        {"local": "measured", "ssh": "measured", "adb": "measured"},
    ),
    "Ctrl-C on the host": (
        "SIGINT to the harness while the agent measures",
        {"local": "interrupted", "ssh": "interrupted", "adb": "interrupted"},
    ),
    "host killed": (
        "SIGKILL to the harness while the agent measures, then `--resume`",
        {"local": "resumed", "ssh": "resumed", "adb": "resumed"},
    ),
}

HEAD = """# When something goes wrong

What a session does about each fault, on each way to a device. Every cell without a dash is a test of the same name in
`tests/test_faults.py`, run with real processes: the agent and its engine, a real sshd behind a proxy that breaks, the ADB
test daemon, a small tmpfs, a wall clock that is moved. After each, the test holds that no process and no file of the session
is left on the device, that governor and frequencies are what they were, and that no finished run is gone from the store.
This page is written by `python tests/faults.py`.
"""

TAIL = """
## Who puts settings back

Before the first knob is turned, the way back is on the host's disk (the journal, `$XDG_STATE_HOME/ondevice-harness/journal`)
and in the hands of a small `sh` on the device (the guardian), whose stdin is its life line. At the end of a session the host
puts everything back and checks it. When the host is gone, the guardian does. When both are gone, the next session, `harness
doctor` or `harness devices clean` on that device does, from the journal. A device that restarted has its defaults back by itself.

A link that silently carries nothing is noticed after 30 s (SSH) or when a transfer stalls (ADB); the guardian notices only
when the device itself gives the connection up, which may take longer: a device that lost its network in the middle of a
session keeps its settings until then.

## Going on

`harness run EXPERIMENT --resume SESSION` (or `bench … --resume`) goes on with a session that was killed, interrupted or lost
its devices: the same experiment, artifacts, seed and protocol, or it is refused with what differs. Finished runs are never
repeated; a variant that failed for a reason of its own stays failed; a device that was lost is asked again.
"""


def cell(fault: str, transport: str) -> str:
    """The outcome of a fault on a way to a device."""
    return MATRIX[fault][1][transport]


def cases() -> list[tuple[str, str, str]]:
    """Fault, transport and outcome of every cell that can happen."""
    return [
        (fault, transport, outcome)
        for fault, (_, outcomes) in MATRIX.items()
        for transport, outcome in outcomes.items()
        if not outcome.startswith("–")
    ]


def page() -> str:
    """docs/faults.md."""
    lines = [
        HEAD,
        "| fault | what happens | " + " | ".join(TRANSPORTS.values()) + " |",
        "|---" * (2 + len(TRANSPORTS)) + "|",
    ]
    for fault, (what, outcomes) in MATRIX.items():
        lines.append(f"| {fault} | {what} | " + " | ".join(outcomes[transport] for transport in TRANSPORTS) + " |")
    lines += ["", *(f"- **{name}**: {words}." for name, words in OUTCOMES.items())]
    return "\n".join(lines) + "\n" + TAIL


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
