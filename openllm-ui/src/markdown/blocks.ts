/**
 * Markdown that is still being written, as its blocks: what is settled is read once, only the last two blocks are read again
 * when more text comes. So an answer of any length costs the same per piece. Pure.
 */

import { Lexer, type Links, type Token } from "marked";

/** Blocks at the end that further text may still change: a list goes on over a paragraph-like "-" that becomes its next item. */
const UNSETTLED = 2;

export class Blocks {
  private settled: Token[] = [];
  private rest = "";
  private links: Links = {};
  private length = 0;

  /** Whether addresses of links stand below them: a link may have come before its address. */
  get linked(): boolean {
    return Object.keys(this.links).length > 0;
  }

  /** The blocks of `text`, which begins with what it was at the last call; if it does not, all is read anew. */
  read(text: string): Token[] {
    const length = text.endsWith("\r") ? text.length - 1 : text.length; // half a line end, perhaps
    if (length < this.length) this.forget();
    this.rest += normal(text.slice(this.length, length));
    this.length = length;
    const tokens = lex(this.rest, this.links);
    const open = firstOpen(tokens);
    for (const token of tokens.slice(0, open)) {
      this.settled.push(token);
      this.rest = this.rest.slice(token.raw.length);
    }
    return [...this.settled, ...tokens.slice(open)];
  }

  private forget(): void {
    this.settled = [];
    this.rest = "";
    this.links = {};
    this.length = 0;
  }
}

/** The blocks of a text that is whole; a link's address may stand after the link. */
export function blocksOf(text: string): Token[] {
  return lex(normal(text), {});
}

function lex(text: string, links: Links): Token[] {
  const lexer = new Lexer({ gfm: true });
  Object.assign(lexer.tokens.links, links);
  const tokens = lexer.lex(text);
  Object.assign(links, lexer.tokens.links);
  return tokens;
}

/** As the lexer itself does it; done before, so that blocks are as long here as they are there. */
function normal(text: string): string {
  return text.replace(/\r\n|\r/g, "\n");
}

/** Index of the first block that may still change: the last two that are not blank lines. */
function firstOpen(tokens: Token[]): number {
  let open = tokens.length;
  for (let left = UNSETTLED; left > 0 && open > 0; ) {
    open--;
    if (tokens[open]?.type !== "space") left--;
  }
  return open;
}
