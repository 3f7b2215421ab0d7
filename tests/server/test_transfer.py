"""Basic transfer: bytes in, verified; bytes out, whole or in part."""

import random
import time
from pathlib import Path

import pytest
import requests
import zstandard

from . import shapes
from .served import Api, Served, oid_of

CONTENT = random.Random(7).randbytes(3_000_000)
OID = oid_of(CONTENT)
WRONG = random.Random(8).randbytes(3_000_000)


@pytest.fixture
def stored(api: Api) -> Api:
    assert api.put(CONTENT) == OID
    return api


def test_what_was_uploaded_comes_back(stored: Api) -> None:
    answer = stored.fetch(OID, len(CONTENT))
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["ETag"] == f'"{OID}"'
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert answer.headers["Accept-Ranges"] == "bytes"


def test_head_says_all_that_get_does_but_the_bytes(stored: Api) -> None:
    head, get = stored.request("HEAD", f"objects/{OID}"), stored.get(f"objects/{OID}")
    ours = ("ETag", "Content-Length", "Content-Type", "Accept-Ranges", "Cache-Control")
    assert {name: head.headers[name] for name in ours} == {name: get.headers[name] for name in ours}
    assert head.status_code == 200
    assert head.content == b""


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000000-", 1_000_000, 3_000_000),
        ("bytes=1048570-1048580", 1_048_570, 1_048_581),
        ("bytes=-5", 2_999_995, 3_000_000),
        ("bytes=2999999-9999999", 2_999_999, 3_000_000),
        ("bytes=-9999999", 0, 3_000_000),
    ],
    ids=["first", "rest", "across", "suffix", "beyond", "all"],
)
def test_a_range_is_answered_with_206(stored: Api, asked: str, start: int, end: int) -> None:
    answer = stored.get(f"objects/{OID}", headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"


@pytest.mark.parametrize(
    "asked", ["bytes=3000000-", "bytes=9999999-10000000", "bytes=-0"], ids=["end", "far", "none"]
)
def test_a_range_outside_is_answered_with_416(stored: Api, asked: str) -> None:
    answer = stored.get(f"objects/{OID}", headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
    shapes.check(answer.json(), shapes.ERROR)


@pytest.mark.parametrize(
    "asked",
    ["bytes=0-1,5-6", "lines=1-2", "bytes=x-", "bytes=5-2", "bytes=-"],
    ids=["two", "unit", "x", "back", "empty"],
)
def test_a_range_that_makes_no_sense_is_ignored(stored: Api, asked: str) -> None:
    assert stored.get(f"objects/{OID}", headers={"Range": asked}).status_code == 200


def test_a_download_goes_on_only_if_it_is_still_the_same_object(stored: Api) -> None:
    wanted = {"Range": "bytes=10-19"}
    same = stored.get(f"objects/{OID}", headers=wanted | {"If-Range": f'"{OID}"'})
    other = stored.get(f"objects/{OID}", headers=wanted | {"If-Range": '"another"'})
    assert (same.status_code, other.status_code) == (206, 200)


def test_who_has_the_object_is_told_304(stored: Api) -> None:
    answer = stored.get(f"objects/{OID}", headers={"If-None-Match": f'W/"x", "{OID}"'})
    assert (answer.status_code, answer.content) == (304, b"")


def test_zstd_where_the_client_asks_for_it(api: Api) -> None:
    content = b"much of the same\n" * 100_000
    oid = api.put(content)
    plain = requests.get(f"{api.url}/objects/{oid}", headers={"Accept-Encoding": "identity"}, timeout=30)
    assert "Content-Encoding" not in plain.headers
    packed = requests.get(
        f"{api.url}/objects/{oid}", headers={"Accept-Encoding": "zstd"}, timeout=30, stream=True
    )
    assert packed.headers["Content-Encoding"] == "zstd"
    assert packed.headers["ETag"] != plain.headers["ETag"]
    body = packed.raw.read(decode_content=False)
    assert len(body) < len(content) / 100
    assert zstandard.ZstdDecompressor().decompressobj().decompress(body) == content


def test_a_range_is_never_compressed(api: Api) -> None:
    content = b"much of the same\n" * 1000
    oid = api.put(content)
    answer = api.get(f"objects/{oid}", headers={"Accept-Encoding": "zstd", "Range": "bytes=5-"})
    assert "Content-Encoding" not in answer.headers
    assert answer.content == content[5:]


@pytest.mark.parametrize(
    "sent", [WRONG, CONTENT[:-1], CONTENT + b"!", b""], ids=["other", "short", "long", "nothing"]
)
def test_wrong_bytes_are_refused_with_422_and_nothing_is_stored(api: Api, sent: bytes) -> None:
    action = api.asked("upload", OID, len(CONTENT))["actions"]["upload"]
    answer = api.act(action, "PUT", data=sent)
    assert answer.status_code == 422, answer.text
    shapes.check(answer.json(), shapes.ERROR)
    assert api.asked("download", OID, len(CONTENT))["error"]["code"] == 404
    assert api.put(CONTENT) == OID, "and the right bytes are taken afterwards"


def test_git_lfs_is_told_403_as_it_pushes_all_the_same_at_422(api: Api) -> None:
    """It takes a 422 for a complaint about the Content-Type that it guessed, and lets git push without the object."""
    by = {"User-Agent": "git-lfs/3.3.0 (GitHub; linux amd64; go 1.19.8)"}
    answer = api.request("PUT", f"objects/{OID}", data=CONTENT[:-1] + b"!", headers=by)
    assert (answer.status_code, "announced was" in answer.json()["message"]) == (403, True)
    api.put(CONTENT)
    wrong = api.request("POST", f"verify/{OID}", json={"oid": OID, "size": len(CONTENT) + 1}, headers=by)
    assert wrong.status_code == 403
    assert api.fetch(OID, len(CONTENT)).content == CONTENT


def test_wrong_bytes_in_chunks_are_refused_as_well(api: Api) -> None:
    action = api.asked("upload", OID, len(CONTENT))["actions"]["upload"]
    answer = api.act(
        action, "PUT", data=(WRONG[start : start + 100_000] for start in range(0, len(WRONG), 100_000))
    )
    assert answer.status_code == 422


def test_an_upload_in_chunks_is_taken(api: Api) -> None:
    action = api.asked("upload", OID, len(CONTENT))["actions"]["upload"]
    pieces = (CONTENT[start : start + 100_000] for start in range(0, len(CONTENT), 100_000))
    assert api.act(action, "PUT", data=pieces).status_code == 200
    assert api.fetch(OID, len(CONTENT)).content == CONTENT


def test_an_encoded_upload_is_refused(api: Api) -> None:
    action = api.asked("upload", OID, len(CONTENT))["actions"]["upload"]
    packed = zstandard.compress(CONTENT)
    assert api.act(action, "PUT", data=packed, headers={"Content-Encoding": "zstd"}).status_code == 415


def test_verify_tells_what_is_there(stored: Api) -> None:
    def said(oid: str, size: int) -> int:
        return stored.post(f"verify/{oid}", {"oid": oid, "size": size}).status_code

    assert said(OID, len(CONTENT)) == 200
    assert said(OID, len(CONTENT) + 1) == 422
    assert said(oid_of(b"never"), 5) == 404
    assert stored.post(f"verify/{OID}", {"oid": oid_of(b"other"), "size": 1}).status_code == 422
    assert stored.post(f"verify/{OID}", {"oid": OID, "size": "many"}).status_code == 422


def test_a_ticket_is_for_its_object_its_repository_and_its_operation(api: Api) -> None:
    oid, other = api.put(b"one object"), api.put(b"another object")
    header = api.asked("download", oid, len(b"one object"))["actions"]["download"]["header"]
    assert api.get(f"objects/{oid}", headers=header).status_code == 200
    assert api.get(f"objects/{other}", headers=header).status_code == 403
    assert api.request("PUT", f"objects/{oid}", headers=header, data=b"one object").status_code == 403
    elsewhere = Api(api.url.replace("/tests/", "/elsewhere/"))
    assert elsewhere.get(f"objects/{oid}", headers=header).status_code == 403


@pytest.mark.parametrize(
    "made",
    ["RemoteAuth", "RemoteAuth !", "RemoteAuth AAAA", "RemoteAuth " + "A" * 4000],
    ids=["no", "odd", "short", "long"],
)
def test_a_ticket_of_ones_own_making_is_refused_with_401(api: Api, made: str) -> None:
    answer = api.get(f"objects/{OID}", headers={"Authorization": made})
    assert answer.status_code == 401
    assert answer.headers["LFS-Authenticate"].startswith("Basic realm=")
    shapes.check(answer.json(), shapes.ERROR)


@pytest.mark.slow
def test_an_expired_ticket_is_refused_with_403_so_that_git_lfs_asks_for_another(tmp_path: Path) -> None:
    with Served(tmp_path, config='[server]\naction_lifetime = "1s"\n') as served:
        api = served.api()
        oid = api.put(b"short")
        action = api.asked("download", oid, 5)["actions"]["download"]
        time.sleep(2.1)
        assert api.act(action, "GET").status_code == 403
        assert api.fetch(oid, 5).content == b"short"


# tus


TUS = {"Tus-Resumable": "1.0.0"}
PIECE = TUS | {"Content-Type": "application/offset+octet-stream"}


def test_a_tus_upload_goes_on_where_it_stopped(api: Api) -> None:
    action = api.asked("upload", OID, len(CONTENT), transfers=["tus", "basic"])["actions"]["upload"]
    head = api.act(action, "HEAD", headers=TUS)
    assert (head.status_code, head.headers["Upload-Offset"]) == (200, "0")
    assert head.headers["Upload-Length"] == str(len(CONTENT))
    first = api.act(action, "PATCH", headers=PIECE | {"Upload-Offset": "0"}, data=CONTENT[:1_000_000])
    assert (first.status_code, first.headers["Upload-Offset"]) == (204, "1000000")
    assert api.act(action, "HEAD", headers=TUS).headers["Upload-Offset"] == "1000000"
    wrong = api.act(action, "PATCH", headers=PIECE | {"Upload-Offset": "5"}, data=CONTENT[5:])
    assert wrong.status_code == 409
    assert api.asked("download", OID, len(CONTENT))["error"]["code"] == 404
    last = api.act(action, "PATCH", headers=PIECE | {"Upload-Offset": "1000000"}, data=CONTENT[1_000_000:])
    assert last.status_code == 204
    assert api.fetch(OID, len(CONTENT)).content == CONTENT
    assert api.act(action, "HEAD", headers=TUS).headers["Upload-Offset"] == str(len(CONTENT))


@pytest.mark.slow
def test_a_tus_upload_outlives_the_server(tmp_path: Path) -> None:
    """Whether it was stopped or killed, what had come is there, and the rest is enough."""
    with Served(tmp_path) as served:
        api = served.api()
        action = api.asked("upload", OID, len(CONTENT), transfers=["tus"])["actions"]["upload"]
        api.act(action, "PATCH", headers=PIECE | {"Upload-Offset": "0"}, data=CONTENT[:1_000_000])
        served.stop()
        served.start()
        assert api.act(action, "HEAD", headers=TUS).headers["Upload-Offset"] == "1000000"
        second = PIECE | {"Upload-Offset": "1000000"}
        assert api.act(action, "PATCH", headers=second, data=CONTENT[1_000_000:2_500_000]).status_code == 204
        served.kill()
        served.start()
        assert api.act(action, "HEAD", headers=TUS).headers["Upload-Offset"] == "2500000"
        last = PIECE | {"Upload-Offset": "2500000"}
        assert api.act(action, "PATCH", headers=last, data=CONTENT[2_500_000:]).status_code == 204
        assert api.fetch(OID, len(CONTENT)).content == CONTENT
        assert list((served.store / "uploads").iterdir()) == []


@pytest.mark.slow
def test_a_tus_upload_that_had_all_come_is_an_object_after_a_crash(tmp_path: Path) -> None:
    with Served(tmp_path) as served:
        api = served.api()
        action = api.asked("upload", OID, len(CONTENT), transfers=["tus"])["actions"]["upload"]
        api.act(action, "PATCH", headers=PIECE | {"Upload-Offset": "0"}, data=CONTENT[:-1])
        served.kill()
        (part,) = (served.store / "uploads").iterdir()
        part.write_bytes(CONTENT)
        served.start()
        assert api.act(action, "HEAD", headers=TUS).headers["Upload-Offset"] == str(len(CONTENT))
        assert api.fetch(OID, len(CONTENT)).content == CONTENT


def test_a_tus_upload_of_wrong_bytes_is_refused_and_begins_anew(api: Api) -> None:
    action = api.asked("upload", OID, len(CONTENT), transfers=["tus"])["actions"]["upload"]
    refused = api.act(action, "PATCH", headers=PIECE | {"Upload-Offset": "0"}, data=WRONG)
    assert refused.status_code == 422
    assert api.act(action, "HEAD", headers=TUS).headers["Upload-Offset"] == "0"
    long = api.act(action, "PATCH", headers=PIECE | {"Upload-Offset": "0"}, data=CONTENT + b"!")
    assert long.status_code == 422
    assert api.act(action, "PATCH", headers=PIECE | {"Upload-Offset": "0"}, data=CONTENT).status_code == 204


def test_a_tus_upload_may_be_abandoned(api: Api) -> None:
    action = api.asked("upload", OID, len(CONTENT), transfers=["tus"])["actions"]["upload"]
    api.act(action, "PATCH", headers=PIECE | {"Upload-Offset": "0"}, data=CONTENT[:10])
    assert api.act(action, "DELETE", headers=TUS).status_code == 204
    assert api.act(action, "HEAD", headers=TUS).headers["Upload-Offset"] == "0"


def test_tus_says_what_it_can_and_wants_its_version(api: Api) -> None:
    assert "termination" in api.request("OPTIONS", f"uploads/{OID}").headers["Tus-Extension"]
    assert api.request("HEAD", f"uploads/{OID}").status_code == 412
    created = api.request("POST", f"uploads/{OID}", headers=TUS | {"Upload-Length": "10"})
    assert created.status_code == 201
    assert created.headers["Location"].endswith(f"/uploads/{OID}")
    typed = api.request(
        "PATCH", f"uploads/{OID}", headers=TUS | {"Upload-Offset": "0", "Content-Type": "text/plain"}
    )
    assert typed.status_code == 415
