"""The same experiment on this host and over a real sshd on loopback: same answers bit for bit, same latency?

    python scripts/same_over_ssh.py --runs 20 --out results/fidelity

Starts an sshd of its own with keys of its own (as the tests do), measures the demo model in three formats on both
devices in one session, rounds interleaved, and writes the harness's own verdict: per variant, and overall.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from sshd import Sshd  # noqa: E402

from harness.cli.artifacts import base_inputs, collect, record  # noqa: E402
from harness.cli.conversion import ConversionLimits, convert_base, read_data, read_recipes  # noqa: E402
from harness.cli.session import Measurement, measure  # noqa: E402
from harness.compare import compare_devices, comparison_to_dict  # noqa: E402
from harness.experiment import load_experiment  # noqa: E402
from harness.plan import PRESETS  # noqa: E402
from harness.profiles import load_profile  # noqa: E402
from harness.session.reference import base_outputs_of, reference_of  # noqa: E402

RECIPES = (
    "tflite:fp32",
    "tflite:static_wi8_ai8",
    "onnx:fp32",
    "onnx:static_wi8_au8",
    "openvino:fp32",
    "openvino:static_wi8_ai8",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--run-s", type=float, default=0.5)
    parser.add_argument("--warmup-s", type=float, default=0.2)
    parser.add_argument("--cpu", type=int, help="pin the agent to this CPU, on both devices")
    parser.add_argument("--out", type=Path, default=Path("results/fidelity"))
    args = parser.parse_args()
    loaded = load_experiment(ROOT / "harness" / "demo" / "experiment.yaml")
    assert loaded.experiment.data is not None  # noqa: S101
    dataset = read_data(loaded.experiment.data, loaded.resolve(loaded.experiment.data.path))
    protocol = dataclasses.replace(
        PRESETS["standard"], runs=args.runs, max_runs=args.runs, run_s=args.run_s, warmup_s=args.warmup_s, probes=1
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = convert_base(
            loaded.resolve("model.keras"),
            read_recipes(RECIPES),
            folder / "variants",
            dataset=dataset,
            limits=ConversionLimits(),
            name="fashion",
        )
        variants = collect(row.folder for row in report.rows if row.folder is not None)
        dataset = dataset.matched_to(base_inputs(variants))
        (folder / "sshd").mkdir()
        server = Sshd(folder / "sshd")
        server.start()
        try:
            server.trust()
            affinity = None if args.cpu is None else (args.cpu,)
            remote = server.profile(python=sys.executable, affinity=affinity)
            here = load_profile("local").model_copy(update={"affinity": affinity})
            session = measure(
                Measurement(
                    name="same-over-ssh",
                    records=[record(variant) for variant in variants],
                    variants={variant.name: variant for variant in variants},
                    devices=[here, remote],
                    protocol=protocol,
                    inputs=dataset.inputs,
                    reference=reference_of(dataset, base_outputs_of(report.reference)),
                ),
                results=folder / "results",
                store_url=None,
                quiet=False,
            )
        finally:
            server.stop()
    table = compare_devices(session.data, remote.name, "local")
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "runs": args.runs,
        "run_s": args.run_s,
        "cpu": args.cpu,
        "rows": session.row_dicts(),
        **comparison_to_dict(table),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{found['date']}-same-over-ssh.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    for pair in table.pairs:
        c = pair.comparison
        print(pair.candidate.variant, "outputs identical:", pair.outputs_identical, c.verdict, c.ratio, [c.low, c.high])
        print("   accuracy", pair.candidate.accuracy, pair.reference.accuracy)
    print("overall", table.overall)
    print(path)


if __name__ == "__main__":
    main()
