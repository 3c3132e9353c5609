"""Break it on purpose: faults of one line, each of which some test has to notice.

    .venv/bin/python tests/break_it.py [words of a fault's name, file, database or tests]

Every fault is made in a copy of the sources. First the same tests have to be green without any.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PATIENCE = 100  # seconds for one test; a fault may well make it wait for ever

CONTRACT = "tests/contract/test_store_contract.py"
CHAPTERS = "tests/contract/test_store_chapters.py"
CALLER = "tests/contract/test_transactions.py"
WIRE = "tests/contract/test_wire.py"
RULES = "tests/unit/test_lifecycle.py"
RUNNER = "tests/unit/test_runner.py"
FINISHER = "tests/unit/test_finisher.py"
ERRORS = "tests/unit/test_sqlite_errors.py"
UNKNOWN = "tests/contract/test_unknown_commits.py"
FORGED = "tests/acceptance/test_forged_rows.py"
DUE = "tests/regressions/test_the_longest_due_come_first.py"
MODEL = "tests/model/test_model.py"
GATES = "tests/contract/test_gates.py"
EDGES = "tests/contract/test_edges.py"
UNIQUE = "tests/contract/test_unique.py"
NOTICES = "tests/contract/test_notices.py"
CHOICE = "tests/contract/test_choice.py"
ROLLUPS = "tests/contract/test_rollups.py"
HOOKS = "tests/acceptance/test_hooks.py"
CARE = "tests/contract/test_care.py"
OUTCOMES = "tests/unit/test_outcomes.py"
PLANNING = "tests/unit/test_planning.py"
BACKOFF = "tests/unit/test_backoff.py"
TENDED = "tests/unit/test_tended.py"
RELAY = "tests/unit/test_relay.py"
TEND = "tests/acceptance/test_tend.py"
ORDERS = "tests/contract/test_orders.py"
COMMANDS = "tests/unit/test_command.py"
CAPTURE = "tests/unit/test_capture.py"
GRIP = "tests/unit/test_grip.py"
STANDING = "tests/unit/test_standing.py"
PLACES = "tests/acceptance/test_executors.py"
FLAGS = "tests/acceptance/test_worker_command.py"
FLEET = "tests/acceptance/test_fleet.py"
ALONE = "tests/regressions/test_nothing_runs_on_without_its_worker.py"
FAILPOINTS = "tests/acceptance/test_failpoints.py"
BEGINNINGS = "tests/acceptance/test_beginning_anew.py"
LOCKED = "tests/acceptance/test_locked_file.py"
HANGING = "tests/acceptance/test_hooks_that_hang.py"
CONTAINERS = "tests/acceptance/test_containers.py"
DEPLOYS = "tests/regressions/test_a_deploy_moves_a_link.py"
STOCK = "tests/unit/test_stock.py"
PACE = "tests/unit/test_pace.py"
SPEED = "tests/contract/test_exchange.py"
COMMITS = "tests/contract/test_commits.py"
AWAY = "tests/regressions/test_an_outage_keeps_nothing_back.py"


class Fault(NamedTuple):
    """What is changed where, and who should notice: a file of tests, words for -k, a database."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    words: str
    database: str = "sqlite"


FAULTS = [
    # claim
    Fault("no SKIP LOCKED", "claim", "UPDATE SKIP LOCKED) r", "UPDATE) r", CONTRACT, "waits_for_no_other", "postgresql"),
    Fault("no SKIP LOCKED", "claim", "FOR UPDATE SKIP LOCKED", "FOR UPDATE", CONTRACT, "waits_for_no_other", "mysql"),
    Fault("no LIMIT over the lanes", "claim", ") r LIMIT :n)", ") r)", CONTRACT, "more_than_its_limit", "postgresql"),
    Fault(
        "a LIMIT for each lane",
        "claim",
        "wanted = limit - len(claims)\n        if",
        "wanted = limit\n        if",
        CONTRACT,
        "more_than_its_limit",
    ),
    Fault("oldest id first", "claim", '" ORDER BY ready_at, id LIMIT :n"', '" ORDER BY id LIMIT :n"', CONTRACT, "most_urgent"),
    Fault("least urgent first", "lanes", "(lane[1], lane[0] <", "(-lane[1], lane[0] <", CONTRACT, "most_urgent"),
    Fault("no alive check", "claim", "if alive.first() is None:", "if False:", CONTRACT, "who_is_alive"),
    Fault(
        "no alive check",
        "claim",
        "(SELECT EXISTS (SELECT 1 FROM {workers} WHERE id = :w AND state = 0) AS alive)",
        "(SELECT TRUE AS alive)",
        CONTRACT,
        "who_is_alive",
        "postgresql",
    ),
    Fault("the fence stays", "claim", "fence = fence + 1, attempt", "fence = fence, attempt", CONTRACT, "fence_rises"),
    Fault("queues without case", "claim", "name_hash(queue) for", "name_hash(queue.lower()) for", CONTRACT, "exact_name"),
    Fault("floors for ever", "claim", "if lanes.sweep_is_due():", "if False:", CONTRACT, "committed_late", "postgresql"),
    Fault(
        "no look below the floor for more",
        "claim",
        "deeper = hinted and lanes.may_sweep()",
        "deeper = False",
        CHAPTERS,
        "floor_hides",
        "postgresql",
    ),
    Fault(
        "a lane is left too early",
        "claim",
        "or len(found) < reach or reach >= FURTHEST",
        "or True",
        CONTRACT,
        "given_to_two_workers",
        "mysql",
    ),
    Fault("no turns among queues", "lanes", "lane[0] < self.first, ", "", CONTRACT, "take_turns"),
    Fault(
        "urgent ones are not looked for",
        "lanes",
        "LANES_EVERY = (0.05, 1.0)",
        "LANES_EVERY = (500, 500)",
        CONTRACT,
        "urgent_job_is_seen",
    ),
    # finish
    Fault("no fence at the end", "history", "AND j.fence = d.f AND {RUNS}", "AND {RUNS}", CONTRACT, "lost_lease", "postgresql"),
    Fault("no fence at the end", "history", 'j.fence = d.f AND j.state = 1"', 'j.state = 1"', CONTRACT, "lost_lease"),
    Fault("no fence at the mark", "finish", "AND fence = :f AND state = 1 AND", "AND state = 1 AND", CONTRACT, "lost_lease"),
    Fault("attempts are kept", "finish", "attempt = attempt - d.b,", "attempt = attempt,", CONTRACT, "parked_job_goes_on"),
    Fault("nobody is heeded", "finish", "heed(one.change, flags[one.claim.lease])", "one.change", CONTRACT, "cancel_is_seen"),
    Fault("a lost end is taken", "history", "tables, ending) < len(ending):", "tables, ending) < 0:", CONTRACT, "lost_lease"),
    Fault(
        "a lost end is taken",
        "history",
        "EXCEPT SELECT id",
        "WHERE FALSE EXCEPT SELECT id",
        CONTRACT,
        "lost_lease",
        "postgresql",
    ),
    Fault("a lost end is taken", "history", "if len(held) == len(ending):", "if True:", CONTRACT, "lost_lease", "mysql"),
    Fault("what is held back is not given back", "../stock", "*held, ", "", STOCK, "given_back"),
    Fault("what is held back is only here", "../stock", "            self._held_back += ordinary\n", "", STOCK, "in_its_order"),
    Fault("an outage keeps jobs back", "../exchange", "doubt()\n        self._stock.start()", "doubt()", AWAY, "held_back"),
    Fault(
        "what takes long is fetched ahead", "../pace", ", self.most / AHEAD, seen)", ", self.most / AHEAD)", PACE, "takes_long"
    ),
    Fault(
        "what went back counts as speed", "../exchange", " and all(one.started for one in finishes):", ":", SPEED, "handed_back"
    ),
    Fault("each page of a commit is heard", "../heartbeat", "self.looks >= PEEKS and ", "", COMMITS, "under_way"),
    Fault("an unknown commit is a loss", "finish", "if again and refused:", "if False:", CONTRACT, "done_under_the_same"),
    Fault(
        "what was rescued counts as written",
        "attempts",
        "return state == STATE[change.state] if change.state.ended else True",
        "return True",
        UNKNOWN,
        "rescued_meanwhile",
    ),
    Fault(
        "anybody's failure is ours", "attempts", "return error == storable(change.error)", "return True", UNKNOWN, "meanwhile"
    ),
    Fault("a refused end is forgotten", "../finisher", "self._refused.append(one)", "pass", FINISHER, "in_every_form"),
    Fault(
        "a broken connection makes it forget",
        "../finisher",
        "one = self._unknown[0]",
        "one = self._unknown.pop(0)",
        FINISHER,
        "between_single_writes",
    ),
    Fault(
        "results come when they come",
        "history",
        '"finished_at": "t.now - d.ea"',
        '"finished_at": "t.now"',
        CONTRACT,
        "every_rule",
    ),
    Fault(
        "finish and claim apart",
        "settle",
        "result, owed, number = self._database.transact(noted, waits)",
        "result, owed, number = self._database.once(noted)",
        CONTRACT,
        "both_or_none",
    ),
    # add
    Fault(
        "no transaction around many",
        "sql",
        "            added = self.settler.transact(work)\n",
        "            added = self.database.once(work)[0]\n",
        CONTRACT,
        "all_or_none",
    ),
    Fault(
        "ids of a drained table again",
        "tables",
        "            counted=True,\n        )\n        c,",
        "        )\n        c,",
        CONTRACT,
        "never_used_again or drained",
    ),
    Fault("ids in any order", "add", "ORDER BY d.o RETURNING", "ORDER BY d.o DESC RETURNING", CONTRACT, "ids_in_the_order"),
    # rescue, promote, adopt, the roster
    Fault(
        "the living are rescued too",
        "rescue",
        "WHERE j.state = 1 AND NOT EXISTS",
        "WHERE j.state = 1 OR NOT EXISTS",
        CONTRACT,
        "rescue_frees_what",
    ),
    Fault("no death counts", "rescue", "Died(started=started)", "Died(started=False)", CONTRACT, "death_counts"),
    Fault("given up after half the time", "rescue", ">= self.ttl:", ">= self.ttl / 2:", CONTRACT, "full_ttl"),
    Fault("a broken watch goes on", "rescue", "self.seen.clear()", "pass", CONTRACT, "connection_broke or slept"),
    Fault("held ones become ready", "../stations", "if job.flags & Flag.HELD:", "if False:", CONTRACT, "due_job_is_promoted"),
    Fault(
        "everything is due",
        "promote",
        "jobs.c.run_at <= tables.fixed_now()",
        "jobs.c.run_at > 0",
        CONTRACT,
        "due_job_is_promoted",
    ),
    Fault("the same code tries again", "promote", " and row[1] != names[row[0]]", "", CONTRACT, "parked_job_goes_on"),
    Fault("a row without a time comes first", "promote", ", jobs.c.run_at.is_not(None))", ")", FORGED, "no_calendar"),
    Fault("dead though its beat moved", "workers", ", workers.c.beat_at == beat.beat_at)", ")", CONTRACT, "who_is_alive"),
    # the connection
    Fault("names of SQLite's errors in full", "dialects", 'code.split("_")[:2]', 'code.split("_")', ERRORS, "known_by"),
    Fault("deadlocks are errors", "dialects", '"40P01", ', "", CONTRACT, "meets_a_deadlock", "postgresql"),
    Fault(
        "the usual isolation",
        "dialects",
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        "BEGIN",
        CONTRACT,
        "read_committed",
        "postgresql",
    ),
    Fault(
        "the usual isolation",
        "dialects",
        '"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"',
        '"SELECT 1"',
        CONTRACT,
        "read_committed",
        "mysql",
    ),
    Fault(
        "a reset after each use",
        "connect",
        "pool_reset_on_return=None",
        'pool_reset_on_return="rollback"',
        WIRE,
        "plain_enqueue",
        "postgresql",
    ),
    Fault("stale connections are used", "lines", "if poll.poll(0):", "if False:", WIRE, "server_closed", "postgresql"),
    Fault(
        "what is unknown is called away",
        "sql",
        "if sent and self._is_unsure(error):",
        "if False:",
        WIRE,
        "outcome_open",
        "postgresql",
    ),
    Fault(
        "told before the commit",
        "caller",
        "lambda: not transaction.is_active",
        "lambda: True",
        CALLER,
        "finds_the_job",
        "postgresql",
    ),
    Fault(
        "told of what was rolled back", "caller", "lambda: not transaction.is_active", "lambda: True", CALLER, "finds_the_job"
    ),
    # what the model notices
    Fault("an end without its fence", "history", "d.i AND j.fence = d.f AND", "d.i AND", MODEL, "the_model", "postgresql"),
    Fault("a mark without its fence", "finish", "AND fence = :f AND state = 1 AND", "AND state = 1 AND", MODEL, "the_model"),
    Fault("an attempt is kept at the end", "history", '"j.attempt - d.b"', '"j.attempt"', MODEL, "the_model"),
    Fault("an attempt is kept by who waits", "finish", "attempt = attempt - d.b,", "attempt = attempt,", MODEL, "the_model"),
    Fault(
        "a lost run leaves an attempt",
        "attempts",
        "one.change.crashed) and one.claim.lease not in refused",
        "one.change.crashed)",
        MODEL,
        "the_model",
    ),
    Fault("singly, the shortest due first", "promote", "row.run_at, row.id)", "-row.run_at)", DUE, "a_retry", "mysql"),
    Fault(
        "an end is asked to end",
        "control",
        "WAITING), _ids(found, (RUNNING,))\n        carry",
        "WAITING), _ids(found, (1, 10, 11))\n        carry",
        MODEL,
        "the_model",
    ),
    Fault("a success is tried again", "control", "[SUCCEEDED] if force else []", "[SUCCEEDED]", MODEL, "the_model"),
    Fault("a retry begins the fences anew", "control", '"attempt": 0,', '"attempt": 0, "fence": 0,', MODEL, "the_model"),
    Fault("a retry still is cancelled", "control", "Flag.CANCEL | Flag.SUSPECT", "Flag.SUSPECT", MODEL, "the_model"),
    Fault("a retry lets go", "../stations", "if job.flags & Flag.HELD:", "if False:", MODEL, "the_model"),
    Fault("a release frees the parked", "control", "BLOCKED and job.reason == HELD]", "BLOCKED]", MODEL, "the_model"),
    Fault("young ones are pruned", "prune", ", history.c.finished_at < before", "", MODEL, "the_model"),
    Fault("the youngest are pruned first", "prune", "order_by(history.c.finished_at,", "order_by(", MODEL, "the_model"),
    Fault("labels outlive their job", "prune", 'delete("{labels}", "job_id"),', "", MODEL, "the_model"),
    Fault("oldest id first", "claim", '" ORDER BY ready_at, id LIMIT :n"', '" ORDER BY id LIMIT :n"', MODEL, "the_model"),
    Fault("no turns among queues", "lanes", "lane[0] < self.first, ", "", MODEL, "the_model"),
    Fault("who left is not rescued from", "rescue", "w.state = {ALIVE})", "w.state <> 1)", MODEL, "the_model"),
    Fault("the living are rescued too", "rescue", "w.state = {ALIVE})", "w.state = 9)", MODEL, "the_model"),
    Fault("one death more", "../lifecycle", "MAX_CRASHES = 3", "MAX_CRASHES = 4", MODEL, "the_model"),
    # what waits
    Fault(
        "a second head",
        "gates",
        "AND h.group_held >= 1 LIMIT 1) IS NULL",
        "AND h.group_held = 9 LIMIT 1) IS NULL",
        GATES,
        "at_a_time",
        "mysql",
    ),
    Fault(
        "a line by ids alone",
        "gates",
        "ORDER BY w.group_rank, w.id LIMIT 1) FROM",
        "ORDER BY w.id LIMIT 1) FROM",
        GATES,
        "priority_and",
    ),
    Fault(
        "halts are forgotten", "gates", "FROM {halts} s WHERE s.group_hash = d.i", "FROM {halts} s WHERE 1 = 0", GATES, "halts"
    ),
    Fault("a limit of any number", "limits", "rule.most - held", "rule.most", GATES, "many_run_at_once"),
    Fault(
        "a rate without a memory",
        "../rates",
        "for at, count in starts if at > now - per)",
        "for at, count in starts if False)",
        GATES,
        "in_any_stretch",
    ),
    Fault(
        "a retry gives its group up",
        "finish",
        "and not change.leaves_line\n    )",
        "and False\n    )",
        GATES,
        "tried_again_keeps",
    ),
    Fault("a share is kept by who waits", "finish", "return change.state is State.READY", "return True", GATES, "given_back"),
    Fault("children start at once", "add", '"pa": 1 if job.after else 0,', '"pa": 0,', EDGES, "after_its_parent"),
    Fault("a failed parent lets go", "edges", "AND e.outcome <> {SUCCEEDED})))", "AND FALSE)))", EDGES, "until_it_is_mended"),
    Fault(
        "a spawner waits for nobody",
        "../lifecycle",
        "if change.state is not State.SUCCEEDED or not",
        "if True or not",
        EDGES,
        "last_of_the_children",
    ),
    Fault("nobody sees Python stand still", "../pulse", "self._still += passed", "pass", PLACES, "keeps_the_interpreter"),
    Fault(
        "who stands still runs on beside others",
        "../pulse",
        "elif still > STILL and has_lost():",
        "elif False:",
        "tests/acceptance/test_outages.py",
        "python_stand_still",
        "postgresql",
    ),
    Fault("the kernel does not see to it", "../lifeline", "if _SET_SIGNAL is None:", "if True:", ALONE, "into_c"),
    Fault(
        "a frozen worker's line is not cut",
        "../pulse",
        "elif has_lost() and self._frozen():",
        "elif False:",
        ALONE,
        "begun and beats",
    ),
    Fault("a child does not look at the page", "../outside/child", " or term.is_over()", "", ALONE, "begun and too"),
    Fault("nor does a warden", "../outside/warden", "(late := left(page) <= 0)", "(late := False)", ALONE, "begun and too"),
    Fault("what thaws goes on", "../outside/warden", "(late := left(page) <= 0)", "(late := False)", ALONE, "thaws"),
    Fault("an outage ends what runs elsewhere", "../heartbeat", "self.term.refuse(steady())", "pass", ALONE, "for_everybody"),
    Fault(
        "what is lost comes back by itself",
        "../pulse",
        "if (end := self._end()) != LOST:",
        "if end := self._end():",
        "tests/unit/test_pulse.py",
        "stays_theirs",
    ),
    Fault(
        "a last word is not read",
        "../heartbeat",
        " and not select.select([self.orders], [], [], 0)[0]",
        "",
        "tests/regressions/test_the_heart_beats.py",
        "as_soon_as",
    ),
    Fault(
        "children of an earlier life count",
        "control",
        "        leave_behind(connection, tables, needy)\n",
        "",
        EDGES,
        "earlier_life_do_not_count",
    ),
    Fault(
        "children that run again are left behind",
        "edges",
        "edges.c.policy == SPAWNED, jobs.c.id.is_(None)",
        "edges.c.policy == SPAWNED",
        EDGES,
        "run_again_with_its_parent",
    ),
    Fault(
        "a running one keeps others away",
        "unique",
        "return row.state in (READY, SCHEDULED, RETRYING)",
        "return True",
        UNIQUE,
        "until_that_has_started",
    ),
    Fault("a window without an end", "unique", "there = None if key.free else", "there =", UNIQUE, "lasts_its_time"),
    Fault(
        "what has expired waits on",
        "expire",
        "jobs.c.expires_at <= tables.fixed_now()",
        "jobs.c.expires_at < 0",
        UNIQUE,
        "wherever_it_waits",
    ),
    # rules
    Fault("one attempt more", "../lifecycle", "job.attempt >= limit", "job.attempt > limit", RULES, "after_a_run"),
    Fault("one death more", "../lifecycle", "MAX_CRASHES = 3", "MAX_CRASHES = 4", CONTRACT, "death_counts"),
    Fault(
        "a result that does not fit fails",
        "../runner",
        "except Exception as error:\n            # The work",
        "except OSError as error:\n            # The work",
        RUNNER,
        "cannot_be",
    ),
    Fault("a task cancels itself for ever", "../runner", "and task.cancelling() > 0", "and True", RUNNER, "cancels_itself"),
    # hooks, notices, choices, numbers
    Fault("nobody is told", "notices", "or one.change.state is State.FAILED", "", NOTICES, "for_good_and_many"),
    Fault("two tell the same", "notices", "taken_until=until, deaths", "taken_until=None, deaths", NOTICES, "if_that_one_dies"),
    Fault("a record is not heeded", "rescue", "if change is None:", "if True:", NOTICES, "death_in_a_hook"),
    Fault("a record stays", "attempts", "if one.recorded and", "if False and", NOTICES, "place_of_its_record"),
    Fault("weights count for nothing", "../selection", "wanted * weight / total", "wanted / len(weights)", CHOICE, "by_weight"),
    Fault("no reserve", "../selection", "self._owed += wanted * self.reserve", "pass", CHOICE, "but_for_the_reserve"),
    Fault("all tasks are taken", "claim", "WHERE {_of_tasks(tasks, 'x')}", "WHERE TRUE", CHOICE, "only_some_tasks"),
    Fault(
        "tasks are not looked for",
        "claim",
        "if lanes.tasks:\n        template",
        "if False:\n        template",
        CHOICE,
        "only_some_tasks",
        "postgresql",
    ),
    Fault(
        "a late minute takes the hour's place",
        "rollups",
        "if (row.task, row.queue) in some:",
        "if False:",
        ROLLUPS,
        "become_hours",
    ),
    Fault("a hook before the commit", "../slots", "and written.get():", "and True:", HOOKS, "committed_end"),
    Fault(
        "a failed hook fails the run",
        "../runner",
        "if isinstance(raised, Signal | Permanent):",
        "if True:",
        OUTCOMES,
        "every_attempt and raises",
    ),
    Fault(
        "classes do not count", "../runner", "or definition.defaults.is_permanent(type(error))", "", OUTCOMES, "nearest_class"
    ),
    # waiting jobs, found in review
    Fault("the covered are forgotten", "ends", "coverers=set(ends))", "coverers=set())", EDGES, "ends_through_its_children"),
    Fault(
        "a stale one covers",
        "cover",
        "if connection.execute(tables.dialect.wait_for(mine)).first() is None:",
        "if False:",
        EDGES,
        "covers_nothing",
    ),
    Fault(
        "keys of the living are pruned",
        "unique",
        "connection.execute(tables.dialect.lock(idle))",
        "connection.execute(idle)",
        UNIQUE,
        "just_taking_over",
        "postgresql",
    ),
    # care
    Fault("who cannot write may judge", "../care", "            self._roster.sign()\n", "", CARE, "cannot_write"),
    Fault("the watch goes on for nobody", "../care", "found.spared.append(silent.pop(id))", "pass", CARE, "heard_again"),
    Fault("a process that lives is buried", "../care", "if where is Whereabouts.LIVES:", "if False:", CARE, "lives_here"),
    Fault(
        "a beat after the last is not awaited",
        "../care",
        "if watched and beat is not None:",
        "if False:",
        CARE,
        "beat_that_moves",
    ),
    Fault("a number is a process", "../care", "process.age < lasted - YOUNGER", "False", CARE, "another_process"),
    Fault("clocks are believed", "../care", "YOUNGER = 60.0", "YOUNGER = 0.0", CARE, "another_process"),
    Fault("the ended live", "../pids", 'ENDED = "ZX"', 'ENDED = "-"', CARE, "nobody_has_taken_note"),
    Fault("another host is this one", "../care", "worker.host != self._host", "False", CARE, "another_host"),
    Fault("what an operator wanted is not told", "rescue", "heed(one.change, one.claim.flags)", "one.change", CARE, "heeded"),
    Fault(
        "a pause is no reason", "../stuck", "all(pause.queue != head.queue for pause in pauses)", "True", CARE, "only_if_nobody"
    ),
    Fault("the young are stuck", "stuck", "AND ready_at <= (SELECT {now} - :older)", "", CARE, "only_if_nobody"),
    Fault("what is kept is not told", "prune", "(halting, _HALTING)", "(halting, _FREE)", CARE, "prune_says"),
    Fault("settling waits for callers", "gates", "columns, skip=True))", "columns))", GATES, "long_transaction", "postgresql"),
    # the tender
    Fault(
        "max and one more",
        "../tending/planning",
        "may_start and room > 0",
        "may_start and room >= 0",
        PLANNING,
        "one_step",
    ),
    Fault(
        "leaving ones do not count",
        "../tending/planning",
        "pool.most - len(members)",
        "pool.most - count.working",
        PLANNING,
        "one_step",
    ),
    Fault(
        "starting ones count for nothing",
        "../tending/planning",
        "return self.starting + self.up",
        "return self.up",
        PLANNING,
        "one_step",
    ),
    Fault(
        "a surplus need not last", "../tending/planning", "surplus_for >= SETTLED", "surplus_for >= 0", PLANNING, "has_to_last"
    ),
    Fault("the old one first", "../tending/planning", "if extra > 0:", "if extra >= 0:", PLANNING, "replaced_when_idle"),
    Fault(
        "a busy one is retired", "../tending/planning", "if one.is_idle and one.age >=", "if one.age >=", PLANNING, "one_step"
    ),
    Fault("no wait after deaths", "../tending/backoff", "self._tries += 1", "self._tries = 0", BACKOFF, "doubles"),
    Fault(
        "every death counts",
        "../tending/backoff",
        "not was_up or again if failed",
        "True if failed",
        BACKOFF,
        "once_in_a_while",
    ),
    Fault("half a line", "../tending/relay", 'rpartition(b"\\n")', 'partition(b"\\n")', RELAY, "whole_lines"),
    Fault("output has no end", "../tending/relay", "< OVERFULL", "< 10**9", RELAY, "does_not_read"),
    Fault("no word of a new life", "../tending/tended", "worker.worker_id != self._id", "not self._id", TENDED, "goodbye"),
    Fault("goodbye behind an error", "../tending/tended", "end(goodbye=False)", "end(goodbye=True)", TENDED, "no_goodbye"),
    Fault(
        "an orphan goes on",
        "../tending/tended",
        'self._worker.stop("its tender is gone")',
        "pass",
        TENDED,
        "without_its_tender",
    ),
    Fault("a lock is waited for in silence", "connect", "self._locked.lasts(waited, self.patience)", "pass", LOCKED, "soon"),
    Fault("a lock has no timeout", "../cli/opening", "min(database.patience, timeout)", "60.0", LOCKED, "a_timeout"),
    Fault("a hook keeps its process", "../slots", "item.hook_grip.end(lambda: None)", "pass", HANGING, "a_process_with"),
    Fault("hooks without end", "../slots", "self._crowd.look()", "pass", HANGING, "counted"),
    Fault("a thread is forgotten", "../hooks", "stragglers.leave(thread)", "pass", HANGING, "counted"),
    Fault("a new life needs a database", "../worker", "if not self.former:", "if True:", BEGINNINGS, "waits_and"),
    Fault("a former life is left", "../lease", "self._former = former", "self._former = 0", BEGINNINGS, "goodbye", "mysql"),
    Fault("process 1 is deaf at first", "../cli/__init__", "first.step_aside()", "pass", CONTAINERS, "while_it_starts"),
    Fault("nobody collects", "../cli/__init__", "first.step_aside()", "first.release()", CONTAINERS, "collects_who"),
    Fault("a terminal says it twice", "../first", "elif heard.si_code <= 0:", "else:", CONTAINERS, "a_terminal"),
    Fault("a reload stays behind", "../process", "folder.enter()", "pass", DEPLOYS, "begins_anew_where"),
    Fault("a tender stays behind", "../tending/hired", "cwd=folder.now()", "cwd=None", DEPLOYS, "tender_starts"),
    Fault("no rescue", "../tending/tender", "self._rescuer.add(worker.worker_id)", "pass", TEND, "killed_worker"),
    Fault("a socket is inherited", "../tending/tended", "line.set_inheritable(False)", "pass", TENDED, "for_nobody_else"),
    Fault("an order goes to the dead", "orders", ", workers.c.state == ALIVE).values(asked", ").values(asked", ORDERS, "order"),
    Fault(
        "an old stack answers a new question",
        "orders",
        "workers.c.stack_at >= since",
        "workers.c.stack_at >= 0",
        ORDERS,
        "stack",
    ),
    Fault("out of turn it stays ready", "../lifecycle", "job.out_of_turn or ", "", ORDERS, "turn"),
    Fault("out of turn it keeps a place", "finish", "not one.claim.out_of_turn", "True", ORDERS, "turn"),
    Fault("out of turn it becomes the head", "pick", "THEN 1 ELSE 0 END", "THEN 1 ELSE 1 END", ORDERS, "turn"),
    Fault(
        "a share of a limit is not counted", "pick", "THEN NULL ELSE 1 END WHERE", "THEN NULL ELSE 0 END WHERE", ORDERS, "limit"
    ),
    Fault("a running job is taken", "pick", " WHERE id = :id AND state <> 1", " WHERE id = :id", ORDERS, "many or waits"),
    Fault("all runs are forgotten", "output", ", output.c.fence == lease.fence)", ")", ORDERS, "forgotten"),
    Fault(
        "a late word is not swallowed",
        "../grip",
        "except TimedOut:\n                continue",
        "except TimedOut:\n                raise",
        GRIP,
        "on_its_way",
    ),
    Fault("it is asked twice", "../grip", "and not self._raised:", "and True:", GRIP, "twice"),
    Fault(
        "who was stopped begins anew",
        "../standing",
        "self._until = min(self._until, self._clock() + self._grace)\n        self.again = False",
        "self._until = min(self._until, self._clock() + self._grace)",
        STANDING,
        "counts",
    ),
    Fault(
        "a limit cuts jobs",
        "../standing",
        '"""Start nothing more, and let what runs end, however long that takes."""',
        "self._until = self._clock() + self._grace",
        STANDING,
        "counts",
    ),
    Fault("options go in unseen", "../command", "if open_to_options and part", "if False and part", COMMANDS, "cannot"),
    Fault(
        "a wrong value is left out",
        "../command",
        "if not optional and (not isinstance(value, kind)",
        "if False and (not isinstance(value, kind)",
        COMMANDS,
        "cannot or signature",
    ),
    Fault(
        "the end of output is not kept", "../outside/capture", "self._tail.append((stream, line))", "return", CAPTURE, "beyond"
    ),
    Fault(
        "output has no limit",
        "../outside/capture",
        "while self._tail_size > self._tail_most:",
        "while False:",
        CAPTURE,
        "beyond or flood",
    ),
    Fault(
        "a line without an end grows", "../outside/capture", "while len(rest) > LINE_LIMIT:", "while False:", CAPTURE, "flood"
    ),
    Fault("the time of a run is never over", "../deadlines", "grip.time_out()", "pass", PLACES, "too_long"),
    Fault("a run is never ended", "../deadlines", "self._end(item)", "pass", PLACES, "heed and stubborn"),
    Fault("a process is used for ever", "../outside/children", "child.runs >= isolate.jobs", "False", PLACES, "so_many"),
    Fault(
        "a child keeps the memory of its worker",
        "../outside/child",
        "    _be_the_first_to_go()\n    term",
        "    term",
        PLACES,
        "kernel",
    ),
    Fault(
        "a program outlives its worker",
        "../outside/warden",
        "signal_group(pid, signal.SIGKILL)\n",
        "pass\n",
        PLACES,
        "takes_its",
    ),
    Fault(
        "a program leaves others behind",
        "../outside/programs",
        "os.killpg(group, number)",
        "os.kill(group, number)",
        PLACES,
        "asked_to_end",
    ),
    Fault("output of a success is kept", "../outside/programs", "self._context.forget_log()", "pass", PLACES, "as_is_wanted"),
    Fault("looks are not counted", "../intake", "self.looks += 1", "pass", FLAGS, "cycle"),
    Fault(
        "hints are heard between looks",
        "../intake",
        "if self._every is not None:\n            return max",
        "if False:\n            return max",
        FLAGS,
        "between_two",
    ),
    Fault(
        "two of one name", "../single", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", FLAGS, "of_one_name"
    ),
    Fault(
        "the lock is lost on the way",
        "../single",
        "os.set_inheritable(self._file.fileno(), True)",
        "pass",
        FLAGS,
        "begins_anew_with",
    ),
    Fault("a pause is not heeded", "../exchange", "and not self._standing.paused ", "", FLAGS, "usr2"),
    Fault("a round does not watch", "../cli/process", "Admin(app).care.rescue(Progress())", "pass", FLAGS, "round_frees"),
    Fault(
        "stop --stay is not heeded",
        "../obedience",
        "self.stopped, self.orders = controls.stopped",
        "self.stopped, self.orders = None",
        FLEET,
        "stay",
    ),
    Fault(
        "a rolling reload does not wait",
        "../fleet",
        "if not left and len(alive) >= number:",
        "if True:",
        FLEET,
        "rolling or reloads",
    ),
    # behind a commit
    Fault(
        "no note of what is owed",
        "settle",
        "return result, owed, self.note(connection, owed)",
        "return result, owed, None",
        FAILPOINTS,
        "behind_a_commit",
    ),
    Fault(
        "no note for the next line",
        "settle",
        "return placed, note(connection, self._tables, placed.owed)",
        "return placed, None",
        FAILPOINTS,
        "behind_a_commit",
    ),
    Fault("let through a limit twice", "limits", "rule.most - held", "rule.most", FAILPOINTS, "behind_a_commit"),
]


def main(words: Sequence[str]) -> int:
    chosen = [
        fault for fault in FAULTS if all(word in f"{fault.name} {fault.file} {fault.database} {fault.tests}" for word in words)
    ]
    with tempfile.TemporaryDirectory(prefix="dray-broken-") as folder:
        copy = Path(folder)
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if not is_green(copy, chosen):
            return 2
        survivors = [fault for fault in chosen if not is_noticed(copy, fault)]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} faults were noticed")
    for fault in survivors:
        print(f"  lived: {fault.name} ({fault.file}, {fault.database}): see {fault.tests} -k {fault.words!r}")
    return bool(survivors)


def is_green(copy: Path, faults: Sequence[Fault]) -> bool:
    """Whether the tests pass when nothing is broken; else they could notice nothing."""
    print("without a fault", end=" ", flush=True)
    for database in dict.fromkeys(fault.database for fault in faults):
        mine = [fault for fault in faults if fault.database == database]
        files = [*dict.fromkeys(fault.tests for fault in mine)]
        done = run(copy, files, " or ".join(f"({fault.words})" for fault in mine), database)
        if done.returncode != 0:
            print(f"\n{done.stdout[-6000:]}{done.stderr[-2000:]}\nnot green on {database}: nothing was broken yet")
            return False
    print("all is green")
    return True


def is_noticed(copy: Path, fault: Fault) -> bool:
    """Make the fault, run its tests, and mend it again."""
    path = (copy / "src/dray/store" / f"{fault.file}.py").resolve()
    whole = path.read_text()
    if fault.old not in whole:
        print(f"  {fault.name}: there is no {fault.old!r} in {fault.file}.py any more")
        return False
    path.write_text(whole.replace(fault.old, fault.new))
    began = time.monotonic()
    try:
        done = run(copy, [fault.tests], fault.words, fault.database)
    finally:
        path.write_text(whole)
    noticed = done.returncode == 1  # 1: a test failed; anything else says that none was run
    word = "noticed" if noticed else f"LIVED ({done.returncode})"
    print(f"  {word:8} {fault.name} ({fault.file}, {fault.database}) {time.monotonic() - began:.0f} s", flush=True)
    return noticed


def run(copy: Path, files: Sequence[str], words: str, database: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",  # a fault is as old as its file to the second, and would be mended too late
        "DRAY_TEST_DATABASES": database,
        "DRAY_TEST_MINUTES": "4",  # the model needs some luck to meet a fault, so it may take its time
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--timeout={PATIENCE}",
        *files,
        "-k",
        words,
    ]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
