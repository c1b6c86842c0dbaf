/** Texts as vectors, and how alike they are. */

import { useState } from "preact/hooks";

import { CopyButton } from "../parts/copy.js";
import { embeddingsRequest } from "../requests.js";
import type { PlaygroundProps } from "./playground.js";
import { TrialForm, useTrial } from "./trial.js";

const FIRST = "A cat sleeps on the sofa.\nA kitten naps on the couch.\nThe train leaves at noon.";
const SHOWN_CHARACTERS = 40;

interface Found {
  texts: string[];
  vectors: number[][];
  tokens: number;
}

export function EmbeddingsForm(props: PlaygroundProps) {
  const { server, model, hindrance, onShow } = props;
  const [input, setInput] = useState(FIRST);
  const [found, setFound] = useState<Found>();
  const trial = useTrial(props);
  const texts = input.split("\n").map((line) => line.trim()).filter((line) => line !== "");
  const asked = embeddingsRequest(model, texts);
  const send = (): void =>
    trial.begin(async (signal) => {
      setFound(undefined);
      setFound({ texts, ...(await server.embed(asked, signal)) });
    });
  return (
    <>
      <p class="hint">Each line becomes a vector. The table says how alike two lines are: 1 is the same direction, 0 none.</p>
      <TrialForm trial={trial} hindrance={hindrance} complete={texts.length > 0} verb="Embed" onSubmit={send} onShow={() => onShow(asked)}>
        <label>
          <span>Texts, one a line</span>
          <textarea rows={5} value={input} onInput={(event) => setInput(event.currentTarget.value)} />
        </label>
      </TrialForm>
      {found && <Likeness {...found} />}
    </>
  );
}

function Likeness({ texts, vectors, tokens }: Found) {
  const cut = (text: string): string => (text.length <= SHOWN_CHARACTERS ? text : text.slice(0, SHOWN_CHARACTERS - 1) + "…");
  return (
    <figure class="result">
      <figcaption>
        <span>{vectors.length} vectors of {vectors[0]?.length ?? 0} numbers, {tokens} tokens</span>
        <CopyButton text={JSON.stringify(vectors)} what="the vectors" label="Copy as JSON" />
      </figcaption>
      <div class="scrolls" tabIndex={0} role="region" aria-label="Likeness">
        <table>
          <thead><tr><th scope="col">Cosine</th>{texts.map((_, i) => <th key={i} scope="col">{i + 1}</th>)}</tr></thead>
          <tbody>
            {vectors.map((one, i) => (
              <tr key={i}>
                <th scope="row">{i + 1}. {cut(texts[i] ?? "")}</th>
                {vectors.map((other, j) => <td key={j}>{cosine(one, other).toFixed(3)}</td>)}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </figure>
  );
}

/** Cosine of the angle between two vectors of one length; 0 where one of them is zero. */
export function cosine(one: number[], other: number[]): number {
  let dot = 0;
  let ones = 0;
  let others = 0;
  for (const [i, a] of one.entries()) {
    const b = other[i] ?? 0;
    dot += a * b;
    ones += a * a;
    others += b * b;
  }
  const lengths = Math.sqrt(ones * others);
  return lengths === 0 ? 0 : dot / lengths;
}
