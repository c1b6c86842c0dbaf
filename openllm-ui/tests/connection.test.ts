/** What the page knows of its server, and that it finds out by itself when that changes. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Connection } from "../src/connection.js";
import { json, serverOf, type Call } from "./fake.js";

const MODELS = { data: [{ id: "m" }, { id: "poet", root: "m" }] };
const LOADING = json({ error: { message: "The model is loading: 40 %.", type: "server_error", code: "engine_loading" } }, 503);

function connectionTo(answer: (call: Call) => Response): { connection: Connection; keys: string[] } {
  const keys: string[] = [];
  const open = (_: string, key: string): ReturnType<typeof serverOf>["server"] => {
    keys.push(key);
    return serverOf(answer, key).server;
  };
  return { connection: new Connection({ url: "http://server", own: true }, "", open), keys };
}

async function stateAfter(answer: (call: Call) => Response): Promise<[string, string]> {
  const { connection } = connectionTo(answer);
  await connection.refresh();
  connection.close();
  return [connection.state, connection.text];
}

test("every state of a server has its own words", async () => {
  const ready = (call: Call): Response => (call.url.endsWith("/readyz") ? json({ status: "ready" }) : json(MODELS));
  assert.deepEqual(await stateAfter(ready), ["ready", ""]);
  const loading = (call: Call): Response => (call.url.endsWith("/readyz") ? LOADING.clone() : json(MODELS));
  assert.deepEqual(await stateAfter(loading), ["loading", "The model is loading: 40 %."]);
  assert.equal((await stateAfter(() => json({ data: [] })))[0], "empty");
  const refusal = { error: { message: "Give a key.", type: "invalid_request_error", code: "invalid_api_key" } };
  assert.deepEqual(await stateAfter(() => json(refusal, 401)), ["key", "Give a key."]);
  const down = (): Response => {
    throw new TypeError("Failed to fetch");
  };
  assert.deepEqual(await stateAfter(down), ["down", "Nothing answers at http://server."]);
  const stranger = await stateAfter(() => new Response("<html>", { headers: { "content-type": "text/html" } }));
  assert.equal(stranger[0], "refused");
  assert.match(stranger[1], /not an OpenLLM server/);
});

test("a server that comes back is noticed by itself", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  let up = false;
  const { connection } = connectionTo((call) => {
    if (!up) throw new TypeError("Failed to fetch");
    return call.url.endsWith("/readyz") ? json({}) : json(MODELS);
  });
  await connection.refresh();
  assert.equal(connection.state, "down");
  up = true;
  const ready = new Promise<void>((resolve) => connection.watch(() => connection.state === "ready" && resolve()));
  context.mock.timers.tick(3_000);
  await ready;
  assert.deepEqual(connection.models.map((model) => model.id), ["m", "poet"]);
  connection.close();
});

test("a key goes into the requests that follow", async () => {
  const sent: (string | undefined)[] = [];
  const { connection } = connectionTo((call) => {
    sent.push((call.init.headers as Record<string, string>)["authorization"]);
    return json(MODELS);
  });
  await connection.refresh();
  await connection.useKey("secret");
  connection.close();
  assert.equal(sent[0], undefined);
  assert.equal(sent.at(-1), "Bearer secret");
});
