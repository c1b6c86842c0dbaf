/**
 * All conversations and the answers being written in them. Answers run on while another conversation is shown; each runs
 * until it ends, is stopped, or is cut, and what came of it is kept in every case.
 */

import type { Archive } from "./archive.js";
import { emptyConversation, newId, type Conversation, type Facts, type Turn } from "./conversation.js";
import { chatRequest } from "./requests.js";
import { problemOf, type Problem, type Server } from "./server.js";
import type { Sampling } from "./settings.js";
import { Watched } from "./store.js";

const SAVE_EVERY_MS = 2_000;

/** What an answer is asked of and with. */
export interface Asking {
  server: Server;
  model: string;
  sampling: Sampling;
  /** Told when the server wants a key, or cannot be reached. */
  onProblem(problem: Problem): void;
}

/** An answer being written. Its text grows; whoever shows it watches it alone, so that nothing else is drawn again. */
export class Running extends Watched {
  text = "";
  reasoning = "";
  readonly asked = performance.now();
  private readonly controller = new AbortController();
  stopped = false;

  constructor(readonly turnId: string) {
    super();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  stop(): void {
    this.stopped = true;
    this.controller.abort();
  }

  grow(text: string, reasoning: string): void {
    this.text += text;
    this.reasoning += reasoning;
    this.tell();
  }
}

export class Chats extends Watched {
  private all: Conversation[] = [];
  private currentId = "";
  private readonly running = new Map<string, Running>();

  constructor(
    private readonly archive: Archive,
    private readonly now: () => number = () => performance.now(),
  ) {
    super();
    this.create("");
  }

  /** Take up what the archive has; a conversation already begun on this page stays the shown one. */
  async restore(): Promise<void> {
    const found = await this.archive.load();
    const here = new Set(this.all.map((each) => each.id));
    this.all = [...this.all, ...found.filter((each) => !here.has(each.id))];
    this.tell();
  }

  /** Those that hold something, the latest first, and the shown one. */
  get list(): readonly Conversation[] {
    return this.all
      .filter((each) => each.turns.length > 0 || each.id === this.currentId)
      .sort((a, b) => b.changed - a.changed);
  }

  get current(): Conversation {
    const found = this.all.find((each) => each.id === this.currentId);
    if (found === undefined) throw new Error("there is always a shown conversation");
    return found;
  }

  /** The answer being written in a conversation. */
  runningIn(id: string): Running | undefined {
    return this.running.get(id);
  }

  get lasting(): boolean {
    return this.archive.lasting;
  }

  open(id: string): void {
    if (this.all.some((each) => each.id === id)) this.currentId = id;
    this.tell();
  }

  /** Show an empty conversation: the one there is, or a new one. */
  create(system: string): void {
    const empty = this.all.find((each) => each.turns.length === 0);
    const shown = empty ?? emptyConversation(system);
    if (empty === undefined) this.all = [shown, ...this.all];
    this.currentId = shown.id;
    this.tell();
  }

  rename(id: string, title: string): void {
    this.change(id, (each) => ({ ...each, title: title.trim() }));
  }

  setSystem(id: string, system: string): void {
    this.change(id, (each) => ({ ...each, system }));
  }

  remove(id: string): void {
    this.running.get(id)?.stop();
    this.all = this.all.filter((each) => each.id !== id);
    this.archive.remove(id);
    if (id === this.currentId) {
      const next = this.list[0];
      if (next === undefined) this.create("");
      else this.currentId = next.id;
    }
    this.tell();
  }

  /** Say something in the shown conversation. The promise ends with the answer and never fails. */
  send(text: string, asking: Asking): Promise<void> {
    const { id } = this.current;
    if (this.running.has(id)) return Promise.resolve();
    this.change(id, (each) => ({ ...each, turns: [...each.turns, { id: newId(), role: "user", text }] }));
    return this.answer(id, asking);
  }

  /** Ask again for the last answer. */
  regenerate(asking: Asking): Promise<void> {
    const { id } = this.current;
    if (this.running.has(id)) return Promise.resolve();
    this.change(id, (each) => ({ ...each, turns: withoutLastAnswer(each.turns) }));
    return this.answer(id, asking);
  }

  /** Take a message back, with all that followed; gives its text, to be said in other words. */
  takeBack(turnId: string): string {
    const { id, turns } = this.current;
    const at = turns.findIndex((turn) => turn.id === turnId);
    if (at < 0 || this.running.has(id)) return "";
    this.change(id, (each) => ({ ...each, turns: turns.slice(0, at) }));
    return turns[at]?.text ?? "";
  }

  /** Stop the answer in the shown conversation, on the server too. */
  stop(): void {
    this.running.get(this.currentId)?.stop();
  }

  private async answer(id: string, asking: Asking): Promise<void> {
    const { system, turns } = this.find(id);
    const turn: Turn = { id: newId(), role: "assistant", text: "", facts: { model: asking.model, end: "running" } };
    const running = new Running(turn.id);
    this.running.set(id, running);
    this.change(id, (each) => ({ ...each, turns: [...each.turns, turn] }));
    const asked = chatRequest(asking.model, system, turns, asking.sampling);
    const facts: Facts = { model: asking.model, end: "cut" };
    const began = this.now();
    let saved = began;
    try {
      for await (const piece of asking.server.chat(asked, running.signal)) {
        const at = this.now();
        if (piece.text !== "" || piece.reasoning !== "") {
          facts.firstS ??= (at - began) / 1000;
          facts.totalS = (at - began) / 1000;
          running.grow(piece.text, piece.reasoning);
        }
        if (piece.finish !== null) facts.end = piece.finish === "length" ? "length" : "whole";
        if (piece.usage !== null) facts.usage = piece.usage;
        if (at - saved > SAVE_EVERY_MS) {
          saved = at;
          this.archive.save(this.withText(id, turn, running, { model: asking.model, end: "running" }));
        }
      }
    } catch (error) {
      this.failed(error, running, facts, asking);
    }
    if (running.reasoning !== "") facts.reasoning = running.reasoning;
    this.running.delete(id);
    if (this.all.some((each) => each.id === id)) this.change(id, () => this.withText(id, turn, running, facts));
  }

  private failed(error: unknown, running: Running, facts: Facts, asking: Asking): void {
    if (running.stopped) {
      facts.end = "stopped";
      return;
    }
    const problem = problemOf(error, asking.server.address);
    facts.end = "cut";
    facts.problem = problem.text;
    asking.onProblem(problem);
  }

  private withText(id: string, turn: Turn, running: Running, facts: Facts): Conversation {
    const found = this.find(id);
    const turns = found.turns.map((each) => (each.id === turn.id ? { ...turn, text: running.text, facts } : each));
    return { ...found, turns };
  }

  private find(id: string): Conversation {
    const found = this.all.find((each) => each.id === id);
    if (found === undefined) throw new Error(`no conversation ${id}`);
    return found;
  }

  private change(id: string, made: (from: Conversation) => Conversation): void {
    const now = { ...made(this.find(id)), changed: Date.now() };
    this.all = this.all.map((each) => (each.id === id ? now : each));
    if (now.turns.length > 0) this.archive.save(now);
    this.tell();
  }
}

function withoutLastAnswer(turns: Turn[]): Turn[] {
  return turns.at(-1)?.role === "assistant" ? turns.slice(0, -1) : turns;
}
