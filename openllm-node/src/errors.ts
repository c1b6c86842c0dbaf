/**
 * What a call can end with besides its answer. Every error has a stable `code` to branch on and, where there is one, a
 * `hint` that mends it; the names are those of the Python client. A call that its caller aborted rejects with the
 * signal's own reason instead.
 *
 *     OpenLLMError
 *     ├─ InvalidSetting            an argument of the constructor is unusable
 *     ├─ ConnectionFailed          nothing answered
 *     ├─ TimedOut                  it took, or was silent, for too long
 *     ├─ StreamInterrupted         a stream ended before its end mark
 *     ├─ MalformedResponse         the answer is none of an OpenLLM server
 *     └─ StatusError               the server refused
 *        └─ BadRequest · Unauthorized · NotFound · RateLimited · ServerError
 */

const MAX_SHOWN = 500;

/** Root of all errors of this package. */
export class OpenLLMError extends Error {
  readonly code: string;
  readonly hint: string | undefined;

  constructor(message: string, code: string, options: { hint?: string | undefined; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.hint = options.hint;
  }
}

/** An argument or environment variable cannot be used. */
export class InvalidSetting extends OpenLLMError {
  constructor(message: string, hint?: string) {
    super(message, "invalid_setting", { hint });
  }
}

/** No connection came about, or it broke before the answer was whole. */
export class ConnectionFailed extends OpenLLMError {
  constructor(message: string, cause?: unknown) {
    super(message, "connection_failed", { hint: "Is the server running? `openllm start` starts one.", cause });
  }
}

/** The answer was not complete in time, or a stream fell silent. */
export class TimedOut extends OpenLLMError {
  constructor(message: string) {
    super(message, "timed_out", { hint: "Pass a larger timeoutMs." });
  }
}

/** A stream ended without its end mark: what came so far is not the whole answer. */
export class StreamInterrupted extends OpenLLMError {
  constructor(message: string, cause?: unknown) {
    super(message, "stream_interrupted", { cause });
  }
}

/** The answer is not what its route answers. */
export class MalformedResponse extends OpenLLMError {
  constructor(message: string) {
    super(message, "malformed_response", { hint: "Is an OpenLLM server behind this address?" });
  }
}

/** What is known of a refusal. */
export interface Refusal {
  /** HTTP status; undefined for an error in the middle of a stream, which began with 200. */
  status?: number | undefined;
  code?: string | undefined;
  /** Field at fault. */
  param?: string | undefined;
  /** Seconds after which the server wants to be asked again. */
  retryAfterS?: number | undefined;
  requestId?: string | undefined;
  hint?: string | undefined;
}

/** The server refused. */
export class StatusError extends OpenLLMError {
  readonly status: number | undefined;
  readonly param: string | undefined;
  readonly retryAfterS: number | undefined;
  readonly requestId: string | undefined;

  constructor(message: string, refusal: Refusal) {
    super(message, refusal.code ?? "status_error", { hint: refusal.hint });
    this.status = refusal.status;
    this.param = refusal.param;
    this.retryAfterS = refusal.retryAfterS;
    this.requestId = refusal.requestId;
  }
}

/** 400, 405, 413, 415, 422: the request cannot be served as it is. */
export class BadRequest extends StatusError {}
/** 401, 403: the key is missing, wrong, or not enough. */
export class Unauthorized extends StatusError {}
/** 404: no such route or model. */
export class NotFound extends StatusError {}
/** 429, or a refusal for load: nothing was generated; try again after `retryAfterS`. */
export class RateLimited extends StatusError {}
/** 5xx. */
export class ServerError extends StatusError {}

const BAD_REQUEST = new Set([400, 405, 408, 413, 415, 422, 431]);
const BY_TYPE: Record<string, typeof StatusError> = {
  invalid_request_error: BadRequest,
  rate_limit_error: RateLimited,
  authentication_error: Unauthorized,
};

/** The typed error of an answer that is not 200. */
export function refusalOf(address: string, status: number, headers: Headers, body: string): StatusError {
  const detail = detailOf(body);
  let message = detail.message || `HTTP ${status} without a reason`;
  let hint: string | undefined;
  if (status >= 300 && status < 400) {
    message = `redirects to ${shown(headers.get("location") ?? "nowhere")}`;
    hint = "Redirects are not followed: use the address it redirects to.";
  } else if (status === 401) {
    hint = "Pass apiKey, or set OPENLLM_API_KEY.";
  } else if (status === 404 && (detail.code === undefined || detail.code === "unknown_url")) {
    hint = "Is an OpenLLM server behind this address?";
  }
  return new (classOf(status, detail.code))(`${address} answered ${status}: ${message}`, {
    status,
    code: detail.code,
    param: detail.param,
    retryAfterS: retryAfterS(headers),
    requestId: headers.get("x-request-id") ?? undefined,
    hint,
  });
}

/** The typed error of an `error` event. */
export function errorInStream(error: unknown, requestId: string | undefined): StatusError {
  const detail = detailOf(JSON.stringify({ error }));
  const found = detail.code === "server_is_overloaded" ? RateLimited : (BY_TYPE[detail.type ?? ""] ?? ServerError);
  const message = detail.message || "the server reported a failure without a reason";
  return new found(`The answer broke off: ${message}`, { code: detail.code, param: detail.param, requestId });
}

/** Seconds that `Retry-After` asks for, a number or a date; undefined where it is absent or unreadable. */
export function retryAfterS(headers: Headers): number | undefined {
  const text = headers.get("retry-after")?.trim();
  if (!text) return undefined;
  const seconds = Number.isNaN(Number(text)) ? (Date.parse(text) - Date.now()) / 1000 : Number(text);
  return Number.isFinite(seconds) ? Math.max(0, seconds) : undefined;
}

/** A stranger's text, fit for one line of a terminal or a log. */
export function shown(text: string): string {
  const clean = text.slice(0, 2 * MAX_SHOWN).replace(/[\s\u0000-\u001f\u007f-\u009f]+/g, " ").trim();
  return clean.length <= MAX_SHOWN ? clean : clean.slice(0, MAX_SHOWN - 1) + "…";
}

function classOf(status: number, code: string | undefined): typeof StatusError {
  if (status === 429 || (status === 503 && code === "server_is_overloaded")) return RateLimited;
  if (status === 401 || status === 403) return Unauthorized;
  if (status === 404) return NotFound;
  if (BAD_REQUEST.has(status)) return BadRequest;
  return status >= 500 ? ServerError : StatusError;
}

interface Detail {
  message: string;
  code?: string | undefined;
  param?: string | undefined;
  type?: string | undefined;
}

function detailOf(body: string): Detail {
  let found: unknown;
  try {
    found = JSON.parse(body);
  } catch {
    return { message: shown(body) };
  }
  if (isRecord(found)) found = found["error"] ?? found["detail"] ?? found["message"] ?? found;
  if (!isRecord(found)) return { message: typeof found === "string" ? shown(found) : "" };
  const of = found;
  const text = (name: string): string | undefined =>
    typeof of[name] === "string" ? shown(of[name] as string) : undefined;
  return { message: text("message") ?? "", code: text("code"), param: text("param"), type: text("type") };
}

/** Whether a value is a JSON object. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
