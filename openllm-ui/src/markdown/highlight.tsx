/** Code in colour, as elements: the highlighter gives a tree, and no text of the model is ever read as HTML. */

import type { Element, RootContent } from "hast";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import { createLowlight } from "lowlight";
import type { ComponentChild } from "preact";

const lowlight = createLowlight({
  bash, c, cpp, css, diff, go, ini, java, javascript, json, python, rust, sql, typescript, xml, yaml,
});

/** Characters above which code stays plain: colouring it would hold up the page. */
const MAX_COLOURED = 20_000;

/** `code` as coloured spans; undefined where the language is not known or the code is long. */
export function highlighted(code: string, language: string): ComponentChild[] | undefined {
  if (code.length > MAX_COLOURED || !lowlight.registered(language)) return undefined;
  return lowlight.highlight(language, code).children.map(shown);
}

function shown(node: RootContent): ComponentChild {
  if (node.type === "text") return node.value;
  return node.type === "element" ? <span class={classOf(node)}>{node.children.map(shown)}</span> : null;
}

function classOf(element: Element): string {
  const names = element.properties["className"];
  return Array.isArray(names) ? names.join(" ") : "";
}
