"""The doctor's checks of what surrounds a run: cores, W&B, SLURM, and the file system that records would lie on."""

import netrc
import os
import re
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from experiments.doctor.checks import Finding, ask
from experiments.identity import package_version

GIGABYTE = 1e9
GRANTS = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.max", "memory.limit_in_bytes")
"""Files of a control group, versions 2 and 1."""

WANDB_SERVERS = ("https://api.forge.coreweave.com", "https://api.wandb.ai")
"""wandb 0.31.0's default and the name before it: the same service; a netrc may hold either."""

NETWORKS = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "9p", "panfs", "wekafs",
            "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "virtiofs")  # fmt: skip


def text_of(path: Path) -> str:
    """A file of the kernel's; empty where it has none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def limits(own: str, root: Path) -> tuple[float, float]:
    """Cores and bytes granted by the control groups (1 or 2) in `own`, a /proc/self/cgroup; infinite if unlimited."""
    cores, memory = [float("inf")], [float("inf")]
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        base = root / controllers
        here = base / path.strip("/")
        for folder in (here, *here.parents):
            if not folder.is_relative_to(base):
                break
            words = {name: text_of(folder / name).split() for name in GRANTS}
            share = words["cpu.max"] or words["cpu.cfs_quota_us"] + words["cpu.cfs_period_us"]
            if len(share) == 2 and share[0] not in ("max", "-1"):
                cores.append(int(share[0]) / int(share[1]))
            limit = words["memory.max"] or words["memory.limit_in_bytes"]
            if limit and limit[0] != "max":
                memory.append(int(limit[0]))
    return min(cores), min(memory)


def cores() -> Finding:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, memory = limits(text_of(Path("/proc/self/cgroup")), Path("/sys/fs/cgroup"))
    free = re.search(r"MemAvailable: +(\d+) kB", text_of(Path("/proc/meminfo")))
    memory = min(memory, int(free[1]) * 1024) if free else memory
    found = f"{allowed} of {os.cpu_count()} usable, {memory / GIGABYTE:.1f} GB of memory available"
    if quota < allowed:
        most = max(1, int(quota))
        return Finding("note", f"{found}, but a quota of {quota:.1f} cores", f"at most {most} packs at once")
    if memory < GIGABYTE:
        return Finding("note", found, "smaller packs: one of 33 runs takes 0.8 GB")
    return Finding("ok", f"{found}; one pack per core")


def key_place(hosts: Sequence[str]) -> str:
    """Where a W&B key lies, empty if nowhere. An unreadable netrc counts as none: its error may quote the key."""
    if os.environ.get("WANDB_API_KEY"):
        return "WANDB_API_KEY"
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        entries = netrc.netrc(path)
    except (OSError, ValueError, netrc.NetrcParseError):
        return ""
    found = [entry for host in hosts if (entry := entries.authenticators(host)) and entry[2]]
    return str(path) if found else ""


def wandb() -> Finding:
    cure = "tracking=wandb_offline needs no account and no network; python -m experiments.sync later, where both are"
    version = package_version("wandb")
    if version is None:
        return Finding("note", "not installed", "make install, or tracking=none")
    chosen = os.environ.get("WANDB_BASE_URL")
    servers = [urlsplit(url) for url in ([chosen] if chosen else WANDB_SERVERS)]
    scheme, host = servers[0].scheme, servers[0].hostname
    if scheme not in ("http", "https") or host is None:
        return Finding("note", f"{version}; WANDB_BASE_URL is no address such as https://…", cure)
    port = servers[0].port or {"http": 80, "https": 443}[scheme]
    place = key_place([server.netloc for server in servers])
    proxy = os.environ.get(f"WANDB_{scheme.upper()}_PROXY") or urllib.request.getproxies().get(scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        by = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        way, reached = f"its proxy {by.hostname}", reachable(by.hostname or "", by.port or 80)
    else:
        way, reached = f"{host}:{port}", reachable(host, port)
    found = f"{version}; {f'key in {place}' if place else 'no API key'}; {way} {'answers' if reached else 'is silent'}"
    return Finding("ok", found) if place and reached else Finding("note", found, cure)


def reachable(host: str, port: int) -> bool:
    """Whether a TCP connection opens within 3 s, the search for the name included."""
    code = f"import socket; socket.create_connection(({host!r}, {port}), 3)"
    return ask([sys.executable, "-S", "-c", code], 3)[0]


def refuses(action: Callable[[], object]) -> bool:
    """Does it find that the file is there already?"""
    try:
        action()
    except FileExistsError:
        return True
    return False


def holds(action: Callable[[], bool]) -> bool:
    """Does it work, and not fail?"""
    try:
        return action()
    except OSError:
        return False


def kept_promises(room: Path) -> dict[str, bool]:
    """What records rely on, tried in an empty folder."""

    def link() -> bool:
        os.link(old, room / "link")
        return (room / "link").read_bytes() == b"old" and refuses(lambda: os.link(old, room / "link"))

    def rename() -> bool:
        new.replace(old)
        return old.read_bytes() == b"new" and not new.exists()

    def fsync() -> bool:
        for path in (old, room):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        return True

    old, new, folder = room / "old", room / "new", room / "folder"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    folder.mkdir()
    return {
        "exclusive creation": holds(lambda: refuses(lambda: old.touch(exist_ok=False))),
        "exclusive mkdir": holds(lambda: refuses(folder.mkdir)),
        "hard links": holds(link),
        "renaming over a file": holds(rename),
        "fsync": holds(fsync),
    }


def records(folder: Path) -> Finding:
    """Leaves no trace: folders that were not there go away again."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    elsewhere = "choose another folder: records=DIR"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as room:
            kept = kept_promises(Path(room))
    except OSError as error:
        return Finding("missing", f"nothing can be written to {folder}: {error.strerror}", elsewhere)
    finally:
        for path in made:
            with suppress(OSError):  # not there, or in use by now
                path.rmdir()
    broken = [name for name, held in kept.items() if not held]
    if broken == ["hard links"]:
        return Finding("note", f"{folder}: no hard links; exclusive creation stands in", elsewhere)
    if broken:
        return Finding("missing", f"{folder}: {', '.join(broken)} cannot be relied on", elsewhere)
    return Finding("ok", f"{folder}: {', '.join(kept)} work")


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that holds `path`, by the text of a /proc/mounts; empty if unknown."""
    best, kind = Path("/"), ""
    for line in mounts.splitlines():
        _, place, found, *_ = line.split()
        mounted = Path(re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), place))
        if path.is_relative_to(mounted) and mounted.is_relative_to(best):
            best, kind = mounted, found
    return kind


def space(folder: Path) -> Finding:
    standing = next(path for path in (folder, *folder.parents) if path.exists()).resolve()
    kind, counts = file_system(standing, text_of(Path("/proc/mounts"))), os.statvfs(standing)
    free = counts.f_bavail * counts.f_frsize
    files = f"{counts.f_favail:,}" if counts.f_files else "any number of"  # some file systems do not count them
    network = " over a network" if kind.startswith(NETWORKS) else ""
    found = f"{free / GIGABYTE:.1f} GB and {files} files free, {kind}{network}"
    if free < GIGABYTE or (counts.f_files and counts.f_favail < 10_000):
        return Finding("note", found, "make room, or choose another folder: records=DIR")
    return Finding("ok", found)


def slurm() -> Finding:
    tools = ("sbatch", "squeue", "scontrol")
    absent = [name for name in tools if shutil.which(name) is None]
    if len(absent) == len(tools):
        return Finding("note", "not here", "cluster=local works")
    if absent:
        return Finding("note", f"{', '.join(absent)} not on PATH", "load the site's SLURM module; cluster=local works")
    _, version = ask(["scontrol", "--version"], 10)
    works, said = ask(["scontrol", "ping"], 10)
    if works and "UP" in said:
        return Finding("ok", f"{version}; {said}")
    return Finding("note", f"{version}; scontrol ping: {said}", "ask where its controller is; cluster=local works")
