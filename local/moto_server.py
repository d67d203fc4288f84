"""`python -m local.moto_server PORT`: moto's DynamoDB, one request at a time.

moto's own command gives each connection a thread. Sixty of them, as seeding makes, wait for each other for seconds.
"""

from __future__ import annotations

import sys

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app))
