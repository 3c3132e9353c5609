"""What a worker has: every job that it has claimed, and whose end it has not written yet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from dray.context import Context
from dray.intake import PollIntake
from dray.item import Item, line_of
from dray.job import Claim, Finish, Lease
from dray.lifecycle import ALONE_FROM
from dray.slots import Slots


class Stock:
    """The jobs here, and which of them goes to the slots when.

    write    takes a line for a job's log
    forget   takes back all lines of a run
    """

    def __init__(
        self,
        intake: PollIntake,
        slots: Slots,
        write: Callable[[Claim, str, str], None],
        forget: Callable[[Claim], None],
    ) -> None:
        self._intake, self._slots, self._write, self._forget = intake, slots, write, forget
        self.items: dict[int, Item] = {}  # by job
        self.counted = 0  # jobs claimed, less those that came back unstarted
        self._held_back: list[Item] = []  # they go to the slots at the next `start`
        self._alone: list[Item] = []  # jobs that must run with nothing beside them
        self._solo: Item | None = None  # the one of them that was started last

    @property
    def is_reserved(self) -> bool:
        """Whether a job is here that has to be run alone: then nothing more is claimed."""
        return bool(self._alone) or (self._solo is not None and self._solo.claim.id in self.items)

    def give(self, worker_id: int, claims: Sequence[Claim], *, alone: bool = False, later: bool = False) -> None:
        """Take what was claimed, and let it start, or `later`, with the next `start`. `alone`: without those behind it in its
        group."""
        ordinary: list[Item] = []
        try:
            for claim in claims:
                item = self.receive(claim)
                if claim.crashes >= ALONE_FROM and not self._slots.is_apart(claim):
                    self._alone.append(item)
                    continue
                ordinary.append(item)
                if not alone and (claim.group_hash is not None or claim.threshold is not None):
                    self._line_up(worker_id, item)
        finally:
            # Also when the database was away while somebody was lined up: what is here and in no slot would run for ever.
            self._held_back += ordinary
            if not later:
                self.start()

    def start(self) -> None:
        """Let go to the slots what was held back."""
        if self._held_back:
            held, self._held_back = self._held_back, []
            self._slots.start(held)

    def receive(self, claim: Claim) -> Item:
        """Take it without letting it start."""
        self.counted += 1
        item = self.items[claim.id] = Item(claim, Context(claim, self._write, self._forget))
        return item

    def _line_up(self, worker_id: int, head: Item) -> None:
        """Take the next of its group too, where the task says that they may be run one after the other here."""
        for claim in self._intake.behind(worker_id, head.claim):
            head.behind = head = self.receive(claim)

    def buffered(self) -> int:
        """How many jobs wait here for a slot."""
        return self._slots.buffered() + len(self._held_back)

    def run_alone(self) -> None:
        """Start a job that has seen workers die, once everything else here has ended: nobody shall die with it."""
        if self._alone and len(self.items) == len(self._alone):
            self._solo = self._alone.pop()
            self._slots.start([self._solo])

    def take_unstarted(self) -> list[Item]:
        """Take away what no slot has; nobody will start it any more."""
        held = [one for item in self._held_back for one in line_of(item)]
        waiting = [*self._slots.take_back(), *held, *self._alone]
        self._held_back, self._alone = [], []
        return waiting

    def forget_unstarted(self) -> None:
        """Drop what no slot has: others have taken it, or will."""
        for item in self.take_unstarted():
            if self.items.get(item.claim.id) is item:
                del self.items[item.claim.id]

    def settled(self, ends: Sequence[Finish], refused: Collection[Lease]) -> None:
        """These are not ours any more; what was not refused stands as it was written."""
        items = self.items
        for one in ends:
            claim = one.claim
            item = items.get(claim.id)
            if item is None or item.claim.fence != claim.fence:
                continue
            del items[claim.id]
            if item.on_written is not None:
                item.on_written(item.change is not None and claim.lease not in refused)
