"""What MySQL 8 would not understand. The tests run on MariaDB, which forgives it; so it has to be looked for."""

from __future__ import annotations

import re

from sqlalchemy.dialects.mysql.reserved_words import RESERVED_WORDS_MARIADB, RESERVED_WORDS_MYSQL

_WORDS = r"`[^`]*`|'(?:[^']|'')*'|\"[^\"]*\""  # quoted: data and names may be anything
_RESERVED = RESERVED_WORDS_MYSQL - RESERVED_WORDS_MARIADB

MARIADB_ONLY = {
    "RETURNING": r"\bRETURNING\b",
    "CREATE OR REPLACE of anything but a view": r"\bCREATE\s+OR\s+REPLACE\b(?![^;]*\bVIEW\b)",
    "IF NOT EXISTS of a column or index": (
        r"\bADD\s+(?:(?:COLUMN|INDEX|KEY|CONSTRAINT)\s+)?IF\s+NOT\s+EXISTS\b|\bINDEX\s+IF\s+NOT\s+EXISTS\b"
    ),
    "IF EXISTS of a column or index": r"\b(?:COLUMN|INDEX|KEY|CONSTRAINT)\s+IF\s+EXISTS\b",
    "sequences": r"\b(?:NEXTVAL|LASTVAL|SETVAL)\s*\(|\bNEXT\s+VALUE\s+FOR\b|\bCREATE\s+SEQUENCE\b|\bseq_\d+_to_\d+",
    "FETCH FIRST": r"\bFETCH\s+(?:FIRST|NEXT)\b",
    "WAIT n": r"\bWAIT\s+\d",
    "ROWS EXAMINED": r"\bROWS\s+EXAMINED\b",
    "SET STATEMENT": r"\bSET\s+STATEMENT\b",
    "EXECUTE IMMEDIATE": r"\bEXECUTE\s+IMMEDIATE\b",
    "BEGIN NOT ATOMIC": r"\bBEGIN\s+NOT\s+ATOMIC\b",
    "INTERSECT, EXCEPT (MySQL has them from 8.0.31)": r"\b(?:INTERSECT|EXCEPT)\b",
    "system versioning": r"\bSYSTEM\s+VERSIONING\b|\bSYSTEM_TIME\b",
    "a JSON function": r"\bJSON_(?:COMPACT|DETAILED|EQUALS|EXISTS|KEY_VALUE|LOOSE|NORMALIZE|QUERY)\s*\(",
    "a function": r"\b(?:ADD_MONTHS|MEDIAN|NATURAL_SORT_KEY|NVL2?|SFORMAT|TO_CHAR|UUID_V[47]|VALUE)\s*\(",
    "a storage engine": r"\bENGINE\s*=\s*(?:Aria|S3|ColumnStore)\b",
}


def mariadb_only(statement: str) -> list[str]:
    """Say what there is in a statement that MySQL 8 would refuse."""
    bare = re.sub(_WORDS, "''", statement)
    found = [what for what, pattern in MARIADB_ONLY.items() if re.search(pattern, bare, re.IGNORECASE)]
    names = re.findall(r"\bAS\s+([A-Za-z_]\w*)", bare, re.IGNORECASE)
    return found + [f"the name {name}" for name in names if name.lower() in _RESERVED]
