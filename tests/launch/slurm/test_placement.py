"""Placement files: the most specific table wins, and errors are reported by dotted path before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders.fake_execute import fake_stage
from builders.places import REPOSITORY

from midstudy.launch.slurm.placement_file import Jobs, PlacementFile, read_placement_file
from midstudy.recipe.shape import SHAPE_NAMES
from midstudy.recipe.stage import ROLES, Stage
from midstudy.train.placement import Placement

EXAMPLE = REPOSITORY / "midstudy/launch/slurm/placement.toml"


def read(tmp_path: Path, text: str) -> PlacementFile:
    path = tmp_path / "placement.toml"
    path.write_text(text)
    return read_placement_file(path)


def stage(role: str, model: str = "") -> Stage:
    return fake_stage(f"{role} {model}", role=role, model=model)


def test_the_most_specific_table_wins(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        """
        [default]
        partition = "a"
        time_limit_min = 10
        memory_gb = 1
        cpus_per_task = 1
        [size.70m]
        time_limit_min = 20
        memory_gb = 2
        cpus_per_task = 2
        [kind.sft]
        memory_gb = 3
        cpus_per_task = 3
        [kind.sft.size.70m]
        cpus_per_task = 4
        """,
    )
    placed = {
        (kind, size): file.place(stage(kind, size)).resources
        for kind, size in (("data", ""), ("pretrain", "70m"), ("sft", "160m"), ("sft", "70m"))
    }
    shown = {
        key: (resources.partition, resources.time_limit_min, resources.memory_gb, resources.cpus_per_task)
        for key, resources in placed.items()
    }
    assert shown == {
        ("data", ""): ("a", 10, 1, 1),
        ("pretrain", "70m"): ("a", 20, 2, 2),
        ("sft", "160m"): ("a", 10, 3, 3),
        ("sft", "70m"): ("a", 20, 3, 4),
    }


def test_small_jobs_share_a_gpu_in_parts_that_the_cluster_defines(tmp_path: Path) -> None:
    text = '[kind.sft]\ndevice = "cuda"\nsbatch = {gres = "shard:1"}\n'
    place = read(tmp_path, text).place(stage("sft", "70m"))
    assert place.compute == Placement(device="cuda")
    assert (place.resources.gpus_per_node, place.resources.sbatch) == (0, (("gres", "shard:1"),))


def test_one_table_sets_resources_and_compute_placement(tmp_path: Path) -> None:
    text = '[default]\nnodes = 2\nnum_ranks = 4\ndevice = "cuda"\ngpus_per_node = 2\nsbatch = {mail_type = "END"}\n'
    place = read(tmp_path, text + 'setup = ["module load cuda"]\n[jobs]\nat_a_time = 7').place(stage("sft"))
    assert place.compute == Placement(device="cuda", num_ranks=4)
    assert place.ranks_per_node == 2
    assert place.resources.sbatch == (("mail-type", "END"),)
    assert place.resources.setup == ("module load cuda",)
    assert hash(place) == hash(read(tmp_path, text + 'setup = ["module load cuda"]').place(stage("midtrain")))


def test_an_empty_file_leaves_everything_to_the_cluster(tmp_path: Path) -> None:
    file = read(tmp_path, "")
    assert file.jobs == Jobs()
    assert file.place(stage("sft", "70m")).compute == Placement()
    assert not file.uses_gpus


@pytest.mark.parametrize(
    ("text", "path", "got", "expected"),
    [
        ("[defaults]", "defaults", "an unknown name", "default, size, kind, jobs, driver"),
        ("[default]\nmemory = 3", "default.memory", "an unknown name", "memory_gb"),
        ("[size.70M]", "size.70M", "an unknown name", "70m"),
        ("[kind.finetune]", "kind.finetune", "an unknown name", "sft"),
        ("[kind.sft.size.7b]", "kind.sft.size.7b", "an unknown name", "1b"),
        ('[default]\ntime_limit_min = "4:00:00"', "default.time_limit_min", "4:00:00", "a whole number of minutes"),
        ("[kind.sft]\nnum_ranks = 3\nnodes = 2", "kind.sft.num_ranks", "3", "a multiple of the 2 nodes"),
        ("[default]\nnum_threads = 8", "default.num_threads", "8", "at most cpus_per_task, which is 1"),
        ('[size.1b]\ndevice = "cuda"', "size.1b.gpus_per_node", "0", "at least 1, one per rank"),
        ('[default]\ndevice = "gpu"', "default.device", "gpu", "cpu, cuda"),
        ('[default]\nsbatch = {signal = "USR1@10"}', "default.sbatch.signal", "USR1@10", "parameters other than"),
        ('[default]\nsetup = "module load cuda"', "default.setup", "a value of type str", "a list of lines"),
        ('[default]\npartition = "a\\nb"', "default.partition", "'a\\nb'", "a name, in quotes"),
        ("[jobs]\nat_a_time = 0", "jobs.at_a_time", "0", "at least 1"),
        ('[driver]\ndevice = "cpu"', "driver.device", "an unknown name", "partition"),
        ("size = 3", "size", "a value of type int", "a table"),
    ],
)
def test_an_invalid_field_is_reported_by_its_path(tmp_path: Path, text: str, path: str, got: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r"--placement .*placement.toml: ") as caught:
        read(tmp_path, text)
    before, _, after = str(caught.value).partition(", got ")
    assert f"placement.toml: {path}: expected " in before
    assert expected in before
    assert after.startswith(got)


def test_a_file_that_is_missing_or_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"placement.toml: not TOML \(Expected '\]' at the end"):
        read(tmp_path, "[default")
    with pytest.raises(ValueError, match=r"absent.toml: cannot be read \(No such file"):
        read_placement_file(tmp_path / "absent.toml")


def test_the_example_file_is_valid() -> None:
    file = read_placement_file(EXAMPLE)
    assert file.place(stage("sft", "1b")).compute.num_ranks == 4
    assert file.place(stage("evaluation", "1b")).compute.num_ranks == 1
    assert file.place(stage("data")).compute.device == "cpu"
    assert file.uses_gpus


@pytest.mark.parametrize("kind", ROLES)
def test_every_kind_of_stage_can_be_placed(tmp_path: Path, kind: str) -> None:
    file = read(tmp_path, f"[default]\ntime_limit_min = 5\n[kind.{kind}]\ntime_limit_min = 7\n")
    limits = {other: file.place(stage(other)).resources.time_limit_min for other in ROLES}
    assert limits == {other: 7 if other == kind else 5 for other in ROLES}


def test_the_example_and_the_page_name_every_kind_and_size() -> None:
    lines = EXAMPLE.read_text().splitlines()
    (kinds,) = (line for line in lines if line.startswith("# Kinds: "))
    (sizes,) = (line for line in lines if line.startswith("# Sizes: "))
    assert set(re.findall(r"\w+", re.sub(r"\(.*?\)", "", kinds))) - {"Kinds"} == set(ROLES)
    named = re.sub(r" \(.*?\)", "", sizes.removeprefix("# Sizes: ").removesuffix("."))
    assert set(named.split(", ")) == set(SHAPE_NAMES)
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    assert f"[kind.data]                    # {', '.join(ROLES)}\n" in page
    assert f"# {', '.join(SHAPE_NAMES)}\n" in page
