/** Which server the page talks to: the one it came from, unless its own address names another (`?endpoint=`). */

/** An address as requests start with it: scheme, host, port and perhaps a path, without a slash at its end. */
export interface Address {
  url: string;
  /** Whether the page came from there. */
  own: boolean;
}

/**
 * @param page the page's own address, whose last path segment is the page.
 * @returns undefined where `?endpoint=` is no address of a server.
 */
export function addressOf(page: string): Address | undefined {
  const own = trimmed(new URL(".", page));
  const asked = new URL(page).searchParams.get("endpoint");
  if (asked === null || asked.trim() === "") return { url: own, own: true };
  const url = readAddress(asked);
  return url === undefined ? undefined : { url, own: url === own };
}

/** What a person typed as an address; a missing scheme means http. */
export function readAddress(typed: string): string | undefined {
  try {
    const url = new URL(typed.includes("://") ? typed.trim() : `http://${typed.trim()}`);
    if (!["http:", "https:"].includes(url.protocol) || url.username || url.password || url.search || url.hash) {
      return undefined;
    }
    return trimmed(url);
  } catch {
    return undefined;
  }
}

/** The page's address with another server in it. */
export function pageFor(page: string, endpoint: string): string {
  const url = new URL(page);
  if (endpoint === "" || endpoint === trimmed(new URL(".", page))) url.searchParams.delete("endpoint");
  else url.searchParams.set("endpoint", endpoint);
  return url.href;
}

function trimmed(url: URL): string {
  return (url.origin + url.pathname).replace(/\/+$/, "");
}
