"""What `import dray` gives, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import dray

# A program that opens no store, shows no page and speaks to no terminal should not pay for these.
HEAVY = {"alembic", "click", "psycopg", "pymysql", "rich", "sqlalchemy", "starlette"}


def test_importing_dray_is_light() -> None:
    program = "import json, sys, dray; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in json.loads(answer.stdout)}
    assert "dray" in loaded
    assert not HEAVY & loaded


@pytest.mark.parametrize("name", ["sqlite", "postgresql", "mysql"])
def test_the_tables_of_one_database_load_nothing_of_another(name: str) -> None:
    """SQLAlchemy's package of a database loads its ways to all drivers there are: a tenth of a start."""
    program = (
        "import json, sys\nfrom dray.store.dialects import DIALECTS\nfrom dray.store.tables import Tables\n"
        f"Tables(DIALECTS[{name!r}])\nprint(json.dumps(sorted(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    others = {f"sqlalchemy.dialects.{other}" for other in ("sqlite", "postgresql", "mysql") if other != name}
    assert not others & set(json.loads(answer.stdout))


NOT_A_WORKERS = {"dray.admin", "dray.doctor", "dray.probe_port", "http.server"}


def test_a_worker_loads_nothing_that_only_operators_need() -> None:
    program = "import json, sys, dray.cli.worker, dray.worker, dray.store.sql; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert not NOT_A_WORKERS & set(json.loads(answer.stdout))


def test_the_public_names_are_few_and_in_order() -> None:
    assert dray.__all__ == sorted(dray.__all__)
    assert len(dray.__all__) <= 17


def test_every_public_name_can_be_had() -> None:
    for name in dray.__all__:
        assert getattr(dray, name) is not None
        assert name in dir(dray)
