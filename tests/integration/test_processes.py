"""Several processes leave their group before Python ends."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.utils import DistributedType

from genrec.errors import ConfigError
from genrec.training import processes

SCRIPT = """
import os, time, torch
from genrec.training import processes

def gloo():
    tasks = "/proc/self/task"
    return sum("gloo" in open(f"{tasks}/{task}/comm").read() for task in os.listdir(tasks))

def train():
    accelerator = processes.start_accelerator(cpu=True)
    model = torch.nn.Linear(4, 4)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters()))
    accelerator.backward(model(torch.ones(2, 4)).sum())
    optimizer.step()
    accelerator.wait_for_everyone()

train()
before = gloo()
processes._leave_group()
until = time.monotonic() + 10
while gloo() and time.monotonic() < until:
    time.sleep(0.01)
with open(os.environ["RANK"], "w") as file:
    file.write(f"{before > 0} {gloo()}")
"""


SILENT = """
import os, time, torch
from genrec.errors import TrainingError
from genrec.training import processes

accelerator = processes.start_accelerator(cpu=True, timeout_s=2)
if accelerator.process_index == 1:
    time.sleep(8)
    os._exit(0)
started = time.monotonic()
try:
    with processes.together():
        accelerator.wait_for_everyone()
except TrainingError as error:
    with open("said", "w") as file:
        file.write(f"{time.monotonic() - started < 6} {error}")
os._exit(0)
"""


def test_a_peer_that_lives_and_does_not_answer_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "wait.py").write_text(SILENT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, "wait.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"True processes must go on .*Timed out", (tmp_path / "said").read_text())


def test_what_has_nothing_to_do_with_the_group_passes() -> None:
    with pytest.raises(RuntimeError, match="timed out alone"), processes.together():
        raise RuntimeError("timed out alone")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    # One that ran at the end of Python now and then aborted a process whose run was whole.
    (tmp_path / "train.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, "train.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["True 0"] * 2


def test_processes_that_are_not_joined_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    alone = SimpleNamespace(num_processes=1, distributed_type="NO")
    monkeypatch.setattr(processes, "Accelerator", lambda **options: alone)
    with pytest.raises(ConfigError, match=r"got 2 that accelerate leaves alone; .* --cpu"):
        processes.start_accelerator()


@pytest.mark.parametrize("how", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_a_model_that_is_shared_out_is_refused(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    found = SimpleNamespace(num_processes=2, distributed_type=DistributedType(how))
    monkeypatch.setattr(processes, "Accelerator", lambda **options: found)
    with pytest.raises(ConfigError, match=f"leave each process a whole model, got {how}; use"):
        processes.start_accelerator()


@pytest.mark.parametrize("name", ["gpus", "machines"])
def test_accelerate_reads_its_files(repository: Path, name: str) -> None:
    path = repository / "configs" / "accelerate" / f"{name}.yaml"
    told = ClusterConfig.from_yaml_file(str(path))
    assert told.distributed_type == DistributedType.MULTI_GPU
    assert told.num_processes == 4 * told.num_machines
    assert len(list(path.parent.iterdir())) == 2
