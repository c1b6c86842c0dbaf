/** A server for tests that answers `fetch` as it is told, and a browser's stores. */

import type { Archive } from "../src/archive.js";
import type { Conversation } from "../src/conversation.js";
import { Server } from "../src/server.js";
import type { Stores } from "../src/settings.js";

export interface Call {
  url: string;
  init: RequestInit;
}

/** A server whose answers `answer` makes; `calls` notes what was asked. */
export function serverOf(answer: (call: Call) => Response | Promise<Response>, key = ""): { server: Server; calls: Call[] } {
  const calls: Call[] = [];
  const ask = async (url: RequestInfo | URL, init: RequestInit = {}): Promise<Response> => {
    const call = { url: String(url), init };
    calls.push(call);
    return answer(call);
  };
  return { server: new Server("http://server", key, ask), calls };
}

export function json(body: unknown, status = 200): Response {
  return new Response(JSON.stringify(body), { status, headers: { "content-type": "application/json" } });
}

/** An event stream of these payloads; "cut" breaks it off, "wait" never goes on until the request is aborted. */
export function eventStream(payloads: unknown[], signal?: AbortSignal | null): Response {
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      const payload = payloads.shift();
      if (payload === undefined) controller.close();
      else if (payload === "cut") controller.error(new TypeError("network error"));
      else if (payload === "wait") {
        await new Promise((resolve) => (signal?.aborted ? resolve(0) : signal?.addEventListener("abort", resolve)));
        controller.error(signal?.reason);
      } else controller.enqueue(encoder.encode(`data: ${typeof payload === "string" ? payload : JSON.stringify(payload)}\n\n`));
    },
  });
  return new Response(body, { headers: { "content-type": "text/event-stream" } });
}

export function chunk(content: string, finish: string | null = null): unknown {
  return { choices: [{ index: 0, delta: { content }, finish_reason: finish }] };
}

export const USAGE = { choices: [], usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 } };

export class MemoryArchive implements Archive {
  readonly kept = new Map<string, Conversation>();
  readonly lasting = true;

  load(): Promise<Conversation[]> {
    return Promise.resolve([...this.kept.values()]);
  }

  save(conversation: Conversation): void {
    this.kept.set(conversation.id, structuredClone(conversation));
  }

  remove(id: string): void {
    this.kept.delete(id);
  }
}

export function memoryStores(): Stores {
  const store = (): Stores["lasting"] => {
    const kept = new Map<string, string>();
    return {
      getItem: (name) => kept.get(name) ?? null,
      setItem: (name, value) => void kept.set(name, value),
      removeItem: (name) => void kept.delete(name),
    };
  };
  return { lasting: store(), session: store() };
}
