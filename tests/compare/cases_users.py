"""Requests that set, remove and tell credentials of SCRAM; logins are in test_sasl.py and test_security.py."""

from __future__ import annotations

from typing import Any

from tests.compare.cases_admin_apis import with_words
from tests.compare.scene import Scene, case

from pg_kafka.wire.messages import alter_user_scram_credentials as altering
from pg_kafka.wire.messages import describe_user_scram_credentials as describing

DESCRIBE, ALTER = 50, 51
SHA_256, SHA_512, UNKNOWN = 1, 2, 9
SALT = b"salt of twenty bytes"


def setting(name: str, mechanism: int = SHA_256, iterations: int = 4096, password_bytes: int = 32) -> Any:
    one = altering.ScramCredentialUpsertion(
        name=name, mechanism=mechanism, iterations=iterations, salt=SALT, salted_password=b"p" * password_bytes
    )
    return altering.AlterUserScramCredentialsRequest(upsertions=[one])


def removing(name: str, mechanism: int = SHA_256) -> Any:
    one = altering.ScramCredentialDeletion(name=name, mechanism=mechanism)
    return altering.AlterUserScramCredentialsRequest(deletions=[one])


def telling(*names: str) -> Any:
    return describing.DescribeUserScramCredentialsRequest(users=[describing.UserName(name=name) for name in names])


def _add_change(name: str, request: Any) -> None:
    @case(f"users-{name}", ALTER)
    async def ask(scene: Scene) -> Any:
        return with_words(await scene.ask(request))


_add_change("nothing", altering.AlterUserScramCredentialsRequest())
_add_change("remove-nobody", removing("user-nobody"))
_add_change("remove-unknown-mechanism", removing("user-nobody", UNKNOWN))
_add_change("unknown-mechanism", setting("user-one", UNKNOWN))
_add_change("no-mechanism", setting("user-one", 0))
_add_change("empty-name", setting(""))
_add_change("few-iterations", setting("user-one", iterations=4095))
_add_change("no-iterations", setting("user-one", iterations=-1))
_add_change("many-iterations", setting("user-one", iterations=16385))


@case("users-set-and-removed", ALTER)
async def _(scene: Scene) -> Any:
    """Kafka answers before its brokers know of a change."""
    name = "user-set"
    wanted = telling(name)
    answers = {"set": with_words(await scene.ask(setting(name)))}
    more: dict[str, Any] = {"version": 0, "api_key": DESCRIBE}
    answers["told"] = with_words(await scene.ask_until(lambda a: not a.results[0].error_code, wanted, **more))
    answers["removed"] = with_words(await scene.ask(removing(name)))
    answers["gone"] = with_words(await scene.ask_until(lambda a: a.results[0].error_code, wanted, **more))
    return answers


@case("users-told", DESCRIBE)
async def _(scene: Scene) -> Any:
    return with_words(await scene.ask(telling("user-nobody", "user-nobody")))
