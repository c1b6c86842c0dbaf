/** A conversation as the browser keeps it. Values only: `chats.ts` changes them, `archive.ts` stores them. */

import type { Usage } from "../../openllm-node/src/messages.js";

/**
 * How an answer ended: `whole`; `length` at the limit of tokens; `stopped` by the person; `cut` by a failure; `running`
 * not yet (found in the archive, it means that the page was closed meanwhile).
 */
export type End = "whole" | "length" | "stopped" | "cut" | "running";

/** What is known of an answer besides its text. */
export interface Facts {
  model: string;
  end: End;
  /** Why it was cut, for a person. */
  problem?: string;
  usage?: Usage | null;
  /** Seconds from asking to the first piece, and to the last. */
  firstS?: number;
  totalS?: number;
  /** What a reasoning model thought before it answered. */
  reasoning?: string;
}

/** One message. */
export interface Turn {
  id: string;
  role: "user" | "assistant";
  text: string;
  facts?: Facts;
}

/** Messages under a title. */
export interface Conversation {
  id: string;
  title: string;
  system: string;
  turns: Turn[];
  /** Milliseconds since 1970. */
  changed: number;
}

export function newId(): string {
  const words = crypto.getRandomValues(new Uint32Array(3)); // randomUUID exists on secure origins only
  return [...words].map((word) => word.toString(36)).join("-");
}

export function emptyConversation(system: string): Conversation {
  return { id: newId(), title: "", system, turns: [], changed: Date.now() };
}

/** A title made of the first words that were said. */
export function titleOf(conversation: Conversation): string {
  if (conversation.title !== "") return conversation.title;
  const first = conversation.turns.find((turn) => turn.role === "user")?.text ?? "";
  const words = first.replace(/\s+/g, " ").trim();
  return words === "" ? "New conversation" : words.length <= 48 ? words : words.slice(0, 47).trimEnd() + "…";
}

/** As it was stored; answers that still ran when the page was closed are marked as cut. undefined where it is none. */
export function restored(found: unknown): Conversation | undefined {
  const given = found as Partial<Conversation> | null;
  if (typeof given !== "object" || given === null || typeof given.id !== "string" || !Array.isArray(given.turns)) return undefined;
  const turns = given.turns.filter((turn) => typeof turn?.text === "string" && ["user", "assistant"].includes(turn.role));
  return {
    id: given.id,
    title: typeof given.title === "string" ? given.title : "",
    system: typeof given.system === "string" ? given.system : "",
    changed: typeof given.changed === "number" ? given.changed : 0,
    turns: turns.map((turn) =>
      turn.facts?.end === "running"
        ? { ...turn, facts: { ...turn.facts, end: "cut", problem: "The page was closed before the answer was whole." } }
        : turn,
    ),
  };
}

/** Seconds below which what came in one piece says nothing of a speed. */
const SHORTEST_S = 0.05;

/** Tokens a second while the answer was written: those after the first, over the time they took. */
export function speedOf(facts: Facts): number | undefined {
  const tokens = facts.usage?.completion_tokens;
  if (tokens === undefined || facts.firstS === undefined || facts.totalS === undefined) return undefined;
  const writing = facts.totalS - facts.firstS;
  return tokens > 1 && writing >= SHORTEST_S ? (tokens - 1) / writing : undefined;
}
