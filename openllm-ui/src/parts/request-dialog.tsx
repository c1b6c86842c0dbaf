/** Shows a request as it would be sent now, as lines to copy. */

import { useState } from "preact/hooks";

import { highlighted } from "../markdown/highlight.js";
import type { Asked } from "../server.js";
import { curlOf, pythonOf, type Place } from "../snippets.js";
import { CopyButton } from "./copy.js";
import { Dialog } from "./dialog.js";
import { Tabs } from "./tabs.js";

const KINDS = [["curl", "curl"], ["python", "Python"]] as const;
type Kind = (typeof KINDS)[number][0];

export function RequestDialog({ asked, place, onClose }: { asked: Asked; place: Place; onClose(): void }) {
  const [kind, setKind] = useState<Kind>("curl");
  const text = kind === "curl" ? curlOf(asked, place) : pythonOf(asked, place);
  const needs = [
    ...(place.keyed ? ["The key is taken from the variable OPENLLM_API_KEY."] : []),
    ...(kind === "python" ? ["The package openai has to be installed."] : []),
  ];
  return (
    <Dialog title="This request in your own program" onClose={onClose} class="wide">
      <Tabs label="Language" tabs={KINDS} chosen={kind} onChoose={(name: Kind) => setKind(name)} panel="request-text" />
      <div id="request-text" role="tabpanel" aria-label={kind}>
        <figure class="code">
          <figcaption><span>POST {asked.path}</span><CopyButton text={text} what="the request" label="Copy" /></figcaption>
          <pre tabIndex={0}><code>{highlighted(text, kind === "curl" ? "bash" : "python") ?? text}</code></pre>
        </figure>
      </div>
      {needs.length > 0 && <p class="hint">{needs.join(" ")}</p>}
    </Dialog>
  );
}
