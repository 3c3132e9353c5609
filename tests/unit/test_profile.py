"""What is made of the looks that py-spy has taken."""

from __future__ import annotations

from collections import Counter

from benchmarks.profile import Sample, samples

ROOT = "<module> (dray/__main__.py:5);Worker._run (dray/worker.py:210)"
SEEN = f"""\
{ROOT};Finisher.write (dray/finisher.py:122);SqlStore.exchange (dray/store/sql.py:200);claim (dray/store/claim.py:95) 3
{ROOT};Finisher.write (dray/finisher.py:122);SqlStore.exchange (dray/store/sql.py:200);finish (dray/store/finish.py:8);\
Connection.execute (sqlalchemy/engine/base.py:1494);DefaultDialect.do_execute (sqlalchemy/engine/default.py:1192) 2
Thread._bootstrap (threading.py:1002);Slots._run (dray/slots.py:215);nothing (benchmarks/tasks.py:16) 4
{ROOT};claim (dray/store/claim.py:95);Connection.execute (sqlalchemy/engine/base.py:1494) 1
{ROOT};claim (dray/store/claim.py:95);Cursor.fetchall (psycopg/cursor.py:282) 1
Thread._bootstrap (threading.py:1002) 5
<module> (dray/__main__.py:5);_find_and_load (<frozen importlib._bootstrap>:1176);<module> (dray/worker.py:1) 9
"""


def test_a_look_counts_for_the_innermost_step_and_for_the_layer_it_was_in() -> None:
    assert Counter(samples(SEEN)) == {
        Sample("find and claim it", "Dray"): 3,
        Sample("find and claim it", "SQLAlchemy"): 1,
        Sample("find and claim it", "driver"): 1,
        Sample("write its end", "driver"): 2,
        Sample("run it", "Dray"): 4,
        Sample("the rest of the process", "Dray"): 5,
    }
