"""objects/batch: what the server says of objects."""

from typing import Any

import pytest

from . import shapes
from .served import LFS_JSON, Api, Served, oid_of

CONTENT = b"some content\n" * 1000
OID = oid_of(CONTENT)
ABSENT = oid_of(b"nobody has this")


def checked(api: Api, operation: str, *objects: tuple[str, int], **more: object) -> list[dict[str, Any]]:
    """A batch, its answer of the right shape and in the order asked."""
    answer = api.batch(operation, *objects, **more)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == LFS_JSON
    body = answer.json()
    shapes.check(body, shapes.BATCH)
    assert [found["oid"] for found in body["objects"]] == [oid for oid, _ in objects]
    return list(body["objects"])


def test_what_is_not_there_is_to_be_uploaded_and_verified(api: Api) -> None:
    (found,) = checked(api, "upload", (OID, len(CONTENT)))
    assert set(found["actions"]) == {"upload", "verify"}
    assert found["authenticated"] is True
    assert found["actions"]["upload"]["href"].startswith(api.url)
    assert 3000 < found["actions"]["upload"]["expires_in"] <= 3600


def test_what_is_there_has_no_actions_on_upload_and_one_on_download(api: Api) -> None:
    api.put(CONTENT)
    (found,) = checked(api, "upload", (OID, len(CONTENT)))
    assert "actions" not in found
    assert "error" not in found
    (found,) = checked(api, "download", (OID, len(CONTENT)))
    assert set(found["actions"]) == {"download"}


def test_each_object_has_its_own_error(api: Api) -> None:
    api.put(CONTENT)
    found = checked(
        api,
        "download",
        (OID, len(CONTENT)),
        (ABSENT, 1),
        (OID, len(CONTENT) + 1),
        ("no-oid", 1),
        (ABSENT, -1),
    )
    codes = [one.get("error", {}).get("code") for one in found]
    assert codes == [None, 404, 422, 422, 422]


def test_an_upload_with_another_size_than_the_object_has_is_refused(api: Api) -> None:
    api.put(CONTENT)
    (found,) = checked(api, "upload", (OID, len(CONTENT) + 1))
    assert found["error"]["code"] == 422


def test_no_objects_are_an_empty_array(api: Api) -> None:
    assert checked(api, "download") == []


@pytest.mark.parametrize(
    ("offered", "operation", "chosen"),
    [
        (["basic"], "download", "basic"),
        (["lfs-standalone-file", "basic", "ssh"], "upload", "basic"),
        (["tus", "basic"], "upload", "tus"),
        (["tus", "basic"], "download", "basic"),
        ([], "upload", "basic"),
    ],
    ids=["basic", "many", "tus-up", "tus-down", "none"],
)
def test_the_transfer_is_one_that_both_have(
    api: Api, offered: list[str], operation: str, chosen: str
) -> None:
    answer = api.batch(operation, (OID, 1), transfers=offered).json()
    assert answer["transfer"] == chosen
    assert answer["hash_algo"] == "sha256"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"operation": "delete", "objects": []}, 422),
        ({"operation": "upload"}, 422),
        ({"operation": "upload", "objects": None}, 422),
        ({"operation": "upload", "objects": [7]}, 422),
        ({"operation": "upload", "objects": [{"oid": OID}]}, 422),
        ({"operation": "upload", "objects": [{"oid": OID, "size": True}]}, 422),
        ({"operation": "upload", "objects": [{"oid": OID, "size": 1.5}]}, 422),
        ({"operation": "upload", "objects": [], "transfers": "basic"}, 422),
        ({"operation": "upload", "objects": [], "ref": "main"}, 422),
        ({"operation": "upload", "objects": [], "hash_algo": "sha1"}, 409),
        ({"operation": "download", "objects": [{"oid": OID, "size": 1}] * 10_001}, 413),
        ([], 422),
    ],
    ids=[
        "operation",
        "absent",
        "null",
        "number",
        "no-size",
        "bool",
        "float",
        "transfers",
        "ref",
        "hash",
        "many",
        "list",
    ],
)
def test_what_makes_no_sense_is_refused(api: Api, body: object, status: int) -> None:
    answer = api.post("objects/batch", body)
    assert answer.status_code == status, answer.text
    shapes.check(answer.json(), shapes.ERROR)
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Accept": "text/html"}, 406),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json"}, 200),
        ({"Content-Type": f"{LFS_JSON}; charset=utf-8", "Accept": f"{LFS_JSON}; charset=utf-8"}, 200),
        ({"Accept": "*/*"}, 200),
    ],
    ids=["accept", "type", "json", "charset", "any"],
)
def test_media_types_are_exact(api: Api, headers: dict[str, str], status: int) -> None:
    body = {"operation": "download", "objects": []}
    assert api.post("objects/batch", body, headers=headers).status_code == status


def test_a_branch_may_be_named(api: Api) -> None:
    checked(api, "upload", (OID, 1), ref={"name": "refs/heads/main"})


@pytest.mark.parametrize(
    "form", ["{}.git/info/lfs", "{}/info/lfs", "{}.git", "{}"], ids=["git-lfs", "lfs", "git", "bare"]
)
def test_a_repository_is_the_same_in_each_form_of_its_url(served: Served, form: str) -> None:
    oid = served.api("forms/one").put(b"in all forms")
    other = Api(f"{served.url}/{form.format('forms/one')}")
    assert "actions" in other.asked("download", oid, len(b"in all forms"))


def test_a_repository_may_have_no_owner(served: Served) -> None:
    oid = served.api("lonely").put(b"in a repository without an owner")
    assert "actions" in served.api("lonely").asked("download", oid, len(b"in a repository without an owner"))


def test_knowing_an_oid_gives_nothing_in_a_repository_that_does_not_refer_to_it(served: Served) -> None:
    content = b"the secret of one repository"
    theirs, ours = served.api("private/one"), served.api("private/two")
    oid = theirs.put(content)
    assert ours.asked("download", oid, len(content))["error"]["code"] == 404
    assert ours.get(f"objects/{oid}").status_code == 404
    assert ours.request("HEAD", f"objects/{oid}").status_code == 404
    said = {"oid": oid, "size": len(content)}
    assert ours.post(f"verify/{oid}", said).status_code == 404
    assert "actions" in ours.asked("upload", oid, len(content)), (
        "as if nobody had it: the bytes are to be sent"
    )
    assert ours.put(content) == oid
    assert ours.fetch(oid, len(content)).content == content
