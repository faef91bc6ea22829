"""A real Slurm of one node, from Debian's packages unpacked beside the Python of the tests.

Nothing is installed: the packages (4 MB) are fetched once, by apt-get. `Unavailable` says why there
is none: not Debian, not root, no network.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client")
CACHE = Path(sys.prefix) / "slurm"

_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=10
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
PluginDir={plugins}
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=node1 Default=YES State=UP
"""


class Unavailable(Exception):
    """There is no Slurm here; says why."""


@dataclass(frozen=True, slots=True)
class Slurm:
    """A cluster that is up."""

    programs: Path
    variables: dict[str, str]

    def run(self, program: str, *arguments: str, may_fail: bool = False) -> str:
        """Run one of its programs and return what it prints."""
        done = subprocess.run(
            [str(self.programs / program), *arguments],
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0 or may_fail, f"{program}: {done.stderr}"
        return done.stdout

    def end_jobs(self) -> None:
        """End what still runs: its processes would outlive the cluster."""
        self.run("scancel", "--user=root", may_fail=True)
        for _ in range(50):
            if not self.run("squeue", "--noheader", may_fail=True).strip():
                return
            time.sleep(0.2)

    def state(self, job: str) -> str:
        """State of a job or of a task of an array, such as COMPLETED."""
        found = re.search(r"JobState=(\w+)", self.run("scontrol", "show", "job", job))
        return found[1] if found else ""


@contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """Start a Slurm whose files lie in ``folder``.

    Raises:
        Unavailable: it cannot be had here.
    """
    if os.geteuid() != 0:
        raise Unavailable("slurmd needs root")
    root = fetched()
    plugins = next(root.glob("usr/lib/*/slurm-wlm"))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    text = _CONFIG.format(
        host=socket.gethostname(),
        folder=folder,
        plugins=plugins,
        controller_port=_free_port(),
        node_port=_free_port(),
    )
    (folder / "slurm.conf").write_text(text)
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # not used, but looked for
    variables = {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "LD_LIBRARY_PATH": f"{plugins}:{plugins.parent}",
        "PATH": f"{root / 'usr' / 'bin'}:{os.environ['PATH']}",
    }
    programs = root / "usr" / "sbin"
    daemons = [
        [str(programs / "slurmctld-wlm"), "-D"],
        [str(programs / "slurmd-wlm"), "-D", "-N", "node1", "-d", str(programs / "slurmstepd-wlm")],
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in daemons:
            with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
                environment = {**os.environ, **variables}
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        cluster = Slurm(root / "usr" / "bin", variables)
        try:
            yield cluster
        finally:
            cluster.end_jobs()
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


def fetched() -> Path:
    """The folder of the unpacked packages, fetched where it is not there.

    Raises:
        Unavailable: they cannot be fetched.
    """
    root = CACHE / "root"
    if root.is_dir():
        return root
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Unavailable("Slurm's packages are Debian's, and this is no Debian")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as partial:
        unpacked = Path(partial) / "root"
        for package in _download(Path(partial)):
            _run(["dpkg-deb", "-x", str(package), str(unpacked)], Path(partial))
        if not (unpacked / "usr" / "sbin" / "slurmctld-wlm").exists():
            raise Unavailable("this Debian's packages of Slurm hold other programs")
        with suppress(OSError):  # another process was faster
            unpacked.rename(root)
    return root


def _download(folder: Path) -> list[Path]:
    """Fetch Slurm and what it needs that is not installed."""
    quick = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10"]
    own = ["-o", f"Dir::State::Lists={folder}/lists"]
    try:
        listed = _run(["apt-get", "install", "-s", "--no-install-recommends", *PACKAGES], folder)
        options = quick
    except Unavailable:  # lists of packages were never fetched: into a folder of our own
        (folder / "lists" / "partial").mkdir(parents=True)
        options = quick + own
        _run(["apt-get", "update", *options], folder)
        asked = ["apt-get", "install", "-s", "--no-install-recommends", *options, *PACKAGES]
        listed = _run(asked, folder)
    names = re.findall(r"^Inst (\S+)", listed, re.MULTILINE)
    wanted = [name for name in names if name.startswith(("slurm", "lib"))]
    _run(["apt-get", "download", *options, *wanted], folder)
    return sorted(folder.glob("*.deb"))


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(command[:2])} does not end: no network?") from None
    if done.returncode:
        last = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise Unavailable(f"{' '.join(command[:2])}: {last}")
    return done.stdout
