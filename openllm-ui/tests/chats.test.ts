/** Conversations: what is sent, and what is kept of every way an answer can end. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Chats, type Asking } from "../src/chats.js";
import { restored } from "../src/conversation.js";
import type { Problem, Server } from "../src/server.js";
import { NOTHING_SET } from "../src/settings.js";
import { chunk, eventStream, json, MemoryArchive, serverOf, USAGE } from "./fake.js";

function askingOf(server: Server, problems: Problem[] = []): Asking {
  return { server, model: "m", sampling: { ...NOTHING_SET, temperature: "0" }, onProblem: (problem) => problems.push(problem) };
}

function bodyOf(call: { init: RequestInit } | undefined): Record<string, unknown> {
  return JSON.parse(String(call?.init.body)) as Record<string, unknown>;
}

test("an answer streams in, with its figures, and is kept", async () => {
  const { server, calls } = serverOf(() => eventStream([chunk("Hel"), chunk("lo", "stop"), USAGE, "[DONE]"]));
  const archive = new MemoryArchive();
  const chats = new Chats(archive);
  chats.setSystem(chats.current.id, "Be kind.");
  await chats.send("Hi", askingOf(server));
  const [user, answer] = chats.current.turns;
  assert.deepEqual([user?.text, answer?.text, answer?.facts?.end], ["Hi", "Hello", "whole"]);
  assert.equal(answer?.facts?.usage?.completion_tokens, 2);
  assert.ok((answer?.facts?.firstS ?? -1) >= 0);
  const body = bodyOf(calls[0]);
  assert.deepEqual(body["messages"], [{ role: "system", content: "Be kind." }, { role: "user", content: "Hi" }]);
  assert.deepEqual([body["model"], body["temperature"], body["stream"]], ["m", 0, true]);
  assert.equal(archive.kept.get(chats.current.id)?.turns[1]?.text, "Hello");
});

test("stopping ends the request, and what came is kept and marked", async () => {
  let signal: AbortSignal | null | undefined;
  const { server } = serverOf(({ init }) => {
    signal = init.signal;
    return eventStream([chunk("Half"), "wait"], init.signal);
  });
  const problems: Problem[] = [];
  const chats = new Chats(new MemoryArchive());
  const done = chats.send("Hi", askingOf(server, problems));
  while (chats.runningIn(chats.current.id)?.text !== "Half") await new Promise((resolve) => setTimeout(resolve, 1));
  chats.stop();
  await done;
  assert.equal(signal?.aborted, true);
  assert.deepEqual([chats.current.turns[1]?.text, chats.current.turns[1]?.facts?.end], ["Half", "stopped"]);
  assert.deepEqual(problems, []);
});

test("a stream that breaks keeps what came, says so, and can be asked for again", async () => {
  const answers = [
    [chunk("Half"), "cut"],
    [chunk("Half"), { error: { message: "The engine died.", type: "server_error", code: "engine_unavailable" } }],
    [chunk("No end mark")],
    [chunk("Whole", "stop"), "[DONE]"],
  ];
  const { server, calls } = serverOf(() => eventStream(answers.shift() ?? []));
  const problems: Problem[] = [];
  const chats = new Chats(new MemoryArchive());
  await chats.send("Hi", askingOf(server, problems));
  assert.deepEqual([chats.current.turns[1]?.text, chats.current.turns[1]?.facts?.end], ["Half", "cut"]);
  assert.match(chats.current.turns[1]?.facts?.problem ?? "", /connection broke/);
  await chats.regenerate(askingOf(server, problems));
  assert.equal(chats.current.turns[1]?.facts?.problem, "The engine died.");
  await chats.regenerate(askingOf(server, problems));
  assert.deepEqual([chats.current.turns[1]?.text, chats.current.turns[1]?.facts?.end], ["No end mark", "cut"]);
  await chats.regenerate(askingOf(server, problems));
  assert.deepEqual(chats.current.turns.map((turn) => turn.text), ["Hi", "Whole"]);
  assert.equal(problems.length, 3);
  assert.deepEqual(bodyOf(calls[3])["messages"], [{ role: "user", content: "Hi" }]);
});

test("a refused request is told as what it is", async () => {
  const refusals = [
    json({ error: { message: "Give a key.", type: "invalid_request_error", code: "invalid_api_key" } }, 401),
    json({ error: { message: "top_p must be > 0.", type: "invalid_request_error", code: "invalid_value" } }, 400),
  ];
  const { server } = serverOf(() => refusals.shift() ?? json({}));
  const problems: Problem[] = [];
  const chats = new Chats(new MemoryArchive());
  await chats.send("Hi", askingOf(server, problems));
  await chats.regenerate(askingOf(server, problems));
  assert.deepEqual(problems, [{ kind: "key", text: "Give a key." }, { kind: "refused", text: "top_p must be > 0." }]);
});

test("a question that got no answer is not sent again with the next one", async () => {
  const answers = [["cut"], [chunk("Yes", "stop"), "[DONE]"]];
  const { server, calls } = serverOf(() => eventStream(answers.shift() ?? []));
  const chats = new Chats(new MemoryArchive());
  await chats.send("First", askingOf(server));
  await chats.send("Second", askingOf(server));
  assert.deepEqual(bodyOf(calls[1])["messages"], [{ role: "user", content: "Second" }]);
});

test("answers run on in a conversation that is not shown; a deleted one's is stopped", async () => {
  const signals: (AbortSignal | null | undefined)[] = [];
  const { server } = serverOf(({ init }) => {
    signals.push(init.signal);
    return eventStream([chunk("a"), "wait"], init.signal);
  });
  const archive = new MemoryArchive();
  const chats = new Chats(archive);
  const first = chats.current.id;
  const done = chats.send("One", askingOf(server));
  chats.create("");
  assert.notEqual(chats.current.id, first);
  assert.ok(chats.runningIn(first));
  chats.remove(first);
  await done;
  assert.equal(signals[0]?.aborted, true);
  assert.equal(archive.kept.has(first), false);
  assert.equal(chats.list.some((each) => each.id === first), false);
});

test("what was kept comes back, the latest first; an answer that the page's end cut is marked", async () => {
  const archive = new MemoryArchive();
  const turns = [{ id: "a", role: "assistant" as const, text: "Ha", facts: { model: "m", end: "running" as const } }];
  archive.save({ id: "old", title: "Old", system: "", turns, changed: 1 });
  archive.save({ id: "new", title: "New", system: "", turns, changed: 2 });
  const chats = new Chats({ ...archive, lasting: true, load: () => Promise.resolve([...archive.kept.values()].map((each) => restored(each)!)), save: () => {}, remove: () => {} });
  await chats.restore();
  assert.deepEqual(chats.list.slice(1).map((each) => each.id), ["new", "old"]);
  chats.open("old");
  assert.equal(chats.current.turns[0]?.facts?.end, "cut");
});

test("a message is taken back to be written anew, with what followed it", async () => {
  const { server } = serverOf(() => eventStream([chunk("A", "stop"), "[DONE]"]));
  const chats = new Chats(new MemoryArchive());
  await chats.send("One", askingOf(server));
  await chats.send("Two", askingOf(server));
  assert.equal(chats.takeBack(chats.current.turns[2]!.id), "Two");
  assert.deepEqual(chats.current.turns.map((turn) => turn.text), ["One", "A"]);
});

test("what another program left in the archive does no harm", () => {
  for (const junk of [null, 1, "x", [], {}, { id: 1, turns: [] }, { id: "a" }]) assert.equal(restored(junk), undefined);
  assert.deepEqual(restored({ id: "a", turns: [null, { role: "x", text: "y" }, { role: "user", text: 1 }] })?.turns, []);
});
