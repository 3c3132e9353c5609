"""`python -m benchmarks.peers.install`: each peer into a virtual environment of its own, at the versions of `NAME.txt`.

One that cannot be installed is said, and why; that is no failure, for the others can be measured all the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.catalogue import FOLDER, PEERS, Peer

Version = tuple[int, int]


def interpreter(floor: Version) -> str | None:
    """Dray's own Python where it will do, for rates depend on it; else the oldest that will."""
    if sys.version_info[:2] >= floor:
        return sys.executable
    names = [f"python3.{minor}" for minor in range(floor[1], floor[1] + 6)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [path for name in names if (path := shutil.which(name))]
    found += [str(path) for name in names for path in sorted(pyenv.glob(f"*/bin/{name}"))]
    able = [(version, path) for path in found if (version := _version(path)) is not None and version >= floor]
    return min(able)[1] if able else None


def _version(python: str) -> Version | None:
    """None for one that does not run, as a shim of pyenv may not, or that can make no environment."""
    code = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    major, minor = map(int, done.stdout.split())
    return major, minor


def install(peer: Peer, folder: Path) -> str | None:
    """Why it could not be done; None if it is there."""
    if peer.installed(folder):
        return None
    python = interpreter(peer.floor)
    if python is None:
        return f"it needs Python {peer.floor[0]}.{peer.floor[1]} or newer, and none was found"
    home = folder / peer.name
    print(f"--- installing {peer.title} into {home}", flush=True)
    pip = [str(peer.python(folder)), "-m", "pip", "install", "--quiet", "--requirement", str(peer.requirements)]
    for command in ([python, "-m", "venv", "--clear", str(home)], pip):
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            return _reason(ran.stderr or ran.stdout)
    shutil.copy(peer.requirements, peer.mark(folder))
    return None


def _reason(said: str) -> str:
    lines = said.strip().splitlines() or ["no reason was given"]
    return next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for peer in PEERS.values():
        reason = FOLDER / f"{peer.name}.reason"
        reason.unlink(missing_ok=True)
        if why := install(peer, FOLDER):
            reason.write_text(why)
            print(f"{peer.title} will be left out: {why}", file=sys.stderr)


if __name__ == "__main__":
    main()
