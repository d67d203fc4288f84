// node local/optional.mjs FOLDER: fail if npm left out a package that this platform has. For npm, an optional package that
// cannot be fetched is no error: https://docs.npmjs.com/cli/configuring-npm/package-json#optionaldependencies
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const folder = process.argv[2];
const { packages } = JSON.parse(readFileSync(join(folder, "package-lock.json"), "utf8"));
const fits = (wanted, actual) => !wanted || wanted.includes(actual);
const lost = Object.entries(packages)
  .filter(([, about]) => about.optional && fits(about.os, process.platform) && fits(about.cpu, process.arch))
  .filter(([path]) => !existsSync(join(folder, path, "package.json")))
  .map(([path]) => path.replace(/^.*node_modules\//, ""));
if (lost.length) {
  console.error(
    `error: npm could not fetch ${lost.join(", ")}; see that the registry (npm config get registry) answers, then run make again`,
  );
  process.exit(1);
}
