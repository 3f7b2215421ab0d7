"""Admission: whether a store takes an object, and a repository refers to it: limits, quotas, the scanner's verdict."""

from collections.abc import Callable, Sequence

from lfsfs.config_policy import QuotaOptions
from lfsfs.errors import Infected
from lfsfs.oid import Oid
from lfsfs.scan import Subject
from lfsfs.store import packs, quotas, references, rendered
from lfsfs.store.index import Index, Tx
from lfsfs.store.limits import Limits
from lfsfs.store.references import References
from lfsfs.store.screening import Note, Screening
from lfsfs.store.staged_file import Sealed


class Admission:
    """Of one store. `limits`, `screening`: None where nothing is limited, or no scanner looks."""

    def __init__(
        self,
        index: Index,
        known: References,
        limits: Limits | None,
        quota: QuotaOptions,
        screening: Screening | None,
    ) -> None:
        self._index = index
        self._references = known
        self._limits = limits
        self._quota = quota
        self._screening = screening

    @property
    def asks_nothing(self) -> bool:
        """Whether it takes every object, and writes nothing of it."""
        return self._limits is None and self._screening is None

    async def admit(
        self, sealed: Sealed, with_it: Callable[[Tx], None] | None
    ) -> Callable[[Tx], None] | None:
        """What the transaction that makes it an object is to write besides, `with_it` included.

        TooLarge, NoSpace, Infected, Unavailable: as `Store.commit`.
        """
        if self._limits is not None:
            if sealed.content_type != packs.CONTENT_TYPE:  # those are ours, and as large as we make them
                self._limits.check_size(sealed.size)
            self.check_room(sealed.oid, sealed.size)
        if self._screening is None:
            return with_it
        subject = Subject(sealed.oid, sealed.size, sealed.path, sealed.content)
        return _both(await self._screening.admit(subject), with_it)

    def check_room(self, oid: Oid, size: int) -> None:
        """NoSpace where the store may not take an object of so many bytes, unless it has it already."""
        limits = self._limits
        if limits is not None:

            def check(tx: Tx) -> None:
                if rendered.find(tx, oid) is None:
                    limits.check_object(tx, size)

            self._index.view(check)

    def check_quota(self, repository: int, oid: Oid, size: int) -> None:
        """QuotaExceeded where the repository may not refer to an object of so many bytes, and does not do so already.

        Before its bytes are stored: the transaction that adds the reference asks again.
        """
        if self._quota.repository is None and not self._quota.repositories:
            return

        def check(tx: Tx) -> None:
            if quotas.get(tx, repository) is not None and not self._references.has(repository, oid):
                quotas.check(tx, repository, size)

        self._index.view(check)

    def refused(self, oids: Sequence[Oid]) -> dict[Oid, Infected]:
        """Those of them that a scanner has found infected, and why: a commit of them would fail."""
        return {} if self._screening is None else self._screening.refused(oids)

    async def keep_quotas(self) -> None:
        """From now on they hold, for every process. Counts what each repository that has one refers to."""
        quota = self._quota

        def write(tx: Tx) -> None:
            known = [(found.id, found.name) for found in references.repositories(tx)]
            quotas.configure(tx, quota, known)

        if self._index.view(quotas.is_configured) or quota.repository is not None or quota.repositories:
            await self._index.update(write)


def _both(first: Note, second: Callable[[Tx], None] | None) -> Note:
    if second is None:
        return first

    def write(tx: Tx) -> None:
        first(tx)
        second(tx)

    return write
