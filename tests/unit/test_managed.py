"""Which managed PostgreSQL an address leads to, and which address to use instead.

The forms are those that the services' documentation and people's configurations show; the names in them are made up.
"""

from __future__ import annotations

import pytest

from pg_kafka import database_url, managed
from pg_kafka.managed import Way, no_postgres, seen_in, service_of_server

DIRECT, POOLER, READER, OTHER = Way.DIRECT, Way.POOLER, Way.READER, Way.OTHER
SESSION = Way.SESSION_POOLER
NEON = "ep-cool-darkness-a1b2c3d4"
DO = "db-postgresql-lon1-12345-do-user-123456-0"
TIGER = "abcd12efgh.ij34klmnop.tsdb.cloud.timescale.com"

# An address without scheme, the service, the way, and the address to use instead.
ADDRESSES = [
    # Supabase
    ("postgres:pw@db.abcdefghijklmnopqrst.supabase.co:5432/postgres", "Supabase", DIRECT, None),
    ("postgres:pw@db.abcdefghijklmnopqrst.supabase.co/postgres", "Supabase", DIRECT, None),
    (
        "postgres.abcdefghijklmnopqrst:pw@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?sslmode=require",
        "Supabase",
        POOLER,
        "postgres.abcdefghijklmnopqrst@aws-0-eu-central-1.pooler.supabase.com/postgres?sslmode=require",
    ),
    (
        "postgres.abcdefghijklmnopqrst:pw@aws-1-ap-northeast-2.pooler.supabase.com:6543/postgres",
        "Supabase",
        POOLER,
        "postgres.abcdefghijklmnopqrst@aws-1-ap-northeast-2.pooler.supabase.com/postgres",
    ),
    (
        "postgres.abcdefghijklmnopqrst:pw@aws-0-us-east-1.pooler.supabase.com:5432/postgres",
        "Supabase",
        SESSION,
        None,
    ),
    (
        "postgres:pw@db.abcdefghijklmnopqrst.supabase.co:6543/postgres",
        "Supabase",
        POOLER,
        "postgres@db.abcdefghijklmnopqrst.supabase.co/postgres",
    ),
    (
        "postgres.abcdefghijklmnopqrst:pw@DB.ABCDEFGHIJKLMNOPQRST.SUPABASE.CO:6543/postgres",
        "Supabase",
        POOLER,
        "postgres@db.abcdefghijklmnopqrst.supabase.co/postgres",
    ),
    # Neon
    (f"alex:pw@{NEON}.us-east-2.aws.neon.tech/dbname?sslmode=require", "Neon", DIRECT, None),
    (
        f"alex:pw@{NEON}-pooler.us-east-2.aws.neon.tech/dbname?sslmode=require",
        "Neon",
        POOLER,
        f"alex@{NEON}.us-east-2.aws.neon.tech/dbname?sslmode=require",
    ),
    (
        f"alex:pw@{NEON}-pooler.c-2.eu-central-1.aws.neon.tech/neondb",
        "Neon",
        POOLER,
        f"alex@{NEON}.c-2.eu-central-1.aws.neon.tech/neondb",
    ),
    (
        f"alex:pw@{NEON}-pooler.westus3.azure.neon.tech/neondb",
        "Neon",
        POOLER,
        f"alex@{NEON}.westus3.azure.neon.tech/neondb",
    ),
    (
        f"alex:pw@{NEON}-pooler.us-east-2.aws.neon.tech/db?options=endpoint%3D{NEON}-pooler&sslmode=require",
        "Neon",
        POOLER,
        f"alex@{NEON}.us-east-2.aws.neon.tech/db?sslmode=require",
    ),
    (
        "default:pw@ep-small-cake-12345678-pooler.us-east-1.postgres.vercel-storage.com:5432/verceldb",
        "Neon",
        POOLER,
        "default@ep-small-cake-12345678.us-east-1.postgres.vercel-storage.com/verceldb",
    ),
    ("default:pw@ep-small-wood-123456.us-east-1.postgres.vercel-storage.com/verceldb", "Neon", DIRECT, None),
    # Amazon
    ("app:pw@orders.c1a2b3c4d5e6.eu-west-1.rds.amazonaws.com:5432/kafka", "Amazon RDS", DIRECT, None),
    ("app:pw@orders.c1a2b3c4d5e6.us-gov-west-1.rds.amazonaws.com/kafka", "Amazon RDS", DIRECT, None),
    ("app:pw@orders.c1a2b3c4d5e6.cn-north-1.rds.amazonaws.com.cn/kafka", "Amazon RDS", DIRECT, None),
    ("app:pw@my-proxy-server.c1a2b3c4d5e6.eu-west-1.rds.amazonaws.com/kafka", "Amazon RDS", DIRECT, None),
    (
        "app:pw@orders.proxy-c1a2b3c4d5e6.us-east-1.rds.amazonaws.com:5432/kafka",
        "Amazon RDS",
        POOLER,
        "app@INSTANCE_OR_CLUSTER_ENDPOINT/kafka",
    ),
    (
        "app:pw@ep1.endpoint.proxy-c1a2b3c4d5e6.ap-northeast-1.rds.amazonaws.com/kafka",
        "Amazon RDS",
        POOLER,
        "app@INSTANCE_OR_CLUSTER_ENDPOINT/kafka",
    ),
    (
        "app:pw@orders.proxy-c1a2b3c4d5e6.cn-north-1.rds.amazonaws.com.cn/kafka",
        "Amazon RDS",
        POOLER,
        "app@INSTANCE_OR_CLUSTER_ENDPOINT/kafka",
    ),
    ("app:pw@orders.cluster-c1a2b3c4d5e6.us-east-1.rds.amazonaws.com/kafka", "Amazon Aurora", DIRECT, None),
    (
        "app:pw@orders.cluster-ro-c1a2b3c4d5e6.us-east-1.rds.amazonaws.com:5433/kafka",
        "Amazon Aurora",
        READER,
        "app@orders.cluster-c1a2b3c4d5e6.us-east-1.rds.amazonaws.com:5433/kafka",
    ),
    (
        "app:pw@some.cluster-custom-c1a2b3c4d5e6.us-east-1.rds.amazonaws.com/kafka",
        "Amazon Aurora",
        READER,
        "app@CLUSTER_ENDPOINT/kafka",
    ),
    ("admin:pw@abcdefghijklmnopqrstuvwxyz.dsql.us-east-1.on.aws/postgres", "Amazon Aurora DSQL", OTHER, None),
    ("app:pw@dw.c1a2b3c4d5e6.us-west-2.redshift.amazonaws.com:5439/dev", "Amazon Redshift", OTHER, None),
    # Azure
    ("app:pw@orders.postgres.database.azure.com:5432/kafka", "Azure Database for PostgreSQL", DIRECT, None),
    ("app%40orders:pw@orders.postgres.database.azure.com/kafka", "Azure Database for PostgreSQL", DIRECT, None),
    (
        "app:pw@orders.postgres.database.azure.com:6432/kafka?sslmode=require",
        "Azure Database for PostgreSQL",
        POOLER,
        "app@orders.postgres.database.azure.com/kafka?sslmode=require",
    ),
    (
        "app%40orders:pw@orders.privatelink.postgres.database.azure.com:6432/kafka",
        "Azure Database for PostgreSQL",
        POOLER,
        "app%40orders@orders.privatelink.postgres.database.azure.com/kafka",
    ),
    ("app:pw@orders.postgres.database.chinacloudapi.cn/kafka", "Azure Database for PostgreSQL", DIRECT, None),
    (
        "citus:pw@c-orders.a1b2c3d4e5f6g7.postgres.cosmos.azure.com:6432/citus",
        "Azure Cosmos DB for PostgreSQL",
        POOLER,
        "citus@c-orders.a1b2c3d4e5f6g7.postgres.cosmos.azure.com/citus",
    ),
    # Google
    ("app:pw@/kafka?host=/cloudsql/project:europe-west1:orders", "Google Cloud SQL", DIRECT, None),
    ("app:pw@%2Fcloudsql%2Fproject%3Aeurope-west1%3Aorders/kafka", "Google Cloud SQL", DIRECT, None),
    ("app:pw@a1b2c3d4e5f6.1a2b3c4d.europe-west1.sql.goog/kafka", "Google Cloud SQL", DIRECT, None),
    (
        "app:pw@a1b2c3d4e5f6.1a2b3c4d.europe-west1.sql.goog:6432/kafka",
        "Google Cloud SQL",
        POOLER,
        "app@a1b2c3d4e5f6.1a2b3c4d.europe-west1.sql.goog/kafka",
    ),
    (
        "app:pw@1234.5678.europe-west1.alloydb-psc.goog:6432/kafka",
        "Google AlloyDB",
        POOLER,
        "app@1234.5678.europe-west1.alloydb-psc.goog/kafka",
    ),
    # Others with poolers
    ("app:pw@p.abcdefghijklmnopqrstuvwxyz.db.postgresbridge.com:5432/mydb", "Crunchy Bridge", DIRECT, None),
    (
        "app:pw@p.abcdefghijklmnopqrstuvwxyz.db.postgresbridge.com:5431/mydb",
        "Crunchy Bridge",
        POOLER,
        "app@p.abcdefghijklmnopqrstuvwxyz.db.postgresbridge.com/mydb",
    ),
    (f"doadmin:pw@{DO}.b.db.ondigitalocean.com:25060/defaultdb", "DigitalOcean", DIRECT, None),
    (f"doadmin:pw@private-{DO}.k.db.ondigitalocean.com:25060/defaultdb", "DigitalOcean", DIRECT, None),
    (
        f"doadmin:pw@{DO}.b.db.ondigitalocean.com:25061/mypool?sslmode=require",
        "DigitalOcean",
        POOLER,
        f"doadmin@{DO}.b.db.ondigitalocean.com:25060/DATABASE?sslmode=require",
    ),
    ("postgres.abc:pw@abc-useast1-1.horizon.psdb.cloud:5432/my_database", "PlanetScale", DIRECT, None),
    (
        "postgres.abc:pw@abc-useast1-1.horizon.psdb.cloud:6432/my_database",
        "PlanetScale",
        POOLER,
        "postgres.abc@abc-useast1-1.horizon.psdb.cloud/my_database",
    ),
    (
        "postgres.abc%7Cwrite-pool:pw@eu-central-1.pg.psdb.cloud:6432/my_database",
        "PlanetScale",
        POOLER,
        "postgres.abc@eu-central-1.pg.psdb.cloud/my_database",
    ),
    (
        "u:pw@pooled.db.prisma.io:5432/postgres?sslmode=require",
        "Prisma Postgres",
        POOLER,
        "u@db.prisma.io/postgres?sslmode=require",
    ),
    ("u:pw@db.prisma.io:5432/postgres?sslmode=require", "Prisma Postgres", DIRECT, None),
    ("fly-user:pw@direct.a1b2c3d4e5f6g7h8.flympg.net/fly-db", "Fly Managed Postgres", DIRECT, None),
    (
        "fly-user:pw@pgbouncer.a1b2c3d4e5f6g7h8.flympg.net/fly-db",
        "Fly Managed Postgres",
        POOLER,
        "fly-user@direct.a1b2c3d4e5f6g7h8.flympg.net/fly-db",
    ),
    (f"tsdbadmin:pw@{TIGER}:34567/tsdb?sslmode=require", "Tiger Cloud", DIRECT, None),
    (f"tsdbadmin:pw@{TIGER}:29303/tsdb_transaction", "Tiger Cloud", POOLER, f"tsdbadmin@{TIGER}:29303/tsdb"),
    # Those that show nothing more
    ("avnadmin:pw@pg-1a2b3c-orders.a.aivencloud.com:12345/defaultdb?sslmode=require", "Aiven", DIRECT, None),
    ("app:pw@dpg-abcdefghijklmnopqrst-a.oregon-postgres.render.com/kafka", "Render", DIRECT, None),
    ("postgres:pw@monorail.proxy.rlwy.net:12345/railway", "Railway", DIRECT, None),
    ("postgres:pw@postgres.railway.internal:5432/railway", "Railway", DIRECT, None),
    ("app:pw@rw-1a2b.rdb.fr-par.scw.cloud:12345/kafka", "Scaleway", DIRECT, None),
    ("avnadmin:pw@postgresql-1a2b-o3c4d.database.cloud.ovh.net:20184/kafka", "OVHcloud", DIRECT, None),
    ("app:pw@c-abcdefghij.rw.mdb.yandexcloud.net:6432/kafka", "Yandex Managed PostgreSQL", DIRECT, None),
    ("app:pw@free-tier.aws-eu-west-1.cockroachlabs.cloud:26257/defaultdb", "CockroachDB", OTHER, None),
]


@pytest.mark.parametrize(("address", "service", "way", "instead"), ADDRESSES, ids=[one[0] for one in ADDRESSES])
def test_service_is_recognised(address: str, service: str, way: Way, instead: str | None) -> None:
    url = f"postgresql://{address}"
    assert database_url.wanted_instead(url) is None, "no broker would take it"
    seen = seen_in(url)
    assert seen is not None
    assert (seen.service, seen.way) == (service, way)
    assert seen.instead == (None if instead is None else f"postgresql://{instead}")
    assert (way in (DIRECT, OTHER)) == (not seen.called)
    if instead is not None:
        assert "pw" not in instead
        assert database_url.wanted_instead(f"postgresql://{instead}") is None
        if not any(word.isupper() for word in instead.replace("@", "/").split("/")):
            better = seen_in(f"postgresql://{instead}")
            assert better is not None and better.way in (DIRECT, SESSION)


@pytest.mark.parametrize(
    "address",
    [
        "me:pw@localhost/kafka",
        "me:pw@127.0.0.1:6543/kafka",
        "me:pw@[::1]:6432/kafka",
        "me@/kafka?host=/var/run/postgresql&port=5433",
        "me:pw@db.example.com:6543/kafka",
        "me:pw@my-pooler.example.com/kafka",
        "me:pw@pooler.supabase.com.example.com:6543/kafka",
        "me:pw@neon.tech.example.com/kafka",
        "me:pw@ep-x-pooler.us-east-2.aws.neon.tech.evil.example/kafka",
        "me:pw@rds.amazonaws.com.example.com/kafka",
        "me:pw@postgres.database.azure.com.example.com:6432/kafka",
        "/kafka",
        "",
    ],
)
def test_somebody_s_own_server_is_no_service(address: str) -> None:
    assert seen_in(f"postgresql://{address}") is None


def test_host_of_the_query_is_replaced_too() -> None:
    url = "postgresql://me:pw@/kafka?host=pooled.db.prisma.io&port=5432&password=pw2&sslmode=require"
    seen = seen_in(url)
    assert seen is not None
    assert seen.instead == "postgresql://me@db.prisma.io/kafka?sslmode=require"


def test_first_of_several_hosts_counts() -> None:
    seen = seen_in("postgresql://me@x-pooler.us-east-2.aws.neon.tech,other.example/kafka")
    assert seen is not None and seen.way is POOLER


@pytest.mark.parametrize(
    ("settings", "roles", "expected"),
    [
        ({"rds.extensions"}, {"rds_superuser"}, "Amazon RDS"),
        (set(), {"rds_superuser"}, "Amazon RDS"),
        ({"neon.timeline_id"}, set(), "Neon"),
        ({"cloudsql.iam_authentication"}, {"cloudsqlsuperuser"}, "Google Cloud SQL"),
        ({"azure.extensions"}, set(), "Azure Database for PostgreSQL"),
        (set(), {"supabase_admin", "postgres"}, "Supabase"),
        (set(), {"postgres"}, None),
        (set(), set(), None),
    ],
)
def test_server_says_whose_it_is(settings: set[str], roles: set[str], expected: str | None) -> None:
    assert service_of_server(settings, roles, is_aurora=False) == expected
    assert service_of_server(settings, roles, is_aurora=True) == "Amazon Aurora"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("PostgreSQL 15.4 on x86_64-pc-linux-gnu, compiled by gcc 12.2.0, 64-bit", None),
        ("PostgreSQL 17.2 (Debian 17.2-1.pgdg120+1) on aarch64-unknown-linux-gnu", None),
        ("CockroachDB CCL v23.1.11 (x86_64-pc-linux-gnu)", "CockroachDB"),
        ("PostgreSQL 11.2-YB-2.20.1.0-b0 on x86_64-pc-linux-gnu", "YugabyteDB"),
        ("PostgreSQL 8.0.2 on i686-pc-linux-gnu, compiled by GCC, Redshift 1.0.57", "Amazon Redshift"),
    ],
)
def test_other_databases_are_told_apart(version: str, expected: str | None) -> None:
    assert no_postgres(version) == expected


@pytest.mark.parametrize(
    "service", [None, *sorted({*managed.SETTINGS.values(), *managed.ROLES.values()}), "Amazon Aurora"]
)
def test_every_service_is_told_how_to_set(service: str | None) -> None:
    lines = managed.how_to_set(service, [("max_wal_size", "2GB"), ("checkpoint_timeout", "15min")], restart=True)
    text = "\n".join(lines)
    assert "max_wal_size" in text and "2GB" in text and "checkpoint_timeout" in text
    assert ("ALTER SYSTEM SET max_wal_size = '2GB';" in lines) == (service in (None, "Tiger Cloud", "Crunchy Bridge"))
