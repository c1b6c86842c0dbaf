/** Says which server the page talks to, and takes another one's address. */

import { useState } from "preact/hooks";

import { readAddress, type Address } from "../address.js";
import { Dialog } from "./dialog.js";

export interface ServerDialogProps {
  address: Address;
  onAddress(address: string): void;
  onClose(): void;
}

export function ServerDialog({ address, onAddress, onClose }: ServerDialogProps) {
  const [typed, setTyped] = useState(address.url);
  const found = readAddress(typed);
  const submit = (event: Event): void => {
    event.preventDefault();
    if (found !== undefined) onAddress(found);
  };
  return (
    <Dialog title="Server" onClose={onClose}>
      <form onSubmit={submit}>
        <label>
          <span>Address</span>
          <input type="text" inputMode="url" value={typed} spellcheck={false} autoComplete="off" autoFocus
            aria-invalid={found === undefined} onInput={(event) => setTyped(event.currentTarget.value)} />
        </label>
        <p class={found === undefined ? "problem" : "hint"}>
          {found === undefined ? "This is no address of a server; one is like http://localhost:3000."
            : "Another server must allow pages from here: it is started with --cors."}
        </p>
        <footer>
          {!address.own && <button type="button" onClick={() => onAddress("")}>This page's own server</button>}
          <button type="submit" class="primary" disabled={found === undefined}>Use this server</button>
        </footer>
      </form>
    </Dialog>
  );
}

export interface StrangerProps {
  address: Address;
  onTrust(): void;
  onOwn(): void;
}

/** Before the page talks to a server that it did not come from: a link can name any. */
export function Stranger({ address, onTrust, onOwn }: StrangerProps) {
  return (
    <main class="stranger">
      <h1>Use another server?</h1>
      <p>The link that you followed makes this page talk to <strong>{address.url}</strong>, not to the server that it came from.
        What you write would be sent there.</p>
      <div class="actions">
        <button type="button" class="primary" autoFocus onClick={onOwn}>No, this page's own server</button>
        <button type="button" onClick={onTrust}>Yes, use {address.url}</button>
      </div>
    </main>
  );
}
