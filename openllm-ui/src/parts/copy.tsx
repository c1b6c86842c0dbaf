/** A button that copies a text; it says for a moment that it did. */

import { useState } from "preact/hooks";

import { CheckIcon, CopyIcon } from "./icons.js";

const SAID_MS = 1_600;

export function CopyButton({ text, what, label }: { text: string; what: string; label?: string }) {
  const [copied, setCopied] = useState(false);
  const copy = (): void => {
    void copyText(text).then((done) => {
      setCopied(done);
      setTimeout(() => setCopied(false), SAID_MS);
    });
  };
  const name = copied ? "Copied" : `Copy ${what}`;
  return (
    <button type="button" class={label ? "quiet" : "quiet only-icon"} onClick={copy} aria-label={label ? undefined : name} title={name}>
      {copied ? <CheckIcon /> : <CopyIcon />}
      {label && <span>{copied ? "Copied" : label}</span>}
    </button>
  );
}

async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedByHand(text);
  }
}

/** Over plain HTTP from another machine a browser gives pages no clipboard; its old command still works there. */
function copiedByHand(text: string): boolean {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "off-screen";
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}
