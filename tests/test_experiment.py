from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import SpecError
from harness.experiment import load_experiment
from harness.profiles import load_profile, profile_names
from harness.yamlfile import read_yaml


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str, name: str = "experiment.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def problem(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        load_experiment(path)
    return str(caught.value)


def test_a_whole_experiment(write, tmp_path: Path) -> None:
    write("extends: generic-ssh\nhost: pi.example\nidentity_file: keys/id\n", "pi.yaml")
    loaded = load_experiment(
        write(
            "name: mine\nbase: m.keras\ndata: {path: d.npz, limit: 100, preprocessing: {scale: 0.5}}\n"
            "recipes: [fp32, {format: onnx, mode: static}]\ndevices: [local, ./pi.yaml, {extends: generic-ssh, name: b, host: h}]\n"
            "protocol: {preset: quick, runs: 8}\nconstraints: {max_latency_p90: 2ms, max_size: 500kB, max_drop: 0.5}\n"
        )
    )
    assert [device.name for device in loaded.devices] == ["local", "pi", "b"]
    assert loaded.devices[1].identity_file == str(tmp_path / "keys" / "id")
    protocol = loaded.experiment.protocol.build()
    assert (protocol.runs, protocol.max_runs, protocol.run_s) == (8, 8, 0.05)
    assert loaded.experiment.constraints.max_latency_p90 == 2e6
    assert loaded.experiment.constraints.max_size == 500_000
    assert loaded.resolve("m.keras") == tmp_path / "m.keras"


def test_unknown_key_names_file_line_and_the_right_key(write) -> None:
    message = problem(write("base: m.keras\nrecipies: all\n"))
    assert "experiment.yaml:2: unknown key 'recipies' — did you mean 'recipes'?" in message


def test_unknown_nested_key(write) -> None:
    message = problem(write("base: m.keras\nconstraints:\n  max_size: 1MB\n  max_latencyp90: 2ms\n"))
    assert "experiment.yaml:4: unknown key 'constraints.max_latencyp90' — did you mean 'max_latency_p90'?" in message


def test_every_problem_is_told_at_once(write) -> None:
    assert problem(write("base: m.keras\nthreds: 2\nseed: -1\n")).count("\n") == 1


def test_a_limit_without_unit_says_how_to_write_it(write) -> None:
    message = problem(write("base: m.keras\nconstraints:\n  max_latency: 2\n"))
    assert ":3: constraints.max_latency: '2' has no unit of time; write it like 2ms" in message


def test_nothing_to_measure(write) -> None:
    assert "give a 'base' model to convert, or 'artifacts' to measure" in problem(write("name: x\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: [unclosed\n", "not valid YAML"),
        ("", "the file is empty"),
        ("- a\n- b\n", "expected keys and values"),
        ("base: m\nbase: n\n", "key 'base' is given twice"),
        ("base: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("1: x\n", "key 1 is not text"),
    ],
)
def test_broken_files(write, text: str, said: str) -> None:
    # A tag on a sequence never reaches a constructor here: sequences and mappings are built as plain data.
    path = write(text)
    if "!!python" in text:
        path.write_text("base: !!python/name:os.system ''\n", encoding="utf-8")
    assert said in problem(path)


def test_alias_bombs_are_refused(write) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(SpecError, match="too large once its aliases are expanded"):
        read_yaml(write("\n".join(lines)))


def test_missing_file_suggests_its_neighbour(write, tmp_path: Path) -> None:
    write("base: m\n", "experiment.yaml")
    with pytest.raises(SpecError) as caught:
        load_experiment(tmp_path / "experimnt.yaml")
    assert "no such file" in str(caught.value)
    assert "did you mean" in str(caught.value)


def test_shipped_profiles_are_found_and_valid() -> None:
    assert {"local", "generic-ssh"} <= set(profile_names())
    assert load_profile("local").transport == "local"


def test_unknown_profile_is_suggested() -> None:
    with pytest.raises(SpecError, match=r"no device profile is called 'locl' — did you mean 'local'\?"):
        load_profile("locl")


def test_ssh_url() -> None:
    profile = load_profile("ssh://me@[::1]:2222")
    assert (profile.host, profile.port, profile.user) == ("::1", 2222, "me")


def test_generic_ssh_alone_asks_for_a_host() -> None:
    with pytest.raises(SpecError, match="needs 'host'"):
        load_profile("generic-ssh")


def test_profile_circle(write, tmp_path: Path) -> None:
    write("extends: ./a.yaml\n", "a.yaml")
    with pytest.raises(SpecError, match="in a circle"):
        load_profile(str(tmp_path / "a.yaml"))


def test_two_devices_of_one_name(write) -> None:
    assert "two devices are called 'local'" in problem(write("base: m\ndevices: [local, local]\n"))


def test_a_budget_is_the_end_unless_runs_are_counted(write) -> None:
    def built(text: str) -> tuple[float | None, int, int, str]:
        protocol = load_experiment(write(f"base: m.keras\nprotocol: {{{text}}}\n")).experiment.protocol.build()
        return protocol.budget_s, protocol.runs, protocol.max_runs, protocol.stop_on

    assert built("preset: quick") == (None, 6, 6, "verdict")
    assert built("preset: quick, budget: 10m") == (600.0, 6, 48, "verdict")
    assert built("budget: 90s, max_runs: 9, stop_on: both") == (90.0, 6, 9, "both")
    assert built("budget_s: 30") == (30.0, 6, 48, "estimate")
    assert "budget and budget_s" in problem(write("base: m.keras\nprotocol: {budget: 1m, budget_s: 60}\n"))
    assert "stop_on" in problem(write("base: m.keras\nprotocol: {stop_on: p-value}\n"))
