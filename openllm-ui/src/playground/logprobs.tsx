/** A completion token by token: how likely each was, and what else could have stood in its place. */

import { useState } from "preact/hooks";

import { logprobsRequest } from "../requests.js";
import type { Completion, ScoredToken } from "../server.js";
import type { PlaygroundProps } from "./playground.js";
import { TrialForm, useTrial } from "./trial.js";

const TOP = 5;
const FEW_TOKENS = "32";

export function LogprobsForm(props: PlaygroundProps) {
  const { server, model, sampling, hindrance, onShow } = props;
  const [prompt, setPrompt] = useState("The capital of France is");
  const [answer, setAnswer] = useState<Completion>();
  const [chosen, setChosen] = useState(0);
  const trial = useTrial(props);
  const few = sampling.max_tokens === "" ? { ...sampling, max_tokens: FEW_TOKENS } : sampling;
  const asked = logprobsRequest(model, prompt, few, TOP);
  const send = (): void =>
    trial.begin(async (signal) => {
      setAnswer(undefined);
      setChosen(0);
      setAnswer(await server.completion(asked, signal));
    });
  return (
    <>
      <p class="hint">Each token of the continuation with its probability. Choose one to see what else was likely there.</p>
      <TrialForm trial={trial} hindrance={hindrance} complete={prompt !== ""} verb="Score" onSubmit={send} onShow={() => onShow(asked)}>
        <label>
          <span>Text</span>
          <textarea rows={3} value={prompt} onInput={(event) => setPrompt(event.currentTarget.value)} />
        </label>
      </TrialForm>
      {answer && (answer.tokens.length > 0
        ? <Scores tokens={answer.tokens} chosen={chosen} onChoose={setChosen} />
        : <p class="hint">The model ended its answer at once, without a token.</p>)}
    </>
  );
}

function Scores({ tokens, chosen, onChoose }: { tokens: ScoredToken[]; chosen: number; onChoose(at: number): void }) {
  const token = tokens[chosen];
  return (
    <figure class="result">
      <figcaption>Continuation: {tokens.length} tokens</figcaption>
      <div class="tokens">
        {tokens.map((each, i) => (
          <button key={i} type="button" class={`token p${shade(each.logprob)}`} aria-pressed={i === chosen}
            aria-label={`${visible(each.token)}, ${percent(each.logprob)}`} onClick={() => onChoose(i)}>{visible(each.token)}</button>
        ))}
      </div>
      {token && (
        <table aria-live="polite">
          <caption>Token {chosen + 1}, {visible(token.token)}: probability {percent(token.logprob)}, log-probability {rounded(token.logprob)}</caption>
          <thead><tr><th scope="col">Likeliest here</th><th scope="col">Probability</th><th scope="col">Log-probability</th></tr></thead>
          <tbody>
            {token.top.map(([text, logprob], i) => (
              <tr key={i} class={text === token.token ? "taken" : undefined}>
                <td><code>{visible(text)}</code></td><td>{percent(logprob)}</td><td>{rounded(logprob)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </figure>
  );
}

/** 0, unlikely, to 4, almost certain. */
function shade(logprob: number | null): number {
  return logprob === null ? 4 : Math.min(4, Math.floor(Math.exp(logprob) * 5));
}

function percent(logprob: number | null): string {
  return logprob === null ? "unknown" : `${(Math.exp(logprob) * 100).toFixed(1)} %`;
}

function rounded(logprob: number | null): string {
  return logprob === null ? "unknown" : logprob.toFixed(3);
}

/** A token whose blanks and line ends can be seen. */
function visible(token: string): string {
  return token.replaceAll("\n", "↵").replace(/^ | $/g, "·") || "∅";
}
