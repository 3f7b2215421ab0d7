"""What git-lfs-authenticate says: where the HTTP API of a repository is, and a ticket that opens it for a while."""

import time

from lfsfs.server.ssh.admission import Admitted
from lfsfs.server.tickets import Ticket, Tickets


def described(
    admitted: Admitted, operation: str, url: str, tickets: Tickets, lifetime: float
) -> dict[str, object]:
    """As git-lfs reads it. A download gets a ticket to read, whatever else its holder may do.

    `url`: of the server, without a slash at the end.
    """
    action = "read" if operation == "download" else admitted.role
    expires = int(time.time() + lifetime)
    ticket = Ticket(action, admitted.repository, admitted.identity.name, expires)
    return {
        "href": f"{url}{admitted.repository}.git/info/lfs",
        "header": {"Authorization": tickets.header(ticket)},
        "expires_in": int(lifetime),
    }
