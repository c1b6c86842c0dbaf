/** A row of tabs, as screen readers and the arrow keys expect one. */

import { useRef } from "preact/hooks";

export interface TabsProps<Name extends string> {
  label: string;
  tabs: readonly (readonly [Name, string])[];
  chosen: Name;
  onChoose(name: Name): void;
  /** Id of the element that shows what was chosen. */
  panel: string;
}

const STEPS: Record<string, number> = { ArrowRight: 1, ArrowLeft: -1 };

export function Tabs<Name extends string>({ label, tabs, chosen, onChoose, panel }: TabsProps<Name>) {
  const row = useRef<HTMLDivElement>(null);
  const move = (event: KeyboardEvent): void => {
    const at = tabs.findIndex(([name]) => name === chosen);
    const ends: Record<string, number> = { Home: 0, End: tabs.length - 1 };
    const step = STEPS[event.key];
    const to = step === undefined ? ends[event.key] : (at + step + tabs.length) % tabs.length;
    const next = to === undefined ? undefined : tabs[to];
    if (to === undefined || next === undefined) return;
    event.preventDefault();
    onChoose(next[0]);
    row.current?.querySelectorAll("button")[to]?.focus();
  };
  return (
    <div class="tabs" role="tablist" aria-label={label} ref={row} onKeyDown={move}>
      {tabs.map(([name, title]) => (
        <button key={name} type="button" role="tab" aria-selected={name === chosen} aria-controls={panel}
          tabIndex={name === chosen ? 0 : -1} onClick={() => onChoose(name)}>{title}</button>
      ))}
    </div>
  );
}
