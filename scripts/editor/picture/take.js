// Builds the editor, opens it in a browser, has it complete and check, and takes the picture: take.js SCHEMA OUT BROWSER
import { build } from "esbuild";
import { createServer } from "node:http";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";
import { chromium } from "playwright-core";

const [schema, out, browserPath] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), "editor-picture-"));
const options = { bundle: true, format: "iife", logLevel: "error", loader: { ".ttf": "dataurl" }, alias: { schema: resolve(schema) } };
await build({ ...options, entryPoints: ["editor.js"], outfile: join(folder, "editor.js") });
await build({ ...options, entryPoints: ["monaco-editor/esm/vs/editor/editor.worker.js"], outfile: join(folder, "editor.worker.js") });
await build({ ...options, entryPoints: ["monaco-yaml/yaml.worker.js"], outfile: join(folder, "yaml.worker.js") });
writeFileSync(
  join(folder, "index.html"),
  '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="editor.css"><body style="margin:0">' +
    '<div id="editor" style="width:100vw;height:100vh"></div><script src="editor.js"></script>',
);
const types = { html: "text/html", js: "text/javascript", css: "text/css" };
const server = createServer((request, response) => {
  const name = basename(new URL(request.url, "http://here").pathname) || "index.html";
  try {
    const body = readFileSync(join(folder, name));
    response.writeHead(200, { "content-type": types[name.split(".").pop()] ?? "application/octet-stream" });
    response.end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath: browserPath, args: quiet });
try {
  const page = await browser.newPage({ viewport: { width: 860, height: 790 } });
  page.on("pageerror", (error) => console.error(String(error)));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.waitForFunction(() => window.mistakes && window.mistakes() >= 3, null, { timeout: 60_000 });
  await page.evaluate(() => {
    window.editor.setPosition({ lineNumber: 25, column: 9 });
    window.editor.focus();
    window.editor.trigger("", "editor.action.triggerSuggest", {});
  });
  await page.waitForSelector(".suggest-widget.visible .monaco-list-row", { timeout: 60_000 });
  await page.evaluate(() => window.editor.trigger("", "toggleSuggestionDetails", {}));
  await page.waitForTimeout(1000);
  await page.screenshot({ path: out });
} finally {
  await browser.close();
  server.close();
  rmSync(folder, { recursive: true });
}
