"""Runs inside the guest: plays the hardware behind three meters by writing their registers (i2c-stub), and logs the truth.

    python meter_simulator.py BUS LOG SECONDS [CHARGING]

While the file CHARGING exists, the battery charges. Draws little while the CPUs rest and much while they work, with steps on top, as a device would. Each line of the log: monotonic
clock in ns, then the watts that the registers of sbs-battery, ltc4151 and ina226 stand for. Standard library only.
"""

import array
import fcntl
import struct
import sys
import time
from pathlib import Path

SLAVE_FORCE, SMBUS, WRITE, BYTE, WORD = 0x0706, 0x0720, 0, 2, 3
SBS, LTC, INA = 0x0B, 0x6F, 0x40
SHUNT_OHM = 0.001  # what the drivers assume without a device tree: ltc4151 1 mΩ; ina2xx 10 mΩ
INA_SHUNT_OHM = 0.01
VOLTS = 12.0
IDLE_W, WORK_W = 6.0, 15.0
PERIOD_S = 0.05


def swapped(value):
    return (value & 0xFF) << 8 | value >> 8


class Bus:
    def __init__(self, path):
        self.file = Path(path).open("r+b", buffering=0)  # noqa: SIM115 - for as long as the program runs

    def put(self, chip, register, value, size):
        fcntl.ioctl(self.file, SLAVE_FORCE, chip)
        data = array.array("B", struct.pack("@H", value & 0xFFFF) + bytes(32))
        request = struct.pack("@BBIP", WRITE, register, size, data.buffer_info()[0])
        fcntl.ioctl(self.file, SMBUS, request)

    def word(self, chip, register, value):
        self.put(chip, register, value, WORD)

    def byte(self, chip, register, value):
        self.put(chip, register, value, BYTE)


def constants(bus):
    """What stays: volts, level, temperature, and that the battery discharges."""
    bus.word(SBS, 0x09, int(VOLTS * 1000))
    for register, value in (
        (0x08, 2980),
        (0x0D, 80),
        (0x0F, 4000),
        (0x10, 5000),
        (0x18, 5000),
        (0x19, 12000),
        (0x1A, 0x31),
    ):
        bus.word(SBS, register, value)
    volts = int(VOLTS / 0.025) << 4
    bus.byte(LTC, 2, volts >> 8)
    bus.byte(LTC, 3, volts & 0xFF)
    bus.word(INA, 2, swapped(int(VOLTS / 0.00125)))


def show(bus, watts, charging=False):
    """Write a power into all registers; the watts that each then stands for."""
    amperes = watts / VOLTS
    milli = round(amperes * 1000)
    bus.word(SBS, 0x0A, milli if charging else -milli)
    bus.word(SBS, 0x16, 0x0080 if charging else 0x00C0)  # its status: initialised, and discharging
    steps = round(amperes * SHUNT_OHM / 20e-6)
    bus.byte(LTC, 0, steps << 4 >> 8)
    bus.byte(LTC, 1, steps << 4 & 0xFF)
    # 25 times the LSB of the current that belongs to the calibration which the driver wrote: 2048 for the INA226.
    lsb_w = 25 * 0.00512 / 2048 / INA_SHUNT_OHM
    raw = round(watts / lsb_w)
    bus.word(INA, 3, swapped(raw))
    return milli / 1000 * VOLTS, steps * 20e-6 / SHUNT_OHM * VOLTS, raw * lsb_w


def cpu():
    """Busy and all ticks of the CPUs since boot."""
    with Path("/proc/stat").open() as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def main():
    bus, seconds = Bus(sys.argv[1]), float(sys.argv[3])
    constants(bus)
    flag = sys.argv[4] if len(sys.argv) > 4 else ""
    end, last, shown, work = time.monotonic() + seconds, cpu(), (0.0, False), False
    with Path(sys.argv[2]).open("w", buffering=1) as log:
        log.write(f"{time.monotonic_ns()} {' '.join(str(w) for w in show(bus, IDLE_W))}\n")
        while time.monotonic() < end:
            time.sleep(PERIOD_S)
            now = cpu()
            if now[1] - last[1] >= 40:  # 0.2 s of two CPUs
                work = (now[0] - last[0]) / (now[1] - last[1]) > 0.35
                last = now
            step = int(time.monotonic() / 0.65) % 4
            watts = WORK_W * (0.92, 1.0, 1.08, 1.0)[step] if work else IDLE_W * (0.98, 1.0, 1.02, 1.0)[step]
            wanted = (watts, bool(flag) and Path(flag).exists())
            if wanted != shown:
                shown = wanted
                meant = show(bus, *wanted)
                log.write(f"{time.monotonic_ns()} {' '.join(str(w) for w in meant)}\n")


if __name__ == "__main__":
    main()
