/** Asks for the key of a server. */

import { useState } from "preact/hooks";

import { Dialog } from "./dialog.js";

export interface KeyDialogProps {
  address: string;
  /** Why it is asked: the server's words where it refused a key; "" where the person opened the dialog. */
  reason: string;
  hadKey: boolean;
  remembered: boolean;
  onKey(key: string, remember: boolean): void;
  onClose(): void;
}

export function KeyDialog({ address, reason, hadKey, remembered, onKey, onClose }: KeyDialogProps) {
  const [key, setKey] = useState("");
  const [remember, setRemember] = useState(remembered);
  const submit = (event: Event): void => {
    event.preventDefault();
    if (key.trim() !== "") onKey(key.trim(), remember);
  };
  const refused = reason !== "" && hadKey;
  return (
    <Dialog title={refused ? "This key was refused" : "API key"} onClose={onClose}>
      <form onSubmit={submit}>
        <p class={refused ? "problem" : ""} role={refused ? "alert" : undefined}>
          {refused ? `${address} does not know the key that was sent. Check it, or ask whoever runs the server for one.`
            : reason !== "" ? `${address} answers only with a key. Whoever runs the server gives it to you.`
            : `The key that is sent to ${address} with every request.`}
        </p>
        <label>
          <span>API key</span>
          <input type="password" value={key} autoComplete="off" spellcheck={false} autoFocus
            onInput={(event) => setKey(event.currentTarget.value)} />
        </label>
        <label class="check">
          <input type="checkbox" checked={remember} onChange={(event) => setRemember(event.currentTarget.checked)} />
          <span>Remember it on this device</span>
        </label>
        <p class="hint">Otherwise it is forgotten when this tab is closed. It is sent to this server only.</p>
        <footer>
          {hadKey && <button type="button" onClick={() => onKey("", false)}>Forget the key</button>}
          <button type="submit" class="primary" disabled={key.trim() === ""}>Use this key</button>
        </footer>
      </form>
    </Dialog>
  );
}
