"""MySQL's copies, where there is a MySQL (`APPVSS_MYSQLD`), as `test_mariadb.py` has them of MariaDB."""

from __future__ import annotations

from pathlib import Path

import pytest

from appvss.adapters import mysql
from appvss.verify import mysql as verifier
from tests.adapters.support.mysql_server import MysqlServer, why_no_mysql
from tests.adapters.support.mysql_world import a_secret
from tests.databases.support.mysql_triple import Case, Product, take_and_judge
from tests.databases.support.pool import Pool
from tests.databases.support.servers import SERVER_USER, MariadbServer
from tests.databases.support.triple import Way

pytestmark = [
    pytest.mark.skipif(bool(why_no_mysql()), reason=why_no_mysql() or "-"),
    pytest.mark.xdist_group("mariadb-triples"),
    pytest.mark.timeout(600),  # seven starts of a MySQL, and what a busy machine makes of them
]

GRANTS = (
    "BACKUP_ADMIN, RELOAD, PROCESS, SHOW VIEW ON *.*",
    "SELECT ON performance_schema.log_status",
    "SELECT ON performance_schema.metadata_locks",
    "CREATE, INSERT, DELETE ON appvss.*",
)
NOT_AT_COMMIT = {"innodb-flush-log-at-trx-commit": "0", "innodb-flush-log-at-timeout": "2700", "sync-binlog": "0"}
WITHOUT_HOLD = frozenset({Way.RAW, Way.FS})


def adapter(server: MariadbServer) -> mysql.Adapter:
    return mysql.Adapter(mysql.Settings(Path(server.socket), user="appvss", password=a_secret()))


MYSQL = Product("mysql", MysqlServer, {}, adapter, verifier.verify)
CASES = [
    Case("innodb_flush_log_at_trx_commit=1", {}, GRANTS),
    Case("innodb_flush_log_at_trx_commit=0", NOT_AT_COMMIT, GRANTS, loses=WITHOUT_HOLD),
    Case("MyISAM DELAY_KEY_WRITE=1", {}, GRANTS, "ENGINE=MyISAM DELAY_KEY_WRITE=1", breaks=WITHOUT_HOLD),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.setting)
async def test_what_each_way_is_worth(pool: Pool, case: Case) -> None:
    await take_and_judge(pool, pool.volume(f"my{len(pool.volumes)}", owner=SERVER_USER), MYSQL, case)
