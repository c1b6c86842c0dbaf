/** Markdown as elements: what a model writes is shown, and never read as HTML. */

import assert from "node:assert/strict";
import { test } from "node:test";

import type { ComponentChild, VNode } from "preact";

import { highlighted } from "../src/markdown/highlight.js";
import { Inline } from "../src/markdown/inline.js";
import { blocksOf } from "../src/markdown/blocks.js";
import { piecesOf } from "../src/parts/pieces.js";

/** The elements of plain function components, as nested text: enough to see what would be in the page. */
function drawn(node: ComponentChild): string {
  if (node === null || node === undefined || typeof node === "boolean") return "";
  if (Array.isArray(node)) return node.map(drawn).join("");
  if (typeof node !== "object") return String(node);
  const { type, props } = node as VNode<{ children?: ComponentChild; href?: string }>;
  if (typeof type === "function") return drawn((type as (props: unknown) => ComponentChild)(props));
  const inside = drawn(props.children);
  return props.href === undefined ? `[${type} ${inside}]` : `[${type} ${props.href} ${inside}]`;
}

function inlineOf(text: string): string {
  const [paragraph] = blocksOf(text);
  return drawn(<Inline tokens={(paragraph as { tokens?: [] }).tokens} />);
}

test("emphasis, code, links and breaks", () => {
  assert.equal(inlineOf("a **b** _c_ ~~d~~ `e<f>`"), "a [strong b] [em c] [del d] [code e<f>]");
  assert.equal(inlineOf("[x](https://example.org)"), "[a https://example.org/ x]");
  assert.equal(inlineOf("https://example.org/a"), "[a https://example.org/a https://example.org/a]");
  assert.equal(inlineOf("a<br>b &lt;i&gt;"), "a[br ]b <i>");
});

test("HTML is shown as the text it is", () => {
  assert.equal(inlineOf("x <script>alert(1)</script> y"), "x <script>alert(1)</script> y");
  assert.equal(inlineOf('x <img src=x onerror="alert(1)"> y'), 'x <img src=x onerror="alert(1)"> y');
});

test("links that would run something are plain text, and images are not loaded", () => {
  assert.equal(inlineOf("[x](javascript:alert(1))"), "[span x]");
  assert.equal(inlineOf("![cat](https://example.org/cat.png)"), "[a https://example.org/cat.png cat]");
});

test("code is coloured as elements; unknown languages and long code stay plain", () => {
  assert.ok(highlighted("def f():\n    return '<b>'", "python")?.map(drawn).join("").includes("[span def]"));
  assert.deepEqual(highlighted("x <b>", "no-such-language"), undefined);
  const long = "a = 1\n".repeat(5_000);
  assert.deepEqual(highlighted(long, "python"), undefined);
});

test("a long text comes in pieces of whole lines, and what is added changes the last of them only", () => {
  const text = Array.from({ length: 1_000 }, (_, i) => `line ${i} of a long text\n`).join("");
  const pieces = piecesOf(text);
  assert.equal(pieces.join(""), text);
  assert.ok(pieces.length > 5 && pieces.slice(0, -1).every((piece) => piece.endsWith("\n") && piece.length < 2_100));
  assert.deepEqual(piecesOf(text + "and more\n" + text).slice(0, pieces.length - 1), pieces.slice(0, -1));
  assert.deepEqual(piecesOf("x".repeat(5_000)), ["x".repeat(5_000)]);
});
