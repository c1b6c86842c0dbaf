/** A server that says what a test tells it to. */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export type Answer = (request: IncomingMessage, response: ServerResponse, body: string) => void;

export interface Scripted {
  address: string;
  /** Requests so far, as "METHOD path". */
  seen: string[];
  close: () => Promise<void>;
}

/** Start one; `answers` are given in turn, the last one again and again. */
export async function scripted(...answers: Answer[]): Promise<Scripted> {
  const seen: string[] = [];
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (part: Buffer) => (body += part.toString()));
    request.on("end", () => {
      const answer = answers[Math.min(seen.length, answers.length - 1)];
      seen.push(`${request.method} ${request.url}`);
      answer?.(request, response, body);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = (): Promise<void> => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(() => resolve()));
  };
  return { address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen, close };
}

export function json(status: number, data: unknown, headers: Record<string, string> = {}): Answer {
  return (_, response) => {
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(JSON.stringify(data));
  };
}

export function events(...parts: (string | Uint8Array)[]): Answer {
  return (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (const part of parts) response.write(part);
    response.end();
  };
}

export function refusal(message: string, code: string | null = null): unknown {
  return { error: { message, type: "invalid_request_error", param: "prompt", code } };
}

export const GENERATED = { responses: ["Hello."], configuration: {} };
export const frame = (text: string): string =>
  `data: ${JSON.stringify({ index: 0, text, token_ids: [1], finish_reason: null })}\n\n`;
