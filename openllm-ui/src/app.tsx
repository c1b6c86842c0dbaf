/** The whole page: what surrounds the chat and the playground, and the choices that both share. */

import { useEffect, useMemo, useState } from "preact/hooks";

import { pageFor } from "./address.js";
import { Chat } from "./chat.js";
import type { Asking, Chats } from "./chats.js";
import type { Connection } from "./connection.js";
import { Header, type View } from "./header.js";
import { KeyDialog } from "./parts/key-dialog.js";
import { Notice } from "./parts/notice.js";
import { Parameters } from "./parts/parameters.js";
import { RequestDialog } from "./parts/request-dialog.js";
import { ServerDialog } from "./parts/server-dialog.js";
import { Sidebar } from "./parts/sidebar.js";
import { Playground } from "./playground/playground.js";
import { shownChatRequest } from "./requests.js";
import type { Asked } from "./server.js";
import { loadKey, loadSettings, saveKey, saveSettings, type Settings, type Stores } from "./settings.js";
import { useWatched } from "./store.js";

export interface AppProps {
  connection: Connection;
  chats: Chats;
  stores: Stores;
}

type Open = "key" | "server" | { asked: Asked } | undefined;
const WIDE = "(min-width: 64rem)";

export function App({ connection, chats, stores }: AppProps) {
  useWatched(connection, chats);
  const [settings, setSettings] = useState(() => loadSettings(stores));
  const [view, setView] = useState<View>(() => (location.hash === "#playground" ? "playground" : "chat"));
  const [open, setOpen] = useState<Open>();
  const [list, setList] = useState(() => matchMedia(WIDE).matches);
  const [tuning, setTuning] = useState(false);
  const model = connection.models.find(({ id }) => id === settings.model)?.id ?? connection.models[0]?.id ?? "";
  const hindrance = hindranceOf(connection);
  useTheme(settings);
  useEffect(() => saveSettings(stores, settings), [settings]);
  useEffect(() => history.replaceState(null, "", view === "chat" ? location.pathname + location.search : "#playground"), [view]);
  useEffect(() => {
    if (connection.state === "key") setOpen("key");
  }, [connection.state, connection.turns]);
  const set = (changed: Partial<Settings>): void => setSettings((from) => ({ ...from, ...changed }));
  const onProblem = useMemo(() => connection.noticed.bind(connection), [connection]);
  const { sampling } = settings;
  const asking: Asking = { server: connection.server, model, sampling, onProblem };
  const conversation = chats.current;
  const setSystem = (system: string): void => {
    chats.setSystem(conversation.id, system);
    set({ system });
  };
  const useKey = (key: string, remember: boolean): void => {
    saveKey(stores, connection.address.url, key, remember);
    setOpen(undefined);
    void connection.useKey(key);
  };
  return (
    <div class={`app${list && view === "chat" ? " with-list" : ""}${tuning ? " with-parameters" : ""}`}>
      <a class="skip" href={view === "chat" ? "#message" : "#playground"}>{view === "chat" ? "Skip to the message field" : "Skip to the playground"}</a>
      <Header connection={connection} view={view} onView={setView} model={model} onModel={(id) => set({ model: id })}
        theme={settings.theme} onTheme={(theme) => set({ theme })} list={list} onList={setList} tuning={tuning} onTuning={setTuning}
        onKey={() => setOpen("key")} onServer={() => setOpen("server")}
        onShow={view === "chat" ? () => setOpen({ asked: shownChatRequest(model, conversation.system, conversation.turns, sampling) }) : undefined} />
      <nav class="list" aria-label="Conversations">
        <Sidebar chats={chats} system={settings.system} docs={`${connection.address.url}/docs`} onChosen={() => setList(matchMedia(WIDE).matches && list)} />
      </nav>
      <main>
        <Notice connection={connection} onKey={() => setOpen("key")} />
        <Chat hidden={view !== "chat"} chats={chats} asking={asking} hindrance={hindrance}
          place={connection.address.own ? "" : connection.address.url} />
        <Playground hidden={view === "chat"} {...asking} hindrance={hindrance} onShow={(asked) => setOpen({ asked })} />
      </main>
      <aside class="parameters" aria-label="Parameters">
        <Parameters sampling={sampling} onSampling={(changed) => set({ sampling: changed })} onClose={() => setTuning(false)}
          system={view === "chat" ? conversation.system : undefined} onSystem={setSystem} />
      </aside>
      <Dialogs open={open} connection={connection} stores={stores} onKey={useKey} onClose={() => setOpen(undefined)} />
    </div>
  );
}

interface DialogsProps {
  open: Open;
  connection: Connection;
  stores: Stores;
  onKey(key: string, remember: boolean): void;
  onClose(): void;
}

function Dialogs({ open, connection, stores, onKey, onClose }: DialogsProps) {
  const { address } = connection;
  if (open === undefined) return null;
  if (open === "key") {
    const { remembered } = loadKey(stores, address.url);
    const reason = connection.state === "key" ? connection.text : "";
    return (
      <KeyDialog address={address.url} reason={reason} hadKey={connection.hasKey} remembered={remembered} onKey={onKey} onClose={onClose} />
    );
  }
  if (open === "server") {
    return <ServerDialog address={address} onClose={onClose} onAddress={(url) => location.assign(pageFor(location.href, url))} />;
  }
  return <RequestDialog asked={open.asked} place={{ address: address.url, keyed: connection.hasKey }} onClose={onClose} />;
}

/** Why nothing can be sent now, in a few words; "" where it can. */
function hindranceOf({ state }: Connection): string {
  switch (state) {
    case "ready":
      return "";
    case "asking":
      return "Asking the server what it serves…";
    case "loading":
      return "The model is not ready yet.";
    case "key":
      return "The server wants a key first.";
    case "empty":
      return "There is no model to ask.";
    default:
      return "The server does not answer.";
  }
}

function useTheme({ theme }: Settings): void {
  useEffect(() => {
    if (theme === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = theme;
  }, [theme]);
}
