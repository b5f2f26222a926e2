"""Which managed PostgreSQL an address leads to, by which way, and the address to use where that way will not do.

pg_kafka holds locks in its sessions, so a pooler that gives a session to several clients is of no use to it. Services
show theirs beside the database, at another host, port or name, and people copy the wrong one. Nothing is asked here:
the address says it, and what a server says of itself (`service_of_server`). No password is in what is returned.
Each rule has the page of the service's documentation that it is from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from pg_kafka import database_url


class Way(Enum):
    """How an address leads to the database. What each of them means for a broker is in `checks`."""

    DIRECT = "direct"
    SESSION_POOLER = "session pooler"  # will do
    POOLER = "pooler"  # hands sessions around, as a rule; some can be set to leave them alone
    READER = "reader"  # nothing can be written there
    OTHER = "other"  # no PostgreSQL, though it speaks its protocol


@dataclass(frozen=True, slots=True)
class Seen:
    """What an address says. `instead` is the address to use, without a password; capital words in it are to be filled in."""

    service: str
    way: Way = Way.DIRECT
    called: str = ""  # what the service calls what is in between
    instead: str | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """The parts of an address that matter; `host` is in lower case."""

    url: str
    user: str
    host: str
    port: int
    database: str

    def but(
        self, *, host: str | None = None, port: int | None = None, user: str | None = None, database: str | None = None
    ) -> str:
        """The address with other parts."""
        host, port = self.host if host is None else host, self.port if port is None else port
        user = self.user if user is None else user
        parts = urlsplit(database_url.without_password(self.url))
        options = {name: value for name, value in parse_qsl(parts.query) if name not in _IN_OTHER_PARTS}
        shown = f":{port}" if port != _PORT else ""
        if host.startswith("/"):
            options |= {"host": host} | ({"port": str(port)} if shown else {})
            host = shown = ""
        elif ":" in host:
            host = f"[{host}]"
        login = f"{quote(user, safe='')}@" if user else ""
        path = "/" + quote(self.database if database is None else database, safe="")
        query = urlencode(options, quote_via=quote)
        return urlunsplit(parts._replace(netloc=f"{login}{host}{shown}", path=path, query=query))


# Options that say what another part of the address says as well. Neon's name of an endpoint is in `options`, for old clients.
_IN_OTHER_PARTS = ("host", "port", "user", "dbname", "database", "options")
_PORT = 5432
_Rule = Callable[[_Place], Seen | None]


def seen_in(url: str) -> Seen | None:
    """What the address of a database says of the service behind it; None when it is none that is known here."""
    place = _place(url)
    return next((seen for rule in _RULES if (seen := rule(place)) is not None), None)


def _place(url: str) -> _Place:
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    options = database_url.options_of(url)
    host, port = _split(unquote(hosts.split(",")[0]))
    host = host or options.get("host", "").split(",")[0]
    port = port or options.get("port", "").split(",")[0]
    user = unquote(login.partition(":")[0]) or options.get("user", "")
    database = unquote(parts.path.lstrip("/")) or options.get("dbname") or options.get("database") or user
    return _Place(url, user, host.lower().rstrip("."), int(port) if port.isdigit() else _PORT, database)


def _split(host: str) -> tuple[str, str]:
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name, rest.lstrip(":")
    name, _, port = host.rpartition(":") if ":" in host else (host, "", "")
    return name, port


def _supabase(place: _Place) -> Seen | None:
    """https://supabase.com/docs/guides/database/connecting-to-postgres"""
    service = "Supabase"
    if place.host.endswith((".pooler.supabase.com", ".pooler.supabase.co")):
        if place.port != 6543:
            return Seen(service, Way.SESSION_POOLER, "the pooler in session mode")
        return Seen(service, Way.POOLER, "the pooler in transaction mode (port 6543)", place.but(port=_PORT))
    if re.fullmatch(r"db\.[a-z0-9]+\.supabase\.(co|com|red)", place.host):
        if place.port == 6543:
            user = place.user.partition(".")[0] or None
            return Seen(service, Way.POOLER, "the dedicated pooler (port 6543)", place.but(port=_PORT, user=user))
        return Seen(service)
    return None


def _neon(place: _Place) -> Seen | None:
    """https://neon.com/docs/connect/connection-pooling"""
    if not place.host.endswith((".neon.tech", ".neon.build", ".postgres.vercel-storage.com")):
        return None
    first, _, rest = place.host.partition(".")
    if first.endswith("-pooler"):
        host = f"{first.removesuffix('-pooler')}.{rest}"
        return Seen("Neon", Way.POOLER, "the pooler (-pooler in the host's name)", place.but(host=host))
    return Seen("Neon")


_RDS = re.compile(r"(?P<name>[^.]+)\.(?P<middle>.+\.)?[a-z]{2}(-[a-z]+)+-\d+\.rds\.amazonaws\.com(\.cn)?")


def _amazon(place: _Place) -> Seen | None:
    """https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/Aurora.Overview.Endpoints.html, and .../rds-proxy.html"""
    if re.search(r"\.dsql\.[a-z0-9-]+\.on\.aws$", place.host):
        return Seen("Amazon Aurora DSQL", Way.OTHER)
    if place.host.endswith((".redshift.amazonaws.com", ".redshift-serverless.amazonaws.com")):
        return Seen("Amazon Redshift", Way.OTHER)
    found = _RDS.fullmatch(place.host)
    if found is None:
        return None
    middle = found["middle"] or ""
    if re.search(r"(^|\.)proxy-", middle):
        return Seen("Amazon RDS", Way.POOLER, "RDS Proxy", place.but(host="INSTANCE_OR_CLUSTER_ENDPOINT"))
    if middle.startswith("cluster-ro-"):
        writer = place.host.replace(".cluster-ro-", ".cluster-", 1)
        return Seen("Amazon Aurora", Way.READER, "the endpoint of its readers", place.but(host=writer))
    if middle.startswith("cluster-custom-"):
        return Seen(
            "Amazon Aurora", Way.READER, "an endpoint that may lead to a reader", place.but(host="CLUSTER_ENDPOINT")
        )
    return Seen("Amazon Aurora" if middle.startswith("cluster-") else "Amazon RDS")


def _azure(place: _Place) -> Seen | None:
    """https://learn.microsoft.com/azure/postgresql/flexible-server/concepts-pgbouncer"""
    clouds = (".database.azure.com", ".database.chinacloudapi.cn", ".database.usgovcloudapi.net", ".cosmos.azure.com")
    if not place.host.endswith(clouds) or ".postgres." not in place.host:
        return None
    service = "Azure Cosmos DB for PostgreSQL" if ".cosmos." in place.host else "Azure Database for PostgreSQL"
    return _by_port(place, service, 6432)


def _google(place: _Place) -> Seen | None:
    """https://cloud.google.com/sql/docs/postgres/managed-connection-pooling, https://cloud.google.com/alloydb/docs"""
    if place.host.startswith("/cloudsql/") or place.host.endswith(".sql.goog"):
        return _by_port(place, "Google Cloud SQL", 6432)
    if place.host.startswith("/alloydb/") or place.host.endswith((".alloydb.goog", ".alloydb-psc.goog")):
        return _by_port(place, "Google AlloyDB", 6432)
    return None


def _by_port(place: _Place, service: str, pooled: int) -> Seen:
    """Where PgBouncer is at another port of the same host."""
    if place.port == pooled:
        return Seen(service, Way.POOLER, f"PgBouncer (port {pooled})", place.but(port=_PORT))
    return Seen(service)


def _crunchy(place: _Place) -> Seen | None:
    """https://docs.crunchybridge.com/how-to/pgbouncer"""
    return _by_port(place, "Crunchy Bridge", 5431) if place.host.endswith(".postgresbridge.com") else None


def _digital_ocean(place: _Place) -> Seen | None:
    """https://docs.digitalocean.com/products/databases/postgresql/how-to/manage-connection-pools/"""
    if not place.host.endswith(".db.ondigitalocean.com"):
        return None
    if place.port == 25061:
        # A pool has a name of its own in the place of the database's.
        return Seen("DigitalOcean", Way.POOLER, "a pool (port 25061)", place.but(port=25060, database="DATABASE"))
    return Seen("DigitalOcean")


def _planetscale(place: _Place) -> Seen | None:
    """https://planetscale.com/docs/postgres/connecting/pgbouncer"""
    if not place.host.endswith((".horizon.psdb.cloud", ".pg.psdb.cloud")):
        return None
    if place.port == 6432 or "|" in place.user:
        instead = place.but(port=_PORT, user=place.user.partition("|")[0])
        return Seen("PlanetScale", Way.POOLER, "PgBouncer (port 6432)", instead)
    return Seen("PlanetScale")


def _prisma(place: _Place) -> Seen | None:
    """https://www.prisma.io/docs/postgres/database/connecting-to-your-database"""
    if place.host == "pooled.db.prisma.io":
        return Seen("Prisma Postgres", Way.POOLER, "the pooler (pooled.db.prisma.io)", place.but(host="db.prisma.io"))
    return Seen("Prisma Postgres") if place.host == "db.prisma.io" else None


def _fly(place: _Place) -> Seen | None:
    """https://fly.io/docs/mpg/client-configuration/"""
    if not place.host.endswith(".flympg.net"):
        return None
    first, _, rest = place.host.partition(".")
    if first == "pgbouncer":
        return Seen("Fly Managed Postgres", Way.POOLER, "PgBouncer", place.but(host=f"direct.{rest}"))
    return Seen("Fly Managed Postgres")


def _timescale(place: _Place) -> Seen | None:
    """https://docs.tigerdata.com/use-timescale/latest/services/connection-pooling/"""
    if not place.host.endswith(".cloud.timescale.com"):
        return None
    if place.database.endswith("_transaction"):
        instead = place.but(database=place.database.removesuffix("_transaction"))
        return Seen("Tiger Cloud", Way.POOLER, "the pooler in transaction mode (database …_transaction)", instead)
    return Seen("Tiger Cloud")


def _by_name(place: _Place) -> Seen | None:
    """Services whose poolers cannot be told by the address, or that have none."""
    return next((Seen(service, way) for end, service, way in _NAMES if place.host.endswith(end)), None)


_NAMES = (
    (".aivencloud.com", "Aiven", Way.DIRECT),
    ("-postgres.render.com", "Render", Way.DIRECT),
    (".proxy.rlwy.net", "Railway", Way.DIRECT),
    (".railway.internal", "Railway", Way.DIRECT),
    (".rdb.fr-par.scw.cloud", "Scaleway", Way.DIRECT),
    (".rdb.nl-ams.scw.cloud", "Scaleway", Way.DIRECT),
    (".rdb.pl-waw.scw.cloud", "Scaleway", Way.DIRECT),
    (".database.cloud.ovh.net", "OVHcloud", Way.DIRECT),
    (".mdb.yandexcloud.net", "Yandex Managed PostgreSQL", Way.DIRECT),
    (".cockroachlabs.cloud", "CockroachDB", Way.OTHER),
    (".yugabyte.cloud", "YugabyteDB", Way.OTHER),
)

_RULES: tuple[_Rule, ...] = (
    _supabase,
    _neon,
    _amazon,
    _azure,
    _google,
    _crunchy,
    _digital_ocean,
    _planetscale,
    _prisma,
    _fly,
    _timescale,
    _by_name,
)


# What a server says of itself: a setting that it has, then a role. The first that fits counts.
SETTINGS: Mapping[str, str] = {
    "neon.timeline_id": "Neon",
    "neon.tenant_id": "Neon",
    "alloydb.iam_authentication": "Google AlloyDB",
    "cloudsql.iam_authentication": "Google Cloud SQL",
    "azure.extensions": "Azure Database for PostgreSQL",
    "rds.extensions": "Amazon RDS",
    "rds.force_ssl": "Amazon RDS",
}
ROLES: Mapping[str, str] = {
    "supabase_admin": "Supabase",
    "neon_superuser": "Neon",
    "alloydbsuperuser": "Google AlloyDB",
    "cloudsqlsuperuser": "Google Cloud SQL",
    "azure_pg_admin": "Azure Database for PostgreSQL",
    "rds_superuser": "Amazon RDS",
    "crunchy_superuser": "Crunchy Bridge",
    "tsdbadmin": "Tiger Cloud",
    "avnadmin": "Aiven",
    "doadmin": "DigitalOcean",
    "heroku_ext": "Heroku",
}
# Of what version() says: these are no PostgreSQL.
OTHERS: Mapping[str, str] = {
    "CockroachDB": "CockroachDB",
    "-YB-": "YugabyteDB",
    "Redshift": "Amazon Redshift",
    "Greenplum": "Greenplum",
    "Materialize": "Materialize",
    "QuestDB": "QuestDB",
    "CrateDB": "CrateDB",
}


def service_of_server(settings: Collection[str], roles: Collection[str], *, is_aurora: bool) -> str | None:
    """The service that a server with these settings and roles belongs to; None: somebody's own, or one unknown here."""
    if is_aurora:
        return "Amazon Aurora"
    for known, there in ((SETTINGS, settings), (ROLES, roles)):
        for name, service in known.items():
            if name in there:
                return service
    return None


def no_postgres(version: str) -> str | None:
    """The name of what speaks PostgreSQL's protocol and is another database, by what version() says."""
    return next((name for mark, name in OTHERS.items() if mark in version), None)


def how_to_set(service: str | None, settings: Iterable[tuple[str, str]], *, restart: bool = False) -> list[str]:
    """What changes a setting of the server, there: SQL, a command, or where to click. For superusers and the like."""
    settings = list(settings)
    flags = ",".join(f"{name}={value}" for name, value in settings)
    said = ", ".join(f"{name} = {value}" for name, value in settings)
    match service:
        case "Amazon RDS" | "Amazon Aurora":
            lines = [f"in the parameter group of the database: {said}"]
        case "Google Cloud SQL":
            return [f"gcloud sql instances patch INSTANCE --database-flags={flags}"]
        case "Google AlloyDB":
            return [
                f"gcloud alloydb instances update INSTANCE --cluster=CLUSTER --region=REGION --database-flags={flags}"
            ]
        case "Azure Database for PostgreSQL" | "Azure Cosmos DB for PostgreSQL":
            lines = [
                "az postgres flexible-server parameter set --resource-group GROUP --server-name SERVER"
                f" --name {name} --value {value}"
                for name, value in settings
            ]
        case "Supabase":
            lines = [
                "supabase --experimental --project-ref PROJECT postgres-config update"
                + "".join(f" --config {name}={value}" for name, value in settings)
            ]
        case None | "Tiger Cloud" | "Crunchy Bridge":
            lines = [f"ALTER SYSTEM SET {name} = '{value}';" for name, value in settings]
            if not restart:
                lines.append("SELECT pg_reload_conf();")
        case _:
            lines = [f"in the settings of the database at {service}: {said}"]
    return [*lines, "and restart the server"] if restart else lines
