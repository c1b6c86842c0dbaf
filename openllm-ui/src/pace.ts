/** Keeps the page drawing while much comes in at once. Knows nothing of what comes. */

/** Milliseconds of work on pieces in one go: half of what a frame has at 60 a second, the rest is for drawing them. */
const TURN_MS = 8;
/** Milliseconds to wait for a frame: a page that is hidden meanwhile draws none. */
const NO_FRAME_MS = 100;

/** The same pieces. Those that wait already would all be taken in before the next frame; this lets one be drawn in between. */
export async function* paced<T>(pieces: AsyncIterable<T>, frame: () => Promise<void> = nextFrame): AsyncGenerator<T, void, undefined> {
  let began = performance.now();
  for await (const piece of pieces) {
    yield piece;
    if (performance.now() - began < TURN_MS) continue;
    await frame();
    began = performance.now();
  }
}

/** Resolves with the next frame; at once where none is drawn. */
function nextFrame(): Promise<void> {
  if (typeof document === "undefined" || document.hidden) return Promise.resolve();
  return new Promise((done) => {
    const timer = setTimeout(done, NO_FRAME_MS);
    requestAnimationFrame(() => {
      clearTimeout(timer);
      done();
    });
  });
}
