/** Markdown that grows: its blocks are those of the whole text, wherever the pieces were cut. */

import assert from "node:assert/strict";
import { test } from "node:test";

import type { Token, Tokens } from "marked";

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

/** `make` of 0, 1, 2 … in one text. */
function many(count: number, make: (i: number) => string): string {
  return Array.from({ length: count }, (_, i) => make(i)).join("");
}

/** What there is of a list or a table, in words. */
function parts(tokens: { type: string }[]): string[] {
  return (tokens as Token[]).flatMap((token) => {
    if (token.type === "list") return [`list from ${token["start"]}`, ...(token as Tokens.List).items.map(({ raw }) => raw.trimEnd())];
    if (token.type === "table") return ["table", ...(token as Tokens.Table).rows.map((row) => row.map(({ text }) => text).join("|"))];
    return [`${token.type}:${token.raw}`];
  });
}

const SERIES = {
  bullets: many(120, (i) => `- item ${i} with **bold**\n`),
  loose: many(120, (i) => `- item ${i}\n\n  and a paragraph\n\n`),
  numbers: many(120, (i) => `${i + 3}. item\n   - one\n   - two\n`),
  ones: many(120, (i) => `1. item ${i}\n`),
  indented: many(120, (i) => `${" ".repeat(i % 3)}- item ${i}\nlazy\n`),
  tasks: many(120, (i) => `- [${i % 2 ? "x" : " "}] do ${i}\n`),
  table: `| a | b |\n|---|--:|\n${many(120, (i) => `| ${i} | \`c\\|d\` |\n`)}`,
  bare: `a | b\n- | -\n${many(120, (i) => `${i} | x${i % 7 ? " | y" : ""}\n`)}`,
};

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

for (const [name, series] of Object.entries(SERIES)) {
  for (const [before, after] of [["", ""], ["Here it is:\n\n", "\nLast words."], ["# Title\n", "\n- \n\n***\n\n1. other\n"]]) {
    test(`a long series, cut anywhere, has the parts it has as a whole: ${name} after ${JSON.stringify(before)}`, () => {
      const text = before + series + after;
      const whole = parts(blocksOf(text));
      for (let run = 1; run <= 10; run++) {
        const random = numbers(run);
        const blocks = new Blocks();
        for (let at = 0; at < text.length; at += 1 + (random.next().value % 40)) blocks.read(text.slice(0, at));
        const found = blocks.read(text);
        assert.deepEqual(parts(found), whole, `run ${run}`);
        assert.equal(found.map(({ raw }) => raw).join(""), text);
      }
    });
  }
}

test("whatever is written, no part of it is lost", () => {
  const words = ["- ", "* ", "1. ", "2) ", "| a ", "|", "---", "\n", "\n", "\n\n", "  ", "    ", "> ", "```", "x", "**b**", "#", "[a]: b", "<b>", "- [ ] "];
  for (let run = 1; run <= 300; run++) {
    const random = numbers(run);
    const some = (): string => words[(random.next().value >> 8) % words.length] ?? "";
    const line = many(1 + (run % 4), some);
    const text = (run % 2 ? "a | b\n--|--\n" : "") + many(60, (i) => (i % 9 === 8 ? many(5, some) : "- " + line + "\n"));
    const blocks = new Blocks();
    for (let at = 0; at < text.length; at += 1 + (random.next().value % 60)) blocks.read(text.slice(0, at));
    assert.equal(blocks.read(text).map(({ raw }) => raw).join(""), blocksOf(text).map(({ raw }) => raw).join(""), `run ${run}: ${JSON.stringify(text)}`);
  }
});

test("settled items and rows are the same objects at the next reading, so that they are not drawn again", () => {
  for (const series of [SERIES.bullets, SERIES.table]) {
    const blocks = new Blocks();
    const first = blocks.read(series)[0];
    const next = blocks.read(series + series.slice(-20))[0];
    const [before, after] = [first, next].map((token) => (token?.type === "list" ? (token as Tokens.List).items : (token as Tokens.Table).rows));
    assert.ok((after?.length ?? 0) > 100);
    assert.equal(after?.filter((part, i) => part === before?.[i]).length, 118);
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

for (const [name, part] of [
  ["paragraphs", "Some words of a paragraph, **bold** and `code`, on and on.\n\n"],
  ["list", "- some words of an item\n  - one below it\n"],
  ["table", "| some words | **bold** | `code` |\n"],
]) {
  test(`a long answer costs the same per piece at its end as at its beginning: ${name}`, () => {
    const head = name === "table" ? "| a | b | c |\n|---|---|---|\n" : "";
    const text = head + part?.repeat(2_000).slice(0, 40_000); // 10,000 tokens
    const blocks = new Blocks();
    const took: number[] = [];
    for (let at = 0; at < text.length; at += 40) {
      const began = performance.now();
      blocks.read(text.slice(0, at));
      took.push(performance.now() - began);
    }
    const middle = (times: number[]): number => [...times].sort((a, b) => a - b)[Math.floor(times.length / 2)] ?? 0;
    assert.ok(middle(took.slice(-200)) < 5 * middle(took.slice(0, 200)) + 0.2);
  });
}
