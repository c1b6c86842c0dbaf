/** Where conversations outlive the page: IndexedDB, in this browser alone. Without it they last as long as the page. */

import { createStore, del, entries, set, type UseStore } from "idb-keyval";

import { restored, type Conversation } from "./conversation.js";

/** Keeps conversations. */
export interface Archive {
  /** All of them, the latest first. */
  load(): Promise<Conversation[]>;
  save(conversation: Conversation): void;
  remove(id: string): void;
  /** Whether they outlive the page. */
  readonly lasting: boolean;
}

export class BrowserArchive implements Archive {
  lasting = true;
  private readonly store: UseStore | undefined;

  constructor() {
    try {
      this.store = createStore("openllm", "conversations");
    } catch {
      this.lasting = false;
    }
  }

  async load(): Promise<Conversation[]> {
    if (this.store === undefined) return [];
    try {
      const found = await entries<string, unknown>(this.store);
      return found.flatMap(([, value]) => restored(value) ?? []).sort((a, b) => b.changed - a.changed);
    } catch {
      this.lasting = false;
      return [];
    }
  }

  save(conversation: Conversation): void {
    this.tried(() => set(conversation.id, conversation, this.store));
  }

  remove(id: string): void {
    this.tried(() => del(id, this.store));
  }

  private tried(write: () => Promise<void>): void {
    if (!this.lasting) return;
    write().catch(() => {
      this.lasting = false;
    });
  }
}
