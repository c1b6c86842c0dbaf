/**
 * Markdown that is still being written, as its blocks: what is settled is read once, only its end is read again when more
 * text comes: the last two blocks, and of a long list or table the last two items or rows. So an answer of any length costs
 * the same per piece. Pure.
 */

import { Lexer, type Links, type Token, type Tokens } from "marked";

/** Blocks at the end that further text may still change: a list goes on over a paragraph-like "-" that becomes its next item. */
const UNSETTLED = 2;
/** Items or rows above which a list or table is long: then nothing before it is open any more. */
const LONG = 30;

/** A block that is made of many like parts. */
type Series = Tokens.List | Tokens.Table;

export class Blocks {
  private settled: Token[] = [];
  /** The settled beginning of the block that `rest` goes on with. */
  private begun: Series | undefined;
  /** What makes `rest` the same kind of block: the head of a table. */
  private head = "";
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
    const tokens = lex(this.head + this.rest, this.links);
    const long = longAtEnd(tokens);
    const open = long ? tokens.indexOf(long) : firstOpen(tokens);
    const shown = this.begun ? [joined(this.begun, tokens[0], this.head), ...tokens.slice(1)] : tokens;
    const found = [...this.settled, ...shown];
    if (open > 0) {
      this.settled.push(...shown.slice(0, open));
      this.rest = this.rest.slice(lengthOf(tokens.slice(0, open)) - this.head.length);
      this.begun = undefined;
      this.head = "";
    }
    if (long) this.cut(long);
    return found;
  }

  /** Settle what `rest` begins with, but for the last parts. */
  private cut(long: Series): void {
    const { first, head } = divided(long);
    this.rest = this.rest.slice(first.raw.length - this.head.length);
    this.begun = this.begun ? joined(this.begun, first, this.head) : first;
    this.head = head;
  }

  private forget(): void {
    this.settled = [];
    this.begun = undefined;
    this.head = "";
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

/** The list or table at the end, where it is long. */
function longAtEnd(tokens: Token[]): Series | undefined {
  const last = tokens.findLast(({ type }) => type !== "space") as Series | undefined;
  const parts = last?.type === "list" ? last.items : last?.type === "table" ? last.rows : [];
  return parts.length > LONG ? last : undefined;
}

/** All but the last parts of a list or table, and what must stand before those for them to be read as the same kind. */
function divided(long: Series): { first: Series; head: string } {
  if (long.type === "list") {
    const items = long.items.slice(0, -UNSETTLED);
    return { first: { ...long, items, raw: items.map(({ raw }) => raw).join("") }, head: "" };
  }
  const rows = long.rows.slice(0, -UNSETTLED);
  const lines = long.raw.split("\n").map((line) => line + "\n"); // two of the head, then one of each row
  return {
    first: { ...long, rows, raw: lines.slice(0, 2 + rows.length).join("") },
    head: lines.slice(0, 2).join(""),
  };
}

/** Two parts of one list or table, which are of one type: each begins with an item, or the head. `head` is there once. */
function joined(first: Series, second: Token | undefined, head: string): Series {
  const raw = first.raw + (second?.raw.slice(head.length) ?? "");
  const { items = [], rows = [] } = second as Partial<Tokens.List & Tokens.Table>;
  return first.type === "list" ? { ...first, raw, items: [...first.items, ...items] } : { ...first, raw, rows: [...first.rows, ...rows] };
}

function lengthOf(tokens: Token[]): number {
  return tokens.reduce((length, { raw }) => length + raw.length, 0);
}
