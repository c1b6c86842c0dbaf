/** A long plain text in pieces, each laid out by itself: what grows at its end leaves those before it alone. */

/** Characters from which a piece ends with its line. */
const LONG = 2_000;

export function Pieces({ text }: { text: string }) {
  const pieces = piecesOf(text);
  return pieces.length === 1 ? <>{text}</> : <>{pieces.map((piece, i) => <span key={i} class="piece">{piece}</span>)}</>;
}

/** Whole lines; what is added to a text changes the last piece only. */
export function piecesOf(text: string): string[] {
  const pieces: string[] = [];
  let from = 0;
  for (let at = text.indexOf("\n", LONG); at >= 0 && at + 1 < text.length; at = text.indexOf("\n", from + LONG)) {
    pieces.push(text.slice(from, at + 1));
    from = at + 1;
  }
  return [...pieces, text.slice(from)];
}
