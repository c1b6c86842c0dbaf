/** Chooses among the served models and their adapters. */

import type { Model } from "../server.js";

export interface ModelPickerProps {
  models: Model[];
  chosen: string;
  onChoose(id: string): void;
}

export function ModelPicker({ models, chosen, onChoose }: ModelPickerProps) {
  const adapters = models.filter((model) => isAdapter(model, models));
  const bases = models.filter((model) => !isAdapter(model, models));
  const options = (of: Model[]) => of.map(({ id }) => <option key={id} value={id}>{id}</option>);
  return (
    <label class="picker">
      <span class="visually-hidden">{adapters.length > 0 ? "Model or adapter" : "Model"}</span>
      <select value={chosen} disabled={models.length === 0} onChange={(event) => onChoose(event.currentTarget.value)}>
        {models.length === 0 && <option value="">No model</option>}
        {adapters.length === 0 ? options(bases) : (
          <>
            <optgroup label="Model">{options(bases)}</optgroup>
            <optgroup label="Adapters">{options(adapters)}</optgroup>
          </>
        )}
      </select>
    </label>
  );
}

/** An adapter is listed after the names of the model; it names its base, where the caller may know it. */
function isAdapter(model: Model, models: Model[]): boolean {
  return typeof model.root === "string" && model.root !== model.id && models[0]?.id !== model.id;
}
