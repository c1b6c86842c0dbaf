/**
 * Against real servers of the echo backend: one at OPENLLM_ENDPOINT, whose key is OPENLLM_API_KEY and whose replies are
 * REPLY, and one at SLOW without a key that takes minutes to answer.
 */

import assert from "node:assert/strict";
import { test } from "node:test";
import { OpenLLM, textOf, Unauthorized, type Usage } from "../src/index.js";

const REPLY = process.env["REPLY"] ?? assert.fail("REPLY says what the server answers");
const client = new OpenLLM();
const slow = new OpenLLM(process.env["SLOW"]);

test("generate, with details and fields", async () => {
  const answer = await client.generate("Hi", { max_new_tokens: 50, temperature: 0.5 }, { detail: true });
  assert.equal(textOf(answer), REPLY);
  assert.equal((answer.configuration["generation_config"] as Record<string, unknown>)["temperature"], 0.5);
  assert.equal(answer.details?.finish_reasons[0], "stop");
});

test("a stream is the same text, piece by piece", async () => {
  let text = "";
  let pieces = 0;
  let usage: Usage | undefined;
  for await (const frame of client.generateStream("Hi", { max_new_tokens: 50 })) {
    text += frame.text;
    pieces++;
    usage = frame.usage ?? usage;
  }
  assert.equal(text, REPLY);
  assert(pieces > 5 && usage?.prompt_tokens === 2);
});

test("chat, of a text and of messages", async () => {
  const answer = await client.chat("Hi");
  assert.equal(answer.choices[0]?.message.content, REPLY);
  assert.equal((await client.chat([{ role: "user", content: "Hi" }], { max_tokens: 2 })).usage.completion_tokens, 2);
});

test("a chat stream is the same text, and ends with the usage", async () => {
  let text = "";
  let last: Usage | null | undefined;
  for await (const chunk of client.chatStream("Hi")) {
    text += chunk.choices[0]?.delta.content ?? "";
    last = chunk.usage;
  }
  assert.equal(text, REPLY);
  assert(last !== undefined && last !== null && last.completion_tokens > 5);
});

test("embed: vectors of length one, in order", async () => {
  const { embeddings, num_tokens } = await client.embed(["a", "bb"]);
  assert.equal(embeddings.length, 2);
  for (const vector of embeddings) assert(Math.abs(Math.hypot(...vector) - 1) < 1e-5);
  assert(num_tokens > 0);
  assert.deepEqual((await client.embed("a")).embeddings[0], embeddings[0]);
});

test("metadata and models", async () => {
  const metadata = await client.metadata();
  assert.equal(metadata.backend, "echo");
  assert.deepEqual(metadata.served_model_names, ["echo"]);
  assert.deepEqual((await client.models()).map((card) => card.id), ["echo"]);
});

test("a bad field is the server's own refusal", async () => {
  await assert.rejects(client.chat("Hi", { temperature: 9 }), { name: "BadRequest", param: "temperature" });
});

test("without the key it is Unauthorized", async () => {
  const { address } = client;
  await assert.rejects(new OpenLLM(address, { apiKey: "wrong" }).metadata(), Unauthorized);
});

async function running(): Promise<number> {
  const text = await (await fetch(`${slow.address}/metrics`)).text();
  const found = /^openllm_requests_running\{engine="0"\} ([0-9.]+)$/m.exec(text);
  return Number(found?.[1] ?? assert.fail(`the metrics do not tell what runs:\n${text}`));
}

async function idle(): Promise<void> {
  for (let waited = 0; (await running()) > 0; waited += 20) {
    assert(waited < 5000, "the server goes on generating");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test("leaving a stream ends it on the server", async () => {
  for await (const _ of slow.generateStream("Hi", { max_new_tokens: 3000 })) {
    assert.equal(await running(), 1);
    break;
  }
  await idle();
});

test("aborting ends it too, and the loop rejects with the reason", async () => {
  const controller = new AbortController();
  await assert.rejects(async () => {
    for await (const _ of slow.generateStream("Hi", { max_new_tokens: 3000 }, { signal: controller.signal })) {
      controller.abort(new Error("enough"));
    }
  }, /enough/);
  await idle();
});
