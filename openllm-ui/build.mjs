/**
 * Builds the pages: `node build.mjs FOLDER` writes what a server serves there, `node build.mjs --tests` compiles the tests to
 * build/tests. The same source and lock file give the same bytes.
 */

import { build } from "esbuild";
import { copyFile, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

const COMMON = { bundle: true, charset: "utf8", target: "es2022", logLevel: "warning", absWorkingDir: import.meta.dirname };
const [asked] = process.argv.slice(2);

if (asked === "--tests") {
  const entryPoints = (await readdir("tests")).filter((name) => /\.test\.tsx?$/.test(name)).map((name) => join("tests", name));
  await build({ ...COMMON, entryPoints, outdir: "build/tests", platform: "node", format: "esm", outExtension: { ".js": ".mjs" }, jsx: "automatic", jsxImportSource: "preact" });
} else if (asked) {
  await mkdir(asked, { recursive: true });
  const { metafile } = await build({
    ...COMMON,
    entryPoints: [{ in: "src/main.tsx", out: "app" }],
    outdir: asked,
    format: "iife",
    jsx: "automatic",
    jsxImportSource: "preact",
    legalComments: "none",
    metafile: true,
    minify: true,
  });
  await copyFile("src/index.html", join(asked, "index.html"));
  await writeFile(join(asked, "licences.txt"), await licences(Object.keys(metafile.inputs)));
} else {
  console.error("usage: node build.mjs FOLDER | --tests");
  process.exitCode = 2;
}

/** Name, version and licence text of each package that went into the bundle. */
async function licences(inputs) {
  const packages = new Set(inputs.flatMap((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1] ?? []));
  const parts = ["app.js contains parts of these packages.\n"];
  for (const name of [...packages].sort()) {
    const folder = join("node_modules", name);
    const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
    const file = (await readdir(folder)).sort().find((each) => /^licen[cs]e/i.test(each));
    if (file === undefined) throw new Error(`${name} brings no licence text`);
    parts.push(`${"-".repeat(80)}\n${name} ${version} (${license})\n\n${(await readFile(join(folder, file), "utf8")).trim()}\n`);
  }
  return parts.join("\n");
}
