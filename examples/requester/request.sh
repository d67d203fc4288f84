#!/usr/bin/env bash
# request.sh CLIENT_ID: ask for a client's balance over NATS, with the nats CLI (https://github.com/nats-io/natscli).
# NATS_URL is the server, NATS_CREDS the path of the .creds file; the defaults are those of `make up`.
set -euo pipefail
export NATS_URL=${NATS_URL:-nats://127.0.0.1:4222} NATS_CREDS=${NATS_CREDS:-.local/creds/client.creds}

for try in 1 2 3 4 5 6; do
  if reply=$(nats request --raw --timeout 5s customer.balance "{\"client_id\":\"$1\"}" 2>/dev/null) && [[ -n $reply ]]; then
    if [[ $reply == '{"error":'* ]]; then
      echo "$reply" >&2
      exit 1
    fi
    echo "$reply"
    exit 0
  fi
  # No task has room or none runs. Wait a random time, longer each time, so that requesters spread.
  sleep "$(awk -v try="$try" -v seed="$RANDOM" 'BEGIN { srand(seed); print (0.05 + rand() * 0.45) * try }')"
done
echo "no answer in 6 tries" >&2
exit 1
