// node request.mjs CLIENT_ID: ask for a client's balance over NATS. Needs `npm install`, in this folder.
//
// NATS_URL is the server, NATS_CREDS the path of the .creds file; the defaults are those of `make up`.
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, credsAuthenticator, NoRespondersError, RequestError, TimeoutError } from "@nats-io/transport-node";

const TRIES = 6;
const TIMEOUT_MS = 5000;

const creds = await readFile(process.env.NATS_CREDS ?? ".local/creds/client.creds");
const connection = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  authenticator: credsAuthenticator(creds),
});
try {
  process.exitCode = await main(process.argv[2]);
} finally {
  await connection.close();
}

async function main(clientId) {
  for (let attempt = 1; attempt <= TRIES; attempt++) {
    let reply;
    try {
      reply = await connection.request("customer.balance", JSON.stringify({ client_id: clientId }), { timeout: TIMEOUT_MS });
    } catch (error) {
      const noAnswer = [error, error.cause].some((each) => each instanceof NoRespondersError || each instanceof TimeoutError);
      if (!noAnswer && !(error instanceof RequestError && error.isNoResponders())) throw error;
      // No task has room or none runs. Wait a random time, longer each time, so that requesters spread.
      await sleep((50 + Math.random() * 450) * attempt);
      continue;
    }
    const code = reply.headers?.get("Nats-Service-Error-Code");
    if (code) {
      console.error(`${code}: ${reply.json().error}`);
      return 1;
    }
    console.log(reply.string());
    return 0;
  }
  console.error(`no answer in ${TRIES} tries`);
  return 1;
}
