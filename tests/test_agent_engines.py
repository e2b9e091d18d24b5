"""The three engines on tiny artifacts (tests/data/make_agent_fixtures.py), in this process."""

import importlib.util
import subprocess
import sys
import types

import numpy as np
import pytest
from agent_process import DATA

from harness.agent import inputs
from harness.agent.channel import AgentError
from harness.agent.engines import open_engine
from harness.agent.engines.base import LoadOptions
from harness.agent.protocol import Tensor

PACKAGES = {"litert": "ai_edge_litert", "onnxruntime": "onnxruntime", "openvino": "openvino"}
NHWC, TO_NCHW = (0, 1, 2, 3), (0, 3, 1, 2)
IMAGES = np.random.default_rng(3).random((4, 8, 8, 1)).astype(np.float32)


def engine(name):
    if importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")
    return open_engine(name)


def outputs(session, axes, images=IMAGES):
    """Real-valued first output for each image."""
    (tensor,), (out, *_) = session.tensors()
    results = []
    for image in images:
        held = inputs.quantize(np.transpose(image[None], axes), tensor)
        session.bind([inputs.aligned(held)])
        session.invoke()
        results.append(inputs.dequantize(session.outputs()[0], out)[0])
    return np.array(results)


def expected():
    kernel, dense = weights()
    padded = np.pad(IMAGES[..., 0], ((0, 0), (1, 1), (1, 1)))
    conv = sum(padded[:, dy : dy + 8, dx : dx + 8, None] * kernel[dy, dx, 0] for dy in range(3) for dx in range(3))
    return np.maximum(conv, 0).reshape(len(IMAGES), -1) @ dense


def weights():
    rng = np.random.default_rng(7)
    kernel = (rng.normal(size=(3, 3, 1, 4)) * 0.4).astype(np.float32)
    return kernel, (rng.normal(size=(256, 3)) * 0.1).astype(np.float32)


CASES = [
    ("litert", "tiny_fp32.tflite", NHWC, 1e-5, {"f32": 2}),
    ("litert", "tiny_fp16.tflite", NHWC, 1e-2, {"f32": 2}),
    ("litert", "tiny_int8.tflite", NHWC, 0.1, {"int8": 2}),
    ("litert", "tiny_dynamic.tflite", NHWC, 0.1, {"f32": 1, "int8-dynamic": 1}),
    ("onnxruntime", "tiny.onnx", TO_NCHW, 1e-5, {"f32": 2}),
    ("onnxruntime", "tiny_qdq.onnx", TO_NCHW, 0.1, {"int8": 2}),
    ("onnxruntime", "tiny_dynamic.onnx", TO_NCHW, 0.1, {"int8-dynamic": 2}),
    ("openvino", "tiny_ov.xml", TO_NCHW, 1e-5, {"f32": 2}),
    ("openvino", "tiny_ov_int8.xml", TO_NCHW, 0.1, {"int8": 2}),
]


@pytest.mark.parametrize(("name", "file", "axes", "tolerance", "operators"), CASES, ids=[case[1] for case in CASES])
def test_outputs_and_precision_of_every_artifact(name, file, axes, tolerance, operators):
    session = engine(name).load(str(DATA / file), LoadOptions())
    got = outputs(session, axes)
    assert np.abs(got[:, :3] - expected()).max() <= tolerance
    assert np.array_equal(got, outputs(session, axes)), "not the same bits twice"
    facts = session.facts(deep=True)
    assert facts["precision_operators"] == operators
    assert facts["precision"] in operators
    assert facts["threads"] == 1
    assert facts["arena_bytes"] is None
    assert facts["arena_bytes_reason"]


@pytest.mark.parametrize(
    ("name", "file"), [("litert", "tiny_fp32.tflite"), ("onnxruntime", "tiny.onnx"), ("openvino", "tiny_ov.xml")]
)
def test_inputs_stay_bound_over_many_invocations(name, file):
    session = engine(name).load(str(DATA / file), LoadOptions())
    (tensor,), _ = session.tensors()
    assert None not in tensor.shape
    session.bind([inputs.aligned(IMAGES[1].reshape(tensor.shape))])
    session.invoke()
    first = session.outputs()[0]
    for _ in range(50):
        session.invoke()
    assert np.array_equal(session.outputs()[0], first)
    session.bind([inputs.aligned(IMAGES[2].reshape(tensor.shape))])
    session.invoke()
    assert not np.array_equal(session.outputs()[0], first)


@pytest.mark.parametrize(("name", "suffix"), [("litert", ".tflite"), ("onnxruntime", ".onnx"), ("openvino", ".xml")])
def test_a_damaged_file_is_refused(name, suffix, tmp_path):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(b"not a model at all" * 9)
    with pytest.raises(Exception, match=r".") as error:
        engine(name).load(str(path), LoadOptions())
    assert "Exception from" not in AgentError.wrap("load", error.value).message


def test_litert_says_how_many_nodes_its_delegate_took():
    litert = engine("litert")
    path = str(DATA / "tiny_fp32.tflite")
    with_delegate = litert.load(path, LoadOptions()).facts(deep=False)
    without = litert.load(path, LoadOptions(extra={"xnnpack": False})).facts(deep=False)
    assert (with_delegate["delegate"], with_delegate["delegated_nodes"], with_delegate["nodes"]) == ("XNNPACK", 3, 3)
    assert (without["delegate"], without["delegated_nodes"], without["nodes"]) == ("none", 0, 3)


def test_onnx_runtime_reads_two_inputs_of_free_length_and_refuses_what_it_has_not():
    ort = engine("onnxruntime")
    path = str(DATA / "two_inputs.onnx")
    session = ort.load(path, LoadOptions(shapes=lambda tensors: tuple((1, 5) for _ in tensors)))
    ids, mask = session.tensors()[0]
    assert (ids.shape, ids.dtype, mask.dtype) == ((1, 5), "int64", "bool")
    session.bind([np.array([[0, 1, 2, 3, 4]]), np.array([[True, False, True, True, False]])])
    session.invoke()
    assert [output.tolist() for output in session.outputs()] == [[[4.0, 5.0]], [3.0]]
    with pytest.raises(AgentError, match="NoSuchProvider"):
        ort.load(path, LoadOptions(extra={"providers": ["NoSuchProvider"]}))


def test_onnx_runtime_leaves_the_costly_fact_to_probe_runs():
    session = engine("onnxruntime").load(str(DATA / "tiny.onnx"), LoadOptions())
    facts = session.facts(deep=False)
    assert facts["precision"] is None
    assert "probe" in facts["precision_reason"]


def test_openvino_runs_in_f32_and_fixes_the_batch():
    session = engine("openvino").load(str(DATA / "tiny_ov.xml"), LoadOptions(threads=1))
    facts = session.facts(deep=False)
    assert facts["precision_hint"] == "f32"
    assert facts["streams"] == 1
    assert facts["model_cache"] == "off"
    assert facts["reshaped_to_fixed"] is True
    assert session.tensors()[0][0].shape == (1, 1, 8, 8)
    assert session.cpu_clock == "process"


def test_openvino_is_imported_without_its_converter_and_leaves_it_importable():
    code = (
        "import sys, harness.agent.engines.openvino as ours\n"
        "ours.create()\n"
        "assert not [name for name in sys.modules if name.startswith(('openvino.tools', 'openvino_telemetry'))]\n"
        "import openvino.tools.ovc"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_more_threads_need_the_process_clock():
    for name, file in (("litert", "tiny_fp32.tflite"), ("onnxruntime", "tiny.onnx")):
        loaded = engine(name)
        assert loaded.load(str(DATA / file), LoadOptions()).cpu_clock == "thread"
        session = loaded.load(str(DATA / file), LoadOptions(threads=2))
        assert session.cpu_clock == "process"
        assert session.facts(deep=False)["threads"] == 2


def test_a_wide_batch_is_kept_as_the_artifact_has_it():
    session = engine("onnxruntime").load(str(DATA / "tiny.onnx"), LoadOptions(shapes=lambda _: ((4, 1, 8, 8),)))
    session.bind([inputs.aligned(IMAGES.transpose(TO_NCHW))])
    session.invoke()
    assert np.abs(session.outputs()[0] - expected()).max() < 1e-5


def test_unknown_engines_are_refused():
    with pytest.raises(AgentError, match="unknown engine") as error:
        open_engine("coreml")
    assert error.value.kind == "job"


def test_tensor_types_of_litert_carry_their_quantization():
    session = engine("litert").load(str(DATA / "tiny_int8.tflite"), LoadOptions())
    (tensor,), (out,) = session.tensors()
    assert isinstance(tensor, Tensor)
    assert (tensor.dtype, out.dtype) == ("int8", "int8")
    assert tensor.scale[0] == pytest.approx(1 / 255, rel=0.02)
    assert tensor.zero_point == (-128,)


def test_an_old_device_may_have_only_tflite_runtime(monkeypatch):
    for name in ("ai_edge_litert", "ai_edge_litert.interpreter", "tflite_runtime", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(AgentError, match="neither") as error:
        open_engine("litert")
    assert error.value.kind == "engine_missing"
    assert "ondevice-harness[litert]" in error.value.remedy

    package, module = types.ModuleType("tflite_runtime"), types.ModuleType("tflite_runtime.interpreter")
    package.__path__, package.__version__ = [], "2.14.0"
    monkeypatch.setitem(sys.modules, "tflite_runtime", package)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", module)
    with pytest.raises(AgentError, match="built for numpy 1"):
        open_engine("litert")
    monkeypatch.setattr(np, "__version__", "1.26.4")
    assert open_engine("litert").version == "2.14.0"
