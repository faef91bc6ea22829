"""A connection to a Ray cluster, and what a task may ask of its nodes.

Ray itself is imported here, when it is asked for. What it has to say of its own (logs of workers,
of nodes that come and go) stays in its log files: what matters of it, `schedule` says.
"""

import contextlib
import io
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ferkd_pipeline.params import Params
from stages.shared.stopping import Terminated
from store.errors import FerkdError, ParamsError, RetryError

INSTALL = "pip install 'ferkd-pipeline[ray]'"
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anybody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else a warning about a change of this default
    "RAY_DEDUP_LOGS": "0",  # read when ray is imported: its own threads would flush what it held
}
_ANSWER_SECONDS = 10.0
_STORE_BYTES = 80_000_000
"""Of the shared memory of a cluster started here: nothing large is sent between tasks."""


def load() -> ModuleType:
    """Import Ray.

    Raises:
        ParamsError: it is not installed; says how.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
        import ray.util.scheduling_strategies  # not imported with ray
    except ImportError as error:
        raise ParamsError(f"--executor ray: Ray is not installed ({error}): {INSTALL}") from None
    return ray


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[ModuleType]:
    """Connect to the cluster at ``address``, by default that of ``RAY_ADDRESS``.

    Else to one that `ray start` started on this machine. Where there is none either, one is started
    here, and stopped at the end.

    Raises:
        ParamsError: Ray is not installed, or this is no address.
        RetryError: no cluster answers there.
        FerkdError: the one of this machine did not start.
    """
    ray = load()
    wanted = address or os.environ.get("RAY_ADDRESS") or _started_here() or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if wanted == "local":
        options |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    elif wanted != "auto" and not _answers(wanted):
        raise RetryError(f"no Ray cluster answers at {wanted}; is it up, and the address right?")
    with contextlib.redirect_stdout(io.StringIO()):  # where Ray tells of lost workers and nodes
        try:
            with _own_signals():
                ray.init(address=wanted, **options)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            kind = FerkdError if wanted == "local" else RetryError
            raise kind(f"no connection to a Ray cluster ({wanted}): {first}") from error
        try:
            yield ray
        finally:
            with contextlib.suppress(Exception):
                ray.shutdown()


def _started_here() -> str | None:
    """Address of the cluster that `ray start` started last on this machine, if it is still up."""
    noted = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    try:
        address = noted.read_text().strip()
    except OSError:
        return None
    return address if _answers(address) else None


def _answers(address: str) -> bool:
    """Whether anything listens at ``host:port`` or ``ray://host:port``: Ray would wait long.

    Raises:
        ParamsError: it is no such address.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ParamsError(
            f"{address} is no address of a Ray cluster: allowed are HOST:PORT (6379 where `ray "
            "start` was given no other), ray://HOST:PORT, auto, local"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError):
        return False
    return True


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what this process does on Ctrl-C and SIGTERM: Ray sets handlers of its own."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hook, stopped = sys.excepthook, False
    try:
        yield
    except SystemExit:  # as Ray answers SIGTERM
        stopped = True
    finally:
        sys.excepthook = hook
        if threading.current_thread() is threading.main_thread():  # in others, Ray sets none
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if stopped:
        signal.raise_signal(signal.SIGTERM)
        raise Terminated  # nobody here heeds it


def task_options(
    params: Params, name: str, nodes: Sequence[Mapping[str, Any]], cpus: int | None
) -> dict[str, float]:
    """What a task of the stage asks of a node: ``num_cpus`` and ``num_gpus``.

    Stage infer takes a GPU where the cluster has any, unless params.yaml says cpu; its threads that
    decode take ``infer.num_workers`` CPUs, or as many as a node has for each GPU.

    Args:
        params: the parameters.
        name: of the stage.
        nodes: as `ray.nodes()` lists them.
        cpus: as the command line has it, or None.

    Raises:
        ParamsError: no node has what is asked for.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    config: Any = params.section(name)
    device = config.device if name == "infer" else "cpu"
    with_gpus = [node for node in alive if node.get("GPU", 0) >= 1]
    if device == "cuda" and not with_gpus:
        raise ParamsError("infer.device is cuda, but no node of the Ray cluster has a GPU")
    num_gpus = 1 if with_gpus and device != "cpu" else 0
    usable = with_gpus if num_gpus else alive
    each = [node.get("CPU", 0) / (node["GPU"] if num_gpus else 1) for node in usable]
    most = max((node.get("CPU", 0) for node in usable), default=0)
    if cpus is None:
        wanted = config.num_workers if name == "infer" else 1
        cpus = max(1, min(wanted, int(min(each) if num_gpus else most)))
    if cpus > most:
        kind = "with a GPU " if num_gpus else ""
        raise ParamsError(
            f"a task wants {cpus} CPUs, but the largest node {kind}of the Ray cluster has "
            f"{most:g}: choose fewer with --ray-cpus"
        )
    return {"num_cpus": cpus, "num_gpus": num_gpus}
