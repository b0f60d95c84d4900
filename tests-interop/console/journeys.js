// What people do with the console. Each journey looks at what they would look at.

import assert from "node:assert/strict";
import { Cluster, until } from "./cluster.js";

const rows = {
  "users/anna/name": "Anna", "users/anna/age": "41", "users/ben/name": "Ben", "orders/eu/1": '{"id":1,"items":["tea","cups"]}',
  "orders/eu/2": '{"id":2}', "orders/us/1": '{"id":3}', counter: "12", "strange/<img src=x onerror=alert(1)>": "<script>alert(2)</script>",
};

export async function filled(cluster) {
  await cluster.command("family", "create", "sessions");
  for (const [key, value] of Object.entries(rows)) await cluster.command("set", key, value);
  return cluster;
}

/** No request is slow there. */
export const standalone = async (program) => filled(await Cluster.start(program, { settings: { SYNODKV_LOG_SLOW_MS: "60000" } }));

export const three = async (program) => filled(await Cluster.start(program, { replicas: 3, settings: { SYNODKV_ADMIN_CONSOLE_WRITES: "true" } }));

/** One replica of three is left. */
const minority = async (program) => {
  const cluster = await filled(await Cluster.start(program, { replicas: 3 }));
  await cluster.stop(1);
  await cluster.stop(2);
  await until("the loss of the majority is seen", async () => (await cluster.status(0)).primary === null);
  return cluster;
};

/** With authentication: root may do everything, `eu` may only read orders/eu/. */
export const guarded = async (program) => {
  const cluster = await filled(await Cluster.start(program));
  const file = `${cluster.folder}/root.token`;
  await cluster.command("auth", "enable", "--root-token-file", file);
  const as = (...words) => cluster.command(...words, "--token-file", file);
  await as("auth", "role", "set", "eu", "--grant", "read default prefix:orders/eu/");
  await as("auth", "user", "add", "eva", "--role", "eu");
  cluster.token = (await as("auth", "token", "create", "eva")).split("\n").at(-1);
  cluster.root = (await import("node:fs")).readFileSync(file, "utf8").trim();
  return cluster;
};

export async function at(page, cluster, path, id = 0) {
  await page.goto(`${cluster.url(id)}${path}`);
}

export const screen = (page) => page.locator("#screen");

export async function sees(page, ...texts) {
  for (const text of texts) await screen(page).getByText(text).first().waitFor();
}

export async function signIn(page, token) {
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
}

/** Nothing sticks out at the side. */
export async function fits(page) {
  const { wide, window } = await page.evaluate(() => ({ wide: document.documentElement.scrollWidth, window: innerWidth }));
  assert.ok(wide <= window, `the page is ${wide} pixels wide, the window ${window}`);
}

/** The contrast of two colours, as the guidelines for accessibility define it. */
export function contrast(page, selector) {
  // The page may replace an element while it is looked at.
  return until(`the contrast of ${selector}`, () => page.locator(selector).first().evaluate((element) => {
    const luminance = (colour) => {
      const parts = colour.match(/[\d.]+/g).slice(0, 3).map((part) => part / 255).map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
      return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    let back = element;
    while (back && /rgba\(0, 0, 0, 0\)|transparent/.test(getComputedStyle(back).backgroundColor)) back = back.parentElement;
    const pair = [luminance(getComputedStyle(element).color), luminance(getComputedStyle(back).backgroundColor)].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  }));
}

export const JOURNEYS = [
  {
    name: "the address of the admin interface opens the overview", cluster: standalone,
    async go(page, cluster) {
      await at(page, cluster, "/");
      await sees(page, "All is well", "Load of this process");
      assert.equal(new URL(page.url()).pathname, "/console/overview");
      await page.locator("#cluster").getByText("healthy").waitFor();
      await page.locator(".chart").first().waitFor();
    },
  },
  {
    name: "every screen opens from the navigation, by a key and by its address", cluster: standalone,
    async go(page, cluster) {
      await at(page, cluster, "/console/overview");
      for (const name of ["Members", "Keys", "Changes", "Hot and slow", "Backups", "Configuration", "Metrics", "Overview"]) {
        await page.getByRole("link", { name, exact: true }).click();
        await page.getByRole("heading", { level: 1, name }).waitFor();
      }
      await page.keyboard.press("7");
      await page.getByRole("heading", { level: 1, name: "Configuration" }).waitFor();
      await page.goBack();
      await page.getByRole("heading", { level: 1, name: "Overview" }).waitFor();
      await at(page, cluster, "/console/nonsense");
      await sees(page, "There is no screen");
      await page.getByRole("link", { name: "Open the overview" }).click();
      await sees(page, "All is well");
    },
  },
  {
    name: "a standalone server has no members, and says so", cluster: standalone,
    async go(page, cluster) {
      await at(page, cluster, "/console/members");
      await sees(page, "A standalone server has no other members.");
    },
  },
  {
    name: "browsing folders down to a value and back", cluster: standalone,
    async go(page, cluster) {
      await at(page, cluster, "/console/keys");
      const entries = page.locator(".keys-list a");
      await entries.first().waitFor();
      assert.deepEqual((await page.locator(".entry-name").allInnerTexts()), ["counter", "orders/", "strange/", "users/"]);
      await page.getByRole("link", { name: "orders/" }).click();
      await page.getByRole("link", { name: "eu/" }).click();
      await page.locator("a.key", { hasText: "1" }).first().click();
      await sees(page, '"items": [');
      await page.getByRole("button", { name: "Hex" }).click();
      await sees(page, "00000000");
      await page.getByRole("button", { name: "Integer" }).click();
      await sees(page, "Integers have 1 to 16 bytes.");
      await page.getByRole("button", { name: "UTF-8" }).click();
      await sees(page, rows["orders/eu/1"]);
      await page.locator(".crumbs").getByRole("link", { name: "default" }).click();
      await page.getByRole("link", { name: "users/" }).waitFor();
      await page.goBack();
      await sees(page, rows["orders/eu/1"].slice(0, 8));
    },
  },
  {
    name: "a value at an older version, and a version that does not exist", cluster: standalone,
    async go(page, cluster) {
      const before = await cluster.status();
      await cluster.command("set", "changing", "old");
      const shown = await (await fetch(`${cluster.url()}/console/api/key?key=${Buffer.from("changing").toString("hex")}`)).json();
      await cluster.command("set", "changing", "new");
      await at(page, cluster, `/console/keys?key=${Buffer.from("changing").toString("hex")}`);
      await page.locator(".value pre").getByText("new").waitFor();
      await page.getByLabel("At version").fill(String(shown.version));
      await page.getByRole("button", { name: "Show", exact: true }).click();
      await page.locator(".value pre").getByText("old").waitFor();
      await page.getByLabel("At version").fill("1");
      await page.getByRole("button", { name: "Show", exact: true }).click();
      await page.locator(".value").getByText(/There is no such key at this version|cannot be read any more/).waitFor();
      assert.equal(before.mode, "standalone");
    },
  },
  {
    name: "what clients store never becomes part of the page", cluster: standalone,
    async go(page, cluster) {
      page.on("dialog", (dialog) => { page.faults.push("a script of a stored value ran"); dialog.dismiss(); });
      await at(page, cluster, "/console/keys?flat=1");
      await page.locator("a.key", { hasText: "onerror" }).click();
      await sees(page, "<script>alert(2)</script>");
      assert.equal(await page.locator("#screen img").count(), 0);
    },
  },
  {
    name: "an empty family, and a prefix that no key has", cluster: standalone,
    async go(page, cluster) {
      await at(page, cluster, "/console/keys");
      await page.getByLabel("Family").selectOption("sessions");
      await sees(page, "This family is empty.");
      await page.getByLabel("Prefix").fill("nothing/like\\x00this");
      await page.getByRole("button", { name: "Show", exact: true }).click();
      await sees(page, "No key begins like this.");
      await at(page, cluster, "/console/keys?family=missing");
      await sees(page, "There is no such thing");
    },
  },
  {
    name: "the configuration tells where each value comes from", cluster: three,
    async go(page, cluster) {
      await at(page, cluster, "/console/config");
      await page.getByLabel("Filter").fill("console_writes");
      await sees(page, "environment variable SYNODKV_ADMIN_CONSOLE_WRITES");
      await page.getByLabel("Filter").fill("no setting is called like this");
      await sees(page, "No setting is like this.");
      await page.getByLabel("Filter").fill("");
      await page.getByRole("button", { name: "Set by somebody" }).click();
      await sees(page, "data_dir");
      assert.equal(await page.getByText("readable_window_ms").count(), 0, "a default");
    },
  },
  {
    name: "the metrics: charts that move, and the page as text", cluster: standalone,
    async go(page, cluster) {
      await at(page, cluster, "/console/metrics");
      const reads = page.locator(".chart", { hasText: "Reads" }).first();
      await reads.waitFor();
      for (let at = 0; at < 20; at += 1) await cluster.command("get", "counter");
      await until("the chart shows reads", async () => /highest [1-9.]/.test(await reads.innerText()));
      await page.getByRole("button", { name: "1 h" }).click();
      await reads.waitFor();
      await page.getByLabel("Filter the metrics").fill("connections_open");
      await sees(page, "synodkv_connections_open");
    },
  },
  {
    name: "the overview of three replicas: who leads, who follows", cluster: three,
    async go(page, cluster) {
      const primary = await cluster.primary();
      await at(page, cluster, "/console/overview", 1);
      await sees(page, `3 of 3 replicas are healthy. Replica ${primary} leads.`);
      assert.equal(await page.locator("table tbody tr").count(), 3);
      await page.locator("#cluster").getByText("this is replica 1").waitFor();
    },
  },
  {
    name: "a change of members shows first what it needs, and can be made", cluster: three,
    async go(page, cluster) {
      const primary = await cluster.primary();
      await at(page, cluster, "/console/members", primary);
      await page.getByRole("button", { name: "Take the vote" }).click();
      const other = (primary + 1) % 3;
      await page.getByLabel("Member", { exact: true }).selectOption(String(other));
      await page.getByRole("button", { name: "Check what that needs" }).click();
      await sees(page, `synodkv member demote ${other}`, "Not possible now");
      assert.ok(await page.getByRole("button", { name: "Change the members …" }).isDisabled(), "two voters survive no failure");
      await page.getByLabel("Do it although").check();
      await sees(page, /^Possible now/, `synodkv member demote ${other} --force`);
      const epoch = (await cluster.status(primary)).epoch;
      await page.getByRole("button", { name: "Change the members …" }).click();
      await page.getByRole("button", { name: "Cancel" }).click();
      assert.equal((await cluster.status(primary)).epoch, epoch, "nothing changed");
      await page.getByRole("button", { name: "Change the members …" }).click();
      await page.getByRole("button", { name: "Change", exact: true }).click();
      await page.locator("#notes").getByText(/Done: epoch/).waitFor();
      await page.locator("tr", { hasText: `Replica ${other}` }).getByText("observer").waitFor();
      await page.getByRole("button", { name: "Give a vote" }).click();
      // The primary has to hear first that the member, now without a vote, is up to date.
      await until("the member is ready", async () => {
        await page.getByRole("button", { name: "Check what that needs" }).click();
        return /^Possible/.test(await page.locator(".checks h3").innerText());
      });
      await page.getByRole("button", { name: "Change the members …" }).click();
      await page.getByRole("button", { name: "Change", exact: true }).click();
      await until("the member votes again", async () => (await cluster.status(primary)).replicas.every((one) => !one.observer));
    },
  },
  {
    name: "an impossible change says what is missing", cluster: three,
    async go(page, cluster) {
      const primary = await cluster.primary();
      await at(page, cluster, "/console/members", primary);
      await page.getByRole("button", { name: "Add", exact: true }).click();
      await page.getByLabel("Address for peers").fill("nonsense");
      await page.getByLabel("Address for clients").fill("127.0.0.1:1");
      await page.getByLabel("Admin address").fill("127.0.0.1:2");
      await page.getByRole("button", { name: "Check what that needs" }).click();
      await page.locator(".members").getByText(/nonsense/).first().waitFor();
    },
  },
  {
    name: "a failover from the console", cluster: three,
    async go(page, cluster) {
      const primary = await cluster.primary();
      await at(page, cluster, "/console/members", primary);
      const target = String((primary + 1) % 3);
      await page.getByLabel("New primary").selectOption(target);
      await sees(page, `synodkv failover --to ${target}`);
      await page.getByRole("button", { name: "Fail over …" }).click();
      await page.getByRole("button", { name: "Fail over", exact: true }).click();
      await page.locator("#notes").getByText(`Replica ${target} leads now`).waitFor();
      await sees(page, "Only the primary does this.");
      assert.equal(String(await cluster.primary()), target);
    },
  },
  {
    name: "without console_writes the console only reads, and gives the command", cluster: minority,
    async go(page, cluster) {
      await at(page, cluster, "/console/members");
      await sees(page, "This console is read-only");
      assert.ok(await page.getByRole("button", { name: "Fail over …" }).isDisabled());
      const refused = await page.evaluate(async () => (await fetch("/failover", { method: "POST" })).status);
      assert.equal(refused, 403, "the server refuses it, too");
    },
  },
  {
    name: "a cluster without a majority: why, and what can still be read", cluster: minority,
    async go(page, cluster) {
      await at(page, cluster, "/console/overview");
      await sees(page, "There is no primary", "Not reachable from here: replicas 1, 2.");
      await page.locator("#cluster").getByText("no primary").waitFor();
      await page.getByRole("link", { name: "Keys", exact: true }).click();
      await sees(page, "The cluster cannot answer now");
      await page.getByRole("button", { name: "Show what this server has" }).click();
      await page.getByRole("link", { name: "orders/" }).waitFor();
      await sees(page, "may be old");
    },
  },
  {
    name: "a wrong token, then the right one, then out again", cluster: guarded,
    async go(page, cluster) {
      await at(page, cluster, "/console/overview");
      await sees(page, "This cluster checks who asks.");
      await signIn(page, "skv_0000000000000001_wrong");
      await sees(page, "the token is not valid");
      await signIn(page, cluster.root);
      await sees(page, "All is well");
      await page.reload();
      await sees(page, "All is well");
      await page.getByRole("button", { name: "Sign in or out" }).click();
      await sees(page, "You have signed out.");
      await page.reload();
      await sees(page, "This cluster checks who asks.");
    },
  },
  {
    name: "a user sees the keys that he may read, and nothing else", cluster: guarded,
    async go(page, cluster) {
      await at(page, cluster, "/console/overview");
      await signIn(page, cluster.token);
      await sees(page, "eva may not see the state of the cluster");
      for (const name of ["Members", "Configuration", "Metrics"]) {
        await page.getByRole("link", { name, exact: true }).click();
        await sees(page, /admin:status/);
      }
      await page.getByRole("link", { name: "Keys", exact: true }).click();
      await sees(page, "Not permitted", "Give a prefix within the keys");
      await page.getByLabel("Prefix").fill("orders/eu/");
      await page.getByRole("button", { name: "Show", exact: true }).click();
      await page.locator("a.key").first().click();
      await sees(page, '"items": [');
    },
  },
  {
    name: "a phone: 375 pixels, every screen fits", cluster: three, page: { width: 375, height: 760 },
    async go(page, cluster) {
      for (const name of ["overview", "members", "keys?key=636f756e746572", "changes?after=1", "load", "backups", "config", "metrics"]) {
        await at(page, cluster, `/console/${name}`);
        await page.locator(".card").first().waitFor();
        await page.waitForFunction(() => !document.querySelector("#screen").innerText.includes("Loading"));
        await fits(page);
      }
      const nav = await page.locator("#nav").boundingBox();
      assert.ok(nav.y + nav.height <= 760 && nav.y > 600, "the navigation is at the thumb");
    },
  },
  {
    name: "dark, by the system and by the switch", cluster: three, page: { scheme: "dark" },
    async go(page, cluster) {
      await at(page, cluster, "/console/overview");
      await sees(page, "replicas are healthy");
      const back = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      assert.equal(await back(), "rgb(14, 19, 27)");
      for (const selector of [".verdict p", ".facts dt", ".nav a", ".pill.good", ".chart-label"]) {
        assert.ok(await contrast(page, selector) >= 4.5, `${selector}: contrast ${await contrast(page, selector)}`);
      }
      await page.getByRole("button", { name: "Switch between dark and light" }).click();
      assert.equal(await back(), "rgb(244, 246, 250)");
      for (const selector of [".verdict p", ".facts dt", ".nav a", ".pill.good", ".chart-label"]) {
        assert.ok(await contrast(page, selector) >= 4.5, `${selector}, light: contrast ${await contrast(page, selector)}`);
      }
      await page.reload();
      await sees(page, "replicas are healthy");
      assert.equal(await back(), "rgb(244, 246, 250)", "remembered");
    },
  },
  {
    name: "by keyboard alone: to a screen, to its filter, through a folder", cluster: standalone,
    async go(page, cluster) {
      await at(page, cluster, "/console/overview");
      await sees(page, "All is well");
      await page.keyboard.press("Tab");
      assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
      await page.keyboard.press("3");
      await page.getByRole("link", { name: "users/" }).waitFor();
      await page.keyboard.press("/");
      await page.keyboard.type("users/");
      await page.keyboard.press("Enter");
      await page.getByRole("link", { name: "anna/" }).focus();
      await page.keyboard.press("Enter");
      await page.getByRole("link", { name: "age" }).waitFor();
    },
  },
  {
    name: "a server that dies and comes back: the page stays, says so, and goes on", cluster: async (program) => filled(await Cluster.start(program)),
    async go(page, cluster) {
      await at(page, cluster, "/console/overview");
      await sees(page, "All is well");
      await cluster.stop(0);
      await sees(page, "The server cannot be reached");
      await page.locator("#cluster").getByText("no connection").waitFor();
      cluster.run(0);
      await cluster.ready();
      await sees(page, "All is well");
    },
  },
];
