"""The counters around a visit: read from made-up kernel files, and from this machine's own in a whole run."""

import json

import pytest

from harness.agent import protocol as p
from harness.agent.contention import COLUMNS, Counters, growth
from harness.agent.engines import open_engine
from harness.agent.runs import run_latency

STAT = "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 {user} 0 10 500 0 1 2 {steal} 7 0\ncpu1 900 0 0 0 0 0 0 900 0 0\nintr 1\n"
PRESSURE = "some avg10=0.00 avg60=0.00 avg300=0.00 total={some}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


@pytest.fixture
def kernel(tmp_path):
    def write(*, user=100, steal=0, some=1000, quota=0, heat=3, waits=((1, 500), (2, 700))):
        files = {
            "proc/stat": STAT.format(user=user, steal=steal),
            "proc/pressure/cpu": PRESSURE.format(some=some),
            "proc/self/cgroup": "0::/mine\n",
            "sys/fs/cgroup/mine/cpu.stat": f"usage_usec 5\nthrottled_usec {quota}\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": f"{heat}\n",
        } | {f"proc/self/task/{thread}/schedstat": f"1000 {ns} 9\n" for thread, ns in waits}
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    write()
    return write


def grown(counters, change):
    before = counters.read()
    change()
    return dict(zip(COLUMNS, growth(before, counters.read()), strict=True))


def test_each_counter_is_read_from_its_file_and_only_of_the_allowed_cpus(kernel, tmp_path):
    counters = Counters([0], str(tmp_path))
    found = grown(
        counters,
        lambda: kernel(user=107, steal=2, some=1250, quota=40, heat=4, waits=((1, 900), (2, 700), (3, 50))),
    )
    counters.close()
    tick = counters._tick_ns
    assert (found["busy_ns"], found["steal_ns"]) == (7 * tick, 2 * tick)
    assert (found["some_us"], found["full_us"], found["quota_us"], found["throttles"]) == (250, 0, 40, 1)
    assert found["waited_ns"] == 400 + 50  # a thread that began in between waited since then
    assert found["span_ns"] > 0
    assert found["own_ns"] >= 0
    assert found["beside_ns"] is None
    assert set(counters.reasons) == {"beside_ns"}


@pytest.mark.parametrize(
    ("siblings", "flags", "shares"),
    [(None, "fpu sse", False), ("0", "fpu sse", False), ("0-1", "fpu sse", True), ("0", "fpu hypervisor", True)],
)
def test_cpus_that_share_a_core_count_beside_the_allowed_ones(kernel, tmp_path, siblings, flags, shares):
    (tmp_path / "proc/cpuinfo").write_text(f"processor: 0\nflags\t: {flags} sse2\n")
    for cpu in (0, 1):
        topology = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        if siblings is not None:
            (topology / "thread_siblings_list").write_text(f"{siblings}\n")
    counters = Counters([0], str(tmp_path))

    def work():
        kernel(user=103)
        stat = tmp_path / "proc/stat"
        stat.write_text(stat.read_text().replace("cpu1 900", "cpu1 950"))

    found = grown(counters, work)
    assert found["busy_ns"] == 3 * counters._tick_ns
    assert found["beside_ns"] == (53 * counters._tick_ns if shares else None)
    assert ("beside_ns" in counters.reasons) is not shares


def test_a_thread_that_has_ended_takes_nothing_away(kernel, tmp_path):
    def end():
        (tmp_path / "proc/self/task/2/schedstat").unlink()
        (tmp_path / "proc/self/task/2").rmdir()

    assert grown(Counters([0], str(tmp_path)), end)["waited_ns"] == 0


def test_what_cannot_be_read_is_none_with_its_reason(tmp_path):
    counters = Counters([0], str(tmp_path))
    found = grown(counters, lambda: None)
    missing = {"waited_ns", "busy_ns", "steal_ns", "some_us", "full_us", "quota_us", "throttles", "beside_ns"}
    assert {name for name, value in found.items() if value is None} == missing
    assert set(counters.reasons) == missing


def test_control_groups_of_the_first_version_count_in_nanoseconds(kernel, tmp_path):
    (tmp_path / "proc/self/cgroup").write_text("3:cpu,cpuacct:/old\n0::/\n")
    file = tmp_path / "sys/fs/cgroup/cpu,cpuacct/old/cpu.stat"
    file.parent.mkdir(parents=True)
    file.write_text("nr_throttled 1\nthrottled_time 9000\n")
    assert Counters([0], str(tmp_path)).read().values["quota_us"] == 9


class Recorder:
    def __init__(self):
        self.messages = []

    def send(self, kind, /, **fields):
        self.messages.append(p.decode_message(p.encode_message(kind, 0, **fields)))

    def stage(self, stage, model):
        pass


def test_every_visit_of_a_round_is_counted_except_where_the_plan_says_not(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"mode": "slow", "seconds": 0.0002}))
    models = (p.Model("a", str(path)), p.Model("b", str(path)))
    plan = p.LatencyPlan((("a", "b"),) * 3, 1, 0.0, block_samples=4, block_s=0.0, uncounted=(1,))
    job = p.decode_job(p.encode_job(p.Job("fault", models, p.Data(), latency=plan)))
    channel = Recorder()
    run_latency(job, job.latency, open_engine("fault"), {}, channel)
    told = [m["values"] for m in channel.messages if m["type"] == "sensor" and m["name"] == "contention"]
    assert [values["round"] for values in told] == [0, 2]
    blocks = [m for m in channel.messages if m["type"] == "block"]
    for values in told:
        assert values["columns"] == list(COLUMNS)
        for name, visit in values["visits"].items():
            mine = [m for m in blocks if (m["id"], m["index"]) == (name, values["round"])]
            counted = dict(zip(COLUMNS, visit, strict=True))
            assert counted["span_ns"] >= sum(sum(m["wall_ns"]) for m in mine) > 0
            assert counted["own_ns"] > 0
