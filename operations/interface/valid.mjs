// node valid.mjs FILE: print what AsyncAPI's parser has against a document, one line each. Exit code 1: something.
import { readFile } from "node:fs/promises";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(await readFile(process.argv[2], "utf8"));
const found = diagnostics.filter(({ severity }) => severity <= 1); // an error or a warning
for (const { code, path, message } of found) console.log(`${code} at ${path.join("/")}: ${message}`);
if (!document) console.log("it does not parse");
process.exitCode = document && !found.length ? 0 : 1;
