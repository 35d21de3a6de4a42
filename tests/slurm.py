"""A real Slurm of two nodes on loopback, for tests: without systemd and munge, stopped by the pids of its processes."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.clusters import free_port

NODES = ("n1", "n2")
PATIENCE = 240.0  # seconds

# What a site would not have: no authentication, both nodes on one machine, GPUs that are none, and short times. A job
# that is requeued waits until its credentials have expired.
_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
AuthType=auth/none
AuthInfo=cred_expire=15
CredType=cred/none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=15
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 DefMemPerCPU=1500
PartitionName=high Nodes=ALL PriorityTier=10 DefMemPerCPU=1500
"""
_NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=3 RealMemory=8000 Gres=gpu:2"
_UNFINISHED = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "NODE_FAIL", "PREEMPTED")


@dataclass
class Slurm:
    """A controller and the daemons of its nodes. folder: for their files, and where jobs are submitted."""

    folder: Path
    environment: dict[str, str]
    controller: subprocess.Popen[bytes] | None = None
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def call(self, *command: str, **variables: str) -> str:
        """Run a command of Slurm, or any other, as a user of the cluster would; gives what it prints."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment | variables, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, *options: str, **variables: str) -> str:
        """Submit a job; gives its number."""
        return self.call("sbatch", "--parsable", *options, **variables)

    def state(self, job: str) -> str:
        """Give the state of a job, such as PENDING or COMPLETED."""
        return self._facts(job)["JobState"]

    def wait_for_requeue(self, job: str) -> None:
        """Wait until a job is to be started again."""

        def requeued() -> bool:
            facts = self._facts(job)
            assert facts["JobState"] in _UNFINISHED, f"{facts['JobState']}\n{self.output()}"
            return int(facts["Restarts"]) > 0

        self.wait_until(requeued, f"job {job} is not requeued")

    def _facts(self, job: str) -> dict[str, str]:
        words = self.call("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job: str, *states: str) -> None:
        """Wait until a job is in one of these states."""

        def reached() -> bool:
            state = self.state(job)
            assert state in {*states, *_UNFINISHED}, f"{state}\n{self.output()}"
            return state in states

        self.wait_until(reached, f"job {job} is not {states}")

    def wait_until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline, f"{what}; {self.call('scontrol', 'show', 'job')}\n{self.output()}"
            time.sleep(0.5)

    def cancel_all(self) -> None:
        """Cancel all jobs, and wait until their processes have ended."""
        self.call("scancel", "--user", getpass.getuser())
        self.wait_until(lambda: self.call("squeue", "--noheader") == "", "jobs are left")

    def output(self) -> str:
        """What jobs have printed."""
        return "\n".join(
            f"{file.name}:\n{file.read_text()[-4000:]}" for file in sorted(self.folder.glob("slurm-*.out"))
        )

    def start_node(self, name: str) -> None:
        with (self.folder / f"slurmd-{name}.out").open("ab") as output:
            self.nodes[name] = subprocess.Popen(
                ["slurmd", "-D", "-N", name], stdout=output, stderr=output, env=self.environment, cwd=self.folder
            )

    def lose_node(self, name: str) -> None:
        """Kill all processes of a node at once, as a machine does that loses its power."""
        self.nodes[name].kill()
        self.nodes[name].wait()
        lost = self.processes(name)
        for process in lost:  # none of them sees another one die
            process.suspend()
        for process in lost:
            process.kill()

    def processes(self, node: str | None = None) -> list[psutil.Process]:
        """Find the processes of jobs, and those of Slurm that watch them, by what Slurm puts into their environment."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                variables = process.environ()
                name = variables.get("SLURMD_NODENAME")
                if variables.get("SLURM_CONF") != self.environment["SLURM_CONF"] or name is None:
                    continue
                if node in (None, name):
                    found[process.pid] = process
                    parent = process.parent()
                    if parent is not None and parent.name() == "slurmstepd":
                        found[parent.pid] = parent
        return list(found.values())


@contextmanager
def start(folder: Path) -> Iterator[Slurm]:
    """Run a Slurm; skips the test where it is not installed."""
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "openssl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {missing[0]} here: apt-get install --no-install-recommends slurm-wlm openssl, as root")
    (folder / "state").mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    nodes = [_NODE.format(name=name, host=host, port=free_port()) for name in NODES]
    configuration = folder / "slurm.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            host=host, user=getpass.getuser(), controller=free_port(), folder=folder, nodes="\n".join(nodes)
        )
    )
    devices = [f"NodeName={','.join(NODES)} Name=gpu File={device}" for device in ("/dev/null", "/dev/zero")]
    (folder / "gres.conf").write_text("\n".join((*devices, "")))
    for name in NODES:
        (folder / "spool" / name).mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    environment |= {
        "SLURM_CONF": str(configuration),
        # where this Python's commands are; Debian keeps the daemons in /usr/sbin
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin")),
        "SPENDER_INTERFACE": "lo",
        "SPENDER_DEVICE": "cpu",  # the GPUs are none
    }
    slurm = Slurm(folder, environment)
    try:
        with (folder / "slurmctld.out").open("wb") as output:
            slurm.controller = subprocess.Popen(
                ["slurmctld", "-D"], stdout=output, stderr=output, env=environment, cwd=folder
            )
        slurm.wait_until(lambda: _answers(slurm), "the controller does not answer")
        for name in NODES:
            slurm.start_node(name)
        slurm.wait_until(lambda: _idle(slurm) == len(NODES), "the nodes are not idle")
        yield slurm
    finally:
        _stop(slurm)


def _answers(slurm: Slurm) -> bool:
    ping = subprocess.run(["scontrol", "ping"], env=slurm.environment, capture_output=True, text=True)
    return "is UP" in ping.stdout


def _idle(slurm: Slurm) -> int:
    return int(slurm.call("sinfo", "--noheader", "--partition", "low", "--states", "idle", "--format", "%D") or 0)


def _stop(slurm: Slurm) -> None:
    for daemon in (*slurm.nodes.values(), slurm.controller):
        if daemon is not None:
            daemon.kill()
            daemon.wait()
    for process in slurm.processes():
        with suppress(psutil.NoSuchProcess):
            process.kill()
