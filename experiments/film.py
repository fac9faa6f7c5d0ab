"""Pictures of play: where they can be drawn, and how they become a video file."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import imageio_ffmpeg
import numpy as np

from ppo.refusals import UserError

GIF_FPS = 15  # at most: 1000 moments of HalfCheetah are then 6 MB
GIF_WIDTH = 320  # pixels
EVEN = "pad=ceil(iw/2)*2:ceil(ih/2)*2"  # yuv420p has one colour for 2×2 pixels
# A palette per frame: one for the whole film would hold every frame in memory until the last has come.
PALETTE = "split[a][b];[a]palettegen=stats_mode=single:max_colors=64[p];[b][p]paletteuse=new=1:dither=none"
ENCODING = {
    ".mp4": ["-vf", EVEN, "-c:v", "libx264", "-pix_fmt", "yuv420p"],
    ".gif": ["-vf", f"scale='min({GIF_WIDTH},iw)':-1,{PALETTE}"],
}

NO_OPENGL = 4
PROBE = f"""
import gymnasium, sys
try:
    env = gymnasium.make(sys.argv[1], render_mode="rgb_array")
    env.reset(seed=0)
    if getattr(env.render(), "ndim", 0) != 3:
        sys.exit(print("its render() gives no picture") or 1)
    env.close()
except gymnasium.error.Error as error:
    sys.exit(print(error) or 1)
except Exception as error:
    sys.exit(print(type(error).__name__ + ":", str(error).partition("\\n")[0]) or {NO_OPENGL})
"""


def check_ending(out: Path) -> None:
    """UserError if no film can have this name."""
    if out.suffix not in ENCODING:
        raise UserError(f"--out {out}: a film is an .mp4 or a .gif, and its name says which")


def has_display() -> bool:
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def drawing(env_id: str) -> dict[str, str]:
    """The environment variables under which frames of a task can be drawn here; UserError if there are none.

    MuJoCo and PyOpenGL take their backend at import, and a failed one spoils the next: each has its own process.
    """
    backends: list[dict[str, str]] = [{}]
    if "MUJOCO_GL" not in os.environ and not has_display():
        backends = [{"MUJOCO_GL": "egl"}, {"MUJOCO_GL": "osmesa"}]
    failures = []
    for backend in backends:
        settings = {"SDL_VIDEODRIVER": "dummy", **backend}  # pygame draws in memory
        probe = [sys.executable, "-W", "ignore", "-c", PROBE, env_id]
        done = subprocess.run(probe, env=os.environ | settings, capture_output=True, text=True)
        if done.returncode == 0:
            return settings
        reason = done.stdout.strip() or f"exit code {done.returncode}"
        if done.returncode == 1:
            raise UserError(f"{env_id} cannot be filmed: {reason}")
        failures.append(f"MUJOCO_GL={backend.get('MUJOCO_GL', os.environ.get('MUJOCO_GL', ''))}: {reason}")
    raise UserError(
        f"{env_id} cannot be filmed, OpenGL does not start ({'; '.join(failures)}); leave MUJOCO_GL unset and "
        "apt-get install libegl1 libegl-mesa0, or libosmesa6"
    )


def follow(env: gymnasium.Env[Any, Any]) -> None:
    """Let MuJoCo's camera move along with the agent, where the model has such a one; Gymnasium's own stands still."""
    if (renderer := getattr(env.unwrapped, "mujoco_renderer", None)) is not None:
        import mujoco

        camera = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
        if camera >= 0:
            renderer.camera_id = camera  # a film takes this one, a window the other
            renderer.default_cam_config = {"type": mujoco.mjtCamera.mjCAMERA_FIXED, "fixedcamid": camera}


class Film:
    """A video file written frame by frame; it has its name only when it is whole.

    `fps`: moments of play per second. An mp4 shows all of them, a GIF every so many.
    """

    def __init__(self, out: Path, fps: float, encoding: Mapping[str, Sequence[str]] = ENCODING):
        out.parent.mkdir(parents=True, exist_ok=True)
        self.out, self.part = out, out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
        self.every = math.ceil(fps / GIF_FPS) if out.suffix == ".gif" else 1
        self.fps, self.encoding = fps / self.every, encoding[out.suffix]
        self.moments = self.frames = 0
        self.ffmpeg: subprocess.Popen[bytes] | None = None

    def take(self, render: Callable[[], Any]) -> None:
        """One moment of play; `render` gives its frame if the film has a place for it."""
        self.moments += 1
        if (self.moments - 1) % self.every == 0:
            self.show(render())

    def show(self, frame: np.ndarray) -> None:
        """The next frame, (height, width, 3) uint8."""
        self.ffmpeg = self.ffmpeg or self._start(*frame.shape[:2])
        assert self.ffmpeg.stdin is not None
        try:
            self.ffmpeg.stdin.write(frame.tobytes())
        except BrokenPipeError:
            self.close()
        self.frames += 1

    def _start(self, height: int, width: int) -> subprocess.Popen[bytes]:
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{self.fps:g}", "-i", "-"]
        line = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-y",
            "-v",
            "error",
            *raw,
            *self.encoding,
            f"file:{self.part}",
        ]
        # A session of its own, which Ctrl-C does not reach: what was filmed so far is then ended properly.
        return subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)

    def close(self) -> None:
        """Put the film under its name; UserError if it could not be written."""
        ffmpeg, self.ffmpeg = self.ffmpeg, None
        if ffmpeg is None:
            return
        complaint = ffmpeg.communicate()[1].decode().strip()
        if ffmpeg.returncode != 0:
            self.part.unlink(missing_ok=True)
            reason = complaint.splitlines()[-1] if complaint else f"ffmpeg ended with {ffmpeg.returncode}"
            raise UserError(f"{self.out} cannot be written: {reason}")
        self.part.replace(self.out)
        print(f"{self.out}: {self.frames} frames, {self.fps:g} a second")
