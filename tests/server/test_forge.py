"""A forge says who may: its users push and pull as they may there, and nobody is let in where it does not answer."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from lfsfs.config_access import AccessOptions, ForgeOptions
from lfsfs.errors import Unavailable
from lfsfs.server.access import editing
from lfsfs.server.access.access import Access, Identity, TooManyAttempts, Unidentified
from lfsfs.server.access.permissions import create_access

from .forge import Forge, Person

PULL = {"admin": False, "push": False, "pull": True}
PUSH = PULL | {"push": True}
ADMIN = PUSH | {"admin": True}
PEOPLE = [
    Person("ann", "ann-secret", {"studio/game": PUSH, "studio/docs": PULL}),
    Person("root", "root-secret", {"studio/game": ADMIN}),
    Person("max", "max-secret", {"studio/game": PULL | {"maintain": True, "push": True, "triage": True}}),
    Person("robot[bot]", "app-secret", {"studio/game": PUSH}, is_app=True),
]


@pytest.fixture(params=["gitea", "github"])
def forge(request: pytest.FixtureRequest) -> Iterator[Forge]:
    with Forge(request.param, PEOPLE) as forge:
        yield forge


def access_of(forge: Forge, folder: Path, **options: float) -> Access:
    kind = "gitea" if forge.kind == "gitea" else "github"
    return create_access(folder, AccessOptions(forge=ForgeOptions(forge.url, kind, **options)))  # type: ignore[arg-type]


def basic(name: str, secret: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()}


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def roles(access: Access, identity: Identity, repository: str = "/studio/game") -> str:
    held = [role for role in ("read", "write", "admin") if await access.allowed(identity, repository, role)]  # type: ignore[arg-type]
    return " ".join(held)


async def test_its_users_may_here_what_they_may_there(forge: Forge, tmp_path: Path) -> None:
    access = access_of(forge, tmp_path)
    for credential in (basic("ann", "ann-secret"), bearer("ann-secret")):
        ann = await access.identify(credential)
        assert (ann.name, ann.known) == ("ann", True)
        assert await roles(access, ann) == "read write"
        assert await roles(access, ann, "/studio/docs") == "read"
        assert await roles(access, ann, "/studio/secret") == ""
        assert await roles(access, ann, "/studio") == ""
        assert await roles(access, ann, "/studio/game/art") == ""
    root = await access.identify(basic("root", "root-secret"))
    assert await roles(access, root) == "read write admin"
    if forge.kind == "github":
        assert await roles(access, await access.identify(bearer("max-secret"))) == "read write admin"
        app = await access.identify(basic("x-access-token", "app-secret"))
        assert app.name.startswith("app-")
        assert await roles(access, app) == "read write"


async def test_whom_it_does_not_know_is_not_let_in_and_may_not_try_for_ever(
    forge: Forge, tmp_path: Path
) -> None:
    access = access_of(forge, tmp_path)
    for _ in range(10):
        with pytest.raises(Unidentified):
            await access.identify(basic("ann", "wrong"), "192.0.2.1")
    asked = len(forge.asked)
    with pytest.raises(TooManyAttempts):
        await access.identify(basic("ann", "wrong"), "192.0.2.1")
    assert len(forge.asked) == asked, "the forge is asked in the name of one who guesses"
    assert not (await access.identify({})).known


async def test_an_answer_is_believed_for_a_while_and_not_longer(forge: Forge, tmp_path: Path) -> None:
    access = access_of(forge, tmp_path, cache=0.2)
    credential = basic("ann", "ann-secret")
    for _ in range(20):
        ann = await access.identify(credential)
        assert await access.allowed(ann, "/studio/game", "write")
    assert len(forge.asked) == 2
    forge.people = [Person("ann", "ann-secret", {"studio/game": PULL})]
    await trio.sleep(0.25)
    assert await roles(access, await access.identify(credential)) == "read"
    forge.people = []
    await trio.sleep(0.25)
    with pytest.raises(Unidentified):
        await access.identify(credential)


@pytest.mark.parametrize(
    ("trouble", "headers"),
    [(500, {}), (503, {}), (429, {}), (403, {"X-RateLimit-Remaining": "0"}), (1.5, {})],
    ids=["500", "503", "429", "rate-limit", "silence"],
)
async def test_in_trouble_it_lets_nobody_in_and_nobody_wait(
    forge: Forge, tmp_path: Path, trouble: int | float, headers: dict[str, str]
) -> None:
    access = access_of(forge, tmp_path, timeout=0.5, cache=0.01)
    ann = await access.identify(basic("ann", "ann-secret"))
    await trio.sleep(0.02)
    forge.trouble, forge.headers = trouble, headers
    with trio.fail_after(5):
        with pytest.raises(Unavailable):
            await access.identify(basic("ann", "ann-secret"))
        with pytest.raises(Unavailable):
            await access.allowed(ann, "/studio/game", "read")


async def test_a_forge_that_is_not_there_lets_nobody_in(tmp_path: Path) -> None:
    with Forge("gitea", PEOPLE) as gone:
        access = access_of(gone, tmp_path)
    with pytest.raises(Unavailable):
        await access.identify(basic("ann", "ann-secret"))


async def test_names_are_quoted_on_their_way_to_it(forge: Forge, tmp_path: Path) -> None:
    access = access_of(forge, tmp_path)
    ann = await access.identify(basic("ann", "ann-secret"))
    assert await roles(access, ann, "/studio/game?x=%2e%2e") == ""
    assert forge.asked[-1].endswith("/repos/studio/game%3Fx%3D%252e%252e")


async def test_a_name_with_a_password_here_is_nobody_elses(forge: Forge, tmp_path: Path) -> None:
    editing.add_user(tmp_path / "users.toml", "ann", "here")
    editing.grant(tmp_path / "users.toml", "ann", "read", "own/*")
    editing.grant(tmp_path / "users.toml", "everyone", "read", "shared/*")
    access = access_of(forge, tmp_path)
    ours = await access.identify(basic("ann", "here"))
    assert await roles(access, ours, "/own/x") == "read"
    asked = len(forge.asked)
    with pytest.raises(Unidentified):
        await access.identify(basic("ann", "ann-secret"))
    assert len(forge.asked) == asked, "a password of ours was sent to the forge"
    with pytest.raises(Unidentified):
        await access.identify(bearer("ann-secret"))
    root = await access.identify(bearer("root-secret"))
    assert await roles(access, root, "/shared/x") == "read"
    assert "secret" not in repr(root)
