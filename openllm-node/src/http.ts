/**
 * One call over `fetch`: its time-out, its retries, and its failures as the errors of `errors.ts`. Knows no route.
 *
 * A call that makes the model work is sent again only where the server refused it; one that only reads may also be sent
 * again after a broken connection. Nothing is ever sent again once a piece of an answer has arrived.
 */

import {
  ConnectionFailed,
  errorInStream,
  isRecord,
  MalformedResponse,
  OpenLLMError,
  refusalOf,
  retryAfterS,
  shown,
  StreamInterrupted,
  TimedOut,
} from "./errors.js";
import { DONE, SSEDecoder } from "./sse.js";

const MAX_RETRY_AFTER_S = 60;
const BACKOFF_MS = 500;

/** How every call of a client is sent. */
export interface Wire {
  address: string;
  headers: Record<string, string>;
  timeoutMs: number;
  maxRetries: number;
  fetch: typeof fetch;
}

/** One request. */
export interface Call {
  method: "GET" | "POST";
  path: string;
  body?: unknown;
  signal?: AbortSignal | undefined;
  timeoutMs?: number | undefined;
}

/** Aborts what it watches over when the caller does, or when nothing happened for too long. */
class Watch {
  readonly controller = new AbortController();
  expired = false;
  private timer: ReturnType<typeof setTimeout>;
  private since = performance.now();

  constructor(
    private readonly caller: AbortSignal | undefined,
    readonly limitMs: number,
  ) {
    caller?.addEventListener("abort", this.follow, { once: true });
    if (caller?.aborted) this.follow();
    this.timer = setTimeout(this.look, limitMs);
  }

  /** Something happened: the limit counts from here. The timer runs on and looks then: a new one per event is dear. */
  restart(): void {
    this.since = performance.now();
  }

  /** What was watched is over. */
  end(): void {
    clearTimeout(this.timer);
    this.caller?.removeEventListener("abort", this.follow);
  }

  /** The error to throw for what the transport reported. */
  failure(error: unknown, otherwise: (why: string) => OpenLLMError, late: string): unknown {
    if (error instanceof OpenLLMError) return error;
    if (this.caller?.aborted) return this.caller.reason;
    return this.expired ? new TimedOut(late) : otherwise(whyOf(error));
  }

  private readonly follow = (): void => this.controller.abort();

  private readonly look = (): void => {
    const leftMs = this.limitMs - (performance.now() - this.since);
    if (leftMs > 0) {
      this.timer = setTimeout(this.look, leftMs);
      return;
    }
    this.expired = true;
    this.controller.abort();
  };
}

/** Send a call; give its JSON. */
export async function request(wire: Wire, call: Call): Promise<unknown> {
  const watch = new Watch(call.signal, call.timeoutMs ?? wire.timeoutMs);
  try {
    const text = await (await sent(wire, call, watch)).text();
    try {
      return JSON.parse(text);
    } catch {
      throw new MalformedResponse(`${wire.address}${call.path}: the answer is not JSON: ${shown(text).slice(0, 100)}`);
    }
  } catch (error) {
    const late = `${wire.address} did not answer within ${watch.limitMs / 1000} s.`;
    throw watch.failure(error, (why) => new ConnectionFailed(`No answer from ${wire.address}: ${why}.`, error), late);
  } finally {
    watch.end();
  }
}

/** Send a call; give the JSON of each event. Leaving the loop, or the caller's abort, closes the connection. */
export async function* stream(wire: Wire, call: Call): AsyncGenerator<unknown, void, undefined> {
  const watch = new Watch(call.signal, call.timeoutMs ?? wire.timeoutMs);
  let whole = false;
  let began = false;
  try {
    const response = await sent(wire, call, watch);
    const kind = response.headers.get("content-type") ?? "no content type";
    if (response.body === null || !kind.startsWith("text/event-stream")) {
      throw new MalformedResponse(`${wire.address} answered with ${shown(kind)} instead of an event stream.`);
    }
    began = true;
    const requestId = response.headers.get("x-request-id") ?? undefined;
    for await (const data of events(response.body, watch)) {
      if (data === DONE) {
        whole = true;
        return;
      }
      yield payloadOf(data, requestId);
      watch.restart(); // the time that the caller took does not count
    }
    throw new StreamInterrupted(`The stream from ${wire.address} ended before the answer did.`);
  } catch (error) {
    const late = `${wire.address} sent nothing for ${watch.limitMs / 1000} s.`;
    const broken = (why: string): OpenLLMError =>
      began
        ? new StreamInterrupted(`The stream from ${wire.address} ended before the answer did: ${why}.`, error)
        : new ConnectionFailed(`No answer from ${wire.address}: ${why}.`, error);
    throw watch.failure(error, broken, late);
  } finally {
    watch.end();
    if (!whole) watch.controller.abort();
  }
}

async function* events(body: ReadableStream<Uint8Array>, watch: Watch): AsyncGenerator<string, void, undefined> {
  const reader = body.getReader();
  const text = new TextDecoder();
  const decoder = new SSEDecoder();
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    watch.restart();
    yield* decoder.feed(text.decode(read.value, { stream: true }));
  }
}

function payloadOf(data: string, requestId: string | undefined): unknown {
  let found: unknown;
  try {
    found = JSON.parse(data);
  } catch {
    throw new MalformedResponse(`An event of the stream is not JSON: ${shown(data).slice(0, 100)}`);
  }
  if (!isRecord(found)) throw new MalformedResponse("An event of the stream is not a JSON object.");
  if (found["error"] !== undefined && found["error"] !== null) throw errorInStream(found["error"], requestId);
  return found;
}

/** The response with status 200, after as many tries as are safe. */
async function sent(wire: Wire, call: Call, watch: Watch): Promise<Response> {
  const deadline = Date.now() + watch.limitMs;
  for (let attempt = 0; ; attempt++) {
    let wait: number | undefined;
    let failure: unknown;
    try {
      const response = await once(wire, call, watch);
      if (response.status === 200) return response;
      failure = refusalOf(wire.address, response.status, response.headers, await response.text());
      wait = waitMs(call, response, attempt);
    } catch (error) {
      if (watch.controller.signal.aborted) throw error;
      failure = error;
      wait = call.method === "GET" ? BACKOFF_MS * 2 ** attempt : undefined;
    }
    if (wait === undefined || attempt >= wire.maxRetries || Date.now() + wait >= deadline) throw failure;
    await pause(wait, watch.controller.signal);
  }
}

function once(wire: Wire, call: Call, watch: Watch): Promise<Response> {
  const body = call.body === undefined ? {} : { body: JSON.stringify(call.body) };
  const kind = call.body === undefined ? {} : { "content-type": "application/json" };
  const headers = { ...wire.headers, ...kind };
  const { signal } = watch.controller;
  return wire.fetch(wire.address + call.path, { method: call.method, headers, redirect: "manual", signal, ...body });
}

function waitMs(call: Call, response: Response, attempt: number): number | undefined {
  const again = call.method === "GET" ? [408, 429, 502, 503, 504] : [429, 503];
  if (!again.includes(response.status) || response.headers.get("x-should-retry") === "false") return undefined;
  const asked = retryAfterS(response.headers);
  const spread = 1 + Math.random() / 10; // so that callers who were refused together do not come back together
  return asked === undefined ? BACKOFF_MS * 2 ** attempt * spread : Math.min(asked, MAX_RETRY_AFTER_S) * 1000 * spread;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(new Error("aborted"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
  });
}

/** The cause behind fetch's "fetch failed". */
function whyOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  if (!(cause instanceof Error)) return shown(String(cause));
  const code = (cause as { code?: unknown }).code;
  return shown(cause.message || (typeof code === "string" ? code : cause.name));
}
