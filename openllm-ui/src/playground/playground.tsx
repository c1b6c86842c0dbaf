/** The playground: completions, log-probabilities and embeddings, without a chat around them. */

import { useState } from "preact/hooks";

import type { Asked, Problem, Server } from "../server.js";
import type { Sampling } from "../settings.js";
import { Tabs } from "../parts/tabs.js";
import { CompletionForm } from "./completion.js";
import { EmbeddingsForm } from "./embeddings.js";
import { LogprobsForm } from "./logprobs.js";

export interface PlaygroundProps {
  server: Server;
  model: string;
  sampling: Sampling;
  hindrance: string;
  /** Whether something else is shown. */
  hidden: boolean;
  onProblem(problem: Problem): void;
  /** Show a request as lines to copy. */
  onShow(asked: Asked): void;
}

const KINDS = [["completion", "Completion"], ["logprobs", "Log-probabilities"], ["embeddings", "Embeddings"]] as const;
type Kind = (typeof KINDS)[number][0];

export function Playground(props: PlaygroundProps) {
  const [kind, setKind] = useState<Kind>("completion");
  return (
    <section id="playground" role="tabpanel" aria-label="Playground" class="playground" hidden={props.hidden} tabIndex={-1}>
      <Tabs label="What to try" tabs={KINDS} chosen={kind} onChoose={(name: Kind) => setKind(name)} panel="trial" />
      <div id="trial" role="tabpanel" aria-label={KINDS.find(([name]) => name === kind)?.[1]}>
        {kind === "completion" && <CompletionForm {...props} />}
        {kind === "logprobs" && <LogprobsForm {...props} />}
        {kind === "embeddings" && <EmbeddingsForm {...props} />}
      </div>
    </section>
  );
}
