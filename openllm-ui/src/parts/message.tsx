/** One message of a conversation, whole or being written. */

import type { Running } from "../chats.js";
import { speedOf, type Facts, type Turn } from "../conversation.js";
import { Markdown } from "../markdown/markdown.js";
import { useWatched } from "../store.js";
import { CopyButton } from "./copy.js";
import { AgainIcon, EditIcon } from "./icons.js";
import { Pieces } from "./pieces.js";

export interface MessageProps {
  turn: Turn;
  running: Running | undefined;
  /** Whether it may be asked for again: the last answer, while none is written. */
  onAgain: (() => void) | undefined;
  /** Take the message back and write it anew. */
  onEdit: (() => void) | undefined;
}

export function Message({ turn, running, onAgain, onEdit }: MessageProps) {
  if (turn.role === "user") {
    return (
      <article class="turn user" aria-label="You">
        <div class="said">{turn.text}</div>
        <div class="tools">
          <CopyButton text={turn.text} what="the message" />
          {onEdit && <button type="button" class="quiet only-icon" aria-label="Edit the message" title="Edit and ask again" onClick={onEdit}><EditIcon /></button>}
        </div>
      </article>
    );
  }
  return (
    <article class="turn assistant" aria-label={turn.facts?.model ?? "Answer"} aria-busy={running !== undefined}>
      <Answer turn={turn} running={running} onAgain={onAgain} />
    </article>
  );
}

interface AnswerProps {
  turn: Turn;
  running: Running | undefined;
  onAgain: (() => void) | undefined;
}

/** The same elements while it grows and when it is whole: drawing a long answer anew at its end would hold up the page. */
function Answer({ turn, running, onAgain }: AnswerProps) {
  useWatched(...(running ? [running] : []));
  const { facts } = turn;
  const text = running?.text ?? turn.text;
  const reasoning = running?.reasoning ?? facts?.reasoning ?? "";
  return (
    <>
      <Reasoning text={reasoning} open={running !== undefined && text === ""} />
      {running && text === "" && <p class="waiting"><span class="busy" />{reasoning === "" ? "Waiting for the first token" : "Thinking"}</p>}
      <Markdown key="text" text={text} running={running !== undefined} />
      {!running && facts && <HowItEnded facts={facts} empty={text === ""} />}
      {!running && (
        <div class="tools">
          {text !== "" && <CopyButton text={text} what="the answer" />}
          {onAgain && <button type="button" class="quiet" onClick={onAgain}><AgainIcon /><span>{facts?.end === "cut" ? "Try again" : "Regenerate"}</span></button>}
          {facts && <p class="figures">{figures(facts)}</p>}
        </div>
      )}
    </>
  );
}

function Reasoning({ text, open }: { text: string; open: boolean }) {
  if (text === "") return null;
  return <details class="reasoning" open={open}><summary>Reasoning</summary><div class="said"><Pieces text={text} /></div></details>;
}

function HowItEnded({ facts, empty }: { facts: Facts; empty: boolean }) {
  switch (facts.end) {
    case "cut":
      return (
        <p class="problem ended">
          <strong>{empty ? "No answer came." : "The answer was cut here."}</strong> {facts.problem}
        </p>
      );
    case "stopped":
      return <p class="ended hint">{empty ? "Stopped before the first token." : "Stopped here."}</p>;
    case "length":
      return <p class="ended hint">The limit of tokens was reached; “Most tokens” among the parameters raises it.</p>;
    default:
      return empty ? <p class="ended hint">The model ended its answer at once, without a word.</p> : null;
  }
}

/** "34 + 128 tokens · 41.7 tokens/s · first after 0.31 s". */
function figures(facts: Facts): string {
  const said: string[] = [];
  const speed = speedOf(facts);
  if (facts.usage) said.push(`${facts.usage.prompt_tokens} tokens in, ${facts.usage.completion_tokens} out`);
  if (speed !== undefined) said.push(`${speed.toFixed(1)} tokens/s`);
  if (facts.firstS !== undefined) said.push(`first after ${facts.firstS.toFixed(2)} s`);
  return said.join(" · ");
}
