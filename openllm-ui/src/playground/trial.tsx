/** What the playground's forms share: a request that can be sent, stopped and shown, and how it failed. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { CodeIcon } from "../parts/icons.js";
import { problemOf } from "../server.js";
import type { PlaygroundProps } from "./playground.js";

export interface Trial {
  running: boolean;
  /** Why the last request failed; "" where it did not. */
  problem: string;
  /** Run `ask` until it ends or is stopped. */
  begin(ask: (signal: AbortSignal) => Promise<void>): void;
  stop(): void;
}

export function useTrial({ server, onProblem }: PlaygroundProps): Trial {
  const [running, setRunning] = useState(false);
  const [problem, setProblem] = useState("");
  const controller = useRef<AbortController | undefined>(undefined);
  useEffect(() => () => controller.current?.abort(), []);
  const begin = (ask: (signal: AbortSignal) => Promise<void>): void => {
    const mine = new AbortController();
    controller.current?.abort();
    controller.current = mine;
    setRunning(true);
    setProblem("");
    const failed = (error: unknown): void => {
      if (mine.signal.aborted) return;
      const found = problemOf(error, server.address);
      setProblem(found.text);
      onProblem(found);
    };
    void ask(mine.signal).catch(failed).finally(() => {
      if (controller.current === mine) setRunning(false);
    });
  };
  return { running, problem, begin, stop: () => controller.current?.abort() };
}

export interface TrialFormProps {
  trial: Trial;
  /** Why nothing can be sent now; "" where it can. */
  hindrance: string;
  /** Whether there is something to send. */
  complete: boolean;
  verb: string;
  onSubmit(): void;
  onShow(): void;
  children: ComponentChildren;
}

export function TrialForm({ trial, hindrance, complete, verb, onSubmit, onShow, children }: TrialFormProps) {
  const sendable = complete && hindrance === "" && !trial.running;
  const submit = (event: Event): void => {
    event.preventDefault();
    if (sendable) onSubmit();
  };
  const keyed = (event: KeyboardEvent): void => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
    if (event.key === "Escape") trial.stop();
  };
  return (
    <form onSubmit={submit} onKeyDown={keyed}>
      {children}
      <div class="actions">
        {trial.running
          ? <button type="button" class="primary" onClick={trial.stop}>Stop</button>
          : <button type="submit" class="primary" disabled={!sendable}>{verb}</button>}
        <button type="button" class="quiet" onClick={onShow}><CodeIcon /><span>As code</span></button>
        <span class="hint">{hindrance || "Ctrl+Enter sends"}</span>
      </div>
      {trial.problem && <p class="problem" role="alert">{trial.problem}</p>}
    </form>
  );
}
