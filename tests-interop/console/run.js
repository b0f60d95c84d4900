// Goes through every journey, each in a browser page of its own, and ends with status 1 if one
// fails. Journeys in the same cluster follow each other; two clusters are visited at a time.
//
//   node run.js PROGRAM [--only PART] [--shots FOLDER]

import { mkdir } from "node:fs/promises";
import { faultsOf, newPage, open } from "./browser.js";
import { EDITING } from "./editing.js";
import { JOURNEYS } from "./journeys.js";
import { shoot } from "./shots.js";
import { WATCHING } from "./watching.js";

const CLUSTERS_AT_A_TIME = 2;

const [program, ...options] = process.argv.slice(2);
const option = (name) => { const at = options.indexOf(name); return at < 0 ? null : options[at + 1]; };
if (!program) {
  console.error("usage: node run.js PROGRAM [--only PART] [--shots FOLDER]");
  process.exit(2);
}
const browser = await open();
const failed = [];
try {
  const shots = option("--shots");
  if (shots) {
    await mkdir(shots, { recursive: true });
    await shoot(browser, program, shots);
  } else {
    const only = option("--only") ?? "";
    const wanted = [...JOURNEYS, ...WATCHING, ...EDITING].filter(({ name }) => name.includes(only));
    if (wanted.length === 0) throw new Error(`no journey is called like “${only}”`);
    // The clusters with most journeys first, so that no long one is left for the end.
    const visits = [...new Set(wanted.map(({ cluster }) => cluster))]
      .map((cluster) => ({ cluster, journeys: wanted.filter((journey) => journey.cluster === cluster) }))
      .sort((one, other) => other.journeys.length - one.journeys.length);
    const begin = Date.now();
    const lane = async () => { while (visits.length) await visit(visits.shift()); };
    await Promise.all(Array.from({ length: CLUSTERS_AT_A_TIME }, lane));
    console.log(`${wanted.length - failed.length} of ${wanted.length} journeys succeeded, ${Math.round((Date.now() - begin) / 1000)} s`);
  }
} finally {
  await browser.close();
}
process.exit(failed.length ? 1 : 0);

/** Starts a cluster, goes through its journeys, and ends it. */
async function visit({ cluster, journeys }) {
  let servers = null;
  try {
    servers = await cluster(program);
    for (const journey of journeys) await go(journey, servers);
  } catch (error) {
    failed.push(...journeys.map(({ name }) => name));
    console.log(`FAIL no cluster for: ${journeys.map(({ name }) => name).join("; ")}: ${error.message}`);
  } finally {
    await servers?.close();
  }
}

async function go({ name, page: shape, go: walk }, servers) {
  const begin = Date.now();
  let page = null;
  try {
    page = await newPage(browser, shape);
    await walk(page, servers);
    const faults = await faultsOf(page);
    if (faults.length) throw new Error(faults.join("; "));
    console.log(`ok   ${name} (${Date.now() - begin} ms)`);
  } catch (error) {
    failed.push(name);
    console.log(`FAIL ${name}: ${error.message}\n${error.stack?.split("\n").filter((line) => /(journeys|watching|editing)\.js/.test(line)).join("\n")}`);
    if (page) console.log(`     the page: ${(await page.locator("body").innerText().catch(() => "?")).replaceAll("\n", " | ").slice(-700)}`);
  } finally {
    await page?.context().close();
  }
}
