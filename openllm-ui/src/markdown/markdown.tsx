/** A message's markdown as elements. A block that has not changed is not drawn again. */

import type { MarkedToken, Token, Tokens } from "marked";
import { Component, type ComponentChild } from "preact";
import { useMemo, useRef } from "preact/hooks";

import { CopyButton } from "../parts/copy.js";
import { Pieces } from "../parts/pieces.js";
import { Blocks, blocksOf } from "./blocks.js";
import { highlighted } from "./highlight.js";
import { Inline } from "./inline.js";

/**
 * @param running whether more text comes: then only the end of the text is read again, and code that is still being
 *   written stays without colours.
 */
export function Markdown({ text, running }: { text: string; running: boolean }) {
  const growing = useRef<Blocks | undefined>(undefined);
  const tokens = useMemo(() => {
    if (!running && growing.current === undefined) return blocksOf(text);
    growing.current ??= new Blocks();
    const grown = growing.current.read(text);
    return running || !growing.current.linked ? grown : blocksOf(text);
  }, [text, running]);
  const whole = !running && (growing.current?.linked ?? true);
  const last = tokens.length - 1;
  return (
    <div class="markdown">
      {tokens.map((token, i) => <Block key={i} token={token} open={running && i === last} whole={whole} />)}
    </div>
  );
}

interface BlockProps {
  token: Token;
  /** Whether it is still being written. */
  open: boolean;
  /** Whether a link may have found its address below it by now, at the end of the text. */
  whole: boolean;
}

class Block extends Component<BlockProps> {
  override shouldComponentUpdate(next: BlockProps): boolean {
    const { token, open, whole } = this.props;
    return next.open !== open || next.whole !== whole || next.token.raw !== token.raw || next.token.type !== token.type;
  }

  render({ token, open, whole }: BlockProps) {
    return block(token as MarkedToken, open, whole);
  }
}

function block(token: MarkedToken, open: boolean, whole: boolean): ComponentChild {
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "paragraph":
      return <p><Inline tokens={token.tokens} /></p>;
    case "text":
      return <Inline tokens={token.tokens ?? [token]} />;
    case "heading": {
      const Level = `h${Math.min(6, token.depth + 2)}` as "h3";
      return <Level><Inline tokens={token.tokens} /></Level>;
    }
    case "code":
      return <Code text={token.text} language={token.lang ?? ""} open={open} />;
    case "blockquote":
      return <blockquote>{inner(token.tokens, open, whole)}</blockquote>;
    case "list":
      return <List token={token} open={open} whole={whole} />;
    case "table":
      return <Table token={token} />;
    case "hr":
      return <hr />;
    case "html": // shown as the text it is
      return <p class="literal">{token.raw.trimEnd()}</p>;
    default:
      return <Inline tokens={[token]} />;
  }
}

function inner(tokens: Token[], open: boolean, whole: boolean): ComponentChild[] {
  return tokens.map((token, i) => <Block key={i} token={token} open={open && i === tokens.length - 1} whole={whole} />);
}

function List({ token, open, whole }: { token: Tokens.List; open: boolean; whole: boolean }) {
  const last = token.items.length - 1;
  const items = token.items.map((item, i) => <Item key={i} item={item} open={open && i === last} whole={whole} />);
  if (!token.ordered) return <ul>{items}</ul>;
  return <ol start={token.start === "" ? undefined : token.start}>{items}</ol>;
}

/** One item. Those that are settled are the same objects at the next reading, and are not drawn again; so with rows. */
class Item extends Component<{ item: Tokens.ListItem; open: boolean; whole: boolean }> {
  override shouldComponentUpdate(next: this["props"]): boolean {
    return next.item !== this.props.item || next.open !== this.props.open || next.whole !== this.props.whole;
  }

  render({ item, open, whole }: this["props"]) {
    return <li class={item.task ? "task" : undefined}>{inner(item.tokens, open, whole)}</li>;
  }
}

function Table({ token }: { token: Tokens.Table }) {
  return (
    <div class="scrolls" tabIndex={0} role="region" aria-label="Table">
      <table>
        <thead><Row cells={token.header} /></thead>
        <tbody>{token.rows.map((row, i) => <Row key={i} cells={row} />)}</tbody>
      </table>
    </div>
  );
}

class Row extends Component<{ cells: Tokens.TableCell[] }> {
  override shouldComponentUpdate(next: this["props"]): boolean {
    return next.cells !== this.props.cells;
  }

  render({ cells }: this["props"]) {
    return <tr>{cells.map(cell)}</tr>;
  }
}

function cell({ align, header, tokens }: Tokens.TableCell, i: number): ComponentChild {
  const Cell = header ? "th" : "td";
  return <Cell key={i} class={align ? `to-${align}` : undefined} scope={header ? "col" : undefined}><Inline tokens={tokens} /></Cell>;
}

function Code({ text, language, open }: { text: string; language: string; open: boolean }) {
  const name = language.split(/[\s,{]/)[0]?.toLowerCase() ?? "";
  const shown = useMemo(() => (open ? undefined : highlighted(text, name)), [text, name, open]);
  return (
    <figure class="code">
      <figcaption>
        <span>{name || "text"}</span>
        <CopyButton text={text} what="code" />
      </figcaption>
      <pre tabIndex={0}><code>{shown ?? <Pieces text={text} />}</code></pre>
    </figure>
  );
}
