/** Where the page begins. */

import "./style/index.css";

import { render } from "preact";

import { addressOf, pageFor } from "./address.js";
import { App } from "./app.js";
import { BrowserArchive } from "./archive.js";
import { Chats } from "./chats.js";
import { Connection } from "./connection.js";
import { Stranger } from "./parts/server-dialog.js";
import { browserStores, isTrusted, loadKey, trust } from "./settings.js";

const stores = browserStores();
const root = document.getElementById("app");
const own = pageFor(location.href, "");
const address = addressOf(location.href);

function start(): void {
  if (root === null || address === undefined) return;
  const chats = new Chats(new BrowserArchive());
  const connection = new Connection(address, loadKey(stores, address.url).key);
  render(<App connection={connection} chats={chats} stores={stores} />, root);
  void chats.restore();
  void connection.refresh();
}

if (root !== null) {
  if (address === undefined) location.replace(own);
  else if (address.own || isTrusted(stores, address.url)) start();
  else {
    const agreed = (): void => {
      trust(stores, address.url);
      render(null, root);
      start();
    };
    render(<Stranger address={address} onTrust={agreed} onOwn={() => location.assign(own)} />, root);
  }
}
