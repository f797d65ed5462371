"""The sections `cluster`, `faults` and `metrics`: what Ray gives, what may go wrong, who is told. Knows no Ray."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from star_batch.config.section import Section
from star_batch.job_file import read_yaml


class Cluster(Section):
    """What Ray gives the job.

    `address`: None joins the cluster of `RAY_ADDRESS`, as inside `ray job submit`, or else starts a local Ray.
    `actors`: engines, a number or `[min, max]`. `gpus_per_actor`: None means 1 on CUDA and 0 on CPU; below 1, engines
    share a GPU and each takes that part of its memory.
    `gpu_wait_seconds`: how long a job that asks for GPUs waits until a cluster's autoscaler has brought the first.
    `runtime_env`: what a cluster that is joined sets up for the job's processes, in Ray's words (`env_vars`, `uv`,
    `working_dir`), or a YAML file of it; values of `env_vars` are never shown.
    `windows`: calls that feed one engine at the same time, of `rows_per_window` rows each.
    """

    address: str | None = None
    actors: int | tuple[int, int] = 1
    gpus_per_actor: float | None = Field(default=None, ge=0.0)
    gpu_wait_seconds: float = Field(default=900.0, ge=0.0)
    runtime_env: dict[str, Any] | str | None = Field(default=None, repr=False)
    cpus_per_actor: float = Field(default=1.0, ge=0.0)
    threads_per_actor: int | None = Field(default=None, ge=1)
    windows: int = Field(default=4, ge=1)
    rows_per_window: int = Field(default=64, ge=1)

    @field_validator("actors")
    @classmethod
    def _actors(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        low, high = (value, value) if isinstance(value, int) else value
        if not 1 <= low <= high:
            raise ValueError("give 1 or more actors, or [min, max] with 1 <= min <= max")
        return value

    @field_validator("gpus_per_actor")
    @classmethod
    def _share_or_whole(cls, value: float | None) -> float | None:
        if value is not None and value > 1.0 and value != int(value):
            raise ValueError("give a share below 1.0 (0.5: two engines on each GPU), or whole GPUs")
        return value

    @field_validator("runtime_env")
    @classmethod
    def _read_runtime_env(cls, value: dict[str, Any] | str | None) -> dict[str, Any] | None:
        env = (
            read_yaml(Path(value), "expected what Ray knows, such as env_vars: or uv:")
            if isinstance(value, str)
            else value
        )
        variables = (env or {}).get("env_vars") or {}
        if not isinstance(variables, dict):
            raise ValueError("env_vars: expected names with values")
        for name, given in variables.items():
            if not isinstance(given, str):
                raise ValueError(f"env_vars.{name}: expected text (put it in quotes)")
        return env

    @property
    def environment(self) -> dict[str, Any] | None:
        """`runtime_env` as Ray takes it."""
        return self.runtime_env if isinstance(self.runtime_env, dict) else None

    @property
    def actor_range(self) -> tuple[int, int]:
        return (self.actors, self.actors) if isinstance(self.actors, int) else self.actors


class Faults(Section):
    """How much may go wrong before something gives up.

    `max_failed`: rows that may fail, a number or a share (0.05) of the rows, before the job stops; None is no limit.
    `max_attempts`: a row whose process died so often with it alone becomes an error row.
    `max_deaths_in_a_row`: an engine that dies so often with no row finished in between stops the job.
    `hang_seconds`: an engine that has rows and finishes no step for so long is started anew.
    """

    max_failed: int | float | None = Field(default=None, ge=0)
    max_attempts: int = Field(default=2, ge=1)
    max_deaths_in_a_row: int = Field(default=20, ge=1)
    hang_seconds: float = Field(default=600.0, gt=0.0)

    @field_validator("max_failed")
    @classmethod
    def _number_or_share(cls, value: int | float | None) -> int | float | None:
        if isinstance(value, float) and value >= 1.0:
            raise ValueError("give a number of rows (100) or a share below 1.0 (0.05)")
        return value


class Metrics(Section):
    """What Prometheus gets from the driver. Each engine is exported by Ray, whatever stands here.

    `port`: while the job runs, its metrics are at `http://HOST:PORT/metrics`; 0 is nowhere. `host`: 0.0.0.0 lets
    other machines ask.
    `pushgateway`: where the numbers of the end go, under the name `job`. A user and a password in the URL are
    used and never shown.
    """

    port: int = Field(default=0, ge=0, le=65535)
    host: str = Field(default="127.0.0.1", min_length=1)
    pushgateway: str | None = Field(default=None, repr=False)
    job: str = Field(default="star_batch", min_length=1)

    @field_validator("pushgateway")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        # What is given may hold a password, so it is not quoted.
        try:
            url = urlsplit(value or "http://nowhere")
            is_usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            is_usable = False
        if not is_usable:
            raise ValueError("give a URL such as http://pushgateway:9091")
        return value
