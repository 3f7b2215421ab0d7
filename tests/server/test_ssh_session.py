"""The pure SSH protocol, packet by packet: what a session answers, and what it does with what makes no sense."""

import hashlib
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lfsfs.config import ServerOptions
from lfsfs.errors import InvalidName
from lfsfs.oid import Oid
from lfsfs.server.access.access import Action
from lfsfs.server.access.permissions import Member
from lfsfs.server.ssh.admission import Admitted, repository_at
from lfsfs.server.ssh.pktline import DELIMITER, FLUSH, PacketReader, PacketWriter, ProtocolError
from lfsfs.server.ssh.session import Session
from lfsfs.store import feeds, references
from lfsfs.store.locks import LocalLocks
from lfsfs.store.opening import open_store
from lfsfs.store.store import Store

CONTENT = hashlib.sha256(b"content").digest() * 10_000  # several packets
OID = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "store", create=True) as store:
        yield store


@dataclass
class Answer:
    """One message: its status, arguments, and content as one string of bytes or as lines."""

    status: int
    arguments: dict[str, str]
    content: bytes

    @property
    def lines(self) -> list[str]:
        return self.content.decode().splitlines()


def message(*lines: str, content: list[bytes] | None = None) -> bytes:
    out = io.BytesIO()
    writer = PacketWriter(out)
    for line in lines:
        writer.line(line)
    if content is not None:
        writer.delimiter()
        for piece in content:
            writer.data(piece)
    writer.flush()
    return out.getvalue()


def answers(said: bytes) -> list[Answer]:
    """What follows the capabilities."""
    reader = PacketReader(io.BytesIO(said))
    messages: list[list[object]] = [[]]
    while (packet := reader.read()) is not None:
        if packet is FLUSH:
            messages.append([])
        else:
            messages[-1].append(packet)
    assert messages[0] == [b"version=1\n", b"locking\n"]
    assert messages[-1] == []
    return [_answer(one) for one in messages[1:-1]]


def _answer(packets: list[object]) -> Answer:
    at = packets.index(DELIMITER) if DELIMITER in packets else len(packets)
    head = [bytes(packet).decode().rstrip("\n") for packet in packets[:at]]  # type: ignore[call-overload]
    content = b"".join(packets[at + 1 :])  # type: ignore[arg-type]
    arguments = dict(line.split("=", 1) for line in head[1:])
    return Answer(int(head[0].removeprefix("status ")), arguments, content)


async def talk(
    store: Store,
    *messages: bytes,
    operation: str = "upload",
    role: Action = "write",
    user: str = "alice",
    repository: str = "/studio/game",
    options: ServerOptions = ServerOptions(),  # noqa: B008  # frozen
) -> list[Answer]:
    out = io.BytesIO()
    admitted = Admitted(Member(user), repository, role)
    reader = PacketReader(io.BytesIO(b"".join(messages)))
    await Session(
        store, LocalLocks(store.index), admitted, operation, options, reader, PacketWriter(out)
    ).run()
    return answers(out.getvalue())


def put(content: bytes = CONTENT, oid: str = OID, size: int | None = None) -> bytes:
    pieces = [content[at : at + 32768] for at in range(0, len(content), 32768)]
    return message(f"put-object {oid}", f"size={len(content) if size is None else size}", content=pieces)


def batch(*lines: str, **arguments: str) -> bytes:
    said = [f"{name}={value}" for name, value in arguments.items()]
    return message("batch", "transfer=ssh", *said, content=[f"{line}\n".encode() for line in lines])


async def test_an_object_goes_in_and_comes_out(store: Store) -> None:
    said = await talk(
        store,
        message("version 1"),
        batch(f"{OID} {len(CONTENT)}"),
        put(),
        message(f"verify-object {OID}", f"size={len(CONTENT)}"),
        message(f"verify-object {OID} {len(CONTENT)}"),
        batch(f"{OID} {len(CONTENT)}"),
        message("quit"),
        message("not read any more"),
    )
    assert [one.status for one in said] == [200] * 7
    assert said[1].lines == [f"{OID} {len(CONTENT)} upload"]
    assert said[5].lines == [f"{OID} {len(CONTENT)} noop"]
    (offered, got) = await talk(
        store, batch(f"{OID} {len(CONTENT)}"), message(f"get-object {OID}"), operation="download", role="read"
    )
    assert offered.lines == [f"{OID} {len(CONTENT)} download"]
    assert got.arguments == {"size": str(len(CONTENT))}
    assert got.content == CONTENT


async def test_an_empty_object_is_an_object(store: Store) -> None:
    oid = hashlib.sha256(b"").hexdigest()
    said = await talk(store, put(b"", oid), message(f"get-object {oid}"))
    assert [(one.status, one.content) for one in said] == [(200, b""), (200, b"")]


async def test_bytes_that_are_not_what_they_say_are_refused_and_the_session_goes_on(store: Store) -> None:
    said = await talk(
        store,
        put(oid=OTHER),
        put(size=len(CONTENT) - 1),
        put(size=len(CONTENT) + 1),
        put(oid="../../etc/passwd"),
        message(f"put-object {OID}", content=[CONTENT[:100]]),
        message(f"get-object {OTHER}"),
        put(),
    )
    assert [one.status for one in said] == [422, 422, 422, 422, 400, 404, 200]
    assert await store.exists(Oid(OID))
    assert not await store.exists(Oid(OTHER))


async def test_an_oid_of_another_repository_is_not_there(store: Store) -> None:
    await talk(store, put(), repository="/other/film")
    size = len(CONTENT)
    said = await talk(
        store,
        message(f"get-object {OID}"),
        message(f"verify-object {OID}", f"size={size}"),
        batch(f"{OID} {size}"),
    )
    assert [one.status for one in said] == [404, 404, 200]
    assert said[2].lines == [f"{OID} {size} upload"]


async def test_what_a_root_of_the_mount_feeds_needs_no_upload(store: Store) -> None:
    await store.add_repository("game")
    await store.put(CONTENT, repository="game")
    size = len(CONTENT)
    (before,) = await talk(store, batch(f"{OID} {size}"))
    await store.index.update(lambda tx: feeds.add(tx, "game", "/studio/game"))
    (fed, got) = await talk(store, batch(f"{OID} {size}", f"{OTHER} 5"), message(f"get-object {OID}"))
    assert before.lines == [f"{OID} {size} upload"]
    assert fed.lines == [f"{OID} {size} noop", f"{OTHER} 5 upload"]
    assert got.content == CONTENT
    found = store.repository("/studio/game")
    assert store.index.view(lambda tx: references.all_oids(tx, found.id)) == [Oid(OID)]


async def test_who_may_read_may_not_write(store: Store) -> None:
    await talk(store, put())
    said = await talk(
        store,
        batch(f"{OTHER} 5"),
        put(),
        message(f"verify-object {OID}", f"size={len(CONTENT)}"),
        message("lock", "path=a.bin"),
        message("unlock 0"),
        message("list-lock"),
        message(f"get-object {OID}"),
        role="read",
    )
    assert [one.status for one in said] == [403, 403, 403, 403, 403, 200, 200]
    assert said[0].lines == ["alice may not write in studio/game"]


async def test_a_lock_is_its_owners_until_somebody_who_may_ends_it(store: Store) -> None:
    (locked, again, outside) = await talk(
        store,
        message("lock", "path=art/a b.bin", "refname=refs/heads/main"),
        message("lock", "path=art/a b.bin"),
        message("lock", "path=../a"),
    )
    assert (locked.status, again.status, outside.status) == (201, 409, 422)
    assert locked.arguments == again.arguments
    assert locked.arguments["path"] == "art/a b.bin"
    assert locked.arguments["ownername"] == "alice"
    lock = locked.arguments["id"]
    (listed, theirs, refused, forced) = await talk(
        store,
        message("list-lock", "path=art/a b.bin"),
        message("list-locks", "refname=refs/heads/other"),
        message(f"unlock {lock}"),
        message(f"unlock {lock}", "force=true"),
        user="bob",
    )
    assert listed.lines[:2] == [f"lock {lock}", f"path {lock} art/a b.bin"]
    assert theirs.lines[-1] == f"owner {lock} theirs"
    assert (refused.status, forced.status) == (403, 403)
    (ended, gone) = await talk(
        store, message(f"unlock {lock}", "force=true"), message(f"unlock {lock}"), user="bob", role="admin"
    )
    assert (ended.status, ended.arguments["id"], gone.status) == (200, lock, 404)


async def test_a_long_list_of_locks_comes_in_pages(store: Store) -> None:
    await talk(store, *(message("lock", f"path=f{number}") for number in range(5)))
    found: list[str] = []
    cursor: list[str] = []
    while True:
        (page,) = await talk(store, message("list-lock", "limit=2", *cursor))
        found += [line.split(" ", 2)[2] for line in page.lines if line.startswith("path ")]
        if "next-cursor" not in page.arguments:
            break
        cursor = [f"cursor={page.arguments['next-cursor']}"]
    assert sorted(found) == [f"f{number}" for number in range(5)]
    bad = await talk(store, message("list-lock", "limit=x"), message("list-lock", "cursor=zz"))
    assert [one.status for one in bad] == [400, 400]


async def test_what_the_protocol_does_not_have_is_an_answer_as_long_as_it_can_be_read(store: Store) -> None:
    said = await talk(
        store,
        message("version 2"),
        message("dance", "x=y", content=[b"z" * 100]),
        message("get-object"),
        batch("zz 5"),
        batch(f"{OID} -1"),
        batch(f"{OID} {2**63}"),
        batch(f"{OID} 5", **{"hash-algo": "sha512"}),
        batch(*[f"{OID} 5"] * 4),
        batch(f"{OID} 1001"),
        message("quit"),
        options=ServerOptions(batch_objects=3, object_size=1000),
    )
    assert [one.status for one in said] == [400, 400, 422, 422, 400, 400, 409, 400, 413, 200]


@pytest.mark.parametrize(
    "stream",
    [
        b"0003",
        b"00zz",
        b"-001",
        b"fff5" + b"x" * 65521,
        b"0010abc",
        b"000",
        b"0000",
        b"0001",
        message("batch")[:-4],
        message("lock", *(f"k{number}=v" for number in range(200))),
        put()[:-100],
    ],
    ids=[
        "length 3",
        "no hex",
        "sign",
        "too long",
        "cut",
        "cut head",
        "flush",
        "delimiter",
        "no end",
        "many",
        "cut put",
    ],
)
async def test_a_stream_that_is_none_ends_the_session_and_leaves_nothing(store: Store, stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        await talk(store, stream)
    assert (await store.usage()).objects == 0


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("studio/game.git", "/studio/game"),
        ("/studio/game.git", "/studio/game"),
        ("/srv/git/studio/game.git/", "/studio/game"),
        ("/~/studio/game", "/studio/game"),
        ("/srv/gits/a", "/srv/gits/a"),
    ],
)
def test_the_path_of_a_remote_names_a_repository(path: str, name: str) -> None:
    assert repository_at(path, Path("/srv/git")) == name


@pytest.mark.parametrize("path", ["", "/", "..", "a/../b", "~bob/a", "/~bob/a", "a//b", "a/.git", "a\nb"])
def test_a_path_that_leads_elsewhere_names_none(path: str) -> None:
    with pytest.raises(InvalidName):
        repository_at(path, Path("/srv/git"))
