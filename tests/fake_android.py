"""A stand-in for what the knobs talk to: a sysfs in a folder, and Android's commands as scripts that keep their state in files.

`Android(folder)`: put `environment` into a profile, and `cmd`, `svc`, `settings`, `dumpsys`, `input`, `setprop` of the device
are those scripts. `quirks`: "old" (no fixed performance mode: Android 10), "unsupported" (the power HAL lacks it),
"airplane-usage" (a `cmd connectivity` that answers with its usage), "no-suspend" (a release build: suspend_input denied),
"deaf" (the property is taken, and the battery goes on charging).
"""

from __future__ import annotations

import os
from pathlib import Path

SCRIPTS = {
    "cmd": """
case "$1 $2" in
  "power set-fixed-performance-mode-enabled")
    if [ -e quirk.old ]; then echo "Unknown command: $2"; exit 255; fi
    if [ -e quirk.unsupported ]; then
      echo "Failed to set FIXED_PERFORMANCE mode" >&2
      echo "This is likely because Power HAL AIDL is not implemented on this device" >&2
      exit 255
    fi
    echo "$3" > fixed ;;
  "connectivity airplane-mode")
    if [ -e quirk.airplane-usage ]; then echo "usage: cmd connectivity ..."; exit 0; fi
    case "$3" in enable) echo enabled > airplane ;; disable) echo disabled > airplane ;; *) cat airplane ;; esac ;;
  "battery suspend_input")
    if [ -e quirk.no-suspend ]; then
      echo "Exception occurred while executing 'suspend_input':" >&2
      echo "java.lang.SecurityException: setBatteryInputSuspended only allowed on debuggable builds" >&2
      exit 255
    fi
    echo 3 > battery ;;
  "battery reset") echo 2 > battery ;;
  *) echo "Unknown command: $2"; exit 255 ;;
esac
""",
    "svc": '[ "$1 $2 $3" = "power stayon true" ] && echo 15 > stayon',
    "settings": """
case "$1" in
  get) cat stayon ;;
  put) echo "$4" > stayon ;;
  delete) echo null > stayon ;;
esac
""",
    "dumpsys": """
case "$1" in
  power) echo "Power Manager State:"; echo "  mWakefulness=$(cat wakefulness)" ;;
  battery) echo "Current Battery Service state:"; echo "  USB powered: true"; echo "  status: $(cat battery)"; echo "  level: 80" ;;
  thermalservice) echo "Thermal Status: 0"; echo "Current temperatures from HAL:"
    echo "	Temperature{mValue=$(cat celsius), mType=0, mName=CPU0, mStatus=0}" ;;
esac
""",
    "input": """
case "$2" in 223) echo Asleep > wakefulness ;; 224) echo Awake > wakefulness ;; esac
""",
    "setprop": """
if [ "$2" = true ]; then [ -e quirk.deaf ] || echo 4 > battery; else echo 2 > battery; fi
""",
}
STATE = {
    "fixed": "false",
    "airplane": "disabled",
    "stayon": "0",
    "wakefulness": "Asleep",
    "battery": "2",
    "celsius": "31",
}


class Android:
    """Scripts in `folder`/bin, state in `folder`/state; `value` reads it."""

    def __init__(self, folder: Path, *quirks: str, **state: str) -> None:
        self.state, self.bin = folder / "state", folder / "bin"
        for made in (self.state, self.bin):
            made.mkdir(parents=True)
        for name, text in (STATE | state).items():
            (self.state / name).write_text(text + "\n", encoding="utf-8")
        for quirk in quirks:
            (self.state / f"quirk.{quirk}").touch()
        for name, script in SCRIPTS.items():
            path = self.bin / name
            path.write_text(f"#!/bin/sh\ncd '{self.state}' || exit 1\n{script}", encoding="utf-8")
            path.chmod(0o755)
        # Nobody waits a second in a test.
        path = self.bin / "sleep"
        path.write_text("#!/bin/sh\n", encoding="utf-8")
        path.chmod(0o755)
        self.environment = {"PATH": f"{self.bin}:{os.environ['PATH']}"}

    def value(self, name: str) -> str:
        return (self.state / name).read_text(encoding="utf-8").strip()

    def values(self) -> dict[str, str]:
        return {name: self.value(name) for name in STATE}


class Sysfs:
    """Two cpufreq policies and two thermal zones. Every write of the harness lands in these files."""

    def __init__(self, root: Path, *, offered: str = "powersave schedutil performance") -> None:
        self.root = root
        for number, top in ((0, 1800000), (4, 2400000)):
            self.put(f"devices/system/cpu/cpufreq/policy{number}/scaling_governor", "schedutil")
            self.put(f"devices/system/cpu/cpufreq/policy{number}/scaling_available_governors", offered)
            self.put(f"devices/system/cpu/cpufreq/policy{number}/cpuinfo_min_freq", 300000)
            self.put(f"devices/system/cpu/cpufreq/policy{number}/cpuinfo_max_freq", top)
            self.put(f"devices/system/cpu/cpufreq/policy{number}/scaling_min_freq", 600000)
            self.put(f"devices/system/cpu/cpufreq/policy{number}/scaling_max_freq", top)
            steps = " ".join(str(step) for step in range(300000, top + 1, 300000))
            self.put(f"devices/system/cpu/cpufreq/policy{number}/scaling_available_frequencies", steps)
        self.put("class/thermal/thermal_zone0/type", "cpu-0-0-usr")
        self.put("class/thermal/thermal_zone1/type", "lmh-dcvs-00")
        self.put("class/thermal/thermal_zone1/temp", 75000)
        self.heat(41)
        self.environment = {"HARNESS_SYSFS": str(root)}

    def put(self, name: str, value: object) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n", encoding="utf-8")

    def heat(self, celsius: float) -> None:
        self.put("class/thermal/thermal_zone0/temp", int(celsius * 1000))

    def get(self, name: str) -> list[str]:
        folder = self.root / "devices/system/cpu/cpufreq"
        return [(folder / policy / name).read_text(encoding="utf-8").strip() for policy in ("policy0", "policy4")]

    def cpufreq(self) -> dict[str, list[str]]:
        return {name: self.get(name) for name in ("scaling_governor", "scaling_min_freq", "scaling_max_freq")}


UNTOUCHED = {
    "scaling_governor": ["schedutil", "schedutil"],
    "scaling_min_freq": ["600000", "600000"],
    "scaling_max_freq": ["1800000", "2400000"],
}
