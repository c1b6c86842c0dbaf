/** The chat: the messages of the shown conversation, and where the next one is written. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import type { Asking, Chats } from "./chats.js";
import type { Turn } from "./conversation.js";
import { Composer } from "./parts/composer.js";
import { Message } from "./parts/message.js";
import { useWatched } from "./store.js";

/** Pixels from the end within which the view follows the growing answer. */
const NEAR = 80;
const READ_OUT_CHARACTERS = 1_000;

export interface ChatProps {
  chats: Chats;
  asking: Asking;
  /** Why nothing can be sent now; "" where it can. */
  hindrance: string;
  /** Where the model runs, as the page says it: the server's address, "" for the one that the page came from. */
  place: string;
  /** Whether something else is shown: what is written and read here stays as it is meanwhile. */
  hidden: boolean;
}

export function Chat({ chats, asking, hindrance, place, hidden }: ChatProps) {
  useWatched(chats);
  const [text, setText] = useState("");
  const conversation = chats.current;
  const running = chats.runningIn(conversation.id);
  const [status, setStatus] = useState("");
  const turns = conversation.turns;
  const last = turns.at(-1);
  const answered = (id: string): void => {
    if (chats.current.id === id) setStatus(endOf(chats.current.turns.at(-1)));
  };
  const send = (): void => {
    setText("");
    setStatus("Sent. The answer is being written.");
    void chats.send(text, asking).then(() => answered(conversation.id));
  };
  const again = (): void => {
    setStatus("Asked again. The answer is being written.");
    void chats.regenerate(asking).then(() => answered(conversation.id));
  };
  const edit = (id: string): void => setText(chats.takeBack(id));
  const unanswered = last?.role === "user" && running === undefined;
  return (
    <section id="chat" role="tabpanel" aria-label="Chat" class="chat" hidden={hidden}>
      <Following key={conversation.id} grows={turns.length}>
        {turns.length === 0 && <Welcome model={asking.model} place={place} onPick={setText} />}
        {turns.map((turn) => (
          <Message key={turn.id} turn={turn} running={running?.turnId === turn.id ? running : undefined}
            onAgain={turn === last && running === undefined && hindrance === "" ? again : undefined}
            onEdit={running === undefined && turn.role === "user" ? () => edit(turn.id) : undefined} />
        ))}
        {unanswered && <button type="button" onClick={again} disabled={hindrance !== ""}>Ask again</button>}
      </Following>
      <p class="visually-hidden" role="status">{status}</p>
      <Composer text={text} running={running !== undefined} hindrance={hindrance} focus={conversation.id}
        onText={setText} onSend={send} onStop={() => chats.stop()} />
    </section>
  );
}

/** A scrolled area that stays at its end while it grows, until the reader scrolls away from there. */
function Following({ children, grows }: { children: ComponentChildren; grows: number }) {
  const area = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const follows = useRef(true);
  const [away, setAway] = useState(false);
  const toEnd = (): void => {
    const element = area.current;
    if (element !== null) element.scrollTop = element.scrollHeight;
  };
  useEffect(() => {
    follows.current = true;
    toEnd();
  }, [grows]);
  useEffect(() => {
    const watch = new ResizeObserver(() => follows.current && toEnd());
    if (content.current !== null) watch.observe(content.current);
    return () => watch.disconnect();
  }, []);
  const scrolled = (): void => {
    const element = area.current;
    if (element === null) return;
    follows.current = element.scrollHeight - element.scrollTop - element.clientHeight < NEAR;
    setAway(!follows.current);
  };
  return (
    <div class="following">
      <div class="scrolled" ref={area} onScroll={scrolled} tabIndex={0} role="log" aria-label="Conversation" aria-live="off">
        <div class="turns" ref={content}>{children}</div>
      </div>
      {away && <button type="button" class="to-end" onClick={toEnd}>To the end</button>}
    </div>
  );
}

const IDEAS = [
  "Explain what a language model is, in three sentences.",
  "Write a Python function that finds the longest word in a text.",
  "List five names for a friendly robot.",
];

function Welcome({ model, place, onPick }: { model: string; place: string; onPick(text: string): void }) {
  return (
    <div class="welcome">
      <h2>{model === "" ? "Talk to the model" : <>Talk to <span>{model}</span></>}</h2>
      <p class="hint">It runs on {place === "" ? "the server that this page came from" : place}. What you write is sent nowhere else.</p>
      <ul>
        {IDEAS.map((idea) => <li key={idea}><button type="button" onClick={() => onPick(idea)}>{idea}</button></li>)}
      </ul>
    </div>
  );
}

/** How an answer ended, as it is read out. */
function endOf(turn: Turn | undefined): string {
  if (turn?.role !== "assistant") return "";
  if (turn.facts?.end === "cut") return `The answer was cut. ${turn.facts.problem ?? ""}`;
  if (turn.facts?.end === "stopped") return "Stopped.";
  return turn.text.length <= READ_OUT_CHARACTERS ? `Answer: ${turn.text}` : "The answer is complete. It is long; it is the last message.";
}
