"""The agent as a process: what a host sees when all goes well, and when it does not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from agent_process import DATA, ROOT, finish, of, run, send, start

from harness.agent import protocol as p


def fault(tmp_path, *settings, **changes):
    models = []
    for index, each in enumerate(settings):
        path = tmp_path / f"m{index}.json"
        path.write_text(json.dumps(each))
        models.append(p.Model(f"m{index}", str(path)))
    order = (tuple(model.id for model in models),) * 3
    plan = p.LatencyPlan(order, warmup_s=0.0, block_samples=3, block_s=0.0)
    return p.Job(**{"engine": "fault", "models": tuple(models), "data": p.Data(), "latency": plan, **changes})


def read_until(process, kind, **fields):
    messages = []
    while True:
        line = process.stdout.readline()
        assert line, f"the agent ended before {kind}: {messages[-3:]} {process.stderr.read().decode()}"
        messages.append(p.decode_message(line.decode()))
        if messages[-1]["type"] == kind and all(messages[-1][key] == value for key, value in fields.items()):
            return messages


def test_a_whole_run(tmp_path):
    cpu = min(os.sched_getaffinity(0))
    job = fault(tmp_path, {"noise": "INFO: a delegate was born\n"}, affinity=(cpu,))
    code, messages, errors = run(job)
    assert code == 0
    assert [m["type"] for m in messages if m["type"] != "sensor"] == [
        "hello",
        "loaded",
        "warmup",
        *["block"] * 6,
        "done",
    ]
    assert "a delegate was born" in errors
    hello = messages[0]
    environment = hello["environment"]
    assert (hello["version"], hello["engine"], environment["affinity"]) == (p.PROTOCOL_VERSION, "fault", [cpu])
    assert messages[-1]["environment_after"]["affinity"] == [cpu]
    for key in ("python", "numpy", "engine_version", "machine", "kernel", "pid", "threads", "clocks"):
        assert environment[key], key
    for key in (
        "cpu",
        "isa",
        "boot_id",
        "machine_id",
        "governor",
        "frequency_khz",
        "steal_ns",
        "pressure_us",
        "load_average",
    ):
        assert environment[key] is not None or environment[key + "_reason"], key
    times = [m["t_ns"] for m in messages]
    assert times == sorted(times)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_it_runs_where_nothing_of_harness_is(form, tmp_path):
    target = tmp_path / "device"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "harness" / "agent", target / "agent", ignore=ignore)
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "agent.zip", "w") as archive:
            for path in sorted((target / "agent").rglob("*.py")):
                archive.write(path, path.relative_to(target))
        shutil.rmtree(target / "agent")
        variables["PYTHONPATH"] = str(tmp_path / "agent.zip")
    job_file = tmp_path / "job.json"
    job_file.write_text(p.encode_job(fault(tmp_path, {})))
    process = start([str(job_file)], module="agent", cwd=target, env=variables)
    code, messages, errors = finish(process)
    assert (code, messages[-1]["type"]) == (0, "done"), errors


def test_only_the_standard_library_numpy_and_itself_are_imported(tmp_path):
    shutil.copytree(ROOT / "harness" / "agent", tmp_path / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    script = (
        "import sys, runpy; sys.modules['harness'] = None; sys.path.insert(0, sys.argv[1])\n"
        "import agent.__main__, agent.runs, agent.inputs, agent.engines\n"
        "tops = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(sorted(top for top in tops if not top.startswith('_')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['agent', 'harness', 'numpy']"


@pytest.mark.parametrize("at", ["load", "first", "invoke"])
def test_a_crash_is_told_by_its_signal_and_the_stage_names_the_model(at, tmp_path):
    bad = {"mode": "crash", "at": at, "after": 3 + 2 + 1}
    job = fault(tmp_path, {}, bad, {})
    code, messages, errors = run(job)
    assert code == -signal.SIGSEGV
    assert "Segmentation fault" in errors
    assert of(messages, "done") == []
    assert p.model_at_work(job, messages) == "m1"


def test_sigterm_sends_what_there_is(tmp_path):
    job = fault(tmp_path, {"mode": "slow", "seconds": 0.002}, latency=p.LatencyPlan((("m0",),), 1, 0.0, block_s=60.0))
    process = start()
    send(process, job)
    read_until(process, "warmup")
    time.sleep(0.1)
    process.terminate()
    code, messages, _ = finish(process)
    assert code == 143
    (block,) = [m for m in of(messages, "block") if m["phase"] == "measure"]
    assert len(block["wall_ns"]) == len(block["cpu_ns"]) >= 2
    assert [m["kind"] for m in of(messages, "error")] == ["terminated"]
    assert messages[-1]["type"] == "done"


def test_a_hang_in_native_code_is_left_to_sigkill(tmp_path):
    job = fault(tmp_path, {"mode": "hang", "at": "load"})
    process = start()
    send(process, job)
    read_until(process, "sensor", name="stage")
    time.sleep(0.1)
    process.terminate()
    time.sleep(0.2)
    assert process.poll() is None
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL


@pytest.mark.parametrize("end", ["stdin", "stdout"])
def test_no_orphan_is_left_when_the_host_goes(end, tmp_path):
    process = start()
    send(process, fault(tmp_path, {"mode": "hang", "at": "load"}))
    read_until(process, "sensor", name="stage")
    getattr(process, end).close()
    assert process.wait(timeout=10) == 143
    assert f"{end} was closed" in process.stderr.read().decode()
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


def test_it_dies_with_the_process_that_started_it_when_asked_to(tmp_path):
    # The grandchild's pipes outlive the child, so only the kernel can tell it that its parent is gone.
    job_file = tmp_path / "job.json"
    job_file.write_text(p.encode_job(fault(tmp_path, {"mode": "hang", "at": "load"})))
    script = (
        "import subprocess, sys, os, signal\n"
        "child = subprocess.Popen([sys.executable, '-m', 'harness.agent', '--die-with-parent', sys.argv[1]],"
        " stdout=subprocess.PIPE)\n"
        "[child.stdout.readline() for _ in range(2)]\n"
        "print(child.pid, flush=True)\n"
        "os.dup2(child.stdout.fileno(), 50, inheritable=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(job_file)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    pid = int(done.stdout)
    for _ in range(100):
        try:
            state = (ROOT / f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail(f"agent {pid} is alive, state {state}")


def test_a_missing_engine_names_the_extra(tmp_path):
    code = (
        "import sys; sys.modules['openvino'] = None; sys.argv = ['agent']\n"
        "from harness.agent.__main__ import main; main()"
    )
    process = start(code=code)
    send(process, fault(tmp_path, {}, engine="openvino"))
    exit_code, messages, _ = finish(process)
    (error,) = of(messages, "error")
    assert exit_code == 1
    assert (error["id"], error["kind"]) == (None, "engine_missing")
    assert "pip install 'ondevice-harness[openvino]'" in error["remedy"]
    assert messages[0]["environment"]["engine_version"] is None
    assert messages[-1]["type"] == "done"


@pytest.mark.parametrize("text", ["", "{}", "nonsense", '{"version": 99}'])
def test_a_bad_job_is_an_error_with_exit_code_2(text):
    code, messages, _ = run(text)
    assert code == 2
    assert [(m["kind"], m["id"]) for m in of(messages, "error")] == [("job", None)]


def test_a_cpu_that_is_not_there(tmp_path):
    code, messages, _ = run(fault(tmp_path, {}, affinity=(4095,)))
    (error,) = of(messages, "error")
    assert (code, error["kind"]) == (1, "job")
    assert "4095" in error["message"]


ENGINES = [("litert", "tiny_int8.tflite"), ("onnxruntime", "tiny_qdq.onnx"), ("openvino", "tiny_ov.xml")]


@pytest.mark.parametrize(("engine", "file"), ENGINES)
def test_probe_and_latency_on_a_real_engine(engine, file, tmp_path):
    pytest.importorskip({"litert": "ai_edge_litert"}.get(engine, engine), reason=f"{engine} is not installed")
    images = np.random.default_rng(0).random((3, 8, 8, 1)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    shape, axes = ((1, 8, 8, 1), None) if engine == "litert" else ((None, 1, 8, 8), (0, 3, 1, 2))
    tensor = p.Tensor("image", shape, "int8" if engine == "litert" else "float32", "image", axes)
    good = p.Model("good", str(DATA / file), (tensor,))
    (tmp_path / "bad").write_bytes(b"garbage")
    bad = p.Model("bad", str(tmp_path / "bad"))
    data = p.Data({"image": str(tmp_path / "images.npy")}, rows=3)
    probe = p.Job(engine, (good,), data, probe=p.ProbePlan(2, str(tmp_path / "out.npy")))
    code, messages, errors = run(probe)
    assert code == 0, errors
    assert of(messages, "error") == []
    (outputs,) = of(messages, "outputs")
    assert outputs["shape"] == [3, 3]
    assert np.load(tmp_path / "out.npy", allow_pickle=False).dtype == np.float32
    assert of(messages, "loaded")[0]["facts"]["precision"] == ("f32" if engine == "openvino" else "int8")

    plan = p.LatencyPlan((("bad", "good"), ("good", "bad")), warmup_s=0.0, block_s=0.0)
    code, messages, errors = run(p.Job(engine, (bad, good), data, latency=plan))
    assert code == 0, errors
    assert [(m["id"], m["kind"]) for m in of(messages, "error")] == [("bad", "load")]
    assert [m["index"] for m in of(messages, "block") if m["phase"] == "measure"] == [0, 1]
