/**
 * The client: one method for each thing a server does. What is sent and read stands here; how it travels in `http.ts`.
 */

import { InvalidSetting, isRecord, MalformedResponse } from "./errors.js";
import { request, stream, type Call, type Wire } from "./http.js";
import type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatFields,
  ChatMessage,
  EmbeddingsOutput,
  GenerateFields,
  GenerateResponse,
  Metadata,
  ModelCard,
  StreamFrame,
} from "./messages.js";

const DEFAULT_ADDRESS = "http://localhost:3000";

/** How a client is made. */
export interface ClientOptions {
  /** Key of the server; default: `OPENLLM_API_KEY`, the first of a comma list. */
  apiKey?: string;
  /** Milliseconds a call may take, retries included; on a stream, until it begins and of silence in it. Default 30 s. */
  timeoutMs?: number;
  /** Times a call is sent again where that is safe. Default 2. */
  maxRetries?: number;
  /** Sent with every request. */
  headers?: Record<string, string>;
  /** What to send with instead of the global `fetch`. */
  fetch?: typeof fetch;
}

/** What one call may say besides what it asks. */
export interface CallOptions {
  /** Aborting it ends the call, and generation on the server; the call rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Instead of the client's. */
  timeoutMs?: number;
}

export interface GenerateOptions extends CallOptions {
  /** Adapter to use; default: the server's. */
  adapterName?: string;
}

/**
 * Client of an OpenLLM server. Keeps no connection of its own: `fetch` does.
 *
 * @param address `http://host:port`, with a path prefix if there is one; a missing scheme means http. Default:
 *   `OPENLLM_ENDPOINT`, else http://localhost:3000.
 * @throws InvalidSetting an argument or environment variable is unusable.
 *
 * Every method rejects with an `OpenLLMError`, or with the reason of an aborted signal.
 */
export class OpenLLM {
  private readonly wire: Wire;
  private firstModel: string | undefined;

  constructor(address?: string, options: ClientOptions = {}) {
    const key = options.apiKey ?? variable("OPENLLM_API_KEY")?.split(",")[0]?.trim();
    const timeoutMs = options.timeoutMs ?? 30_000;
    if (!(timeoutMs > 0)) throw new InvalidSetting(`timeoutMs: ${timeoutMs} is not above 0.`);
    this.wire = {
      address: addressOf(address ?? variable("OPENLLM_ENDPOINT") ?? DEFAULT_ADDRESS),
      headers: { ...(key ? { authorization: `Bearer ${key}` } : {}), ...options.headers },
      timeoutMs,
      maxRetries: options.maxRetries ?? 2,
      fetch: options.fetch ?? ((input, init) => fetch(input, init)),
    };
  }

  /** Where the server is. */
  get address(): string {
    return this.wire.address;
  }

  /**
   * Complete a text as it stands, without a chat template.
   *
   * @param fields of the model's configuration: max_new_tokens, temperature, …
   * @param options `detail` adds finish reasons and usage to the answer.
   */
  async generate(
    prompt: string,
    fields: GenerateFields = {},
    options: GenerateOptions & { detail?: boolean } = {},
  ): Promise<GenerateResponse> {
    const body = { ...generateBody(prompt, fields, options), ...(options.detail ? { detail: true } : {}) };
    const found = await this.post("/v1/generate", body, options);
    return checked<GenerateResponse>(found, (of) => Array.isArray(of["responses"]), "an answer of /v1/generate");
  }

  /** The same, piece by piece. Leaving the loop ends generation on the server. */
  async *generateStream(
    prompt: string,
    fields: GenerateFields = {},
    options: GenerateOptions = {},
  ): AsyncGenerator<StreamFrame, void, undefined> {
    const call = posting("/v1/generate_stream", generateBody(prompt, fields, options), options);
    for await (const data of stream(this.wire, call)) {
      yield checked<StreamFrame>(data, (of) => typeof of["text"] === "string", "a frame of /v1/generate_stream");
    }
  }

  /**
   * The model's next message.
   *
   * @param messages the conversation; a text is one message of the user.
   */
  async chat(
    messages: string | ChatMessage[],
    fields: ChatFields = {},
    options: CallOptions = {},
  ): Promise<ChatCompletion> {
    const body = await this.chatBody(messages, fields, options);
    const found = await this.post("/v1/chat/completions", body, options);
    return checked<ChatCompletion>(found, (of) => Array.isArray(of["choices"]), "a chat completion");
  }

  /** The same, piece by piece; the last piece carries the usage. Leaving the loop ends generation on the server. */
  async *chatStream(
    messages: string | ChatMessage[],
    fields: ChatFields = {},
    options: CallOptions = {},
  ): AsyncGenerator<ChatCompletionChunk, void, undefined> {
    const streamed = { stream: true, stream_options: { include_usage: true } };
    const body = { ...(await this.chatBody(messages, fields, options)), ...streamed };
    for await (const data of stream(this.wire, posting("/v1/chat/completions", body, options))) {
      yield checked<ChatCompletionChunk>(data, (of) => Array.isArray(of["choices"]), "a chunk of a chat completion");
    }
  }

  /** Vectors of texts. */
  async embed(texts: string | string[], options: CallOptions = {}): Promise<EmbeddingsOutput> {
    const found = await this.post("/v1/embeddings", typeof texts === "string" ? [texts] : texts, options);
    return checked<EmbeddingsOutput>(found, (of) => Array.isArray(of["embeddings"]), "an answer of /v1/embeddings");
  }

  /** What is served. */
  async metadata(options: CallOptions = {}): Promise<Metadata> {
    const found = await request(this.wire, { method: "GET", path: "/v1/metadata", ...options });
    return checked<Metadata>(found, (of) => typeof of["model_id"] === "string", "metadata of a server");
  }

  /** The served models, the first one being the default of `chat`. */
  async models(options: CallOptions = {}): Promise<ModelCard[]> {
    const found = await request(this.wire, { method: "GET", path: "/v1/models", ...options });
    return checked<{ data: ModelCard[] }>(found, (of) => Array.isArray(of["data"]), "a list of models").data;
  }

  private async chatBody(
    messages: string | ChatMessage[],
    fields: ChatFields,
    options: CallOptions,
  ): Promise<Record<string, unknown>> {
    const model = fields.model ?? (this.firstModel ??= (await this.models(options))[0]?.id);
    if (model === undefined) throw new MalformedResponse(`${this.address} lists no model.`);
    const spoken = typeof messages === "string" ? [{ role: "user", content: messages }] : messages;
    return { ...fields, model, messages: spoken };
  }

  private post(path: string, body: unknown, options: CallOptions): Promise<unknown> {
    return request(this.wire, posting(path, body, options));
  }
}

/** The text of the first response of `generate`: some families answer with objects or pairs. */
export function textOf(answer: GenerateResponse): string {
  let found = answer.responses[0];
  while (Array.isArray(found)) found = found[0];
  if (isRecord(found)) found = found["text"] ?? found["generated_text"];
  return typeof found === "string" ? found : "";
}

function posting(path: string, body: unknown, options: CallOptions): Call {
  return { method: "POST", path, body, signal: options.signal, timeoutMs: options.timeoutMs };
}

function generateBody(prompt: string, fields: GenerateFields, options: GenerateOptions): Record<string, unknown> {
  const adapter = options.adapterName === undefined ? {} : { adapter_name: options.adapterName };
  return { prompt, llm_config: fields, ...adapter };
}

function checked<T>(found: unknown, fits: (of: Record<string, unknown>) => boolean, what: string): T {
  if (!isRecord(found) || !fits(found)) throw new MalformedResponse(`The answer is not ${what}.`);
  return found as T;
}

function addressOf(text: string): string {
  let url: URL;
  try {
    url = new URL(text.includes("://") ? text.trim() : `http://${text.trim()}`);
  } catch {
    throw new InvalidSetting(`address: ${JSON.stringify(text)} is not an address.`, "Like http://localhost:3000.");
  }
  if (!["http:", "https:"].includes(url.protocol) || url.username || url.search || url.hash) {
    throw new InvalidSetting("address: only http(s)://host:port and a path are understood.");
  }
  return url.href.replace(/\/+$/, "");
}

/** A variable of the environment, where there is one: a browser has none. */
function variable(name: string): string | undefined {
  const { process } = globalThis as { process?: { env?: Record<string, string | undefined> } };
  return process?.env?.[name] || undefined;
}
