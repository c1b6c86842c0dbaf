/** Addresses, requests, snippets, settings and titles: values in, values out. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { addressOf, pageFor, readAddress } from "../src/address.js";
import { emptyConversation, newId, speedOf, titleOf } from "../src/conversation.js";
import { decoded, safeHref } from "../src/markdown/inline.js";
import { cosine } from "../src/playground/embeddings.js";
import { chatRequest, faultOf, FIELDS, samplingOf, shownChatRequest } from "../src/requests.js";
import { isTrusted, loadKey, loadSettings, NOTHING_SET, saveKey, saveSettings, trust } from "../src/settings.js";
import { curlOf, python, pythonOf } from "../src/snippets.js";
import { memoryStores } from "./fake.js";

test("the page talks to the server that it came from, behind a prefix too", () => {
  assert.deepEqual(addressOf("http://host:3000/"), { url: "http://host:3000", own: true });
  assert.deepEqual(addressOf("http://host:3000/chat#playground"), { url: "http://host:3000", own: true });
  assert.deepEqual(addressOf("https://host/llm/chat?x=1"), { url: "https://host/llm", own: true });
});

test("or to the one that its address names, where that is one", () => {
  assert.deepEqual(addressOf("http://host/?endpoint=other:4000/a/"), { url: "http://other:4000/a", own: false });
  assert.deepEqual(addressOf("http://host/?endpoint=http://host/"), { url: "http://host", own: true });
  for (const bad of ["javascript:alert(1)", "http://user:secret@host", "http://", "http://a?b", "ftp://a"]) {
    assert.equal(addressOf(`http://host/?endpoint=${encodeURIComponent(bad)}`), undefined, bad);
  }
  assert.equal(pageFor("http://host/chat", "http://other"), "http://host/chat?endpoint=http%3A%2F%2Fother");
  assert.equal(pageFor("http://host/chat?endpoint=http://other", ""), "http://host/chat");
  assert.equal(readAddress(" localhost:3000 "), "http://localhost:3000");
});

test("empty fields are not sent, faulty ones neither, and both are told apart", () => {
  const sampling = { ...NOTHING_SET, temperature: "0.5", top_k: "1.5", max_tokens: " 12 ", seed: "-3", top_p: "2", stop: "a\n\nb" };
  assert.deepEqual(samplingOf(sampling), { temperature: 0.5, max_tokens: 12, seed: -3, stop: ["a", "b"] });
  const field = (name: string) => FIELDS.find((each) => each.name === name)!;
  assert.equal(faultOf(field("top_p"), "2"), "This must be at most 1.");
  assert.equal(faultOf(field("top_k"), "1.5"), "This must be a whole number.");
  assert.equal(faultOf(field("temperature"), "warm"), "This is not a number.");
  assert.equal(faultOf(field("temperature"), ""), "");
  assert.equal("system" in chatRequest("m", "  ", [], NOTHING_SET).body, false);
});

test("the request that is shown is the one of the last answer", () => {
  const turns = [{ id: "1", role: "user" as const, text: "Q" }, { id: "2", role: "assistant" as const, text: "A" }];
  assert.deepEqual(shownChatRequest("m", "", turns, NOTHING_SET), chatRequest("m", "", turns.slice(0, 1), NOTHING_SET));
  assert.deepEqual(shownChatRequest("m", "", [], NOTHING_SET).body["messages"], [{ role: "user", content: "Hello!" }]);
});

test("text of a model becomes no link that runs, and no markup", () => {
  for (const bad of ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "java&#x0A;script:alert(1)", "&#106;avascript:alert(1)", "data:text/html,x", "vbscript:x", "//host/x", "/docs", "file:///etc/passwd", "blob:x"]) {
    assert.equal(safeHref(bad), undefined, bad);
  }
  assert.equal(safeHref("https://example.org/a?b&amp;c"), "https://example.org/a?b&c");
  assert.equal(decoded("a &lt;b&gt; &amp; &#65;&#x42; &unknown; &#0; &#xD800;"), "a <b> & AB &unknown; \ufffd \ufffd");
});

test("a shell and Python are given exactly what would be sent", () => {
  const asked = { path: "/v1/chat/completions", body: { model: "m", messages: [{ role: "user", content: "it's \"$x\" `y`\n" }], top_k: 3, stream: true } };
  const place = { address: "http://h:1", keyed: true };
  assert.match(curlOf(asked, place), /^curl -N http:\/\/h:1\/v1\/chat\/completions \\\n {2}-H "Authorization: Bearer \$OPENLLM_API_KEY" \\\n/);
  assert.match(curlOf(asked, place), /it'\\''s/);
  assert.match(pythonOf(asked, place), /extra_body=\{"top_k": 3\},/);
  assert.match(pythonOf(asked, place), /api_key=os\.environ\["OPENLLM_API_KEY"\]/);
  assert.match(pythonOf(asked, { ...place, keyed: false }), /api_key="none"/);
  assert.equal(python([true, null, 1.5, "é\n"]), '[\n    True,\n    None,\n    1.5,\n    "é\\n",\n]');
});

test("settings come back; what is damaged does no harm", () => {
  const stores = memoryStores();
  const settings = { sampling: { ...NOTHING_SET, seed: "1" }, system: "s", theme: "dark" as const, model: "m" };
  saveSettings(stores, settings);
  assert.deepEqual(loadSettings(stores), settings);
  for (const junk of ["", "{", "null", "[]", '{"theme":"loud","sampling":{"seed":1},"model":2}', '{"sampling":null}']) {
    stores.lasting.setItem("openllm.settings", junk);
    assert.deepEqual(loadSettings(stores), { sampling: NOTHING_SET, system: "", theme: "system", model: "" }, junk);
  }
});

test("a key belongs to one server, and lasts as long as was chosen", () => {
  const stores = memoryStores();
  saveKey(stores, "http://a", "k", false);
  assert.deepEqual(loadKey(stores, "http://a"), { key: "k", remembered: false });
  assert.equal(loadKey(stores, "http://b").key, "");
  assert.equal(stores.lasting.getItem("openllm.key:http://a"), null);
  saveKey(stores, "http://a", "k", true);
  assert.deepEqual(loadKey(stores, "http://a"), { key: "k", remembered: true });
  assert.equal(stores.session.getItem("openllm.key:http://a"), null);
  saveKey(stores, "http://a", "", true);
  assert.deepEqual(loadKey(stores, "http://a"), { key: "", remembered: false });
});

test("another server is talked to only once that was agreed to", () => {
  const stores = memoryStores();
  assert.equal(isTrusted(stores, "http://a"), false);
  trust(stores, "http://a");
  assert.deepEqual([isTrusted(stores, "http://a"), isTrusted(stores, "http://b")], [true, false]);
});

test("titles, speeds, likeness and ids", () => {
  const conversation = emptyConversation("");
  assert.equal(titleOf(conversation), "New conversation");
  conversation.turns.push({ id: "1", role: "user", text: ` ${"word ".repeat(20)}` });
  assert.ok(titleOf(conversation).length <= 48 && titleOf(conversation).endsWith("…"));
  assert.equal(speedOf({ model: "m", end: "whole", usage: { prompt_tokens: 1, completion_tokens: 11, total_tokens: 12 }, firstS: 1, totalS: 3 }), 5);
  assert.equal(speedOf({ model: "m", end: "whole" }), undefined);
  assert.equal(cosine([1, 0], [0, 1]), 0);
  assert.equal(cosine([3, 4], [3, 4]), 1);
  assert.equal(cosine([0, 0], [1, 1]), 0);
  assert.notEqual(newId(), newId());
});
