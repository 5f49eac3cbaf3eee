"""`mixrank compile`: a config as a pipeline for Kubeflow Pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixrank.pipeline.commands.terminal import console, errors, guarded, needs


@guarded
@needs("pipeline")
def compile_(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped config.")],
    output: Annotated[
        Path | None, typer.Option(help="File to write; kubeflow/compiled/NAME.yaml if left out.", show_default=False)
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the file instead, for the image that it names.")
    ] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override, such as kubeflow.trainer.gpus=1; repeatable.")
    ] = None,
) -> None:
    """Write the pipeline of a config for Kubeflow Pipelines: a pipeline spec of schema 2.1, as YAML."""
    from mixrank.pipeline.config import load_config

    settings = load_config(config, overrides or [])
    output = output or Path("kubeflow/compiled") / f"{settings.name}.yaml"
    errors.print("loading TensorFlow and TFX ...", style="dim")
    from mixrank.pipeline.kubeflow import compile_pipeline, compiled, image_of

    if check:
        image = image_of(output)
        settings = load_config(config, [*(overrides or []), f"kubeflow.image={image}"])
        if output.read_text() != compiled(settings):
            options = "".join(f" --set {override}" for override in overrides or [])
            raise ValueError(
                f"{output} is not what {config} compiles to; refresh it: "
                f"mixrank compile {config} --output {output}{options} --set kubeflow.image={image}"
            )
        console.print(f"{output} is up to date", soft_wrap=True)
        return
    compile_pipeline(settings, output)
    image = image_of(output)
    console.print(f"wrote {output}, with image {image}", soft_wrap=True)
    console.print(
        f"next:\n  docker build -f kubeflow/Dockerfile --target cpu -t {image} .   # or --target gpu\n"
        f"  mixrank submit {config} --host http://localhost:8888 --spec {output}",
        soft_wrap=True,
        highlight=False,
    )
