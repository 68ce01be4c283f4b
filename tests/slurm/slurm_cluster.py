"""A real Slurm on this machine: its own daemons in a folder of their own, two nodes, any user.

Both nodes are this machine under the names 127.0.0.1 and 127.0.0.2, which resolve everywhere.
"""

import getpass
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.commands import free_port

NODES = ("127.0.0.1", "127.0.0.2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
# Daemons are installed where ordinary users do not look.
SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

# cred_expire: a requeued job waits this long; 5 is the least that Slurm takes.
# MinJobAge: finished jobs can be asked for as long as the tests run.
CONFIGURATION = """\
ClusterName=box
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={base}/run/munge.sock,cred_expire=5
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool/%n
SlurmctldPidFile={base}/run/slurmctld.pid
SlurmdPidFile={base}/run/slurmd-%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd-%n.log
PlugStackConfig={base}/etc/plugstack.conf
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
InactiveLimit=0
KillWait=5
MinJobAge=86400
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=100000,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{preemption}
NodeName={nodes[0]} NodeHostname={host} NodeAddr={nodes[0]} Port={ports[0]} CPUs=4 RealMemory=4000
NodeName={nodes[1]} NodeHostname={host} NodeAddr={nodes[1]} Port={ports[1]} CPUs=4 RealMemory=4000
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=20 PreemptMode=OFF
"""


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]


def wait_for(what: str, look: Callable[[], object], timeout: float, every: float = 0.1) -> object:
    """Look until it gives something true; returns that."""
    end = time.monotonic() + timeout
    while not (found := look()):
        assert time.monotonic() < end, f"{what}: not within {timeout} s"
        time.sleep(every)
    return found


class SlurmCluster:
    """Commands to a running cluster."""

    def __init__(self, base: Path):
        self.base = base
        self.env = {
            "SLURM_CONF": str(base / "etc" / "slurm.conf"),
            "PATH": SEARCH_PATH,
        }

    def call(self, *command: str, within: float = 60) -> str:
        """What a command of Slurm prints; it must work."""
        result = subprocess.run(
            [str(word) for word in command],
            env={**os.environ, **self.env}, capture_output=True, text=True, timeout=within,
        )  # fmt: skip
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def facts(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job: JobState, Restarts, NodeList, ..."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: str) -> str:
        return self.facts(job)["JobState"]

    def restarts(self, job: str) -> int:
        return int(self.facts(job)["Restarts"])

    def wait_until_over(self, job: str, timeout: float = 240) -> str:
        """The state a job ends in, once none of its processes is left."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")

        def look() -> str | None:
            state = self.state(job)
            return state if state in over else None

        return wait_for(f"end of job {job}", look, timeout, every=0.5)


@contextmanager
def running_cluster(base: Path, user_signal: bool = True) -> Iterator[SlurmCluster]:
    """Start munged, slurmctld and two slurmd in `base`; stop all, whatever happens.

    Args:
        user_signal: a preempted job gets the signal of its --signal; if False, SIGTERM.
    """
    cluster = SlurmCluster(base)
    _write_files(base, user_signal)
    daemons: list[subprocess.Popen] = []

    def start(*command: str) -> None:
        with (base / "log" / f"{len(daemons)}.out").open("w") as log:
            daemons.append(
                subprocess.Popen(
                    [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log,
                    stderr=log, env={**os.environ, **cluster.env},
                    start_new_session=True,  # Ctrl-C is for the tests: daemons stop in their order
                )
            )  # fmt: skip

    socket_file = base / "run" / "munge.sock"
    configuration = cluster.env["SLURM_CONF"]
    try:
        start(
            # --force: pytest's folders are closed to other users, who need no access here.
            _program("munged"), "--foreground", "--force", f"--key-file={base}/etc/munge.key",
            f"--socket={socket_file}", f"--pid-file={base}/run/munged.pid",
            f"--log-file={base}/log/munged.log", f"--seed-file={base}/run/munge.seed",
        )  # fmt: skip
        wait_for("munged", socket_file.exists, 20)
        start(_program("slurmctld"), "-D", "-f", configuration)
        for node in NODES:
            start(_program("slurmd"), "-D", "-N", node, "-f", configuration)
        wait_for("slurmctld", lambda: _answers(cluster), 60)
        wait_for("nodes", lambda: _idle_nodes(cluster) == len(NODES), 60)
        yield cluster
    finally:
        _end_jobs(cluster)
        for daemon in reversed(daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _write_files(base: Path, user_signal: bool) -> None:
    for name in ("etc", "run", "log", "state", "spool"):
        (base / name).mkdir(parents=True)
    ports = [free_port() for _ in range(3)]
    signals = "SlurmctldParameters=preempt_send_user_signal"
    (base / "etc" / "slurm.conf").write_text(
        CONFIGURATION.format(
            base=base, host=socket.gethostname().split(".")[0], user=getpass.getuser(),
            nodes=NODES, controller_port=ports[0], ports=ports[1:],
            preemption=signals if user_signal else "",
        )
    )  # fmt: skip
    (base / "etc" / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # asks for no cgroup
    (base / "etc" / "plugstack.conf").write_text("")
    key = base / "etc" / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(stat.S_IRUSR | stat.S_IWUSR)


def _program(name: str) -> str:
    return str(shutil.which(name, path=SEARCH_PATH))


def _answers(cluster: SlurmCluster) -> bool:
    try:
        return "UP" in cluster.call("scontrol", "ping")
    except AssertionError:
        return False


def _idle_nodes(cluster: SlurmCluster) -> int:
    states = cluster.call("sinfo", "--noheader", "--Node", "--partition", "debug", "--format", "%T")
    return states.split().count("idle")


def _end_jobs(cluster: SlurmCluster) -> None:
    """Jobs that are left would go on without the daemons."""
    try:
        for job in cluster.call("squeue", "--noheader", "--format", "%i").split():
            cluster.call("scancel", job)
        wait_for("end of all jobs", lambda: not cluster.call("squeue", "--noheader"), 30, every=0.5)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        print(f"the cluster is stopped with jobs in it: {error}")
