"""`harness convert`: a base model by recipes into variant folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import EXIT_OK, EXIT_PARTIAL, JsonOption, emit_json, guarded

DEFAULT_JOBS = 2


@guarded
def convert(
    model: Annotated[Path, typer.Argument(help="Base model: .keras, .h5 or a SavedModel folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the variants, one folder each.")],
    data: Annotated[
        Path | None, typer.Option(help="Labelled data, .npz or a folder of images by class: calibration and agreement.")
    ] = None,
    recipes: Annotated[
        list[str] | None,
        typer.Option(
            "--recipes",
            "--recipe",
            help="all (the default), names, format:name (comma-separated), a chain such as "
            "'prune(0.5) > cluster(16) > static_wi8_ai8 @ tflite', or a .yaml file with parameters; repeatable. "
            "`harness recipes` lists what there is.",
        ),
    ] = None,
    scale: Annotated[float, typer.Option(help="Preprocessing: data is multiplied by this first.")] = 1.0,
    mean: Annotated[
        str, typer.Option(help="Preprocessing: then subtracted; one number, or one per channel: a,b,c.")
    ] = "",
    std: Annotated[str, typer.Option(help="Preprocessing: then divided by; one number, or one per channel.")] = "",
    layout: Annotated[str | None, typer.Option(help="NHWC or NCHW: how images are stored in the data.")] = None,
    resize: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH to resize images to.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only that many test rows.")] = None,
    calibration_size: Annotated[int, typer.Option(min=1, help="Rows for calibration; never test rows.")] = 200,
    training_limit: Annotated[
        int | None, typer.Option(min=2, help="Let compression steps train on only that many training rows.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the base in variant names (default: the file's).")] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Workers (toolchains, compression steps) at work at once.")
    ] = DEFAULT_JOBS,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=1, help="Time limit of one variant, seconds.")] = 900,
    train_timeout: Annotated[
        str, typer.Option("--train-timeout", help="Time limit of one compression step, e.g. 90s or 2h.")
    ] = "1h",
    precision_policy: Annotated[
        str | None, typer.Option(help="Keras's dtype policy while steps train, e.g. mixed_bfloat16.")
    ] = None,
    memory_limit: Annotated[str | None, typer.Option(help="Memory limit of one toolchain, e.g. 8GiB.")] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Reuse conversions by content.")] = True,
    cache_folder: Annotated[
        Path | None, typer.Option(envvar="HARNESS_CACHE", help="Where conversions are cached.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data selection, calibration and random input.")] = 0,
    json_: JsonOption = False,
) -> None:
    """Make compressed TFLite, ONNX and OpenVINO variants of a base model, each checked against the base."""
    from harness.cli import conversion, show
    from harness.experiment import ConversionSpec, DataSpec, TrainingSpec
    from harness.yamlfile import validate

    where = Path("command line")
    wanted = conversion.read_recipes(recipes or ["all"])
    trained = {"timeout": train_timeout, "precision_policy": precision_policy, "limit": training_limit}
    training = validate(TrainingSpec, trained, where)
    limits = validate(ConversionSpec, {"jobs": jobs, "timeout_s": timeout_s, "memory_limit": memory_limit}, where)
    preprocessing = {"scale": scale, "mean": _numbers(mean, "--mean"), "std": _numbers(std, "--std")}
    preprocessing |= {"layout": layout, "resize": _size(resize)}
    entries = {"preprocessing": preprocessing, "limit": limit, "calibration_size": calibration_size}
    dataset = None
    if data is not None:
        dataset = conversion.read_data(
            validate(DataSpec, {"path": str(data), **entries}, where),
            data,
            seed=seed,
            training=any(recipe.steps for recipe in wanted),
            training_limit=training.limit,
        )
    report = conversion.convert_base(
        model,
        wanted,
        out,
        dataset=dataset,
        limits=conversion.ConversionLimits(
            jobs=limits.jobs,
            timeout_s=limits.timeout_s,
            memory_limit_bytes=limits.memory_limit,
            cache=cache_folder,
            use_cache=cache,
            train_timeout_s=training.timeout,
            precision_policy=training.precision_policy,
        ),
        seed=seed,
        name=name,
        quiet=json_,
    )
    rows = show.conversion_rows(report)
    if json_:
        emit_json(rows)
    else:
        show.conversion_table(rows, out)
    raise typer.Exit(EXIT_PARTIAL if any(row["status"] == "failed" for row in rows) else EXIT_OK)


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter("numbers separated by commas, like 0.485,0.456,0.406", param_hint=option) from None


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):  # noqa: PLR2004
        raise typer.BadParameter("write it like 96x96", param_hint="--resize")
    return int(parts[0]), int(parts[1])
