"""`python -m local.servers.moto_server PORT`: moto's DynamoDB, one request at a time.

moto's own command handles all requests at once. The sixty that seeding sends then block each other for seconds; one at
a time, each waits for a fraction of a second.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from threading import Lock
from typing import TYPE_CHECKING

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def serve(port: int) -> None:
    moto = DomainDispatcherApplication(create_backend_app)
    turn = Lock()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with turn:
            response: Iterable[bytes] = moto(environ, start_response)
            return response

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    run_simple("127.0.0.1", port, application, threaded=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
