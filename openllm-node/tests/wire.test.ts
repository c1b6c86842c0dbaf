/** What can go wrong on the way: each fault is its typed error, in time, and nothing unsafe is sent twice. */

import assert from "node:assert/strict";
import { test } from "node:test";
import * as errors from "../src/index.js";
import { OpenLLM } from "../src/index.js";
import { events, frame, GENERATED, json, refusal, scripted, type Answer } from "./scripted.js";

async function against<T>(answers: Answer[], use: (client: OpenLLM, seen: string[]) => Promise<T>): Promise<T> {
  const server = await scripted(...answers);
  try {
    return await use(new OpenLLM(server.address, { apiKey: "key", timeoutMs: 3000 }), server.seen);
  } finally {
    await server.close();
  }
}

async function texts(client: OpenLLM): Promise<string> {
  let text = "";
  for await (const one of client.generateStream("Hi")) text += one.text;
  return text;
}

const STATUSES: [number, string, keyof typeof errors][] = [
  [400, "invalid_value", "BadRequest"],
  [401, "invalid_api_key", "Unauthorized"],
  [403, "no", "Unauthorized"],
  [404, "model_not_found", "NotFound"],
  [422, "invalid_value", "BadRequest"],
  [418, "teapot", "StatusError"],
  [500, "internal_error", "ServerError"],
];
for (const [status, code, name] of STATUSES) {
  test(`${status} is ${name}, with what the server says`, async () => {
    await against([json(status, refusal("Because.", code), { "x-request-id": "r1" })], async (client, seen) => {
      const error = await client.generate("Hi").then(
        () => assert.fail("must be refused"),
        (refused: unknown) => refused,
      );
      assert(error instanceof errors.StatusError);
      assert.equal(error.name, name);
      assert.match(error.message, new RegExp(`answered ${status}: Because\\.$`));
      assert.deepEqual([error.status, error.code, error.param, error.requestId], [status, code, "prompt", "r1"]);
      assert.equal(seen.length, 1);
    });
  });
}

test("a refusal for load is tried again after the time it names, then succeeds", async () => {
  const busy = json(429, refusal("Full."), { "retry-after": "0.2" });
  await against([busy, json(200, GENERATED)], async (client, seen) => {
    const began = Date.now();
    assert.deepEqual((await client.generate("Hi")).responses, ["Hello."]);
    assert(Date.now() - began >= 190);
    assert.deepEqual(seen, ["POST /v1/generate", "POST /v1/generate"]);
  });
});

test("a wait that is longer than the time-out is not begun", async () => {
  await against([json(503, refusal("Full.", "server_is_overloaded"), { "retry-after": "30" })], async (client, seen) => {
    await assert.rejects(client.generate("Hi"), { name: "RateLimited", retryAfterS: 30 });
    assert.equal(seen.length, 1);
  });
});

test("nobody listens: ConnectionFailed that names the address", async () => {
  const client = new OpenLLM("127.0.0.1:9", { timeoutMs: 3000 });
  await assert.rejects(client.generate("Hi"), { name: "ConnectionFailed", message: /127\.0\.0\.1:9/ });
});

test("a broken connection is not a reason to generate twice, but to read twice", async () => {
  const broken: Answer = (request) => request.socket.destroy();
  await against([broken], async (client, seen) => {
    await assert.rejects(client.generate("Hi"), { name: "ConnectionFailed" });
    assert.equal(seen.length, 1);
  });
  const data = { data: [{ id: "tiny", created: 1, owned_by: "openllm" }] };
  await against([broken, json(200, data)], async (client) => {
    assert.equal((await client.models())[0]?.id, "tiny");
  });
});

test("a server that never answers: TimedOut", async () => {
  await against([() => undefined], async (client) => {
    await assert.rejects(client.generate("Hi", {}, { timeoutMs: 100 }), { name: "TimedOut" });
    await assert.rejects(client.generateStream("Hi", {}, { timeoutMs: 100 }).next(), { name: "TimedOut" });
  });
});

test("a stream that falls silent: TimedOut, after what came", async () => {
  const silent: Answer = (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(frame("a"));
  };
  await against([silent], async (client) => {
    const stream = client.generateStream("Hi", {}, { timeoutMs: 200 });
    assert.equal((await stream.next()).value?.text, "a");
    await assert.rejects(stream.next(), { name: "TimedOut", message: /sent nothing/ });
  });
});

test("a stream may take longer than the limit, as long as it is not silent for so long", async () => {
  const slow: Answer = async (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (const piece of ["a", "b", "c", "d", "e", "f"]) {
      response.write(frame(piece));
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    response.end("data: [DONE]\n\n");
  };
  await against([slow], async (client) => {
    const got: string[] = [];
    for await (const piece of client.generateStream("Hi", {}, { timeoutMs: 400 })) got.push(piece.text);
    assert.deepEqual(got, ["a", "b", "c", "d", "e", "f"]);
  });
});

test("a stream without its end mark is never taken for a whole answer", async () => {
  await against([events(frame("a"), frame("b"))], async (client) => {
    await assert.rejects(texts(client), { name: "StreamInterrupted" });
  });
  const cut: Answer = (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(frame("a"), () => response.destroy());
  };
  await against([cut], async (client, seen) => {
    await assert.rejects(texts(client), { name: "StreamInterrupted" });
    assert.equal(seen.length, 1);
  });
});

test("bytes may be cut inside a character", async () => {
  const whole = new TextEncoder().encode(frame("é🙂") + "data: [DONE]\n\n");
  for (let at = 1; at < whole.length; at += 7) {
    await against([events(whole.slice(0, at), whole.slice(at))], async (client) => {
      assert.equal(await texts(client), "é🙂");
    });
  }
});

test("an error event is the error", async () => {
  const failed = `data: ${JSON.stringify({ error: { message: "Broke.", type: "server_error", code: "internal_error" } })}\n\n`;
  await against([events(frame("a"), failed)], async (client) => {
    await assert.rejects(texts(client), { name: "ServerError", code: "internal_error", message: /Broke\./ });
  });
});

test("a server that is no OpenLLM: MalformedResponse", async () => {
  const page: Answer = (_, response) => response.end("<html>Welcome</html>");
  await against([page], async (client) => {
    await assert.rejects(client.generate("Hi"), { name: "MalformedResponse" });
    await assert.rejects(client.metadata(), { name: "MalformedResponse" });
    await assert.rejects(texts(client), { name: "MalformedResponse" });
  });
  await against([json(200, { other: 1 })], async (client) => {
    await assert.rejects(client.embed("a"), { name: "MalformedResponse", message: /\/v1\/embeddings/ });
  });
});

test("redirects are not followed, so that no key leaves for elsewhere", async () => {
  await against([json(302, {}, { location: "https://elsewhere/" })], async (client) => {
    await assert.rejects(client.generate("Hi"), { name: "StatusError", message: /elsewhere/ });
  });
});

test("an aborted call rejects with the signal's reason", async () => {
  await against([() => undefined], async (client) => {
    await assert.rejects(client.generate("Hi", {}, { signal: AbortSignal.abort(new Error("mine")) }), /mine/);
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error("later")), 50);
    await assert.rejects(client.generate("Hi", {}, { signal: controller.signal }), /later/);
  });
});

test("a text of a stranger is one line", async () => {
  await against([json(400, refusal("a\u001b[31m\nb"))], async (client) => {
    await assert.rejects(client.generate("Hi"), { message: /a \[31m b$/ });
  });
});

test("unusable arguments are refused at once", () => {
  for (const address of ["ftp://host", "http://", "http://user:pw@host", "http://host/?q"]) {
    assert.throws(() => new OpenLLM(address), errors.InvalidSetting, address);
  }
  assert.throws(() => new OpenLLM("host", { timeoutMs: 0 }), errors.InvalidSetting);
  assert.equal(new OpenLLM("host:3000/prefix/").address, "http://host:3000/prefix");
});
