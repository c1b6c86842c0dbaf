/** What stands inside a block of markdown, as elements. HTML in it is shown as the text it is; links lead to web and mail only. */

import type { MarkedToken, Token } from "marked";
import type { ComponentChild } from "preact";

const NAMED: Record<string, string> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };

/** The text that character references stand for; unknown ones stay as they are. */
export function decoded(text: string): string {
  return text.replace(/&(?:#(\d{1,7})|#x([0-9a-f]{1,6})|(\w{1,8}));/gi, (whole, decimal, hex, name: string | undefined) => {
    if (name !== undefined) return NAMED[name] ?? whole;
    const code = decimal === undefined ? parseInt(hex, 16) : Number(decimal);
    return code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff) ? String.fromCodePoint(code) : "\ufffd";
  });
}

/** A link's address where it is safe to follow; undefined for anything but web, mail and places on a page of the web. */
export function safeHref(href: string): string | undefined {
  try {
    const url = new URL(decoded(href));
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : undefined;
  } catch {
    return undefined; // relative: there is nothing here that it could be relative to
  }
}

export function Inline({ tokens }: { tokens: Token[] | undefined }) {
  return <>{tokens?.map((token) => inline(token as MarkedToken))}</>;
}

function inline(token: MarkedToken): ComponentChild {
  switch (token.type) {
    case "text":
      return token.tokens === undefined ? decoded(token.text) : <Inline tokens={token.tokens} />;
    case "escape":
      return token.text;
    case "strong":
      return <strong><Inline tokens={token.tokens} /></strong>;
    case "em":
      return <em><Inline tokens={token.tokens} /></em>;
    case "del":
      return <del><Inline tokens={token.tokens} /></del>;
    case "codespan":
      return <code>{token.text}</code>;
    case "br":
      return <br />;
    case "link":
      return <Link href={token.href}><Inline tokens={token.tokens} /></Link>;
    case "image": // never loaded: the address could carry the conversation to another host
      return <Link href={token.href}>{token.text === "" ? "image" : decoded(token.text)}</Link>;
    case "html":
      return /^<br\s*\/?>$/i.test(token.raw) ? <br /> : token.raw;
    case "checkbox":
      return <input type="checkbox" checked={token.checked} disabled aria-label={token.checked ? "done" : "not done"} />;
    default:
      return token.raw;
  }
}

function Link({ href, children }: { href: string; children: ComponentChild }) {
  const safe = safeHref(href);
  if (safe === undefined) return <span title={href}>{children}</span>;
  return <a href={safe} target="_blank" rel="noopener noreferrer">{children}</a>;
}
