/** Things that change and are watched: the one seam between the state of the pages and what shows it. */

import { useEffect, useState } from "preact/hooks";

/** Tells its watchers that something changed. */
export class Watched {
  private readonly watchers = new Set<() => void>();

  watch(watcher: () => void): () => void {
    this.watchers.add(watcher);
    return () => void this.watchers.delete(watcher);
  }

  protected tell(): void {
    for (const watcher of [...this.watchers]) watcher();
  }
}

/** Render the component that calls this again when one of them changes; at most once a frame. */
export function useWatched(...all: Watched[]): void {
  const [, again] = useState(0);
  useEffect(() => {
    let frame = 0;
    const soon = (): void => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        again((n) => n + 1);
      });
    };
    const ends = all.map((each) => each.watch(soon));
    soon(); // what changed before this began to watch
    return () => {
      cancelAnimationFrame(frame);
      for (const end of ends) end();
    };
  }, all);
}
