// Pictures of the screens for docs/CONSOLE.md.

import { Cluster, until } from "./cluster.js";
import { newPage } from "./browser.js";

const REGIONS = ["ap", "eu", "us"];

async function fill(cluster) {
  await cluster.command("family", "create", "sessions");
  for (let id = 1; id <= 24; id += 1) {
    const order = { id, customer: `c-${1000 + id * 7}`, items: [{ sku: "TEA-12", count: id % 4 + 1 }], paid: id % 3 !== 0 };
    await cluster.command("set", `orders/${REGIONS[id % 3]}/2026-${String(id % 12 + 1).padStart(2, "0")}/${String(id).padStart(4, "0")}`, JSON.stringify(order));
  }
  for (const name of ["anna", "ben", "chloe"]) await cluster.command("set", `users/${name}`, JSON.stringify({ name }));
  await cluster.command("set", "schema", "7");
}

/** An order with a past. */
async function pay(cluster) {
  const key = "orders/eu/2026-02/0001";
  const order = { id: 1, customer: "c-1007", items: [{ sku: "TEA-12", count: 2 }], paid: false };
  await cluster.command("set", key, JSON.stringify(order));
  await cluster.command("delete", "orders/ap/2026-04/0003");
  await cluster.command("set", key, JSON.stringify({ ...order, paid: true }));
  await cluster.write({ "users/anna": '{"name":"Anna","orders":1}', "users/ben": '{"name":"Ben","orders":0}' });
}

/** A version shortly before `pay` was done. */
async function versionOfPay(cluster, id) {
  const key = Buffer.from("orders/eu/2026-02/0001").toString("hex");
  const { entries } = await (await fetch(`${cluster.url(id)}/console/api/history?key=${key}`)).json();
  return entries[1].version - 1;
}

/** Something for the charts to show. */
async function load(cluster) {
  const common = ["bench", "--workload", "ycsb-b", "--keys", "1000", "--concurrency", "8"];
  for (const [rate, seconds] of [[150, 14], [300, 12], [220, 16], [420, 10], [260, 18]]) {
    await cluster.command(...common, "--rate", String(rate), "--seconds", String(seconds));
  }
}

export async function shoot(browser, program, folder) {
  const cluster = await Cluster.start(program, { replicas: 3, settings: { SYNODKV_ADMIN_CONSOLE_WRITES: "true", SYNODKV_ADMIN_CONSOLE_EDITS: "true", SYNODKV_LOG_SLOW_MS: "3" } });
  try {
    await fill(cluster);
    const primary = await cluster.primary();
    await load(cluster);
    const take = async (name, path, shape, prepare = async () => {}, id = primary) => {
      const page = await newPage(browser, shape);
      await page.goto(`${cluster.url(id)}${path}`);
      await page.locator(".card").first().waitFor();
      await page.waitForFunction(() => !/Loading|Reading …|Asking/.test(document.querySelector("#screen").innerText));
      await prepare(page);
      await page.screenshot({ path: `${folder}/${name}.png` });
      console.log(`${name}.png`);
      await page.context().close();
    };
    const key = Buffer.from("orders/eu/2026-02/0001").toString("hex");
    const prefix = Buffer.from("orders/").toString("hex");
    const check = async (page) => {
      await page.getByRole("button", { name: "Take the vote" }).click();
      await page.getByLabel("Member", { exact: true }).selectOption(String((primary + 1) % 3));
      await page.getByRole("button", { name: "Check what that needs" }).click();
      await page.locator(".checks h3").waitFor();
    };
    await take("overview", "/console/overview", { height: 900 });
    await take("overview-dark", "/console/overview", { height: 900, scheme: "dark" });
    await take("members", "/console/members", { height: 1000 }, check);
    await take("keys", `/console/keys?prefix=${prefix}&flat=1&key=${key}`, { height: 760 });
    await pay(cluster);
    const past = async (page) => {
      await page.locator(".history > summary").click();
      await page.locator(".history-list summary").first().click();
      await page.locator(".history-value pre").first().waitFor();
    };
    const edit = async (page) => {
      await page.getByRole("button", { name: "Edit …" }).click();
      await page.locator("#new-value").waitFor();
    };
    const live = (page) => page.locator(".changes-list li").first().waitFor();
    const filled = (page) => page.locator("tbody tr").first().waitFor();
    await take("history", `/console/keys?prefix=${prefix}&key=${key}`, { height: 900 }, past);
    await take("edit", `/console/keys?prefix=${prefix}&key=${key}`, { height: 860 }, edit);
    await take("changes", "/console/changes?after=" + await versionOfPay(cluster, primary), { height: 760 }, live);
    await take("load", "/console/load", { height: 860 }, filled);
    await take("backups", "/console/backups", { height: 900, scheme: "dark" });
    await take("phone-changes", "/console/changes?after=" + await versionOfPay(cluster, primary), { width: 375, height: 760, scheme: "dark" }, live);
    await take("configuration", "/console/config", { height: 760 });
    await take("metrics", "/console/metrics", { height: 900, scheme: "dark" });
    await take("phone", "/console/overview", { width: 375, height: 760 });
    const others = cluster.servers.map(({ id }) => id).filter((id) => id !== primary);
    for (const id of others) await cluster.stop(id);
    await until("the loss of the majority is seen", async () => (await cluster.status(primary)).primary === null);
    await take("no-majority", "/console/overview", { height: 760 });
    await take("phone-keys", `/console/keys?version=stale&prefix=${prefix}`, { width: 375, height: 760, scheme: "dark" });
  } finally {
    await cluster.close();
  }
}
