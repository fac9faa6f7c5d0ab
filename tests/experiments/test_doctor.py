"""What the doctor says of machines that lack something, and that it leaves nothing behind."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.doctor import __main__ as doctor
from experiments.doctor import checks, surroundings
from experiments.doctor.checks import Finding
from tests.conftest import ROOT

KEY = "0123456789abcdef0123456789abcdef01234567"


def fake(folder: Path, name: str, script: str) -> None:
    """A program of that name."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH; empty."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_the_table_is_one_line_per_check_with_its_cure_below_and_a_verdict() -> None:
    findings = {
        "python": Finding("ok", "3.11.7"),
        "records": Finding("missing", "no" + 21 * " tight", "make room"),
        "gpu": Finding("note", "none", "device=cpu works"),
    }
    assert doctor.table(findings) == (
        "python   ok       3.11.7\n"
        f"records  missing  no{16 * ' tight'}\n"
        f"                 {5 * ' tight'}\n"
        "                  → make room\n"
        "gpu      note     none\n"
        "                  → device=cpu works\n"
        "\n"
        "training cannot run here: records"
    )
    assert doctor.table({"python": Finding("ok", "3.11.7")}).endswith("\n\ntraining can run here")


def test_a_check_that_fails_itself_becomes_a_line() -> None:
    def broken() -> Finding:
        raise RuntimeError("surprise")

    found = doctor.examine({"records": broken, "gpu": broken, "python": checks.python})
    assert list(found) == ["records", "gpu", "python"]
    assert found["records"].status == "missing"
    assert found["gpu"] == Finding("note", "the check itself failed: RuntimeError: surprise")
    assert found["python"].status == "ok"


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("note", 0), ("missing", 1)])
def test_the_exit_code_says_whether_training_can_run(
    status: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def backends() -> Finding:
        return Finding(status, "as told")

    monkeypatch.setattr(doctor, "CHECKS", (backends,))
    assert doctor.main(["--records", str(tmp_path / "a" / "b")]) == code
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if line[:1] not in (" ", "")][:3] == [
        "backends", "records", "space",
    ]  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_process_of_its_own_tells_its_error_first_and_is_given_up_in_time() -> None:
    assert checks.probe("print('a')\nprint('b')") == (True, "b")
    assert checks.probe("raise OSError('no\\nmatter')") == (False, "OSError: no")
    assert checks.probe("import os\nos.abort()") == (False, "exit code -6")
    assert checks.probe("import time\ntime.sleep(9)", 0.3) == (False, "no answer within 0 s")


def test_versions_are_compared_with_constraints_builds_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.pinned()["mujoco"] == "3.6.0"
    have = {**dict.fromkeys(checks.TRAINING, "1.0"), "torch": "2.13.0+cpu", "numpy": "1.0"}
    monkeypatch.setattr(checks, "package_version", have.get)
    monkeypatch.setattr(checks, "pinned", lambda: {"torch": "2.13.0", "numpy": "1.0", "ruff": "9.9"})
    assert checks.packages() == Finding("ok", "2 packages are those of constraints.txt")
    have["numpy"] = "1.1"
    assert checks.packages().status == "note"
    assert checks.packages().found == "numpy 1.1 instead of 1.0"
    del have["hydra-core"]
    assert checks.packages() == Finding("missing", "not installed: hydra-core", "make install")


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [
        ("3.6.0", "ok", ""),
        ("4.0.0", "note", "wrong accelerations"),
        ("3.3.7", "note", "bundles"),
        (None, "note", "none;"),
    ],
)
def test_mujoco_must_be_the_one_that_envpool_bundles(
    version: str | None, status: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "package_version", lambda name: version)
    assert checks.mujoco().status == status
    assert words in checks.mujoco().found


@pytest.mark.parametrize(
    ("broken", "status", "cure"),
    [([], "ok", ""), (["envpool"], "note", "backend=gymnasium works"), (["gymnasium"], "note", "backend=envpool works"),
     (["envpool", "gymnasium"], "missing", "make install")],
)  # fmt: skip
def test_training_needs_one_backend(broken: list[str], status: str, cure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(code: str) -> tuple[bool, str]:
        return not any(f'"{name}"' in code for name in broken), "ImportError: no"

    monkeypatch.setattr(checks, "probe", probe)
    found = checks.backends()
    assert found.status == status
    assert cure in found.cure
    assert found.found.count("ImportError") == len(broken)


def test_the_backends_here_really_step() -> None:
    pytest.importorskip("envpool")
    assert checks.backends().status == "ok"


@pytest.mark.parametrize(
    ("answer", "status", "cure"),
    [
        ((True, "1.0 computed by CUDA 13.0"), "ok", ""),
        ((False, "AssertionError: Torch not compiled with CUDA enabled"), "note", "pip install --force-reinstall"),
        ((False, "RuntimeError: The NVIDIA driver on your system is too old (found 11040)"), "note", "newer driver"),
        ((False, "RuntimeError: No CUDA GPUs are available"), "note", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_torch_cannot_use_has_a_cure(
    answer: tuple[bool, str], status: str, cure: str, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "probe", lambda code: answer)
    if answer[0]:
        assert checks.gpu().status == "ok"  # a container may have the GPU and not the program
    else:
        assert checks.gpu().cure == "device=cpu works"
    fake(programs, "nvidia-smi", "echo 'NVIDIA H100, 550.54'")
    found = checks.gpu()
    assert found.status == status
    assert cure in found.cure
    assert "NVIDIA H100, 550.54" in found.found
    assert answer[1] in found.found


def test_without_a_compiler_fast_is_told_and_nothing_is_tried(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    assert "g++ is not here" in checks.compiler().found
    monkeypatch.setenv("CXX", "icpx")
    assert checks.compiler().status == "note"
    assert "icpx is not here" in checks.compiler().found
    assert "numerics=exact needs none" in checks.compiler().cure


def test_a_compiler_that_fails_is_told_by_trying_it(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "c++20")
    fake(programs, "c++20", "exit 1")
    found = checks.compiler()
    assert found.status == "note"
    assert "compiling fails: " in found.found
    assert "C++" in found.found


def test_rendering_takes_whichever_works(monkeypatch: pytest.MonkeyPatch) -> None:
    works = {"egl": False, "osmesa": True}
    monkeypatch.setattr(checks, "probe", lambda code, MUJOCO_GL: (works[MUJOCO_GL], "ImportError: no libEGL"))
    assert checks.rendering() == Finding("ok", "draws MuJoCo, with MUJOCO_GL=osmesa")
    works["osmesa"] = False
    assert checks.rendering().status == "note"
    assert "apt-get install libegl1 libegl-mesa0, or libosmesa6" in checks.rendering().cure


@pytest.mark.parametrize(
    ("own", "files", "cores", "memory"),
    [
        ("0::/job/step\n", {"job/cpu.max": "150000 100000", "job/step/cpu.max": "max 100000"}, 1.5, float("inf")),
        ("0::/job\n", {"job/memory.max": "4096", "memory.max": "max"}, float("inf"), 4096),
        ("4:memory:/a\n1:cpu,cpuacct:/a\n",
         {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
          "cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000",
          "memory/a/memory.limit_in_bytes": "5000", "memory/memory.limit_in_bytes": "9223372036854771712"}, 3.0, 5000),
        ("0::/elsewhere\n", {}, float("inf"), float("inf")),
        ("", {}, float("inf"), float("inf")),
    ],
    ids=["v2 cores of a parent", "v2 memory", "v1", "another namespace", "none"],
)  # fmt: skip
def test_control_groups_limit_cores_and_memory(
    own: str, files: dict[str, str], cores: float, memory: float, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert surroundings.limits(own, tmp_path) == (cores, memory)


def test_a_quota_below_the_cores_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "limits", lambda own, root: (0.5, 64e9))
    assert surroundings.cores().cure == "at most 1 packs at once"
    monkeypatch.setattr(surroundings, "limits", lambda own, root: (float("inf"), 0.5e9))
    assert surroundings.cores().status == "note"
    assert "0.5 GB" in surroundings.cores().found


@pytest.fixture
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No key, no proxy; returns where a netrc would lie."""
    for name in list(os.environ):
        if name.startswith("WANDB_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


@pytest.fixture
def server(no_account: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of something that accepts connections, set as W&B's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", f"http://{address}")
        yield address


def test_wandb_is_well_with_a_key_and_a_server_and_the_key_is_never_shown(
    server: str, no_account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = surroundings.wandb()
    assert without.status == "note"
    assert "no API key" in without.found
    assert f"{server} answers" in without.found
    assert "tracking=wandb_offline" in without.cure
    assert "experiments.sync" in without.cure

    no_account.write_text(f"machine {server} login user password {KEY}\n")
    by_netrc = surroundings.wandb()
    assert by_netrc.status == "ok"
    assert f"key in {no_account}" in by_netrc.found
    no_account.write_text(f"machine elsewhere login user password {KEY}\n")
    assert "no API key" in surroundings.wandb().found
    no_account.write_text(f"machine {server} login user {KEY} password\n")  # its error message quotes the key
    torn = surroundings.wandb()
    assert "no API key" in torn.found

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    by_variable = surroundings.wandb()
    assert by_variable.status == "ok"
    assert "key in WANDB_API_KEY" in by_variable.found
    for finding in (without, by_netrc, torn, by_variable):
        assert KEY[:8] not in finding.found + finding.cure


def test_wandb_by_its_default_address_accepts_a_key_for_the_older_name(
    no_account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(surroundings, "reachable", lambda host, port: bool(asked.append((host, port))))
    no_account.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert "key in" in surroundings.wandb().found
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.site:3128")
    assert "its proxy proxy.site is silent" in surroundings.wandb().found
    assert asked == [("api.forge.coreweave.com", 443), ("proxy.site", 3128)]


def test_a_server_that_is_not_there_is_given_up(no_account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    assert f"127.0.0.1:{port} is silent" in surroundings.wandb().found
    monkeypatch.setenv("WANDB_BASE_URL", "wandb.site")
    assert "no address" in surroundings.wandb().found


def test_the_doctor_imports_nothing_heavy() -> None:
    code = "import experiments.doctor.__main__, sys; print({'wandb', 'torch', 'numpy', 'omegaconf'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"


def test_the_records_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    assert surroundings.records(tmp_path / "new" / "records").status == "ok"
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").write_text("kept")
    assert surroundings.records(tmp_path).status == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert surroundings.records(tmp_path / "mine").status == "missing"
    assert surroundings.records(tmp_path / "mine" / "below").status == "missing"
    assert (tmp_path / "mine").read_text() == "kept"


def unsupported(*_: object, **__: object) -> None:
    raise OSError(95, "Operation not supported")


def lying(*_: object, **__: object) -> None:
    """Says it went well, and did nothing."""


@pytest.mark.parametrize(
    ("owner", "name", "replacement", "status", "words"),
    [
        (os, "link", unsupported, "note", "no hard links"),
        (os, "fsync", unsupported, "missing", "fsync cannot"),
        (Path, "touch", lying, "missing", "exclusive creation cannot"),
        (Path, "replace", lying, "missing", "renaming over a file cannot"),
        (Path, "write_bytes", unsupported, "missing", "Operation not supported"),
    ],
)
def test_a_file_system_that_breaks_a_promise_is_told(
    owner: object, name: str, replacement: object, status: str, words: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(owner, name, replacement)
    found = surroundings.records(tmp_path / "records")
    assert found.status == status
    assert words in found.found
    assert not list(tmp_path.iterdir())


MOUNTS = """\
/dev/vda / ext4 rw 0 0
head:/home /home nfs4 rw 0 0
scratch /home/me/my\\040scratch lustre rw 0 0
tmpfs /homework tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/tmp", "ext4"), ("/home/me", "nfs4"), ("/home/me/my scratch/x", "lustre"), ("/homework/y", "tmpfs")],
)
def test_the_file_system_of_a_path_is_that_of_its_deepest_mount(path: str, kind: str) -> None:
    assert surroundings.file_system(Path(path), MOUNTS) == kind


def test_a_network_file_system_and_a_full_one_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "text_of", lambda path: MOUNTS.replace("ext4", "nfs4"))
    assert surroundings.space(tmp_path / "not" / "yet").found.endswith("nfs4 over a network")
    for changes, status in (
        ({}, "ok"),
        ({"f_bavail": 3}, "note"),
        ({"f_favail": 50}, "note"),
        ({"f_files": 0, "f_favail": 0}, "ok"),
    ):
        counts = {"f_bavail": 10**9, "f_frsize": 4096, "f_files": 10**9, "f_favail": 10**6, **changes}
        monkeypatch.setattr(os, "statvfs", lambda path, counts=counts: SimpleNamespace(**counts))
        assert surroundings.space(tmp_path).status == status


def test_slurm_is_told_by_asking_its_controller(programs: Path) -> None:
    assert surroundings.slurm() == Finding("note", "not here", "cluster=local works")
    fake(programs, "squeue", "exit 0")
    assert surroundings.slurm().found == "sbatch, scontrol not on PATH"
    fake(programs, "sbatch", "exit 0")
    script = 'case "$1" in --version) echo slurm 22.05.8;; ping) echo "Slurmctld(primary) at head is %s";; esac'
    fake(programs, "scontrol", script.replace("%s", "UP"))
    assert surroundings.slurm() == Finding("ok", "slurm 22.05.8; Slurmctld(primary) at head is UP")
    fake(programs, "scontrol", script.replace("%s", "DOWN"))
    assert surroundings.slurm().status == "note"
    assert "is DOWN" in surroundings.slurm().found
