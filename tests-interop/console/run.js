// Goes through every journey, each in a browser page of its own, and ends with status 1 if one
// fails.
//
//   node run.js PROGRAM [--only PART] [--shots FOLDER]

import { mkdir } from "node:fs/promises";
import { faultsOf, newPage, open } from "./browser.js";
import { EDITING } from "./editing.js";
import { JOURNEYS } from "./journeys.js";
import { shoot } from "./shots.js";
import { WATCHING } from "./watching.js";

const [program, ...options] = process.argv.slice(2);
const option = (name) => { const at = options.indexOf(name); return at < 0 ? null : options[at + 1]; };
if (!program) {
  console.error("usage: node run.js PROGRAM [--only PART] [--shots FOLDER]");
  process.exit(2);
}
const browser = await open();
const failed = [];
const clusters = new Map();
try {
  const shots = option("--shots");
  if (shots) {
    await mkdir(shots, { recursive: true });
    await shoot(browser, program, shots);
  } else {
    const only = option("--only") ?? "";
    const wanted = [...JOURNEYS, ...WATCHING, ...EDITING].filter(({ name }) => name.includes(only));
    if (wanted.length === 0) throw new Error(`no journey is called like “${only}”`);
    for (const { name, cluster, page: shape, go } of wanted) {
      const begin = Date.now();
      let page = null;
      try {
        if (!clusters.has(cluster)) clusters.set(cluster, cluster(program));
        const servers = await clusters.get(cluster);
        page = await newPage(browser, shape);
        await go(page, servers);
        const faults = await faultsOf(page);
        if (faults.length) throw new Error(faults.join("; "));
        console.log(`ok   ${name} (${Date.now() - begin} ms)`);
      } catch (error) {
        failed.push(name);
        console.log(`FAIL ${name}: ${error.message}\n${error.stack?.split("\n").filter((line) => line.includes("journeys.js")).join("\n")}`);
        if (page) console.log(`     the page: ${(await page.locator("body").innerText().catch(() => "?")).replaceAll("\n", " | ").slice(-700)}`);
      } finally {
        await page?.context().close();
      }
    }
    console.log(`${wanted.length - failed.length} of ${wanted.length} journeys succeeded`);
  }
} finally {
  await browser.close();
  for (const cluster of clusters.values()) await cluster.then((servers) => servers.close(), () => {});
}
process.exit(failed.length ? 1 : 0);
