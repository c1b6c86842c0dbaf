/** Pieces that come faster than they can be shown: the page draws in between, and none is lost. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { paced } from "../src/pace.js";

async function* numbers(count: number): AsyncGenerator<number> {
  for (let i = 0; i < count; i++) yield i;
}

function work(ms: number): void {
  const until = performance.now() + ms;
  while (performance.now() < until);
}

test("a frame is drawn whenever the work on pieces took long enough, and all pieces come in order", async () => {
  const frames: number[] = [];
  const got: number[] = [];
  for await (const i of paced(numbers(12), async () => void frames.push(got.length))) {
    got.push(i);
    work(3);
  }
  assert.deepEqual(got, [...Array(12).keys()]);
  assert.ok(frames.length >= 3, String(frames)); // 12 pieces of 3 ms, 8 ms in one go
});

test("pieces that cost nothing wait for no frame", async () => {
  let frames = 0;
  for await (const _ of paced(numbers(50), async () => void frames++));
  assert.ok(frames <= 1);
});

test("who leaves the loop ends what the pieces come from", async () => {
  let ended = false;
  async function* endless(): AsyncGenerator<number> {
    try {
      for (;;) yield 1;
    } finally {
      ended = true;
    }
  }
  for await (const _ of paced(endless(), async () => undefined)) break;
  assert.ok(ended);
});
