"""Who else wanted the CPU while a block was measured: the kernel's counters, read just before and just after each visit.

Only growth is sent, one short list of whole numbers per visit, inside the `contention` message of the round (protocol.py). Files stay
open between readings; one reading takes some tens of microseconds, before a visit's settling and after its last sample, never
in between. What cannot be read is None, with the reason once. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

# What is counted, in the order of the lists.
#   span_ns                  monotonic time between the two readings
#   own_ns                   CPU time of this process, all its threads
#   waited_ns                time in which threads of this process were ready to run and did not (schedstat), summed over threads
#   voluntary, involuntary   context switches of this process
#   busy_ns, steal_ns        of the CPUs this process may run on: time spent on anything; time the hypervisor gave to others
#   some_us, full_us         pressure on the machine's CPUs: some task waited, all did
#   quota_us                 time in which this process's control group was over its quota
#   throttles                times a CPU was slowed for its heat
#   beside_ns                time spent on anything by those CPUs and the ones that share, or may share, a core with them
COLUMNS = (
    *("span_ns", "own_ns", "waited_ns", "voluntary", "involuntary", "busy_ns", "steal_ns"),
    *("some_us", "full_us", "quota_us", "throttles", "beside_ns"),
)
_LARGE = 1 << 20
_IDLE_COLUMNS = (3, 4)  # idle and iowait in a line of /proc/stat
_STEAL_COLUMN = 7
_COUNTED = 8  # guest time, after these, is contained in user time


@dataclass(slots=True)
class Reading:
    """The counters at one moment; `waits`: thread → ns waited so far, None where the kernel does not tell."""

    values: dict[str, int] = field(default_factory=dict)
    waits: dict[str, int] | None = None


class Counters:
    """Reads the counters again and again. `cpus`: those this process may run on; `root`: where /proc and /sys are."""

    def __init__(self, cpus: Iterable[int], root: str = "/") -> None:
        self.reasons: dict[str, str] = {}
        self._root = Path(root)
        allowed = set(cpus)
        beside = _sharing(self._root, allowed)
        self._lines = frozenset(f"cpu{cpu}" for cpu in allowed)
        self._beside = frozenset(f"cpu{cpu}" for cpu in beside)
        if not beside:
            self.reasons["beside_ns"] = "no CPU shares its core with another"
        self._tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        self._tasks = str(self._root / "proc/self/task")
        self._stat = self._open("proc/stat", "busy_ns", "steal_ns")
        self._pressure = self._open("proc/pressure/cpu", "some_us", "full_us")
        quota = _quota_file(self._root)
        self._quota = None if quota is None else self._open(quota, "quota_us")
        if quota is None:
            self.reasons["quota_us"] = "no control group with a CPU controller"
        folders = (self._root / f"sys/devices/system/cpu/{line}/thermal_throttle" for line in sorted(self._lines))
        self._heat = [
            fd for fd in (self._open(f"{f}/core_throttle_count", "throttles") for f in folders) if fd is not None
        ]
        if self._heat:
            self.reasons.pop("throttles", None)
        self._readers: list[tuple[tuple[str, ...], Callable[[Reading], None]]] = [
            (("waited_ns",), self._read_waits),
            (("busy_ns", "steal_ns"), self._read_stat),
            (("some_us", "full_us"), self._read_pressure),
            (("quota_us",), self._read_quota),
            (("throttles",), self._read_heat),
        ]
        self._readers = [item for item in self._readers if item[0][0] not in self.reasons]

    def _open(self, path: str, *columns: str) -> int | None:
        try:
            return os.open(self._root / path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.reasons |= dict.fromkeys(columns, f"{path}: {error.strerror}")
            return None

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in (self._stat, self._pressure, self._quota, *self._heat):
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    def read(self) -> Reading:
        """Everything that can be read, now. What fails once is not tried again, and its reason kept."""
        found = Reading()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        found.values["voluntary"], found.values["involuntary"] = usage.ru_nvcsw, usage.ru_nivcsw
        for columns, read in tuple(self._readers):
            try:
                read(found)
            except (OSError, ValueError, IndexError) as error:
                self.reasons |= dict.fromkeys(columns, str(error) or type(error).__name__)
                self._readers.remove((columns, read))
        found.values["own_ns"] = time.process_time_ns()
        found.values["span_ns"] = time.monotonic_ns()
        return found

    def _read_waits(self, found: Reading) -> None:
        waits = {}
        for thread in os.listdir(self._tasks):  # noqa: PTH208 - read often, and no path is needed
            try:
                text = _text(f"{self._tasks}/{thread}/schedstat")
            except FileNotFoundError:
                if not Path(f"{self._tasks}/{thread}").exists():  # a thread that has just ended
                    continue
                raise
            waits[thread] = int(text.split()[1])
        found.waits = waits

    def _read_stat(self, found: Reading) -> None:
        assert self._stat is not None  # noqa: S101 - else its reader is not in the list
        busy = steal = beside = 0
        for line in os.pread(self._stat, _LARGE, 0).decode("ascii", "replace").splitlines():
            name = line.partition(" ")[0]
            if name in self._lines or name in self._beside:
                ticks = [int(word) for word in line.split()[1 : 1 + _COUNTED]]
                worked = sum(ticks) - ticks[_STEAL_COLUMN] - sum(ticks[column] for column in _IDLE_COLUMNS)
                if name in self._lines:
                    steal += ticks[_STEAL_COLUMN]
                    busy += worked
                beside += worked
        found.values["busy_ns"], found.values["steal_ns"] = busy * self._tick_ns, steal * self._tick_ns
        if self._beside:
            found.values["beside_ns"] = beside * self._tick_ns

    def _read_pressure(self, found: Reading) -> None:
        assert self._pressure is not None  # noqa: S101
        for line in os.pread(self._pressure, 4096, 0).decode("ascii", "replace").splitlines():
            name = line.partition(" ")[0]
            if name in ("some", "full"):
                found.values[f"{name}_us"] = int(line.rpartition("total=")[2])

    def _read_quota(self, found: Reading) -> None:
        assert self._quota is not None  # noqa: S101
        for line in os.pread(self._quota, 4096, 0).decode("ascii", "replace").splitlines():
            name, _, value = line.partition(" ")
            if name in ("throttled_usec", "throttled_time"):  # control groups 2 and 1; the latter counts in ns
                found.values["quota_us"] = int(value) // (1 if name == "throttled_usec" else 1000)

    def _read_heat(self, found: Reading) -> None:
        found.values["throttles"] = sum(int(os.pread(descriptor, 64, 0)) for descriptor in self._heat)


def growth(before: Reading, after: Reading) -> list[int | None]:
    """How much each of COLUMNS grew between two readings; None where one of them lacks it."""
    found: list[int | None] = []
    for name in COLUMNS:
        if name == "waited_ns":
            if before.waits is None or after.waits is None:
                found.append(None)
            else:
                found.append(sum(max(0, ns - before.waits.get(thread, 0)) for thread, ns in after.waits.items()))
        elif name in before.values and name in after.values:
            found.append(after.values[name] - before.values[name])
        else:
            found.append(None)
    return found


def _text(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 256).decode("ascii", "replace")
    finally:
        os.close(descriptor)


def _sharing(root: Path, allowed: set[int]) -> set[int]:
    """The CPUs that compute on the same cores as those allowed, these included; empty where each has its core for itself.

    A virtual machine is told little of what lies beneath: its CPUs may be threads of one core although its kernel lists no siblings, so
    there all of them count.
    """
    folder = root / "sys/devices/system/cpu"
    try:
        virtual = " hypervisor" in (root / "proc/cpuinfo").read_text(encoding="ascii", errors="replace")
        everyone = {int(path.name[3:]) for path in folder.glob("cpu[0-9]*")}
    except (OSError, ValueError):
        return set()
    if virtual:
        return everyone if len(everyone) > 1 else set()
    found: set[int] = set()
    shared = False
    for cpu in allowed:
        with contextlib.suppress(OSError, ValueError):
            siblings = _cpu_list((folder / f"cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii"))
            shared = shared or len(siblings) > 1
            found |= siblings
    return found if shared else set()


def _cpu_list(text: str) -> set[int]:
    """`0,4` or `0-1` as CPU numbers. Raises ValueError."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _quota_file(root: Path) -> str | None:
    """The `cpu.stat` of this process's own control group, relative to the root; None where there is none."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        places = []
        if not controllers:
            places = [f"sys/fs/cgroup{path}", f"sys/fs/cgroup/unified{path}"]
        elif "cpu" in controllers.split(","):
            places = [f"sys/fs/cgroup/{controllers}{path}", f"sys/fs/cgroup/cpu{path}"]
        for place in places:
            name = f"{place.rstrip('/')}/cpu.stat"
            if (root / name).is_file() and "throttled" in (root / name).read_text(encoding="ascii", errors="replace"):
                return name
    return None
