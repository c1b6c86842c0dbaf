/**
 * What goes over the wire, in the names of the wire: snake_case, as the server's own description (`/openapi.json`) has
 * it. Fields that this version does not know are passed on as they came.
 */

/** Token counts of one request, all choices together. */
export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

export type FinishReason = "stop" | "length" | "tool_calls" | "content_filter";

/** Fields that steer generation. Any other field of the server may be given too. */
export interface SamplingFields {
  max_tokens?: number;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  repetition_penalty?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  n?: number;
  seed?: number;
  stop?: string | string[];
  [field: string]: unknown;
}

/** Fields of `/v1/generate`: those of the model's configuration. */
export interface GenerateFields extends SamplingFields {
  max_new_tokens?: number;
}

/** Fields of `/v1/chat/completions` besides the messages. */
export interface ChatFields extends SamplingFields {
  /** Served model to ask; default: the server's first. */
  model?: string;
  tools?: unknown[];
  tool_choice?: unknown;
  response_format?: unknown;
}

/** One message of a conversation. */
export interface ChatMessage {
  role: "system" | "developer" | "user" | "assistant" | "tool";
  content: string | { type: "text"; text: string }[] | null;
  [field: string]: unknown;
}

/** Answer of `generate`. */
export interface GenerateResponse {
  /** One per `n`: text, or what the model's family answered with in OpenLLM 0.3.5. */
  responses: unknown[];
  /** The effective configuration. */
  configuration: Record<string, unknown>;
  /** Only with `detail`. */
  details?: { finish_reasons: FinishReason[]; usage: Usage; logprobs?: unknown[] | null };
}

/** One piece of `generateStream`. */
export interface StreamFrame {
  /** The choice, 0..n-1. */
  index: number;
  /** New text. */
  text: string;
  token_ids: number[];
  /** In the last frame of a choice. */
  finish_reason: FinishReason | null;
  /** In the very last frame. */
  usage?: Usage;
}

/** Answer of `chat`. */
export interface ChatCompletion {
  id: string;
  created: number;
  model: string;
  choices: {
    index: number;
    message: { role: "assistant"; content: string | null; [field: string]: unknown };
    finish_reason: FinishReason;
    [field: string]: unknown;
  }[];
  usage: Usage;
}

/** One piece of `chatStream`. */
export interface ChatCompletionChunk {
  id: string;
  created: number;
  model: string;
  /** One; none in the chunk that carries the usage. */
  choices: {
    index: number;
    delta: { role?: "assistant"; content?: string | null; [field: string]: unknown };
    finish_reason: FinishReason | null;
    [field: string]: unknown;
  }[];
  usage?: Usage | null;
}

/** Answer of `embed`. */
export interface EmbeddingsOutput {
  /** One vector of length one for each text, in their order. */
  embeddings: number[][];
  /** Tokens of all texts, special tokens included. */
  num_tokens: number;
}

/** What is served. */
export interface Metadata {
  model_id: string;
  /** Deadline of a request, seconds. */
  timeout: number;
  /** Family, in the words of OpenLLM 0.3.5; `family` has the true one. */
  model_name: string;
  backend: string;
  /** The server's configuration, as JSON text. */
  configuration: string;
  supports_embeddings: boolean;
  supports_hf_agent: boolean;
  family: string;
  served_model_names: string[];
  context_length: number | null;
}

/** A served model. */
export interface ModelCard {
  /** Name to use in `model`. */
  id: string;
  created: number;
  owned_by: string;
  [field: string]: unknown;
}
