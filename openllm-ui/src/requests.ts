/** What the forms say, as the JSON of a request. An empty field is not sent: the server's own default holds then. */

import type { Turn } from "./conversation.js";
import type { Asked, Message } from "./server.js";
import type { Sampling } from "./settings.js";

/** A numeric field: its range as the server checks it, and what it means. */
export interface Field {
  name: Exclude<keyof Sampling, "stop">;
  label: string;
  help: string;
  min: number;
  max?: number;
  step: number;
  whole?: boolean;
}

export const FIELDS: Field[] = [
  { name: "temperature", label: "Temperature", help: "0 takes the likeliest token; higher is freer.", min: 0, max: 2, step: 0.1 },
  { name: "top_p", label: "Top p", help: "Share of probability that tokens are drawn from.", min: 0.01, max: 1, step: 0.05 },
  { name: "top_k", label: "Top k", help: "Likeliest tokens kept; 0 keeps all.", min: 0, step: 1, whole: true },
  { name: "min_p", label: "Min p", help: "Share of the best token's probability that a token needs.", min: 0, max: 1, step: 0.05 },
  { name: "max_tokens", label: "Most tokens", help: "Length of an answer at most.", min: 1, step: 1, whole: true },
  { name: "repetition_penalty", label: "Repetition penalty", help: "Above 1 discourages what was said already.", min: 0.01, max: 10, step: 0.05 },
  { name: "presence_penalty", label: "Presence penalty", help: "Above 0 favours new tokens.", min: -2, max: 2, step: 0.1 },
  { name: "frequency_penalty", label: "Frequency penalty", help: "Above 0 discourages frequent tokens.", min: -2, max: 2, step: 0.1 },
  { name: "seed", label: "Seed", help: "The same seed gives the same answer.", min: -9007199254740991, max: 9007199254740991, step: 1, whole: true },
];

/** Why a field's text cannot be sent; "" where it can, or is empty. */
export function faultOf(field: Field, text: string): string {
  if (text.trim() === "") return "";
  const value = Number(text);
  if (!Number.isFinite(value)) return "This is not a number.";
  if (field.whole && !Number.isSafeInteger(value)) return "This must be a whole number.";
  if (value < field.min) return `This must be at least ${field.min}.`;
  if (field.max !== undefined && value > field.max) return `This must be at most ${field.max}.`;
  return "";
}

/** The sampling fields that are set and can be sent. */
export function samplingOf(sampling: Sampling): Record<string, unknown> {
  const set: Record<string, unknown> = {};
  for (const field of FIELDS) {
    const text = sampling[field.name];
    if (text.trim() !== "" && faultOf(field, text) === "") set[field.name] = Number(text);
  }
  const stop = sampling.stop.split("\n").filter((line) => line !== "");
  if (stop.length > 0) set["stop"] = stop;
  return set;
}

/**
 * The request for the next message of a conversation. A question that got no answer at all is left out with it: chat
 * templates want the two sides to take turns.
 */
export function chatRequest(model: string, system: string, turns: readonly Turn[], sampling: Sampling): Asked {
  const messages: Message[] = system.trim() === "" ? [] : [{ role: "system", content: system }];
  for (const turn of turns) {
    if (turn.role === "user" || turn.text !== "") messages.push({ role: turn.role, content: turn.text });
    else if (messages.at(-1)?.role === "user") messages.pop();
  }
  const body = { model, messages, ...samplingOf(sampling), stream: true, stream_options: { include_usage: true } };
  return { path: "/v1/chat/completions", body };
}

/** The request that gave, or would give, the last answer; a conversation without a word yet gets a greeting to show. */
export function shownChatRequest(model: string, system: string, turns: readonly Turn[], sampling: Sampling): Asked {
  const asked = turns.at(-1)?.role === "assistant" ? turns.slice(0, -1) : turns;
  return chatRequest(model, system, asked.length > 0 ? asked : [{ id: "", role: "user", text: "Hello!" }], sampling);
}

/** The request for a completion, streamed. */
export function completionRequest(model: string, prompt: string, sampling: Sampling): Asked {
  const body = { model, prompt, ...samplingOf(sampling), stream: true, stream_options: { include_usage: true } };
  return { path: "/v1/completions", body };
}

/** The request for a completion with the log-probabilities of its tokens. */
export function logprobsRequest(model: string, prompt: string, sampling: Sampling, top: number): Asked {
  return { path: "/v1/completions", body: { model, prompt, ...samplingOf(sampling), logprobs: top } };
}

/** The request for the vectors of texts. */
export function embeddingsRequest(model: string, texts: string[]): Asked {
  return { path: "/v1/embeddings", body: { model, input: texts } };
}
