"""The doctor's checks of what is installed: each a function that looks at one thing and returns what it found.

Nothing heavy is imported here, so that a broken installation can be examined; what may crash or hang runs in a process
of its own.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.identity import package_version

ROOT = Path(__file__).parents[2]

TRAINING = ("torch", "numpy", "gymnasium", "hydra-core", "omegaconf", "rich")
"""What `experiments.train` imports, environments aside."""

BUNDLED_MUJOCO = "3.6.0"  # by EnvPool 1.2.5

COMPILE = """
import torch
compiled = torch.compile(lambda x: (torch.tanh(x) + 1).sum(), fullgraph=True)
print(float(compiled(torch.zeros(8))))
"""
CUDA = """
import torch
torch.cuda.init()
print((torch.zeros(1, device="cuda") + 1).item(), "computed by CUDA", torch.version.cuda)
"""
STEP = """
import numpy as np
from ppo.config import Env
from ppo.environments import Environments
environments = Environments(Env("HalfCheetah-v4"), "{}", [0])
environments.reset()
environments.step(np.zeros((1, environments.spaces.action_size)))
"""
DRAW = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size="1"/></worldbody></mujoco>'
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 48, 64) as renderer:
    renderer.update_scene(data)
    assert renderer.render().std() > 0, "the picture is of one colour"
"""
DRAW_CARTPOLE = """
import gymnasium
environment = gymnasium.make("CartPole-v1", render_mode="rgb_array")
environment.reset()
assert environment.render().std() > 0, "the picture is of one colour"
"""


@dataclass(frozen=True)
class Finding:
    """What a check saw."""

    status: str  # ok | missing (training needs it) | note (it can do without)
    found: str
    cure: str = ""


def ask(command: Sequence[str], seconds: float, **environment: str) -> tuple[bool, str]:
    """Run a command of a few seconds: whether it went well, and the last line it said."""
    surroundings = os.environ | environment
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, cwd=ROOT, env=surroundings, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {seconds:.0f} s"
    lines = answer.stdout.strip().splitlines() or answer.stderr.strip().splitlines()
    return answer.returncode == 0, lines[-1] if lines else f"exit code {answer.returncode}"


def probe(code: str, seconds: float = 60.0, **environment: str) -> tuple[bool, str]:
    """Run Python code in a process of its own: whether it went well, and its last line or its error's first."""
    guarded = (
        f"import sys\ntry:\n{textwrap.indent(code, '    ')}\nexcept Exception as error:\n"
        "    print(f'{type(error).__name__}: {error}'.splitlines()[0])\n    sys.exit(1)"
    )
    return ask([sys.executable, "-c", guarded], seconds, OMP_NUM_THREADS="1", **environment)


def python() -> Finding:
    found = f"{platform.python_version()}, {sys.executable}"
    return Finding("ok", found) if sys.version_info >= (3, 11) else Finding("missing", found, "install Python 3.11")


def pinned() -> dict[str, str]:
    """Package → version of constraints.txt; none in an installed wheel, which is without that file."""
    path = ROOT / "constraints.txt"
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", path.read_text(), re.MULTILINE)) if path.exists() else {}


def packages() -> Finding:
    wanted = pinned()
    absent = [name for name in TRAINING if package_version(name) is None]
    versions = {name: have for name in wanted if (have := package_version(name)) is not None}
    others = [
        f"{name} {have} instead of {wanted[name]}"
        for name, have in versions.items()
        if have.partition("+")[0] != wanted[name]  # 2.13.0+cpu is a build of 2.13.0
    ]
    if absent:
        return Finding("missing", f"not installed: {', '.join(absent)}", "make install")
    if not wanted:
        return Finding("note", "all installed; which versions our numbers have, constraints.txt of the repository says")
    if others:
        return Finding("note", "; ".join(others), "make install; other versions of what computes get another code id")
    return Finding("ok", f"{len(versions)} packages are those of constraints.txt")


def gpu() -> Finding:
    works, said = probe(CUDA)
    card = "no nvidia-smi"
    if present := shutil.which("nvidia-smi") is not None:
        _, card = ask(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], 20)
    found = f"{card}; torch {package_version('torch')}: {said}"
    if works:
        return Finding("ok", found)
    if not present:
        return Finding("note", found, "device=cpu works")
    if "not compiled with CUDA" in said:
        torch = f"torch=={(package_version('torch') or '').partition('+')[0]}"
        return Finding("note", found, f"pip install --force-reinstall --index-url https://pypi.org/simple {torch}")
    if "too old" in said:
        return Finding("note", found, "a newer driver, or a torch built for an older CUDA (pytorch.org/get-started)")
    return Finding("note", found, "is the GPU hidden (CUDA_VISIBLE_DEVICES) or in use? device=cpu works")


def backends() -> Finding:
    answers = {name: probe(STEP.format(name)) for name in ("envpool", "gymnasium")}
    found = "; ".join(
        f"{name} {package_version(name)} {'steps HalfCheetah-v4' if works else f'fails: {said}'}"
        for name, (works, said) in answers.items()
    )
    if all(works for works, _ in answers.values()):
        return Finding("ok", found)
    (envpool, _), (gymnasium, _) = answers.values()
    if envpool or gymnasium:
        return Finding("note", found, f"make install; backend={'envpool' if envpool else 'gymnasium'} works")
    return Finding("missing", found, "make install")


def mujoco() -> Finding:
    wanted, have = BUNDLED_MUJOCO, package_version("mujoco")
    if have == wanted:
        return Finding("ok", f"{have}, the one that EnvPool bundles")
    wrong = ", which computes wrong accelerations" if have == "4.0.0" else ""
    return Finding("note", f"{have or 'none'}{wrong}; EnvPool bundles {wanted}", f"pip install mujoco=={wanted}")


def compiler() -> Finding:
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name)
    if path is None:
        cure = "apt-get install g++, or CXX=the compiler that is here; numerics=exact needs none"
        return Finding("note", f"{name} is not here, and numerics=fast needs a compiler", cure)
    with tempfile.TemporaryDirectory() as folder:
        works, said = probe(COMPILE, TORCHINDUCTOR_CACHE_DIR=folder, TORCHINDUCTOR_COMPILE_THREADS="1")
    if works:
        return Finding("ok", f"{path} compiles for torch: numerics=fast works")
    return Finding("note", f"{path}, but compiling fails: {said}", "another compiler by CXX; numerics=exact needs none")


def rendering() -> Finding:
    answers = {name: probe(DRAW, MUJOCO_GL=name) for name in ("egl", "osmesa")}
    working = [name for name, (works, _) in answers.items() if works]
    if working:
        return Finding("ok", f"draws MuJoCo, with MUJOCO_GL={' or '.join(working)}")
    found = "; ".join(f"{name}: {said}" for name, (_, said) in answers.items())
    return Finding("note", found, "apt-get install libegl1 libegl-mesa0, or libosmesa6")


def pygame() -> Finding:
    works, said = probe(DRAW_CARTPOLE)
    return Finding("ok", "draws CartPole") if works else Finding("note", said, "pip install pygame, to draw CartPole")
