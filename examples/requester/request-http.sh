#!/usr/bin/env bash
# request-http.sh CLIENT_ID: ask for a client's balance over HTTP, through a gateway, with curl.
# GATEWAY is its URL, TOKEN_FILE the file with its token; the defaults are those of `make up`.
set -euo pipefail
gateway=${GATEWAY:-http://127.0.0.1:8222} token_file=${TOKEN_FILE:-.local/creds/gateway.token}

for try in 1 2 3 4 5 6; do
  # The token is read from a file, so that it is in no list of processes.
  if reply=$(curl --silent --fail --max-time 10 --header @<(printf 'authorization: %s' "$(cat "$token_file")") \
    --data "{\"client_id\":\"$1\"}" "$gateway/v1/nats/subjects/customer.balance") && [[ -n $reply ]]; then
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
