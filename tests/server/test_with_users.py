"""Servers with users: where they may listen, what they stand beside, and stock git-lfs with its credentials."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from gitlfs.bench import Clone
from gitlfs.mounted import Mount

from lfsfs.config import ServerOptions
from lfsfs.config_access import AccessOptions
from lfsfs.errors import InvalidConfig
from lfsfs.server.access import editing
from lfsfs.server.access.permissions import create_access
from lfsfs.server.serving import check_listeners

from .clones import Team
from .forge import Forge, Person
from .served import Served, free_port, refused

Teams = Callable[[str], Team]
PULL = {"admin": False, "push": False, "pull": True}
_random = random.Random("with users")


def with_users(store: Path) -> Path:
    store.mkdir(parents=True)
    editing.add_user(store / "users.toml", "alice", "correct horse")
    editing.grant(store / "users.toml", "alice", "write", "studio/*")
    editing.add_user(store / "users.toml", "bob", "battery")
    editing.grant(store / "users.toml", "bob", "write", "other/*")
    return store


@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "lfs.example.org:0", "127.0.0.1.nip.io:0"]
)
def test_without_users_no_server_listens_to_other_machines(tmp_path: Path, address: str) -> None:
    options = ServerOptions(("127.0.0.1:0", address))
    with pytest.raises(InvalidConfig, match="can be reached from other machines"):
        check_listeners(options, create_access(tmp_path, AccessOptions()))
    with_users(tmp_path / "store")
    check_listeners(options, create_access(tmp_path / "store", AccessOptions()))


def test_the_command_says_what_to_do_about_it(tmp_path: Path) -> None:
    said = refused("serve", tmp_path / "store", "--listen", "0.0.0.0:0", "--foreground")
    assert "0.0.0.0:0 can be reached from other machines" in said
    assert "docs/ACCESS.md" in said


@pytest.mark.mount
def test_a_server_with_users_stands_beside_an_isolated_mount_only(tmp_path: Path) -> None:
    store = with_users(tmp_path / "here" / "store")
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "mnt").mkdir()
    said = refused("mount", store, tmp_path / "mnt", "--listen", address)
    assert "Mount with --sharing isolated" in said
    with Mount(tmp_path / "here", "--listen", address, "--sharing", "isolated"):
        answer = requests.get(f"http://{address}/studio/game/locks", timeout=30)
    assert answer.status_code == 401


def test_a_users_file_that_is_broken_is_said_at_the_start(tmp_path: Path) -> None:
    store = with_users(tmp_path / "store")
    (store / "users.toml").write_text("[users.alice]\npasword = 'x'\n")
    said = refused("serve", store, "--listen", "127.0.0.1:0", "--foreground")
    assert "users.toml: user alice: unknown key 'pasword'" in said


def knows(clone: Clone, served: Served, user: str, password: str) -> None:
    """Gives git a credential helper that has this one."""
    file = clone.path.with_suffix(".credentials")
    file.write_text(f"http://{user}:{password.replace(' ', '%20')}@127.0.0.1%3a{served.port}\n")
    clone.config("credential.helper", f"store --file={file}")


@pytest.mark.slow
def test_stock_git_lfs_with_passwords(team: Teams, tmp_path: Path) -> None:
    with_users(tmp_path / "served" / "store")
    with Served(tmp_path / "served") as served:
        people = team(f"{served.url}/studio/game.git/info/lfs")
        alice = people.first("alice")
        knows(alice, served, "alice", "correct horse")
        alice.commit({"a.bin": (content := _random.randbytes(300_000))})
        alice.git("push", "-q", "-u", "origin", "main")
        alice.git("lfs", "lock", "a.bin")
        assert "alice" in alice.git("lfs", "locks")
        ben = people.clone("ben")
        knows(ben, served, "alice", "correct horse")
        ben.git("checkout", "-q", "main")
        assert ben.read("a.bin") == content
        bob = people.clone("bob", **{"transfer.maxretries": "1"})
        knows(bob, served, "bob", "battery")
        assert "no repository studio/game" in bob.fails("lfs", "fetch")
        knows(bob, served, "bob", "wrong")
        assert bob.objects() == set()
        assert "redentials" in bob.fails("lfs", "fetch")
        assert bob.objects() == set()


@pytest.mark.slow
def test_stock_git_lfs_with_the_credentials_of_a_forge(team: Teams, tmp_path: Path) -> None:
    people_there = [
        Person("ann", "ann-secret", {"studio/game": PULL | {"push": True}}),
        Person("max", "max-secret", {"studio/game": PULL}),
        Person("eve", "eve-secret"),
    ]
    with Forge("gitea", people_there) as forge:
        (tmp_path / "served").mkdir()
        config = f'[forge]\nurl = "{forge.url}"\n'
        with Served(tmp_path / "served", config=config) as served:
            people = team(f"{served.url}/studio/game.git/info/lfs")
            ann = people.first("ann")
            knows(ann, served, "ann", "ann-secret")
            ann.commit({"a.bin": (content := _random.randbytes(300_000))})
            ann.git("push", "-q", "-u", "origin", "main")
            max_ = people.clone("max")
            knows(max_, served, "max", "max-secret")
            max_.git("checkout", "-q", "main")
            assert max_.read("a.bin") == content
            max_.commit({"a.bin": _random.randbytes(1000)})
            assert "max may not write in studio/game" in max_.fails("push", "-q")
            eve = people.clone("eve", **{"transfer.maxretries": "1"})
            knows(eve, served, "eve", "eve-secret")
            assert "no repository studio/game" in eve.fails("lfs", "fetch")
    assert len(forge.asked) < 20
