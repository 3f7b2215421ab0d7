"""embed: vectors into the store, out of it, and what there is."""

import argparse
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lfsfs.cli import output, tracking
from lfsfs.cli.bars import Bar
from lfsfs.cli.collecting import roots_of
from lfsfs.cli.options import option
from lfsfs.cli.stores import add_options, with_store
from lfsfs.errors import InvalidConfig, NotFound
from lfsfs.store.store import Store
from lfsfs.units import format_size

if TYPE_CHECKING:
    from lfsfs.embeddings.collection import Collection, CollectionStats
    from lfsfs.embeddings.contents import VectorStat

T = TypeVar("T")
PAGE = 1_000
SHOWN_NUMBERS = 8
KINDS = ("dir", "npz", "safetensors")


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    actions = commands.add_parser(
        "embed",
        help="embedding vectors: put, get, search, track, export…",
        description="Embedding vectors, each kept under the hash of the content that it was computed from.",
    ).add_subparsers(metavar="ACTION", required=True)

    put = _action(
        actions, "put", run_put, help="store vectors of .npz files, of directories of them, of a .npy"
    )
    put.add_argument(
        "files", metavar="FILE", nargs="+", type=Path,
        help="HASH.npz, a directory of such files, or a .npy: one vector (with --hash), or a matrix with a .txt of"
        " hashes beside it",
    )  # fmt: skip
    put.add_argument("--hash", metavar="HASH", help="the content hash of the vector in FILE")
    _add_writing(put)

    get = _action(actions, "get", run_get, help="write a vector to an npz file, or show it")
    get.add_argument("hash", metavar="HASH")
    get.add_argument("-o", "--output", metavar="FILE", type=Path, help="an .npz or .npy file")

    ls = _action(actions, "ls", run_ls, help="list the vectors, or with --collections the collections")
    ls.add_argument("--collections", action="store_true", help="list the collections")
    ls.add_argument("--limit", metavar="N", type=option(_number), help="at most so many")
    ls.add_argument("--after", metavar="HASH", help="only those after this content hash")

    _action(
        actions, "stats", run_stats, help="how many, of which shapes, how large, what deduplication saves"
    )

    search = _action(
        actions, "search", run_search, help="the vectors most like one, compared with all of them"
    )
    search.add_argument(
        "--like", metavar="HASH", required=True, help="a content hash, or a .npy or .npz file"
    )
    search.add_argument("-k", metavar="N", type=option(_number), default=10, help="so many (default: 10)")
    search.add_argument("--dot", action="store_true", help="by dot product; default: by cosine")

    export = _action(actions, "export", run_export, help="write a collection to files")
    export.add_argument("target", metavar="TARGET", type=Path)
    export.add_argument("--format", choices=KINDS, help="default: by the name of TARGET")

    take_in = _action(actions, "import", run_put, help="the same as put, for what other tools have left")
    take_in.add_argument(
        "files", metavar="SOURCE", nargs="+", type=Path, help="a directory, .npz, .npy, .safetensors"
    )
    _add_writing(take_in)
    take_in.set_defaults(hash=None)

    orphans = _action(actions, "orphans", run_orphans, help="vectors whose content hash is in no list")
    orphans.add_argument(
        "--referenced", metavar="FILE", required=True, help="a content hash a line; -: standard input"
    )
    orphans.add_argument("--delete", action="store_true", help="remove them; default: only list them")

    rm = _action(actions, "rm", run_rm, help="remove vectors")
    rm.add_argument("hashes", metavar="HASH", nargs="+")

    _action(actions, "vacuum", run_vacuum, help="pack what was written singly, give back what was deleted")
    tracking.add_actions(actions)
    tracking.add_to(commands)


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    help: str,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.add_argument("--collection", metavar="NAME", default="default", help="default: default")
    add_options(parser)
    parser.set_defaults(run=run)
    return parser


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--replace", action="store_true", help="where another vector is there, replace it")
    parser.add_argument(
        "--codec",
        choices=("raw", "zstd"),
        help="how the collection is packed from now on (default: as before, or raw)",
    )


def _with(
    arguments: argparse.Namespace,
    use: Callable[["Collection"], Awaitable[T]],
    *,
    read_only: bool = False,
    busy: str = "",
) -> T:
    async def opened(store: Store) -> T:
        return await use(store.embeddings.collection(arguments.collection))

    return with_store(arguments, opened, read_only=read_only, busy=busy)


def run_put(arguments: argparse.Namespace) -> int:
    """Stores each file. What cannot be read is told, and the rest is stored."""
    if arguments.hash is not None and len(arguments.files) != 1:
        raise InvalidConfig("--hash names one vector: give one FILE")

    async def use(collection: "Collection") -> tuple[int, list[str]]:
        from lfsfs.embeddings.files import import_all, read_vector

        if arguments.codec is not None:
            await collection.set_codec(arguments.codec)
        if arguments.hash is not None:
            vector = read_vector(arguments.files[0])
            await collection.write_embedding(arguments.hash, vector, replace=arguments.replace)
            return 1, []
        stored, errors = 0, []
        with Bar("put", "vectors") as shown:
            for file in arguments.files:
                count, wrong = await import_all(
                    collection,
                    file,
                    replace=arguments.replace,
                    told=lambda done, total, before=stored: shown.show(  # type: ignore[misc]
                        before + done, None if total is None else before + total
                    ),
                )
                stored += count
                errors += wrong
        return stored, errors

    stored, errors = _with(arguments, use)
    if arguments.json:
        output.as_json({"stored": stored, "failed": errors})
    else:
        output.line(f"{stored} vectors in {arguments.collection}")
        for text in errors:
            output.note(text)
    return output.FAILED if errors else output.DONE


def run_get(arguments: argparse.Namespace) -> int:
    """Writes one vector out."""

    async def use(collection: "Collection") -> Any:
        vector = await collection.read_embedding(arguments.hash)
        if arguments.output is not None:
            from lfsfs.embeddings.files import write_vector

            write_vector(arguments.output, vector)
        return vector

    vector = _with(arguments, use)
    if arguments.json:
        output.as_json({"hash": arguments.hash, "dtype": str(vector.dtype), "shape": list(vector.shape),
                        **({} if arguments.output else {"vector": _as_numbers(vector)})})  # fmt: skip
    elif arguments.output is None:
        output.line(f"{vector.dtype} {vector.shape}")
        output.line(_shown(vector))
    return output.DONE


def run_ls(arguments: argparse.Namespace) -> int:
    """Lists vectors, or collections."""
    if arguments.collections:
        return _list_collections(arguments)

    async def use(collection: "Collection") -> None:
        _need(collection)
        left = arguments.limit or sys.maxsize
        with output.Listing["VectorStat"](json=arguments.json, element=_described, text=_columns) as listing:
            after = arguments.after
            while left and (page := collection.page(after, min(left, PAGE))):
                for stat in page:
                    listing.add(stat)
                left -= len(page)
                after = page[-1].content_hash

    _with(arguments, use, read_only=True)
    return output.DONE


def _list_collections(arguments: argparse.Namespace) -> int:
    async def use(store: Store) -> list[tuple[str, int]]:
        embeddings = store.embeddings
        return [(name, embeddings.collection(name).count()) for name in embeddings.collections()]

    with output.Listing[tuple[str, int]](
        json=arguments.json,
        element=lambda found: {"collection": found[0], "count": found[1]},
        text=lambda found: f"{found[1]:>10}  {found[0]}",
    ) as listing:
        for found in with_store(arguments, use, read_only=True):
            listing.add(found)
    return output.DONE


def run_stats(arguments: argparse.Namespace) -> int:
    """Shows the totals of a collection."""

    async def use(collection: "Collection") -> "CollectionStats":
        _need(collection)
        return await collection.stats()

    stats = _with(arguments, use, busy="count")
    if arguments.json:
        mean = None if stats.mean is None else _as_numbers(stats.mean)
        output.as_json(
            {
                "collection": arguments.collection, "count": stats.count, "raw_bytes": stats.raw,
                "stored_bytes": stats.stored, "saved_bytes": stats.saved, "loose": stats.loose, "packs": stats.packs,
                "forms": [
                    {"dtype": dtype, "shape": list(shape), "count": count}
                    for (dtype, shape), count in stats.forms.items()
                ],
                "mean": mean,
            }
        )  # fmt: skip
        return output.DONE
    forms = [f"{count} of {dtype} {shape}" for (dtype, shape), count in stats.forms.items()]
    output.table(
        [
            ("vectors", str(stats.count)),
            ("forms", "\n".join(forms[:SHOWN_NUMBERS]) + ("\n…" if len(forms) > SHOWN_NUMBERS else "")),
            ("size", format_size(stats.raw)),
            ("stored", format_size(stats.stored)),
            ("saved", f"{format_size(stats.saved)} by storing equal vectors once"),
            ("in packs", f"{stats.count - stats.loose} in {stats.packs}; {stats.loose} wait in the index"),
            ("mean", "-" if stats.mean is None else _shown(stats.mean)),
        ]
    )
    return output.DONE


def run_search(arguments: argparse.Namespace) -> int:
    """Lists the most similar vectors."""

    async def use(collection: "Collection") -> Any:
        from lfsfs.embeddings.files import read_vector
        from lfsfs.embeddings.searching import search

        _need(collection)
        path = Path(arguments.like)
        like = read_vector(path) if path.is_file() else await collection.read_embedding(arguments.like)
        return await search(collection, like, arguments.k, measure="dot" if arguments.dot else "cosine")

    found = _with(arguments, use, busy="search")
    with output.Listing[Any](
        json=arguments.json,
        element=lambda one: {"hash": one.content_hash, "score": one.score},
        text=lambda one: f"{one.score:9.6f}  {one.content_hash}",
    ) as listing:
        for one in found:
            listing.add(one)
    return output.DONE


def run_export(arguments: argparse.Namespace) -> int:
    """Writes a collection to files."""

    async def use(collection: "Collection") -> int:
        from lfsfs.embeddings.files import export_all, kind_of

        kind = arguments.format or kind_of(arguments.target)
        with Bar("export", "vectors") as shown:
            return await export_all(collection, arguments.target, kind, told=shown.show)

    written = _with(arguments, use)
    if arguments.json:
        output.as_json({"exported": written, "target": str(arguments.target)})
    else:
        output.line(f"{written} vectors in {arguments.target}")
    return output.DONE


def run_orphans(arguments: argparse.Namespace) -> int:
    """Lists, or removes, what is in no list."""
    given = sys.stdin.read() if arguments.referenced == "-" else Path(arguments.referenced).read_text()

    async def use(collection: "Collection") -> list[str]:
        _need(collection)
        return await collection.cleanup_orphans(given.split(), dry_run=not arguments.delete)

    with output.Listing[str](json=arguments.json, element=lambda text: {"hash": text}, text=str) as listing:
        for text in _with(arguments, use, busy="look"):
            listing.add(text)
    return output.DONE


def run_rm(arguments: argparse.Namespace) -> int:
    """Removes vectors."""

    async def use(collection: "Collection") -> int:
        _need(collection)
        return await collection.delete(arguments.hashes)

    removed = _with(arguments, use, busy="rm")
    if arguments.json:
        output.as_json({"removed": removed})
    else:
        output.line(f"removed {removed} of {len(arguments.hashes)}")
    return output.DONE if removed else output.ABSENT


def run_vacuum(arguments: argparse.Namespace) -> int:
    """Packs, of all collections."""

    async def use(store: Store) -> Any:
        return await store.embeddings.vacuum(roots_of(store))

    done = with_store(arguments, use, busy="vacuum")
    if arguments.json:
        output.as_json({"written": done.written, "removed": done.removed, "vectors": done.vectors})
    else:
        output.line(f"{done.vectors} vectors moved: {done.written} packs written, {done.removed} removed")
    return output.DONE


def _need(collection: "Collection") -> None:
    if not collection.exists():
        raise NotFound(f"no collection {collection.name!r} of embeddings")


def _described(stat: "VectorStat") -> dict[str, Any]:
    return {
        "hash": stat.content_hash, "dtype": str(stat.form.dtype), "shape": list(stat.form.shape),
        "size": stat.form.nbytes, "npz_size": stat.npz_size, "created": output.iso_time(stat.created),
    }  # fmt: skip


def _columns(stat: "VectorStat") -> str:
    return f"{stat.content_hash}  {format_size(stat.form.nbytes):>8}  {stat.form.dtype} {stat.form.shape}"


def _as_numbers(vector: Any) -> Any:
    """As JSON can have it: what is no number as text."""
    return (
        vector.tolist() if vector.dtype.kind in "biuf" else [str(element) for element in vector.reshape(-1)]
    )


def _shown(vector: Any) -> str:
    flat = vector.reshape(-1)
    more = f" … ({flat.size} in all)" if flat.size > SHOWN_NUMBERS else ""
    return (
        " ".join(
            f"{element:.6g}" if vector.dtype.kind == "f" else str(element) for element in flat[:SHOWN_NUMBERS]
        )
        + more
    )


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise InvalidConfig("it is a number, 1 or more")
    return int(text)
