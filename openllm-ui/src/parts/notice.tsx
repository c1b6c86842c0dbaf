/** What is wrong between the page and the server, and what mends it. Nothing where all is well. */

import type { Connection } from "../connection.js";
import { useWatched } from "../store.js";

export function Notice({ connection, onKey }: { connection: Connection; onKey(): void }) {
  useWatched(connection);
  const { state, text, address } = connection;
  switch (state) {
    case "ready":
    case "asking":
      return null;
    case "key":
      return (
        <div class="notice" role="alert">
          <p><strong>This server wants a key.</strong> {connection.hasKey ? "The one that was sent is not known there." : ""}</p>
          <button type="button" class="primary" onClick={onKey}>Enter a key</button>
        </div>
      );
    case "loading":
      return <div class="notice calm" role="status"><p><span class="busy" /><strong>The model is not ready yet.</strong> {text}</p></div>;
    case "empty":
      return (
        <div class="notice" role="alert">
          <p><strong>There is no model to ask.</strong> The server at {address.url} lists none{connection.hasKey ? " for this key" : ""}; this page looks again by itself.</p>
        </div>
      );
    default:
      return (
        <div class="notice" role="alert">
          <p>
            <strong>{text}</strong>{" "}
            {state === "refused" ? "" : "Is it running? `openllm start` starts one. This page tries again by itself; what you wrote is kept."}
          </p>
          <button type="button" onClick={() => void connection.refresh()}>Try now</button>
        </div>
      );
  }
}
