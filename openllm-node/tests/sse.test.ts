/** Events come out whole, however the text was cut. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { SSEDecoder } from "../src/sse.js";

const TEXT = 'data: {"a": 1}\n\n: a comment\r\n\r\nevent: x\r\ndata:first\r\ndata: second\r\n\r\ndata\r\rdata: [DONE]\n\ndata: cut';
const EVENTS = ['{"a": 1}', "first\nsecond", "", "[DONE]"];

test("every cut of a stream gives the same events, and an event without its empty line none", () => {
  for (let at = 0; at <= TEXT.length; at++) {
    const decoder = new SSEDecoder();
    assert.deepEqual([...decoder.feed(TEXT.slice(0, at)), ...decoder.feed(TEXT.slice(at))], EVENTS, `cut at ${at}`);
  }
});

test("one character at a time is the same too", () => {
  const decoder = new SSEDecoder();
  assert.deepEqual([...TEXT].flatMap((character) => decoder.feed(character)), EVENTS);
});
