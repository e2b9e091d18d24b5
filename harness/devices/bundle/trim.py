"""What a bundle leaves out of its packages, as data, each with the reason. Nothing the agent loads is here; the tests prove it.

Used by `assemble`. Patterns match a file's path below `site` (wheels) or below Python's own library folder (`STDLIB`).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

# Nothing of these can be used without a screen, a terminal, a network of other services, or the packages' own sources.
STDLIB = (
    *("test/*", "*/test/*", "*/tests/*", "unittest/*", "doctest.*", "idlelib/*", "tkinter/*", "turtle*", "lib2to3/*"),
    *(
        "ensurepip/*",
        "venv/*",
        "distutils/*",
        "_distutils*",
        "pydoc*",
        "pydoc_data/*",
        "curses/*",
        "dbm/*",
        "sqlite3/*",
    ),
    *("config-*/*", "dist-packages/*", "site-packages/*", "sitecustomize.*", "__pycache__/*", "*/__pycache__/*"),
    *("xmlrpc/*", "wsgiref/*", "smtpd.*", "nntplib.*", "imaplib.*", "telnetlib.*", "mailbox.*", "cgi*", "webbrowser.*"),
    *("antigravity.*", "this.*", "__phello__/*", "__hello__.*", "EXTERNALLY-MANAGED", "LICENSE.txt", "zoneinfo/*"),
    # Sound, other systems' calls, tests of the interpreter, and the codecs of East Asian scripts.
    *("lib-dynload/_test*", "lib-dynload/_xx*", "lib-dynload/xx*", "lib-dynload/ossaudiodev*", "lib-dynload/audioop*"),
    *("lib-dynload/_codecs_*", "lib-dynload/_multibytecodec*", "lib-dynload/_zoneinfo*", "lib-dynload/_ctypes_test*"),
)
# C and C++ interfaces, typing stubs, command-line entry points, lists of files: for who builds against a package.
EVERYWHERE = (
    *("*.pyi", "*.pxd", "*.h", "*.hpp", "*.a", "*.pc", "*.cmake", "*.typed", "*.cu", "*.npz", "*/__pycache__/*"),
    *("*.dist-info/RECORD", "*.dist-info/entry_points.txt", "*.dist-info/top_level.txt", "*.dist-info/WHEEL"),
    *("*.dist-info/licenses/*", "*.egg-info/*.txt", "*.dist-info/direct_url.json", "*.data/*"),
)
OF_PACKAGE: dict[str, tuple[str, ...]] = {
    "numpy": (
        *(
            "numpy/tests/*",
            "numpy/*/tests/*",
            "numpy/f2py/*",
            "numpy/distutils/*",
            "numpy/typing/mypy_plugin.*",
            "numpy/doc/*",
        ),
        *("numpy/_pyinstaller/*", "numpy/conftest.py"),
        # numpy 1 (in numpy/core) imports its _multiarray_tests when it starts: that one stays.
        *("numpy/_core/*_tests.cpython*", "numpy/core/_[orsu]*_tests.cpython*"),
        # A module of numpy's own tests only.
        *("numpy/core/_simd.*", "numpy/_core/_simd.*", "numpy/random/_examples/*", "numpy/random/lib/*"),
    ),
    "ai-edge-litert": (
        # The accelerator needs a GPU and is 17 MB; conversion, ahead-of-time compilation and tools run on a host.
        *(
            "ai_edge_litert/libLiteRtWebGpuAccelerator.so",
            "ai_edge_litert/aot/*",
            "ai_edge_litert/tools/*",
            "ai_edge_litert/vendors/*",
        ),
        *("ai_edge_litert/tflite/*", "ai_edge_litert/*_pb2.py", "ai_edge_litert/schema_py_generated.py"),
        *("ai_edge_litert/_pywrap_litert_converter.so", "ai_edge_litert/format_converter_wrapper_pybind11.so"),
        # The CompiledModel interface; the agent uses the Interpreter, which has its own library.
        *("ai_edge_litert/libLiteRt.so", "ai_edge_litert/*_litert_compiled_model_wrapper.so"),
    ),
    "tflite-runtime": (),
    "onnxruntime": (
        *("onnxruntime/transformers/*", "onnxruntime/quantization/*", "onnxruntime/tools/*", "onnxruntime/datasets/*"),
        # The same code is inside the Python module; this copy is for C++ programs.
        *("onnxruntime/backend/*", "onnxruntime/capi/libonnxruntime.so.*", "onnxruntime/ThirdPartyNotices.txt"),
        *("onnxruntime/LICENSE", "onnxruntime/Privacy.md"),
    ),
    "openvino": (
        # The agent loads OpenVINO's own format on the CPU: no other frontend, no GPU or NPU plugin, no converter.
        *(f"openvino/libs/libopenvino_{name}_frontend.so*" for name in ("onnx", "tensorflow", "tensorflow_lite")),
        *(f"openvino/libs/libopenvino_{name}_frontend.so*" for name in ("pytorch", "paddle", "gguf", "jax")),
        *(f"openvino/frontend/{name}/*" for name in ("onnx", "tensorflow", "pytorch", "paddle", "jax")),
        *("openvino/libs/libopenvino_intel_gpu_plugin.so", "openvino/libs/libopenvino_intel_npu*"),
        *("openvino/libs/libopenvino_c.so*", "openvino/libs/libtbbmalloc_proxy.so*", "openvino/libs/pkgconfig/*"),
        *("openvino/libs/libopenvino_auto_batch_plugin.so", "openvino/libs/cache.json", "openvino/libs/*.elf"),
        *("openvino/include/*", "openvino/cmake/*", "openvino/tools/*", "openvino/torch/*", "openvino/_pyopenvino/*"),
    ),
}
# Libraries of the distribution's own packages that serve no program of ours.
LIBRARIES = re.compile(
    r"lib(BrokenLocale|anl|c_malloc_debug|memusage|pcprofile|thread_db|nsl|nss_(compat|hesiod)|SegFault|gomp|atomic|itm)\b"
)


def left_out(path: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches a relative path; `*` also stands for slashes."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def patterns_of(package: str) -> Sequence[str]:
    """What is left out of a package in `site`."""
    return (*EVERYWHERE, *OF_PACKAGE.get(package.removeprefix("python3-"), ()))
