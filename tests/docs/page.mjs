// Opens the routes' page in jsdom, presses every Send button, and prints what a person would have seen, as JSON.
// Arguments: folder that holds jsdom, address of the page.
import { createRequire } from "node:module";

const [folder, address] = process.argv.slice(2);
const { JSDOM, VirtualConsole } = createRequire(folder + "/")("jsdom");

const errors = [];
const asked = [];
const virtualConsole = new VirtualConsole();
virtualConsole.on("jsdomError", (error) => errors.push(String(error)));
const dom = await JSDOM.fromURL(address, {
  runScripts: "dangerously",
  resources: "usable",
  pretendToBeVisual: true,
  virtualConsole,
  beforeParse(window) {
    window.fetch = (path, options) => {
      asked.push(String(new URL(path, address)));
      return fetch(new URL(path, address), options);
    };
    Object.assign(window, { AbortController, TextDecoder });
  },
});
const { document } = dom.window;

async function until(what, condition) {
  for (let waited = 0; !condition(); waited += 10) {
    if (waited > 20000) throw new Error("waited in vain for " + what);
    await new Promise((done) => setTimeout(done, 10));
  }
}

const state = document.getElementById("state");
await until("the description", () => !state.textContent.startsWith("Reading"));
const answers = {};
for (const article of document.querySelectorAll("main article")) {
  const [send, stop] = article.querySelectorAll("form button");
  const output = article.querySelector("pre");
  send.click();
  await until("an answer", () => !send.disabled);
  const method = article.querySelector(".method").textContent;
  answers[`${method} ${article.querySelector("h3 code").textContent}`] = [output.textContent.slice(0, 400), stop.disabled];
}
const links = [...document.querySelectorAll("a")].map((link) => link.getAttribute("href"));
console.log(JSON.stringify({
  state: state.textContent,
  errors,
  answers,
  loaded: [...asked, ...[...document.querySelectorAll("script, link[rel=stylesheet]")].map((node) => node.src || node.href)],
  dangling: links.filter((link) => link.startsWith("#") && !document.getElementById(link.slice(1))),
  raw: [...document.querySelectorAll("main p, td")].map((node) => node.textContent).filter((text) => text.includes("`")),
}));
dom.window.close();
