# Prints what a device says of itself, section by section. Sent by `harness.devices.look` to `sh -s` on the device.
# Must run in mksh and toolbox of old Androids, toybox, busybox ash, dash and bash: no arrays, no `local`, few processes.
#
#   sh -s TOKEN WORK_FOLDER quick|full
#
# A section is a line `TOKEN=name`, its text, and a line `TOKEN.code` (0: the text is what was read; else why it was not).
# Nodes are read by the shell itself: a process for each would cost seconds on a phone.

t=$1
work=$2
nl='
'
case $work in
    '~') work=$HOME ;;
    '~/'*) work=$HOME/${work#'~/'} ;;
esac
# mksh on Android has no printf of its own, and every echo treats backslashes differently.
case ${KSH_VERSION:-} in
    *MIRBSD* | *LEGACY*) put() { print -r -- "$1"; } ;;
    *) put() { printf '%s\n' "$1"; } ;;
esac

# One-line nodes. What is there and cannot be read says why; what is not there is left out.
nodes() {
    for f do
        [ -e "$f" ] || continue
        if [ ! -f "$f" ]; then continue; fi
        v=
        l=
        if [ -r "$f" ]; then
            { while IFS= read -r l || [ -n "$l" ]; do
                v=$v$l$nl
                l=
            done; } 2>/dev/null <"$f"
            if [ -n "$v" ]; then
                put "$t=$f$nl$v$t.0"
                continue
            fi
        fi
        files "$f"
    done
}

# Longer files.
files() {
    for f do
        [ -e "$f" ] || continue
        put "$t=$f"
        cat "$f" 2>&1 </dev/null
        put "$nl$t.$?"
    done
}

# Folders that are there and closed to us: their nodes must not count as missing.
folders() {
    for f do
        if [ -d "$f" ] && [ ! -r "$f" ]; then
            put "$t=$f/${nl}permission denied$nl$t.1"
        fi
    done
}

# A command: its output and errors, five seconds at most where the device has `timeout`.
tell() {
    command -v "$1" >/dev/null 2>&1 || return
    put "$t=$*"
    if [ -n "$limit" ]; then
        # The exit code of toybox's `timeout` means nothing (127 for programs that end at once): the inner shell tells
        # it. Of one that was killed the section has no end.
        $limit sh -c 't=$1; shift; "$@" 2>&1 </dev/null; c=$?; echo; echo "$t.$c"' sh "$t" "$@" 2>&1
    else
        "$@" 2>&1 </dev/null
        put "$nl$t.$?"
    fi
}

limit=
put "$t=sh${nl}ok $work$nl$t.0"
tell uname -s -r -m
files /proc/cpuinfo /proc/meminfo /etc/os-release /proc/device-tree/model /proc/device-tree/compatible
c=/sys/devices/system/cpu
nodes $c/possible $c/present $c/online $c/isolated /sys/devices/cpu_core/cpus /sys/devices/cpu_atom/cpus
nodes $c/cpu[0-9]*/cpu_capacity $c/cpu[0-9]*/regs/identification/midr_el1 $c/cpu[0-9]*/topology/thread_siblings_list
folders $c/cpufreq $c/cpu0/cpufreq
p=$c/cpufreq/policy
for f in "$p"[0-9]*; do
    # Before Linux 4.3 the policies are found under their CPUs only.
    [ -e "$f" ] || p=$c/cpu
    break
done
for f in "$p"[0-9]*; do
    case $p in *policy) ;; *) f=$f/cpufreq ;; esac
    nodes "$f/related_cpus" "$f/cpuinfo_min_freq" "$f/cpuinfo_max_freq" "$f/scaling_min_freq" "$f/scaling_max_freq" \
        "$f/scaling_cur_freq" "$f/scaling_governor" "$f/scaling_driver" "$f/scaling_available_governors"
done
nodes $c/intel_pstate/no_turbo $c/cpufreq/boost $c/smt/active
nodes /proc/loadavg /proc/uptime /proc/pressure/cpu /proc/sys/kernel/random/boot_id /etc/machine-id
nodes /sys/class/dmi/id/sys_vendor /sys/class/dmi/id/product_name /sys/class/dmi/id/product_version
nodes /sys/devices/soc0/machine /sys/devices/soc0/family /sys/devices/soc0/soc_id
folders /sys/class/thermal /sys/class/power_supply /sys/class/hwmon /sys/bus/iio/devices
nodes /sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp
nodes /sys/devices/platform/soc/soc:firmware/get_throttled
for f in /sys/class/power_supply/*; do
    nodes "$f/type" "$f/scope" "$f/status" "$f/present" "$f/online" "$f/capacity" "$f/voltage_now" "$f/current_now" \
        "$f/power_now" "$f/charge_counter" "$f/charge_now" "$f/energy_now" "$f/temp" "$f/health" "$f/technology"
done

android=
if command -v getprop >/dev/null 2>&1; then
    android=yes
    tell getprop
fi
[ "$3" = full ] || exit 0

# From here on things may be slow or hang: `timeout` ends them where it knows the usual words.
if [ "$(timeout 5 echo yes 2>/dev/null)" = yes ]; then limit='timeout 5'; fi
tell date +%s
tell id

# The nearest folder that exists: the work folder may not have been made yet.
f=$work
while [ -n "$f" ] && [ ! -d "$f" ]; do
    case $f in */*) f=${f%/*} ;; *) f=. ;; esac
done
put "$t=df$nl"
df -k "${f:-/}" 2>&1 </dev/null
put "$nl$t.$?"

if [ -n "$android" ]; then
    tell dumpsys battery
    tell dumpsys thermalservice
fi
folders /sys/class/powercap
nodes /sys/class/hwmon/hwmon*/name /sys/class/hwmon/hwmon*/temp*_input /sys/class/hwmon/hwmon*/temp*_label
nodes /sys/class/hwmon/hwmon*/power*_input /sys/class/hwmon/hwmon*/power*_average /sys/class/hwmon/hwmon*/power*_label
nodes /sys/class/hwmon/hwmon*/curr*_input /sys/class/hwmon/hwmon*/in*_input /sys/class/hwmon/hwmon*/in*_label
nodes /sys/bus/iio/devices/iio:device*/name /sys/bus/iio/devices/iio:device*/in_power*_raw
nodes /sys/bus/iio/devices/iio:device*/in_current*_raw /sys/bus/iio/devices/iio:device*/in_voltage*_raw
nodes /sys/class/powercap/*/name /sys/class/powercap/*/energy_uj
nodes /sys/class/thermal/cooling_device*/type /sys/class/thermal/cooling_device*/cur_state
nodes $c/cpu0/thermal_throttle/core_throttle_count $c/cpu0/thermal_throttle/package_throttle_count
files /etc/nv_tegra_release /proc/self/status
tell vcgencmd get_throttled
tell nvpmodel -q
tell lscpu
tell getconf PAGESIZE
exit 0
