/** Markdown that grows: its blocks are those of the whole text, wherever the pieces were cut. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Blocks, blocksOf } from "../src/markdown/blocks.js";

const TEXT = `# Title

A paragraph with **bold**, \`code\` and a [link](https://example.org "t").
It goes on.

- one
- two

  with a paragraph

-
- four

1. first
   \`\`\`python
   def f():
       return 1
   \`\`\`
2. second

> quoted
> on

| a | b |
|---|--:|
| 1 | 2 |

Under
=====

\`\`\`js
const a = 1;

const b = "<script>";
\`\`\`

    indented

<b>html</b>

- [ ] to do
- [x] done

***

Last words, see [there][ref].

[ref]: https://example.org/ref
`;

function raws(tokens: { type: string; raw: string }[]): string[] {
  return tokens.map(({ type, raw }) => `${type}:${raw}`);
}

/** Numbers that look random and are the same in every run. */
function* numbers(seed: number): Generator<number, never> {
  for (;;) {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    yield seed;
  }
}

test("cut anywhere, the blocks are those of the whole text", () => {
  const whole = raws(blocksOf(TEXT));
  for (let run = 1; run <= 200; run++) {
    const random = numbers(run);
    const blocks = new Blocks();
    let at = 0;
    while (at < TEXT.length) {
      at = Math.min(TEXT.length, at + 1 + (random.next().value % 12));
      blocks.read(TEXT.slice(0, at));
    }
    assert.deepEqual(raws(blocks.read(TEXT)), whole, `run ${run}`);
  }
});

test("line ends of Windows and of old Macs are line ends", () => {
  const blocks = new Blocks();
  blocks.read("one\r");
  assert.deepEqual(raws(blocks.read("one\r\n\r\ntwo")), raws(blocksOf("one\n\ntwo")));
});

test("a settled block is the same object at the next reading, so that it is not drawn again", () => {
  const blocks = new Blocks();
  const text = "one\n\ntwo\n\nthree\n\nfour";
  const first = blocks.read(text)[0];
  assert.equal(blocks.read(text + " and more")[0], first);
});

test("another text is read anew", () => {
  const blocks = new Blocks();
  blocks.read("a long text\n\nof two paragraphs");
  assert.deepEqual(raws(blocks.read("short")), raws(blocksOf("short")));
});

test("a long answer costs the same per piece at its end as at its beginning", () => {
  const paragraph = "Some words of a paragraph, **bold** and `code`, on and on.\n\n";
  const blocks = new Blocks();
  const text = paragraph.repeat(700); // 40,000 characters, 10,000 tokens
  const took: number[] = [];
  for (let at = 0; at < text.length; at += 40) {
    const began = performance.now();
    blocks.read(text.slice(0, at));
    took.push(performance.now() - began);
  }
  const middle = (times: number[]): number => [...times].sort((a, b) => a - b)[Math.floor(times.length / 2)] ?? 0;
  assert.ok(middle(took.slice(-200)) < 5 * middle(took.slice(0, 200)) + 0.2);
});
