/**
 * Server-sent events by the WHATWG standard: text in, the data of complete events out. Pure: it may be fed pieces cut
 * anywhere. Bytes become text before, by a streaming `TextDecoder`, which also takes the byte order mark away.
 */

export const DONE = "[DONE]";

/** Lines end with LF, CR or CRLF; several `data` lines are one text; an event without its empty line is never given. */
export class SSEDecoder {
  private rest = "";
  private data: string[] = [];
  private afterCR = false;

  /** Take the next text; return the data of each event that it completes. */
  feed(text: string): string[] {
    if (this.afterCR && text !== "") {
      this.afterCR = false;
      if (text.startsWith("\n")) text = text.slice(1);
    }
    this.afterCR ||= text.endsWith("\r");
    const lines = (this.rest + text).split(/\r\n|\r|\n/);
    this.rest = lines.pop() ?? "";
    const events: string[] = [];
    for (const line of lines) {
      if (line === "") {
        if (this.data.length > 0) events.push(this.data.join("\n"));
        this.data = [];
      } else if (line === "data" || line.startsWith("data:")) {
        this.data.push(line.slice(5).replace(/^ /, ""));
      }
    }
    return events;
  }
}
