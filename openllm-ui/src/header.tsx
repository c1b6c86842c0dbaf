/** The bar at the top: which page, which model, which server, and the page's own settings. */

import type { Connection, State } from "./connection.js";
import { CodeIcon, KeyIcon, MenuIcon, MoonIcon, SunIcon, SystemIcon, TuneIcon } from "./parts/icons.js";
import { ModelPicker } from "./parts/model-picker.js";
import { Tabs } from "./parts/tabs.js";
import type { Theme } from "./settings.js";

export type View = "chat" | "playground";

const VIEWS = [["chat", "Chat"], ["playground", "Playground"]] as const;
const NEXT: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };
const THEME_NAMES: Record<Theme, string> = { system: "as the system", light: "light", dark: "dark" };
const STATES: Partial<Record<State, string>> = {
  ready: "ready",
  asking: "being asked",
  loading: "loading",
  key: "wants a key",
  empty: "without a model",
};

export interface HeaderProps {
  connection: Connection;
  view: View;
  onView(view: View): void;
  model: string;
  onModel(id: string): void;
  theme: Theme;
  onTheme(theme: Theme): void;
  list: boolean;
  onList(shown: boolean): void;
  tuning: boolean;
  onTuning(shown: boolean): void;
  onKey(): void;
  onServer(): void;
  onShow: (() => void) | undefined;
}

export function Header(props: HeaderProps) {
  const { connection, view, theme } = props;
  const state = STATES[connection.state] ?? "does not answer";
  const themeName = `Colours: ${THEME_NAMES[theme]}`;
  return (
    <header class="bar">
      {view === "chat" && (
        <button type="button" class="quiet only-icon first" aria-label="Conversations" title="Conversations" aria-expanded={props.list}
          onClick={() => props.onList(!props.list)}><MenuIcon /></button>
      )}
      <h1 class="brand">OpenLLM</h1>
      <Tabs label="Page" tabs={VIEWS} chosen={view} onChoose={props.onView} panel={view} />
      <ModelPicker models={connection.models} chosen={props.model} onChoose={props.onModel} />
      <span class="grows" />
      <button type="button" class={`quiet server ${connection.state}`} onClick={props.onServer}
        aria-label={`Server ${connection.address.url}: ${state}`} title={`${connection.address.url}: ${state}`}>
        <span class="dot" /><span class="name">{connection.address.own ? state : new URL(connection.address.url).host}</span>
      </button>
      {props.onShow && <button type="button" class="quiet only-icon" aria-label="Show the request as code" title="The request as curl and Python" onClick={props.onShow}><CodeIcon /></button>}
      <button type="button" class="quiet only-icon" aria-label="API key" title="API key" onClick={props.onKey}><KeyIcon /></button>
      <button type="button" class="quiet only-icon" aria-label={themeName} title={themeName} onClick={() => props.onTheme(NEXT[theme])}>
        {theme === "system" ? <SystemIcon /> : theme === "light" ? <SunIcon /> : <MoonIcon />}
      </button>
      <button type="button" class="quiet only-icon first" aria-label="Parameters" title="Parameters" aria-expanded={props.tuning}
        onClick={() => props.onTuning(!props.tuning)}><TuneIcon /></button>
    </header>
  );
}
