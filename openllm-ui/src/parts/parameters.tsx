/** The sampling parameters and the system prompt. */

import { useId } from "preact/hooks";

import { faultOf, FIELDS, type Field } from "../requests.js";
import { NOTHING_SET, type Sampling } from "../settings.js";
import { CloseIcon } from "./icons.js";

export interface ParametersProps {
  sampling: Sampling;
  onSampling(sampling: Sampling): void;
  /** undefined where there is none to give: completions have no system prompt. */
  system?: string | undefined;
  onSystem?(system: string): void;
  onClose(): void;
}

export function Parameters({ sampling, onSampling, system, onSystem, onClose }: ParametersProps) {
  const set = (name: keyof Sampling, value: string): void => onSampling({ ...sampling, [name]: value });
  const anySet = Object.values(sampling).some((value) => value !== "");
  return (
    <>
      <header>
        <h2>Parameters</h2>
        <button type="button" class="quiet only-icon" aria-label="Close the parameters" onClick={onClose}><CloseIcon /></button>
      </header>
      {system !== undefined && (
        <label>
          <span>System prompt</span>
          <textarea rows={4} value={system} placeholder="How the model should behave, in this conversation"
            onInput={(event) => onSystem?.(event.currentTarget.value)} />
        </label>
      )}
      <p class="hint">An empty field is left to the server.</p>
      {FIELDS.map((field) => <NumberField key={field.name} field={field} value={sampling[field.name]} onValue={set} />)}
      <label>
        <span>Stop at</span>
        <textarea rows={2} value={sampling.stop} placeholder="One text a line"
          onInput={(event) => set("stop", event.currentTarget.value)} />
      </label>
      <button type="button" disabled={!anySet} onClick={() => onSampling(NOTHING_SET)}>Leave all to the server</button>
    </>
  );
}

interface NumberFieldProps {
  field: Field;
  value: string;
  onValue(name: keyof Sampling, value: string): void;
}

function NumberField({ field, value, onValue }: NumberFieldProps) {
  const id = useId();
  const fault = faultOf(field, value);
  return (
    <div class="field">
      <label for={id}>{field.label}</label>
      <input id={id} type="text" inputMode={field.min < 0 ? "text" : field.whole ? "numeric" : "decimal"} value={value}
        placeholder="default" aria-describedby={`${id}-help`} aria-invalid={fault !== ""} autoComplete="off"
        onInput={(event) => onValue(field.name, event.currentTarget.value)} />
      <p id={`${id}-help`} class={fault ? "problem" : "hint"}>{fault ? `${fault} It is not sent.` : field.help}</p>
    </div>
  );
}
