/**
 * What is known of the server at this moment: does it answer, does its model, which names are there. Asks again by itself:
 * soon while something is wrong, seldom while all is well.
 */

import type { Address } from "./address.js";
import { problemOf, Server, type Model, type Problem } from "./server.js";
import { Watched } from "./store.js";

const TRY_AGAIN_MS = 2_000;
const LOOK_AGAIN_MS = 30_000;

/** `asking` nothing known yet; `ready` it answers; the others are a problem's kind; `empty` it serves no model to this key. */
export type State = "asking" | "ready" | "empty" | Problem["kind"];

export class Connection extends Watched {
  state: State = "asking";
  text = "";
  models: Model[] = [];
  server: Server;
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** Answers of the server so far: a second refusal of a key is news, too. */
  turns = 0;
  private turn = 0;

  constructor(
    readonly address: Address,
    private key: string,
    private readonly open: (address: string, key: string) => Server = (url, key) => new Server(url, key),
  ) {
    super();
    this.server = open(address.url, key);
  }

  get hasKey(): boolean {
    return this.key !== "";
  }

  /** Ask with another key from now on. */
  useKey(key: string): Promise<void> {
    this.key = key;
    this.server = this.open(this.address.url, key);
    return this.refresh();
  }

  /** Something failed elsewhere: look at once what holds now. */
  noticed(problem: Problem): void {
    if (problem.kind === "key") this.become("key", problem.text);
    else if (problem.kind !== "refused") void this.refresh();
  }

  /** Ask the server now. */
  async refresh(): Promise<void> {
    const turn = ++this.turn;
    clearTimeout(this.timer);
    let state: State;
    let text = "";
    try {
      const models = await this.server.models();
      const readiness = await this.server.readiness();
      if (turn !== this.turn) return;
      this.models = models;
      text = readiness.text;
      state = models.length === 0 ? "empty" : readiness.ready ? "ready" : "loading";
    } catch (error) {
      if (turn !== this.turn) return;
      const problem = problemOf(error, this.address.url, this.address.own);
      state = problem.kind;
      text = problem.text;
    }
    this.become(state, text);
    if (state !== "key") this.timer = setTimeout(() => void this.refresh(), state === "ready" ? LOOK_AGAIN_MS : TRY_AGAIN_MS);
  }

  /** Ask no more. */
  close(): void {
    this.turn++;
    clearTimeout(this.timer);
  }

  private become(state: State, text: string): void {
    this.turns++;
    this.state = state;
    this.text = text;
    this.tell();
  }
}
