/** A request as lines to copy: for a shell with curl, and for Python with the `openai` package. The key is never in them. */

import type { Asked } from "./server.js";

/** What a snippet has to know of the server. */
export interface Place {
  address: string;
  keyed: boolean;
}

/** Fields of the wire that the `openai` package has no argument for. */
const EXTRA = new Set(["top_k", "min_p", "repetition_penalty"]);

const METHODS: Record<string, string> = {
  "/v1/chat/completions": "chat.completions",
  "/v1/completions": "completions",
  "/v1/embeddings": "embeddings",
};

/** A shell command. */
export function curlOf({ path, body }: Asked, { address, keyed }: Place): string {
  const lines = [
    `curl${body["stream"] === true ? " -N" : ""} ${shellQuoted(address + path)}`,
    ...(keyed ? ['  -H "Authorization: Bearer $OPENLLM_API_KEY"'] : []),
    "  -H 'Content-Type: application/json'",
    `  -d ${shellQuoted(JSON.stringify(body, null, 2))}`,
  ];
  return lines.join(" \\\n");
}

/** A Python program. */
export function pythonOf({ path, body }: Asked, { address, keyed }: Place): string {
  const streams = body["stream"] === true;
  const own = Object.entries(body).filter(([name]) => !EXTRA.has(name));
  const extra = Object.entries(body).filter(([name]) => EXTRA.has(name));
  const given = extra.length > 0 ? [...own, ["extra_body", Object.fromEntries(extra)] as const] : own;
  return [
    ...(keyed ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${python(address + "/v1")}, api_key=${keyed ? 'os.environ["OPENLLM_API_KEY"]' : '"none"'})`,
    `${streams ? "stream" : "answer"} = client.${METHODS[path]}.create(`,
    ...given.map(([name, value]) => `    ${name}=${python(value, 1)},`),
    ")",
    ...reading(path, streams, body["logprobs"] !== undefined),
    "",
  ].join("\n");
}

function reading(path: string, streams: boolean, scored: boolean): string[] {
  if (path === "/v1/embeddings") return ["print([len(item.embedding) for item in answer.data])"];
  if (!streams) return [scored ? "print(answer.choices[0].logprobs)" : "print(answer.choices[0].text)"];
  const text = path === "/v1/completions" ? "text" : "delta.content";
  return [
    "for chunk in stream:",
    "    if chunk.choices:",
    `        print(chunk.choices[0].${text} or "", end="", flush=True)`,
    "print()",
  ];
}

/** A JSON value as a Python literal. */
export function python(value: unknown, depth = 0): string {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const pad = "    ".repeat(depth + 1);
  const end = "\n" + "    ".repeat(depth);
  if (Array.isArray(value)) {
    if (value.length === 0) return "[]";
    return `[\n${value.map((each) => `${pad}${python(each, depth + 1)},`).join("\n")}${end}]`;
  }
  const entries = Object.entries(value);
  if (entries.every(([, each]) => typeof each !== "object")) {
    return `{${entries.map(([name, each]) => `${JSON.stringify(name)}: ${python(each)}`).join(", ")}}`;
  }
  return `{\n${entries.map(([name, each]) => `${pad}${JSON.stringify(name)}: ${python(each, depth + 1)},`).join("\n")}${end}}`;
}

function shellQuoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
