"""The locking API: at most one lock a path, whoever asks and whatever happens."""

import threading
from typing import Any

import pytest

from . import shapes
from .served import Api, Served


@pytest.fixture
def ann(api: Api) -> Api:
    return Api(api.url, "ann")


@pytest.fixture
def bob(api: Api) -> Api:
    return Api(api.url, "bob")


def lock(api: Api, path: str, **more: object) -> dict[str, Any]:
    answer = api.post("locks", {"path": path, **more})
    assert answer.status_code == 201, answer.text
    shapes.check(answer.json(), shapes.LOCK)
    return dict(answer.json()["lock"])


def listed(api: Api, **asked: str | int) -> list[str]:
    answer = api.get("locks", params=asked)
    assert answer.status_code == 200, answer.text
    shapes.check(answer.json(), shapes.LOCK_LIST)
    return sorted(found["path"] for found in answer.json()["locks"])


def test_a_lock_has_a_path_an_owner_and_a_time(ann: Api) -> None:
    made = lock(ann, "art/größe.psd")
    assert made["path"] == "art/größe.psd"
    assert made["owner"] == {"name": "ann"}
    assert made["locked_at"].endswith("Z")


def test_a_path_is_locked_once_and_409_tells_by_whom(ann: Api, bob: Api) -> None:
    made = lock(ann, "a.bin")
    for other in (bob, ann):
        refused = other.post("locks", {"path": "a.bin"})
        assert refused.status_code == 409
        shapes.check(refused.json(), shapes.LOCK)
        assert refused.json()["lock"] == made
        assert "ann" in refused.json()["message"]


def test_of_many_at_once_one_gets_the_lock(api: Api) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(
            target=lambda n=n: statuses.append(
                Api(api.url, f"user{n}").post("locks", {"path": "p"}).status_code
            )
        )  # type: ignore[misc]
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201] + [409] * 11


def test_locks_are_listed_by_path_id_and_branch(ann: Api) -> None:
    one = lock(ann, "one", ref={"name": "refs/heads/main"})
    lock(ann, "two", ref={"name": "refs/heads/dev"})
    lock(ann, "three")
    assert listed(ann) == ["one", "three", "two"]
    assert listed(ann, path="two") == ["two"]
    assert listed(ann, path="nowhere") == []
    assert listed(ann, id=one["id"]) == ["one"]
    assert listed(ann, id="nonsense") == []
    assert listed(ann, refspec="refs/heads/main") == ["one", "three"], (
        "a lock without a branch is on all of them"
    )
    assert listed(ann, path="two", refspec="refs/heads/main") == []


def test_no_locks_are_an_empty_array(ann: Api) -> None:
    assert ann.get("locks").json() == {"locks": []}
    assert ann.post("locks/verify", {}).json() == {"ours": [], "theirs": []}


def test_pages_hold_every_lock_once(ann: Api) -> None:
    paths = sorted(f"file-{number}" for number in range(25))
    for path in paths:
        lock(ann, path)
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        answer = ann.get("locks", params={"limit": "7", **cursor}).json()
        shapes.check(answer, shapes.LOCK_LIST)
        assert len(answer["locks"]) <= 7
        found += [one["path"] for one in answer["locks"]]
        if "next_cursor" not in answer:
            break
        cursor = {"cursor": answer["next_cursor"]}
    assert sorted(found) == paths


def test_verify_tells_ours_from_theirs_on_every_branch(ann: Api, bob: Api) -> None:
    lock(ann, "anns", ref={"name": "refs/heads/dev"})
    lock(bob, "bobs")
    answer = ann.post("locks/verify", {"ref": {"name": "refs/heads/main"}, "limit": 100}).json()
    shapes.check(answer, shapes.LOCK_VERIFY)
    assert [one["path"] for one in answer["ours"]] == ["anns"]
    assert [one["path"] for one in answer["theirs"]] == ["bobs"]


def test_verify_pages_too(ann: Api, bob: Api) -> None:
    for number in range(5):
        lock(ann if number % 2 else bob, f"file-{number}")
    first = ann.post("locks/verify", {"limit": 3}).json()
    rest = ann.post("locks/verify", {"limit": 3, "cursor": first["next_cursor"]}).json()
    assert "next_cursor" not in rest
    assert len(first["ours"] + first["theirs"]) == 3
    assert len(first["ours"] + rest["ours"]) == 2


def test_an_owner_unlocks(ann: Api) -> None:
    made = lock(ann, "a")
    answer = ann.post(f"locks/{made['id']}/unlock", {})
    assert answer.status_code == 200
    shapes.check(answer.json(), shapes.LOCK)
    assert answer.json()["lock"] == made
    assert listed(ann) == []
    assert ann.post(f"locks/{made['id']}/unlock", {}).status_code == 404


def test_others_unlock_by_force_only(ann: Api, bob: Api) -> None:
    made = lock(ann, "a")
    assert bob.post(f"locks/{made['id']}/unlock", {}).status_code == 403
    assert bob.post(f"locks/{made['id']}/unlock", {"force": False}).status_code == 403
    assert bob.post(f"locks/{made['id']}/unlock", {"force": True}).status_code == 200


def test_locks_of_one_repository_are_no_others(ann: Api) -> None:
    made = lock(ann, "a")
    elsewhere = Api(ann.url.replace("/tests/", "/elsewhere/"), "ann")
    assert listed(elsewhere) == []
    assert elsewhere.post(f"locks/{made['id']}/unlock", {"force": True}).status_code == 404
    assert lock(elsewhere, "a")["id"] != made["id"]
    assert listed(ann) == ["a"]


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\0b", "x" * 5000, 7, None, "\ud800"],
    ids=["empty", "root", "up", "inner", "double", "slash", "dot", "nul", "long", "number", "null", "surrogate"],
)  # fmt: skip
def test_what_is_no_path_in_a_repository_is_refused(ann: Api, path: object) -> None:
    assert ann.post("locks", {"path": path}).status_code == 422


@pytest.mark.parametrize(
    "asked", [{"cursor": "x"}, {"cursor": "00"}, {"limit": "-1"}, {"limit": "many"}, {"limit": "1" * 400}],
    ids=["cursor", "short", "negative", "word", "huge"],
)  # fmt: skip
def test_questions_that_make_no_sense_are_refused(ann: Api, asked: dict[str, str]) -> None:
    assert ann.get("locks", params=asked).status_code == 422


@pytest.mark.parametrize(
    "said", [{"force": "yes"}, {"ref": 7}, {"ref": {"name": 7}}], ids=["force", "ref", "name"]
)
def test_an_unlock_that_makes_no_sense_is_refused(ann: Api, said: dict[str, object]) -> None:
    made = lock(ann, "a")
    assert ann.post(f"locks/{made['id']}/unlock", said).status_code == 422
    assert listed(ann) == ["a"]


@pytest.mark.slow
def test_what_was_granted_survives_a_kill(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Served(tmp_path_factory.mktemp("killed")) as served:
        ann = served.api(user="ann")
        made = lock(ann, "a")
        served.kill()
        served.start()
        assert ann.get("locks").json() == {"locks": [made]}
        assert served.api(user="bob").post("locks", {"path": "a"}).status_code == 409
