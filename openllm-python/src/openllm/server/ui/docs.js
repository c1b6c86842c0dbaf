// Shows /openapi.json and lets one try each route. Plain DOM, text only: nothing the server says is ever read as HTML.
"use strict";

let key = "";

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Text in which `code` stands between backticks.
function prose(text) {
  return String(text || "").split("`").map((part, i) => (i % 2 ? make("code", null, part) : part));
}

function headers(body) {
  const made = body ? { "content-type": "application/json" } : {};
  if (key) made.authorization = "Bearer " + key;
  return made;
}

function shapeName(schema) {
  return schema && schema.$ref ? schema.$ref.split("/").pop() : null;
}

// A schema in a few words, with links to named shapes.
function inWords(schema) {
  if (!schema || Object.keys(schema).length === 0) return ["anything"];
  const name = shapeName(schema);
  if (name) return [make("a", { href: "#shape-" + name }, name)];
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" | ")];
  if (schema.anyOf) return schema.anyOf.flatMap((part, i) => (i ? [" or ", ...inWords(part)] : inWords(part)));
  if (schema.type === "array") return ["list of ", ...inWords(schema.items)];
  const type = Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type || "anything";
  return [type];
}

function bounds(schema) {
  const words = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<", minItems: "items ≥",
    maxItems: "items ≤", minLength: "length ≥", maxLength: "length ≤" };
  const exact = (number) => !Number.isInteger(number) || Number.isSafeInteger(number);  // 64-bit bounds are not, here
  return Object.entries(words).filter(([name]) => schema[name] !== undefined && exact(schema[name]))
    .map(([name, sign]) => `${sign} ${schema[name]}`).join(", ");
}

function shapeTable(shape) {
  const required = new Set(shape.required || []);
  const rows = Object.entries(shape.properties || {}).map(([name, schema]) => {
    const facts = [bounds(schema), required.has(name) ? "required" : null,
      schema.default !== undefined && schema.default !== null ? "default " + JSON.stringify(schema.default) : null];
    return make("tr", null,
      make("th", { scope: "row" }, make("code", null, name)),
      make("td", null, ...inWords(schema)),
      make("td", null, ...prose([schema.description, facts.filter(Boolean).join("; ")].filter(Boolean).join(" "))));
  });
  const head = make("tr", null, ...["Field", "Type", "Meaning"].map((text) => make("th", { scope: "col" }, text)));
  return make("table", null, make("thead", null, head), make("tbody", null, ...rows));
}

async function show(response, output, signal) {
  const lines = [`${response.status} ${response.statusText}`];
  for (const name of ["x-request-id", "retry-after", "x-openllm-ignored"]) {
    if (response.headers.get(name)) lines.push(`${name}: ${response.headers.get(name)}`);
  }
  output.textContent = lines.join("\n") + "\n\n";
  const kind = response.headers.get("content-type") || "";
  if (kind.startsWith("application/json")) {
    output.textContent += JSON.stringify(await response.json(), null, 2);
    return;
  }
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  for (;;) {
    const { done, value } = await reader.read();
    if (done || signal.aborted) break;
    output.textContent += decoder.decode(value, { stream: true });
    output.scrollTop = output.scrollHeight;
  }
}

function trial(method, path, example) {
  const output = make("pre", { role: "log", "aria-live": "polite", "aria-label": "Answer", tabindex: "0", hidden: true });
  const send = make("button", { type: "submit" }, "Send");
  const stop = make("button", { type: "button", disabled: true }, "Stop");
  const text = JSON.stringify(example, null, 2);
  const body = example === null ? null
    : make("textarea", { "aria-label": `Body of ${method} ${path}`, spellcheck: "false", rows: text.split("\n").length + 1 }, text);
  const form = make("form", null, body, make("div", { class: "row" }, send, stop), output);
  let running = null;
  stop.addEventListener("click", () => running && running.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    running = new AbortController();
    send.disabled = true;
    stop.disabled = false;
    output.hidden = false;
    output.textContent = "…";
    try {
      const options = { method, headers: headers(body), signal: running.signal };
      if (body) options.body = body.value;
      await show(await fetch(path, options), output, running.signal);
    } catch (error) {
      output.textContent += running.signal.aborted ? "\n(stopped)" : "\n" + error;
    }
    send.disabled = false;
    stop.disabled = true;
  });
  return make("details", null, make("summary", null, "Try it"), form);
}

function answers(responses) {
  const rows = Object.entries(responses).map(([status, response]) => {
    const kinds = Object.entries(response.content || {}).flatMap(([kind, content], i) =>
      [i ? ", " : "", ...inWords(content["x-event"] || content.schema), ` as ${kind}`]);
    return make("tr", null, make("th", { scope: "row" }, status), make("td", null, ...prose(response.description)),
      make("td", null, ...kinds));
  });
  const head = make("tr", null, ...["Status", "Meaning", "Answer"].map((text) => make("th", { scope: "col" }, text)));
  return make("details", null, make("summary", null, "Answers"),
    make("table", null, make("thead", null, head), make("tbody", null, ...rows)));
}

function article(path, method, operation) {
  const id = operation.operationId;
  const content = operation.requestBody && operation.requestBody.content["application/json"];
  const children = [
    make("h3", { id }, make("span", { class: "method" }, method.toUpperCase()), " ", make("code", null, path)),
    make("p", null, ...prose(operation.summary)),
  ];
  if (operation.security && operation.security.length === 0) children.push(make("p", { class: "note" }, "Needs no key."));
  if (content) children.push(make("p", null, "Takes ", ...inWords(content.schema), " as JSON."));
  children.push(answers(operation.responses));
  children.push(trial(method.toUpperCase(), path, content ? content.example || {} : null));
  return make("article", { "aria-labelledby": id }, ...children);
}

function render(description) {
  const byTag = new Map();
  for (const [path, item] of Object.entries(description.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      const tag = operation.tags[0];
      if (!byTag.has(tag)) byTag.set(tag, []);
      byTag.get(tag).push([path, method, operation]);
    }
  }
  const sections = [];
  const links = [];
  for (const [tag, operations] of byTag) {
    sections.push(make("h2", null, tag), ...operations.map((parts) => article(...parts)));
    links.push(...operations.map(([path, method, operation]) =>
      make("li", null, make("a", { href: "#" + operation.operationId, class: "path" }, `${method.toUpperCase()} ${path}`))));
  }
  document.getElementById("index").replaceChildren(...links);
  document.getElementById("routes").replaceChildren(...sections);
  const shapes = Object.entries(description.components.schemas).sort(([a], [b]) => a.localeCompare(b));
  document.getElementById("shapes").replaceChildren(...shapes.map(([name, shape]) =>
    make("article", { id: "shape-" + name }, make("h3", null, name), make("p", null, ...prose(shape.description)),
      shapeTable(shape))));
  document.getElementById("version").textContent = description.info.version;
}

async function load() {
  const state = document.getElementById("state");
  state.classList.remove("bad");
  try {
    const response = await fetch("/openapi.json", { headers: headers(false) });
    const body = await response.json();
    if (!response.ok) throw new Error(response.status === 401 ? "This server needs a key: type it below." : body.error.message);
    render(body);
    const ready = await fetch("/readyz");
    state.textContent = ready.ok ? "The model answers." : (await ready.json()).error.message;
  } catch (error) {
    state.classList.add("bad");
    state.textContent = error.message;
  }
}

document.getElementById("access").addEventListener("submit", (event) => {
  event.preventDefault();
  key = document.getElementById("key").value;
  load();
});
load();
