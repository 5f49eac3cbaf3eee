"""Settings of a config's runs on Kubeflow Pipelines; `mixrank compile` reads them, a local run does not."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import Field, field_validator

from mixrank.schemas.naming import Declaration
from mixrank.schemas.safe_text import shown


class TrainerResources(Declaration):
    """Resources that the Trainer's pod requests; the other steps request none.

    Args:
        gpus: int >= 0. GPUs of one pod; training runs under MirroredStrategy over all of them.
        accelerator: the cluster's name for one GPU, such as nvidia.com/gpu or nvidia.com/mig-1g.10gb.
        cpus: cores such as "4" or "500m", or None.
        memory: such as "16Gi", or None.
        node_selector: labels of the nodes it may run on, besides those for all steps.
    """

    gpus: int = Field(default=0, ge=0)
    accelerator: str = "nvidia.com/gpu"
    cpus: str | None = Field(default=None, pattern=r"^\d+(\.\d+)?$|^\d+m$")
    memory: str | None = Field(default=None, pattern=r"^\d+(\.\d+)?([KMGTPE]i?)?$")
    node_selector: dict[str, str] = {}


class KubeflowSettings(Declaration):
    """One pipeline on a cluster.

    Args:
        image: image of every step; `mixrank:VERSION-COMMIT` of the code that compiles if None.
        pipeline_root: where the cluster keeps artifacts: minio://, s3:// or gs:// and a bucket.
        volume: PersistentVolumeClaim that every step mounts: raw files, pushed versions, states of a training.
        mount: absolute path at which it is mounted.
        data: folder with the raw files, below `mount` if relative, or at s3://, gs:// or hdfs://; `data/DATASET` if
            None.
        trainer: what the Trainer's pod asks for.
        node_selector: labels of the nodes that steps may run on.
        secrets: environment variable of every step -> `SECRET/KEY`, a key of a Kubernetes Secret.
        run_as_user: int >= 1 or None. User and group of every step, enforced; None leaves it to the image, whose user
            is 1000. Kubeflow Pipelines before 2.16 refuses a pipeline that asks for it.
        retries: int >= 0. How often a failed step is tried again.
        caching: whether a step with the same inputs is answered by an earlier run. The two steps that read what may
            have changed under the same name, ExampleGen and LastPushed, always run.
        frozen_data: whether the raw files never change under one path, so that ExampleGen may be answered too.
    """

    image: str | None = None
    pipeline_root: str = Field(default="minio://mlpipeline/v2/artifacts", pattern=r"^(minio|s3|gs)://[^/]+")
    volume: str = Field(default="mixrank", pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
    mount: str = "/mixrank"
    data: str | None = None
    trainer: TrainerResources = TrainerResources()
    node_selector: dict[str, str] = {}
    secrets: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")],
        Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9._-]+$")],
    ] = {}
    run_as_user: int | None = Field(default=None, ge=1)
    retries: int = Field(default=2, ge=0)
    caching: bool = True
    frozen_data: bool = False

    @field_validator("mount")
    @classmethod
    def _check_mount(cls, mount: str) -> str:
        path = PurePosixPath(mount)
        if not path.is_absolute() or path == PurePosixPath("/"):
            raise ValueError(f"`mount` must be an absolute path below /, received {shown(mount)}")
        return mount
