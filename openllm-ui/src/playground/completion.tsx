/** A text continued as it stands, without a chat template; the continuation streams. */

import { useState } from "preact/hooks";

import { CopyButton } from "../parts/copy.js";
import { completionRequest } from "../requests.js";
import type { PlaygroundProps } from "./playground.js";
import { TrialForm, useTrial } from "./trial.js";

export function CompletionForm(props: PlaygroundProps) {
  const { server, model, sampling, hindrance, onShow } = props;
  const [prompt, setPrompt] = useState("The three primary colours are");
  const [answer, setAnswer] = useState<{ prompt: string; text: string }>();
  const [figures, setFigures] = useState("");
  const trial = useTrial(props);
  const asked = completionRequest(model, prompt, sampling);
  const send = (): void =>
    trial.begin(async (signal) => {
      setAnswer({ prompt, text: "" });
      setFigures("");
      let text = "";
      for await (const piece of server.completionStream(asked, signal)) {
        text += piece.text;
        setAnswer({ prompt, text });
        if (piece.usage) setFigures(`${piece.usage.prompt_tokens} tokens in, ${piece.usage.completion_tokens} out`);
      }
    });
  return (
    <>
      <p class="hint">The model goes on with your text as it stands: no chat template, no roles.</p>
      <TrialForm trial={trial} hindrance={hindrance} complete={prompt !== ""} verb="Complete" onSubmit={send} onShow={() => onShow(asked)}>
        <label>
          <span>Text</span>
          <textarea rows={5} value={prompt} onInput={(event) => setPrompt(event.currentTarget.value)} />
        </label>
      </TrialForm>
      {answer && (
        <figure class="result" aria-busy={trial.running}>
          <figcaption><span>Continuation</span><CopyButton text={answer.text} what="the continuation" /></figcaption>
          <p class="said"><span class="given">{answer.prompt}</span><span class="made">{answer.text}</span></p>
          <p class="figures" role="status">{figures}</p>
        </figure>
      )}
    </>
  );
}
