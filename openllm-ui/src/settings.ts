/**
 * What the browser remembers of a person's choices: sampling, theme, and the key of each server. Reading never fails: what
 * is missing or damaged, or a browser that keeps nothing, gives the defaults.
 */

/** Sampling fields as they stand in the form; an empty one is left to the server. */
export interface Sampling {
  temperature: string;
  top_p: string;
  top_k: string;
  min_p: string;
  max_tokens: string;
  repetition_penalty: string;
  presence_penalty: string;
  frequency_penalty: string;
  seed: string;
  /** One stop string a line. */
  stop: string;
}

export type Theme = "system" | "light" | "dark";

/** Whatever outlives the page. */
export interface Settings {
  sampling: Sampling;
  /** System prompt of new conversations. */
  system: string;
  theme: Theme;
  /** Name of a model or adapter; "" is the server's first. */
  model: string;
}

export const NOTHING_SET: Sampling = {
  temperature: "",
  top_p: "",
  top_k: "",
  min_p: "",
  max_tokens: "",
  repetition_penalty: "",
  presence_penalty: "",
  frequency_penalty: "",
  seed: "",
  stop: "",
};

const DEFAULTS: Settings = { sampling: NOTHING_SET, system: "", theme: "system", model: "" };
const SETTINGS = "openllm.settings";
const KEY = "openllm.key:";
const TRUSTED = "openllm.trusted";

/** The two stores of a browser, or what stands for them in a test. */
export interface Stores {
  lasting: Pick<Storage, "getItem" | "setItem" | "removeItem">;
  session: Pick<Storage, "getItem" | "setItem" | "removeItem">;
}

/** The browser's own; where it forbids them, stores that last as long as the page. */
export function browserStores(): Stores {
  return { lasting: usable(() => localStorage), session: usable(() => sessionStorage) };
}

function usable(open: () => Storage): Stores["lasting"] {
  try {
    const store = open();
    store.setItem("openllm.probe", "1");
    store.removeItem("openllm.probe");
    return store;
  } catch {
    const kept = new Map<string, string>();
    return {
      getItem: (name) => kept.get(name) ?? null,
      setItem: (name, value) => void kept.set(name, value),
      removeItem: (name) => void kept.delete(name),
    };
  }
}

/** The settings as they were left. */
export function loadSettings(stores: Stores): Settings {
  const found = parsed(stores.lasting.getItem(SETTINGS));
  const sampling = { ...NOTHING_SET };
  for (const name of Object.keys(sampling) as (keyof Sampling)[]) {
    const value = (found["sampling"] as Record<string, unknown> | undefined)?.[name];
    if (typeof value === "string") sampling[name] = value;
  }
  const text = (name: "system" | "model"): string => (typeof found[name] === "string" ? found[name] : DEFAULTS[name]);
  const theme = ["system", "light", "dark"].find((each) => each === found["theme"]) as Theme | undefined;
  return { sampling, system: text("system"), model: text("model"), theme: theme ?? DEFAULTS.theme };
}

export function saveSettings(stores: Stores, settings: Settings): void {
  keep(stores.lasting, SETTINGS, JSON.stringify(settings));
}

/** The key for one server, "" where none is known. A key is never sent to another address than the one it was typed for. */
export function loadKey(stores: Stores, address: string): { key: string; remembered: boolean } {
  const remembered = stores.lasting.getItem(KEY + address);
  return { key: remembered ?? stores.session.getItem(KEY + address) ?? "", remembered: remembered !== null };
}

/** Keep a key until the tab is closed, or on this device; "" forgets it. */
export function saveKey(stores: Stores, address: string, key: string, remember: boolean): void {
  stores.lasting.removeItem(KEY + address);
  stores.session.removeItem(KEY + address);
  if (key) keep(remember ? stores.lasting : stores.session, KEY + address, key);
}

/** Whether the person agreed to talk to a server that the page did not come from. */
export function isTrusted(stores: Stores, address: string): boolean {
  return trusted(stores).includes(address);
}

export function trust(stores: Stores, address: string): void {
  keep(stores.lasting, TRUSTED, JSON.stringify([...new Set([...trusted(stores), address])]));
}

function trusted(stores: Stores): string[] {
  try {
    const found: unknown = JSON.parse(stores.lasting.getItem(TRUSTED) ?? "[]");
    return Array.isArray(found) ? found.filter((each) => typeof each === "string") : [];
  } catch {
    return [];
  }
}

function keep(store: Stores["lasting"], name: string, value: string): void {
  try {
    store.setItem(name, value);
  } catch {
    // Full, or forbidden since: the choice then lasts as long as the page.
  }
}

function parsed(text: string | null): Record<string, unknown> {
  try {
    const found: unknown = JSON.parse(text ?? "{}");
    return typeof found === "object" && found !== null ? (found as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
