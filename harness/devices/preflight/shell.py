"""Small questions to a device in plain sh: works with toybox, busybox and dash, needs no Python there.

Used by the knobs and the thermal gate. Everything runs with the profile's environment. `sysfs` is /sys but in tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.devices.transport import Completed, Transport

TIMEOUT_S = 20.0
# Per file: path, whether it may be written, its first line. `read` is built in: no process is started for it.
_FILES = """
for f do
  [ -e "$f" ] || continue
  if [ -w "$f" ]; then w=w; else w=-; fi
  v=; { IFS= read -r v < "$f"; } 2>/dev/null
  printf '%s\\t%s\\t%s\\n' "$f" "$w" "$v"
done
"""
WRITE = 'printf %s "$2" > "$1"'


@dataclass(frozen=True, slots=True)
class DeviceFile:
    """A small file there: its first line, without blanks around it."""

    path: str
    writable: bool
    text: str


class Shell:
    """sh on the device. Raises TransportError when the device cannot be asked; a command's failure is an answer."""

    def __init__(self, transport: Transport, env: Mapping[str, str] | None = None, sysfs: str = "/sys") -> None:
        self.transport = transport
        self.env = dict(env or {})
        self.sysfs = sysfs.rstrip("/")

    def script(self, script: str, *arguments: str) -> Completed:
        """Run a script with its arguments."""
        return self.transport.run(["sh", "-c", script, "sh", *arguments], timeout=TIMEOUT_S, env=self.env)

    def run(self, argv: Sequence[str]) -> Completed:
        """Run a command; one that is missing gives code 127 on every transport."""
        return self.script('exec "$@"', *argv)

    def has(self, program: str) -> bool:
        """Whether the device has a program of that name."""
        return self.script('command -v "$1" >/dev/null', program).returncode == 0

    def files(self, pattern: str) -> list[DeviceFile]:
        """Files below sysfs that match a pattern of plain characters and stars, in the shell's order."""
        done = self.script(f'cd "$1" 2>/dev/null || exit 0\nset -- {pattern}\n{_FILES}', self.sysfs)
        found = []
        for line in done.stdout.decode("utf-8", "replace").splitlines():
            path, mark, text = [*line.split("\t", 2), "", ""][:3]
            found.append(DeviceFile(f"{self.sysfs}/{path}", mark == "w", text.strip()))
        return found


def words_of(done: Completed) -> str:
    """What a command said of its failure, on one line."""
    said = (done.stderr or done.stdout).decode("utf-8", "replace")
    return " ".join(said.split())[-200:] or f"it ended with code {done.returncode}"
