/** Client of an OpenLLM server. See README.md. */

export { OpenLLM, textOf, type CallOptions, type ClientOptions, type GenerateOptions } from "./client.js";
export {
  BadRequest,
  ConnectionFailed,
  InvalidSetting,
  MalformedResponse,
  NotFound,
  OpenLLMError,
  RateLimited,
  ServerError,
  StatusError,
  StreamInterrupted,
  TimedOut,
  Unauthorized,
} from "./errors.js";
export type * from "./messages.js";
