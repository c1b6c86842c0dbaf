/** Where a message is written and sent. Enter sends, Shift+Enter begins a line, Escape stops the answer. */

import { useEffect, useRef } from "preact/hooks";

import { SendIcon, StopIcon } from "./icons.js";

export interface ComposerProps {
  text: string;
  running: boolean;
  /** Why nothing can be sent now; "" where it can. */
  hindrance: string;
  onText(text: string): void;
  onSend(): void;
  onStop(): void;
  /** Changes when the field should take the focus. */
  focus: string;
}

export function Composer({ text, running, hindrance, onText, onSend, onStop, focus }: ComposerProps) {
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => field.current?.focus({ preventScroll: true }), [focus]);
  const sendable = text.trim() !== "" && hindrance === "" && !running;
  const keyed = (event: KeyboardEvent): void => {
    if (event.key === "Escape" && running) onStop();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (sendable) onSend();
  };
  return (
    <form class="composer" onSubmit={(event) => { event.preventDefault(); if (sendable) onSend(); }}>
      <label class="visually-hidden" for="message">Message</label>
      <textarea id="message" ref={field} rows={1} value={text} placeholder="Write a message" aria-describedby="sending"
        onInput={(event) => onText(event.currentTarget.value)} onKeyDown={keyed} />
      {running
        ? <button type="button" class="primary round" aria-label="Stop" title="Stop (Escape)" onClick={onStop}><StopIcon /></button>
        : <button type="submit" class="primary round" aria-label="Send" title={hindrance || "Send (Enter)"} disabled={!sendable}><SendIcon /></button>}
      <p id="sending" class={hindrance ? "hint" : "hint keys"}>{hindrance || "Enter sends, Shift+Enter begins a line, Escape stops."}</p>
    </form>
  );
}
