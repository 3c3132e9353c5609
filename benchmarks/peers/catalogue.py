"""Which peers there are, and what has to be known of one from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".venv-peers"


class NotThere(RuntimeError):
    """A peer that was not, or could not be, installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    name: str
    title: str
    databases: tuple[str, ...]
    distributions: tuple[str, ...]  # whose versions are told
    drained: Callable[[int], int]  # how many jobs it drains where Dray drains so many: rates are rates, but minutes are minutes
    bulk: bool = True  # it has a call for many jobs
    forks: bool = False  # it starts its workers itself; else each is one more process
    floor: tuple[int, int] = (3, 11)

    def python(self, folder: Path) -> Path:
        return folder / self.name / "bin" / "python"

    @property
    def requirements(self) -> Path:
        return Path(__file__).with_name(f"{self.name}.txt")

    def installed(self, folder: Path) -> bool:
        """At the versions that are asked for now."""
        done = self.mark(folder)
        return done.exists() and done.read_text() == self.requirements.read_text()

    def mark(self, folder: Path) -> Path:
        """A copy of the requirements, made when they are all there."""
        return folder / self.name / "installed.txt"

    def check(self, folder: Path) -> None:
        if self.installed(folder):
            return
        reason = folder / f"{self.name}.reason"
        why = reason.read_text() if reason.exists() else f"not at these versions in {folder}, where `make bench` puts it"
        raise NotThere(f"{self.title}: {why}")


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="pgqueuer",
            title="PgQueuer",
            databases=("postgresql",),
            distributions=("pgqueuer", "asyncpg", "uvloop"),
            drained=lambda jobs: jobs,
        ),
        Peer(
            name="oban",
            title="Oban",
            databases=("postgresql",),
            distributions=("oban", "psycopg", "uvloop"),
            drained=lambda jobs: max(200, jobs // 2),
            floor=(3, 12),
        ),
        Peer(
            name="procrastinate",
            title="Procrastinate",
            databases=("postgresql",),
            distributions=("procrastinate", "psycopg", "uvloop"),
            drained=lambda jobs: max(200, jobs // 10),
        ),
        Peer(
            name="huey",
            title="Huey",
            databases=("sqlite", "redis"),
            distributions=("huey", "redis", "hiredis"),
            drained=lambda jobs: max(200, jobs // 4),
            bulk=False,
            forks=True,
        ),
    )
}
