"""What real Slurm and submitit do, that the launcher is built on: each fact as a small experiment on the tests' cluster."""

from __future__ import annotations

import pytest
from slurm.cluster import NODES, Cluster

pytestmark = pytest.mark.slurm


def test_every_node_runs_a_job(cluster: Cluster) -> None:
    said = cluster.run("srun", "--nodes=4", "printenv", "SLURMD_NODENAME")
    assert sorted(said.split()) == sorted(NODES)
