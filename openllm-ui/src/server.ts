/**
 * The server that the pages talk to: what is asked of it, and its failures in words for the person at the page. How a
 * request travels is the business of the TypeScript client next door, whose transport this uses.
 */

import { ConnectionFailed, MalformedResponse, StatusError, StreamInterrupted, TimedOut } from "../../openllm-node/src/errors.js";
import { request, stream, type Wire } from "../../openllm-node/src/http.js";
import type { ChatCompletionChunk, Usage } from "../../openllm-node/src/messages.js";
import { paced } from "./pace.js";

/** Milliseconds of silence after which an answer counts as lost; a request may wait in the server's line before it begins. */
const PATIENCE_MS = 600_000;
const GLANCE_MS = 8_000;

/** A name that `model` takes. `root` is the model that an adapter stands on. */
export interface Model {
  id: string;
  root?: string | null;
  max_model_len?: number | null;
}

/** One message as the server takes it. */
export interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

/** The JSON of a request, ready to be sent or shown. */
export interface Asked {
  path: string;
  body: Record<string, unknown>;
}

/** A piece of a streamed answer. */
export interface Piece {
  text: string;
  reasoning: string;
  finish: string | null;
  usage: Usage | null;
}

/** One token of a completion, with the most likely tokens at its place. */
export interface ScoredToken {
  token: string;
  logprob: number | null;
  top: [string, number][];
}

/** What `/v1/completions` answered in one piece. */
export interface Completion {
  text: string;
  finish: string | null;
  usage: Usage | null;
  tokens: ScoredToken[];
}

/** Why something did not work: `key` a key is missing or wrong, `down` nothing answers, `loading` not yet, `refused` all else. */
export interface Problem {
  kind: "key" | "down" | "loading" | "refused" | "cut";
  text: string;
}

/** What the server says of itself on `/readyz`. */
export interface Readiness {
  ready: boolean;
  text: string;
}

/** A server at an address, asked with a key where there is one. */
export class Server {
  private readonly wire: Wire;

  constructor(
    readonly address: string,
    key: string,
    ask: typeof fetch = (input, init) => fetch(input, init),
  ) {
    const headers: Record<string, string> = key ? { authorization: `Bearer ${key}` } : {};
    this.wire = { address, headers, timeoutMs: PATIENCE_MS, maxRetries: 0, fetch: ask };
  }

  /** The served models and adapters; the first is the server's own default. */
  async models(): Promise<Model[]> {
    const found = await request(this.wire, { method: "GET", path: "/v1/models", timeoutMs: GLANCE_MS });
    const { data } = found as { data?: unknown };
    if (!Array.isArray(data)) throw new MalformedResponse("The answer is not a list of models.");
    return data as Model[];
  }

  /** Whether the model answers, and if not, why. */
  async readiness(): Promise<Readiness> {
    try {
      await request(this.wire, { method: "GET", path: "/readyz", timeoutMs: GLANCE_MS });
      return { ready: true, text: "" };
    } catch (error) {
      if (error instanceof StatusError && error.status === 503) return { ready: false, text: bare(error.message) };
      throw error;
    }
  }

  /** The pieces of a chat's next message. Leaving the loop, or the signal, ends generation on the server. */
  async *chat(asked: Asked, signal: AbortSignal): AsyncGenerator<Piece, void, undefined> {
    for await (const data of paced(stream(this.wire, { method: "POST", ...asked, signal }))) {
      const chunk = data as ChatCompletionChunk;
      const choice = chunk.choices?.[0];
      const delta = choice?.delta ?? {};
      const reasoning = delta["reasoning_content"];
      yield {
        text: delta.content ?? "",
        reasoning: typeof reasoning === "string" ? reasoning : "",
        finish: choice?.finish_reason ?? null,
        usage: chunk.usage ?? null,
      };
    }
  }

  /** The pieces of a completion. */
  async *completionStream(asked: Asked, signal: AbortSignal): AsyncGenerator<Piece, void, undefined> {
    for await (const data of paced(stream(this.wire, { method: "POST", ...asked, signal }))) {
      const chunk = data as CompletionChunk;
      const choice = chunk.choices?.[0];
      yield { text: choice?.text ?? "", reasoning: "", finish: choice?.finish_reason ?? null, usage: chunk.usage ?? null };
    }
  }

  /** A completion in one piece, with the log-probabilities that were asked for. */
  async completion(asked: Asked, signal: AbortSignal): Promise<Completion> {
    const found = (await request(this.wire, { method: "POST", ...asked, signal })) as CompletionChunk;
    const choice = found.choices?.[0];
    if (choice === undefined) throw new MalformedResponse("The answer is not a completion.");
    const scores = choice.logprobs;
    const tokens = (scores?.tokens ?? []).map((token, i) => ({
      token,
      logprob: scores?.token_logprobs?.[i] ?? null,
      top: Object.entries(scores?.top_logprobs?.[i] ?? {}).sort(([, a], [, b]) => b - a),
    }));
    return { text: choice.text ?? "", finish: choice.finish_reason ?? null, usage: found.usage ?? null, tokens };
  }

  /** One vector for each text. */
  async embed(asked: Asked, signal: AbortSignal): Promise<{ vectors: number[][]; tokens: number }> {
    const found = (await request(this.wire, { method: "POST", ...asked, signal })) as Embeddings;
    if (!Array.isArray(found.data)) throw new MalformedResponse("The answer is not a list of embeddings.");
    return { vectors: found.data.map((each) => each.embedding), tokens: found.usage?.total_tokens ?? 0 };
  }
}

interface CompletionChunk {
  choices?: {
    text?: string;
    finish_reason?: string | null;
    logprobs?: {
      tokens?: string[];
      token_logprobs?: (number | null)[];
      top_logprobs?: (Record<string, number> | null)[];
    } | null;
  }[];
  usage?: Usage | null;
}

interface Embeddings {
  data?: { embedding: number[] }[];
  usage?: { total_tokens?: number };
}

/** A failure as a person should read it. */
export function problemOf(error: unknown, address: string, sameOrigin = true): Problem {
  if (error instanceof StatusError) {
    if (error.status === 401) return { kind: "key", text: bare(error.message) };
    if (error.status === 503 && error.code === "engine_loading") return { kind: "loading", text: bare(error.message) };
    return { kind: error.status === undefined ? "cut" : "refused", text: bare(error.message) };
  }
  if (error instanceof StreamInterrupted) return { kind: "cut", text: "The connection broke before the answer was whole." };
  if (error instanceof TimedOut) return { kind: "cut", text: "The server has been silent for too long." };
  if (error instanceof ConnectionFailed) {
    const cors = sameOrigin ? "" : " If it does run, it may not allow pages from elsewhere: start it with --cors.";
    return { kind: "down", text: `Nothing answers at ${address}.${cors}` };
  }
  if (error instanceof MalformedResponse) {
    return { kind: "refused", text: `What answers at ${address} is not an OpenLLM server: ${error.message}` };
  }
  return { kind: "refused", text: error instanceof Error ? error.message : String(error) };
}

/** The server's own words, without the address and status that the client puts before them. */
function bare(message: string): string {
  return message.replace(/^\S+ answered \d{3}: /, "").replace(/^The answer broke off: /, "");
}
