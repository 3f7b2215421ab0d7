"""Who there is and what they may do: patterns, the users file, htpasswd, wrong passwords counted."""

import io
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from lfsfs.cli.main import main
from lfsfs.errors import Exists, InvalidConfig, NotFound, Unavailable
from lfsfs.server.access import editing
from lfsfs.server.access.access import TooManyAttempts, Unidentified
from lfsfs.server.access.attempts import COUNTED, Attempts
from lfsfs.server.access.htpasswd import parse_htpasswd
from lfsfs.server.access.passwords import Passwords, hashed
from lfsfs.server.access.roles import parse_roles, role_in
from lfsfs.server.access.users import parse_users
from lfsfs.server.access.watched import Watched


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("studio/game", "/studio/game", "/studio/game2 /studio /a/studio/game /studio/game/art /Studio/game"),
        ("studio/*", "/studio/game /studio/a.b", "/studio /studio/a/b /other/game /studiox/game"),
        ("*/game", "/studio/game", "/game /a/b/game /studio/games"),
        ("studio/art-*-x", "/studio/art-1-x /studio/art--x", "/studio/art-x /studio/art-1/2-x"),
        ("studio/**", "/studio /studio/a /studio/a/b", "/studios /a/studio"),
        ("**/game", "/game /a/game /a/b/game", "/a/games /game/a"),
        ("**", "/a /a/b/c", ""),
        ("a.c/[x]+", "/a.c/[x]+", "/abc/[x]+ /a.c/x"),
    ],
)
def test_a_pattern_matches_whole_names_and_a_star_stays_within_one(
    pattern: str, matching: str, others: str
) -> None:
    roles = parse_roles({pattern: "read"})
    assert [name for name in matching.split() if role_in(roles, name) is None] == []
    assert [name for name in others.split() if role_in(roles, name) is not None] == []


def test_of_several_patterns_the_highest_role_holds() -> None:
    roles = parse_roles({"**": "read", "studio/*": "admin", "studio/game": "write"})
    assert role_in(roles, "/studio/game") == "admin"
    assert role_in(roles, "/other") == "read"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[user]", "unknown key 'user'"),
        ("[users.alice]\npasswrod = 'x'", "user alice: unknown key 'passwrod'"),
        ("[users.alice]\npassword = 'plain'", "kept as an argon2 or bcrypt hash"),
        ("[users.alice]\npassword = '$argon2id$nonsense'", "kept as an argon2 or bcrypt hash"),
        ("[users.alice.roles]\n'a' = 'owner'", "not a role: 'owner'"),
        ("[users.alice.roles]\n'/a' = 'read'", "not a pattern"),
        ("[users.alice.roles]\n'a**' = 'read'", "stands alone"),
        ("[users.'a:b']", "not a user name"),
        ('[users."a\\nb"]', "not a user name"),
        ("[users.everyone]\npassword = 'x'", "everyone is nobody"),
        ("[users.anonymous.roles]\n'**' = 'write'", "anonymous may read, no more"),
        ("[users.alice.tokens.xyz]\nname = 'a'", "8 hex digits"),
        ("[users.alice.tokens.00000000]\nname = 'a'\nhash = 'b'", "kept as an argon2"),
        ("users = 1", "users must be a table"),
        ("[users.alice", "Expected"),
    ],
)
def test_a_users_file_that_is_not_right_is_an_error_that_says_where(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "users.toml"
    with pytest.raises(InvalidConfig) as error:
        parse_users(file, text.encode())
    assert str(error.value).startswith(f"{file}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_a_person_wrote_into_the_file_stays_and_no_secret_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "users.toml"
    file.write_text('# the team\n[users.alice.roles] # since May\n"studio/*" = "write"\n')
    editing.add_user(file, "bob", "a long secret")
    token = editing.add_token(file, "alice", "build machine", "read", None)
    text = file.read_text()
    assert text.startswith('# the team\n[users.alice.roles] # since May\n"studio/*" = "write"\n')
    assert "a long secret" not in text
    assert token.rpartition("_")[2] not in text
    users = editing.read_users(file).users
    assert users["alice"].roles == (("studio/*", "write"),)
    assert [(one.name, one.role) for one in users["alice"].tokens] == [("build machine", "read")]
    editing.remove_token(file, "alice", users["alice"].tokens[0].id)
    editing.revoke(file, "alice", "studio/*")
    assert editing.read_users(file).users["alice"].roles == ()
    editing.remove_user(file, "alice")
    assert list(editing.read_users(file).users) == ["bob"]


def test_any_bit_that_flips_in_the_file_is_an_error_that_says_where_and_what_people_edit_is_not(
    tmp_path: Path,
) -> None:
    file = tmp_path / "users.toml"
    editing.add_user(file, "alice", None)
    editing.grant(file, "alice", "write", "studio/*")
    whole = file.read_bytes()
    told = whole.index(b"# The sum")
    for bit in range(8 * told):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(
            InvalidConfig, match=f"in line {whole.count(10, 0, bit // 8) + 1}, a bit has flipped"
        ):
            parse_users(file, bytes(damaged))
    edited = whole.replace(b"studio/*", b"factory/*")
    file.write_bytes(edited)
    assert parse_users(file, edited).users["alice"].roles == (("factory/*", "write"),)
    editing.grant(file, "alice", "read", "shop/*")
    assert file.read_bytes().count(b"# The sum") == 1
    assert len(parse_users(file, file.read_bytes()).users["alice"].roles) == 2


def test_a_change_that_is_none_is_told_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "users.toml"
    editing.add_user(file, "alice", None)
    before = file.read_bytes()
    with pytest.raises(Exists):
        editing.add_user(file, "alice", None)
    for absent in (
        lambda: editing.remove_user(file, "bob"),
        lambda: editing.set_password(file, "bob", "x"),
        lambda: editing.grant(file, "bob", "read", "**"),
        lambda: editing.revoke(file, "alice", "**"),
        lambda: editing.remove_token(file, "alice", "00000000"),
    ):
        with pytest.raises(NotFound):
            absent()
    for wrong in (
        lambda: editing.grant(file, "anonymous", "write", "**"),
        lambda: editing.grant(file, "alice", "owner", "**"),
        lambda: editing.add_user(file, "everyone", "x"),
        lambda: editing.add_user(file, "carol", ""),
        lambda: editing.add_token(file, "anonymous", "x", None, None),
    ):
        with pytest.raises(InvalidConfig):
            wrong()
    assert file.read_bytes() == before


def test_changes_at_once_are_all_there(tmp_path: Path) -> None:
    file = tmp_path / "users.toml"
    threads = [
        threading.Thread(target=editing.add_user, args=(file, f"user{number}", None)) for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(editing.read_users(file).users) == 12
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_changes_holds_at_once_and_one_that_breaks_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "users.toml"
    editing.add_user(file, "alice", None)
    watched = Watched(file, parse_users)
    assert "alice" in watched.current().users
    editing.remove_user(file, "alice")
    assert "alice" not in watched.current().users
    whole = file.read_bytes()
    file.write_bytes(b"[users")
    for _ in range(2):
        with pytest.raises(Unavailable):
            watched.current()
    file.write_bytes(whole)
    assert watched.current().users == {}
    file.chmod(0o666)
    with pytest.raises(Unavailable):
        watched.current()
    file.unlink()
    with pytest.raises(Unavailable):
        watched.current()


# Of "U*U": a test vector of crypt_blowfish, which Apache's htpasswd -B is made with.
BCRYPT = "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"


async def test_an_htpasswd_file_has_its_passwords_as_apache_makes_them(tmp_path: Path) -> None:
    found = parse_htpasswd(tmp_path / "htpasswd", f"# team\nalice:{BCRYPT}\n\n".encode())
    attempts = Attempts(5, 60.0)
    await Passwords().check("U*U", found["alice"], attempts.one("alice", ""))
    for wrong in ("U*V", "", "U*U" * 30):
        with pytest.raises(Unidentified):
            await Passwords().check(wrong, found["alice"], attempts.one("alice", ""))


@pytest.mark.parametrize(
    "stored", ["$apr1$UsKR5dob$U2lgcuh0OjGCcU/RLaYxQ0", "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "plain", ""]
)
def test_what_protects_nobody_is_refused_with_its_line(tmp_path: Path, stored: str) -> None:
    file = tmp_path / "htpasswd"
    with pytest.raises(InvalidConfig, match=f"{file}:2: a password is kept as an argon2 or bcrypt hash"):
        parse_htpasswd(file, f"alice:{BCRYPT}\nbob:{stored}\n".encode())


async def test_many_requests_with_one_right_password_compute_it_once() -> None:
    begun = 0

    class Counted:
        def __enter__(self) -> None:
            nonlocal begun
            begun += 1

        def __exit__(self, *_: object) -> None: ...

    passwords, stored = Passwords(), hashed("secret")
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(passwords.check, "secret", stored, Counted())
    assert begun == 1
    await passwords.check("secret", hashed("secret"), Counted())  # set again: another hash, compared anew
    assert begun == 2


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _wrong(attempts: Attempts, name: str, address: str) -> None:
    with pytest.raises(Unidentified), attempts.one(name, address):
        raise Unidentified("wrong")


def test_who_was_wrong_too_often_waits_until_the_first_time_is_long_ago() -> None:
    clock = Clock()
    attempts = Attempts(3, 60.0, clock)
    for _ in range(3):
        _wrong(attempts, "alice", "::1")
        clock.now += 10
    with pytest.raises(TooManyAttempts) as error, attempts.one("alice", "::1"):
        raise AssertionError("let in")
    assert error.value.seconds == 30
    with attempts.one("alice", "10.0.0.7"), attempts.one("bob", "::1"):
        pass  # others, and from elsewhere
    clock.now += 30.5
    with attempts.one("alice", "::1"):
        pass


def test_an_address_is_told_to_wait_however_many_names_it_tries() -> None:
    clock = Clock()
    attempts = Attempts(3, 60.0, clock)
    for number in range(30):
        _wrong(attempts, f"user{number}", "10.0.0.7")
    with pytest.raises(TooManyAttempts), attempts.one("alice", "10.0.0.7"):
        raise AssertionError("let in")
    with attempts.one("alice", "10.0.0.8"):
        pass


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("unknown", "unknown", True),
    ],
)
def test_an_address_is_what_one_customer_has(one: str, other: str, same: bool) -> None:
    attempts = Attempts(1, 60.0)
    _wrong(attempts, "alice", one)
    if same:
        with pytest.raises(TooManyAttempts), attempts.one("alice", other):
            raise AssertionError("let in")
    else:
        _wrong(attempts, "alice", other)


def test_who_gives_no_name_may_be_wrong_as_often_and_locks_nobody_else_out() -> None:
    attempts = Attempts(3, 60.0)
    for _ in range(3):
        _wrong(attempts, "", "a")
    with pytest.raises(TooManyAttempts), attempts.one("", "a"):
        raise AssertionError("let in")
    with attempts.one("alice", "a"), attempts.one("any", "a"):
        pass


def test_attempts_at_once_get_no_further_than_one_after_the_other() -> None:
    attempts = Attempts(3, 60.0)
    with ExitStack() as running:
        for _ in range(3):
            running.enter_context(attempts.one("alice", "a"))
        with pytest.raises(TooManyAttempts), attempts.one("alice", "a"):
            raise AssertionError("let in")
    with attempts.one("alice", "a"):  # the three were right
        pass


def test_what_is_counted_is_bounded() -> None:
    attempts = Attempts(3, 60.0)
    for number in range(COUNTED + 10):
        _wrong(attempts, f"user{number}" * 100, f"10.0.0.{number}")
    assert len(attempts._wrong) == COUNTED


def test_the_command_keeps_users_and_never_shows_a_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"

    def run(*arguments: str, said: str = "", status: int = 0) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(said))
        assert main(["user", *arguments, "--store", str(store)]) == status
        printed = capsys.readouterr()
        return printed.out if status == 0 else printed.err

    run("add", "alice", "--password-stdin", "--role", "write=studio/*", said="secret\n")
    token = run("token", "alice", "--role", "read", "--expires", "7d").strip()
    run("grant", "everyone", "read", "docs/**")
    shown = run("ls")
    assert "alice  write in studio/*, token " in shown
    assert "everyone  read in docs/**" in shown
    assert "argon2" not in shown + run("ls", "--json")
    assert "secret" not in (store / "users.toml").read_text()
    assert token.startswith("lfsfs_")
    before = editing.read_users(store / "users.toml").users["alice"].password
    run("password", "alice", "--password-stdin", said="other\n")
    assert editing.read_users(store / "users.toml").users["alice"].password not in (None, before)
    run("token", "alice", "--rm", token.split("_")[1])
    assert "token" not in run("ls")
    run("rm", "alice")
    assert "no user alice" in run("rm", "alice", status=3)
    assert "no terminal" in run("add", "bob", status=2)
    assert "no terminal" not in run("add", "bob", "--no-password")
    assert "there is a user bob" in run("add", "bob", status=4)


def test_the_command_edits_the_file_that_the_configuration_names(tmp_path: Path) -> None:
    store, users = tmp_path / "store", tmp_path / "elsewhere.toml"
    config = tmp_path / "lfsfs.toml"
    config.write_text(f'[store]\npath = "{store}"\n[access]\nusers = "{users}"\n')
    assert main(["user", "add", "alice", "--no-password", "--config", str(config)]) == 0
    assert list(editing.read_users(users).users) == ["alice"]
    assert not (store / "users.toml").exists()
    (store / "lfsfs.toml").write_text(f'[access]\nusers = "{users}"\n')
    assert main(["user", "grant", "alice", "read", "**", "--store", str(store)]) == 0
    assert editing.read_users(users).users["alice"].roles == (("**", "read"),)
