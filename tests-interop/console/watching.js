// What people watch with the console: changes as they happen, hot keys, slow requests; and the commands for backups.

import assert from "node:assert/strict";
import { Cluster, until } from "./cluster.js";
import { at, contrast, fits, guarded, sees, screen, signIn, standalone, three } from "./journeys.js";

/** Every request is slow, and changes are kept for a second. */
const hurried = (program) => Cluster.start(program, {
  settings: { SYNODKV_LOG_SLOW_MS: "1", SYNODKV_CHANGES_RETENTION_MS: "1000", SYNODKV_STORAGE_READABLE_WINDOW_MS: "1000" },
});

const changes = (page) => page.locator(".changes-list");

async function isLive(page) {
  await screen(page).getByText("live", { exact: true }).waitFor();
}

/** Writes until the oldest changes are gone. */
function forgetChanges(cluster, after) {
  return until("changes are too old", async () => {
    await cluster.command("set", "passing", "time");
    const answer = await fetch(`${cluster.url()}/changes?after=${after}`);
    await answer.body.cancel();
    return answer.status === 410;
  });
}

const namesOf = async (page) => changes(page).locator(".entry-name").allInnerTexts();

const firstScreens = ["changes?after=1", "load", "backups"];

export const WATCHING = [
  {
    name: "changes: none yet, then one, then a deletion, as they happen", cluster: three,
    async go(page, cluster) {
      await at(page, cluster, "/console/changes", 1);
      await isLive(page);
      await sees(page, "Nothing has changed yet.");
      await cluster.command("set", "live/a", "first");
      await changes(page).getByText("first").waitFor();
      await cluster.command("delete", "live/a");
      await changes(page).getByText("deleted").waitFor();
      assert.deepEqual(await namesOf(page), ["live/a", "live/a"]);
      await cluster.command("set", "live/b", "second");
      await changes(page).getByText("second").waitFor();
      assert.equal((await namesOf(page))[0], "live/b", "the newest comes first");
    },
  },
  {
    name: "changes: only those of a prefix; a click leads to the key", cluster: standalone,
    async go(page, cluster) {
      await at(page, cluster, "/console/changes");
      await page.getByLabel("Prefix").fill("wanted/");
      await page.getByRole("button", { name: "Follow" }).click();
      await page.waitForURL(/prefix=77616e7465642f/);
      await isLive(page);
      await cluster.command("set", "other/1", "x");
      await cluster.command("set", "wanted/1", "y");
      await changes(page).getByText("wanted/1").waitFor();
      assert.deepEqual(await namesOf(page), ["wanted/1"]);
      await page.getByRole("button", { name: "Keys only" }).click();
      await isLive(page);
      await cluster.command("set", "wanted/2", "unseen");
      await changes(page).getByText("wanted/2").waitFor();
      assert.equal(await changes(page).getByText("unseen").count(), 0);
      await changes(page).getByRole("link", { name: "wanted/2" }).click();
      await page.locator(".value pre").getByText("unseen").waitFor();
    },
  },
  {
    name: "changes: a pause misses nothing, by the button and by the key p", cluster: standalone,
    async go(page, cluster) {
      await at(page, cluster, "/console/changes");
      await isLive(page);
      await cluster.command("set", "pause/0", "0");
      await changes(page).getByText("pause/0").waitFor();
      await page.getByRole("button", { name: "Pause" }).click();
      await sees(page, "paused");
      for (const id of [1, 2, 3]) await cluster.command("set", `pause/${id}`, String(id));
      assert.deepEqual(await namesOf(page), ["pause/0"]);
      await page.keyboard.press("p");
      await changes(page).getByText("pause/3").waitFor();
      assert.deepEqual(await namesOf(page), ["pause/3", "pause/2", "pause/1", "pause/0"]);
      await page.getByRole("button", { name: "Clear the list" }).click();
      await sees(page, "Nothing has changed yet.");
    },
  },
  {
    name: "changes: too old to continue, then what there still is", cluster: hurried,
    async go(page, cluster) {
      await at(page, cluster, "/console/changes");
      await isLive(page);
      await cluster.command("set", "before", "1");
      await changes(page).getByText("before").waitFor();
      await page.keyboard.press("p");
      await sees(page, "paused");
      const version = /version (\d+)/.exec(await changes(page).innerText())[1];
      await forgetChanges(cluster, version);
      await page.keyboard.press("p");
      await sees(page, "That version cannot be read any more", "changes are kept only after version");
      await page.getByRole("button", { name: "Continue with the oldest change there is" }).click();
      await isLive(page);
      await page.getByRole("button", { name: "Pause" }).click();
      await at(page, cluster, "/console/changes?after=1");
      await sees(page, "That version cannot be read any more");
      await page.getByRole("button", { name: "Continue with what happens now" }).click();
      await isLive(page);
      await cluster.command("set", "afterwards", "1");
      await changes(page).getByText("afterwards").waitFor();
    },
  },
  {
    name: "history: as far back as the server keeps changes", cluster: hurried,
    async go(page, cluster) {
      await forgetChanges(cluster, 1);
      const key = Buffer.from("passing").toString("hex");
      const history = (query) => fetch(`${cluster.url()}/console/api/history?key=${key}${query}`);
      assert.equal((await history("&after=1")).status, 410, "nothing is left out silently");
      const found = await (await history("")).json();
      assert.ok(found.since > 1 && found.entries.length > 0 && found.entries.every(({ version }) => version > found.since), JSON.stringify(found));
      await at(page, cluster, `/console/keys?key=${key}`);
      await page.locator(".history > summary").click();
      await page.locator(".history-list > li").first().waitFor();
      await page.locator(".history").getByText(/Changes between version [0-9]+ and version/).waitFor();
    },
  },
  {
    name: "changes: a server that dies and comes back, without a gap", cluster: (program) => Cluster.start(program),
    async go(page, cluster) {
      await at(page, cluster, "/console/changes");
      await isLive(page);
      await cluster.command("set", "gap/1", "1");
      await changes(page).getByText("gap/1").waitFor();
      await cluster.stop(0);
      await sees(page, "no connection");
      cluster.run(0);
      await cluster.ready();
      await cluster.command("set", "gap/2", "2");
      await changes(page).getByText("gap/2").waitFor();
      assert.deepEqual(await namesOf(page), ["gap/2", "gap/1"]);
    },
  },
  {
    name: "changes: a server that hangs is noticed, and followed again", cluster: (program) => Cluster.start(program),
    async go(page, cluster) {
      await page.clock.install();
      await at(page, cluster, "/console/changes");
      await isLive(page);
      await cluster.command("set", "hang/1", "1");
      await changes(page).getByText("hang/1").waitFor();
      cluster.processes.get(0).kill("SIGSTOP");
      await page.clock.fastForward(40_000);
      await sees(page, "no connection");
      cluster.processes.get(0).kill("SIGCONT");
      await cluster.ready();
      await cluster.command("set", "hang/2", "2");
      await changes(page).getByText("hang/2").waitFor();
      assert.deepEqual(await namesOf(page), ["hang/2", "hang/1"]);
    },
  },
  {
    name: "changes: what a user may not follow, and a token that expires meanwhile", cluster: guarded,
    async go(page, cluster) {
      await at(page, cluster, "/console/changes");
      await signIn(page, cluster.token);
      await sees(page, "Not permitted", "Following changes needs the verbs read and watch");
      const as = (...words) => cluster.command(...words, "--token-file", `${cluster.folder}/root.token`);
      await as("auth", "role", "set", "follower", "--grant", "read,watch default prefix:orders/eu/");
      await as("auth", "user", "add", "finn", "--role", "follower");
      const short = (await as("auth", "token", "create", "finn", "--expires", "8s")).split("\n").at(-1);
      await page.getByRole("button", { name: "Sign in or out" }).click();
      await signIn(page, short);
      await page.getByLabel("Family").fill("default");
      await page.getByLabel("Prefix").fill("orders/eu/");
      await page.getByRole("button", { name: "Follow" }).click();
      await isLive(page);
      await as("set", "orders/eu/new", "1");
      await changes(page).getByText("orders/eu/new").waitFor();
      await sees(page, "Sign in", /expired/);
    },
  },
  {
    name: "hot keys: by reads and writes, of one family, and the value of one", cluster: three,
    async go(page, cluster) {
      const primary = await cluster.primary();
      await at(page, cluster, "/console/load", primary);
      const { thrift } = cluster.servers[primary];
      await page.getByRole("button", { name: "Writes" }).click();
      await cluster.command("bench", "--workload", "ycsb-a", "--keys", "20", "--concurrency", "4", "--seconds", "3", "--addr", thrift);
      const first = page.locator(".load section", { hasText: "Hot keys" }).locator("tbody tr").first();
      await first.waitFor();
      assert.match(await first.innerText(), /default/);
      await page.getByRole("button", { name: "Conflicts" }).click();
      await sees(page, "synodkv top --by conflicts");
      await page.getByLabel("Family").selectOption("sessions");
      await sees(page, "No key was named by a conflict often enough to be counted.");
      await page.getByLabel("Family").selectOption("");
      await page.getByRole("button", { name: "Writes" }).click();
      await first.getByRole("link").click();
      await page.getByRole("heading", { level: 1, name: "Keys" }).waitFor();
      await page.locator(".value-name").waitFor();
    },
  },
  {
    name: "slow requests: none, and some with their key", cluster: hurried,
    async go(page, cluster) {
      await cluster.write(Object.fromEntries(Array.from({ length: 200 }, (_, id) => [`slow/${id}`, "x".repeat(2000)])));
      await at(page, cluster, "/console/load");
      const row = page.locator("section", { hasText: "Slow requests" }).locator("tr", { hasText: "atomicCommit" }).first();
      await row.getByRole("link", { name: /slow\/|passing/ }).first().waitFor();
      await sees(page, "or longer since this server started");
    },
  },
  {
    name: "no slow request", cluster: standalone,
    async go(page, cluster) {
      await at(page, cluster, "/console/load");
      await sees(page, "No request at this server took 60000 ms or longer since it started.");
    },
  },
  {
    name: "hot keys, slow requests and backups need rights, and say which", cluster: guarded,
    async go(page, cluster) {
      await at(page, cluster, "/console/load");
      await signIn(page, cluster.token);
      await sees(page, /eva may not see this.*admin:member/);
      await page.getByRole("link", { name: "Backups" }).click();
      await sees(page, "The addresses for clients are not known to this identity", "--token-file backup.token");
    },
  },
  {
    name: "backups: the commands for this cluster do what they say", cluster: three,
    async go(page, cluster) {
      await at(page, cluster, "/console/backups");
      await page.getByRole("textbox", { name: /^Place/ }).fill("nowhere");
      await sees(page, "Give a directory that begins with /, or s3://BUCKET/PREFIX.");
      const place = `${cluster.folder}/my backups`;
      await page.getByRole("textbox", { name: /^Place/ }).fill(place);
      await until("the addresses are there", async () => (await screen(page).innerText()).includes(`--addr ${cluster.servers.map(({ thrift }) => thrift).join(",")}`));
      const command = async (title) => page.locator(".step", { hasText: title }).locator("code").innerText();
      const shell = async (title) => cluster.shell(await command(title));
      await shell("Try out the place");
      await shell("Make a backup");
      assert.match(await shell("What exists"), /full|1 backup|rows/i);
      await shell("Check that it can be restored");
      await shell("Remove old ones");
      assert.match(await command("A new cluster"), /--config cluster.toml --node-id 0$/);
      await page.getByRole("textbox", { name: /^Place/ }).fill("s3://bucket/a");
      await sees(page, "--credentials /etc/synodkv/s3.env");
    },
  },
  {
    name: "changes, hot keys and backups on a phone, dark and light", cluster: three, page: { width: 375, height: 760, scheme: "dark" },
    async go(page, cluster) {
      await cluster.command("set", `long/${"without-a-space".repeat(12)}`, "y".repeat(300));
      for (const scheme of ["dark", "light"]) {
        await page.emulateMedia({ colorScheme: scheme });
        for (const name of firstScreens) {
          await at(page, cluster, `/console/${name}`);
          await page.waitForFunction(() => !/Loading|Connecting/.test(document.querySelector("#screen").innerText));
          await page.locator(".changes-list li, table, .step, .load .state").first().waitFor();
          await fits(page);
          const current = await page.locator("#nav [aria-current]").boundingBox();
          assert.ok(current.x >= 0 && current.x + current.width <= 375, "the present screen is in sight");
          const seen = { "changes?after=1": [".change .pill", ".change a", ".change-head"], load: [".state, td"], backups: [".step p", ".command code"] }[name];
          for (const selector of seen) assert.ok(await contrast(page, selector) >= 4.5, `${name}, ${scheme}, ${selector}: contrast ${await contrast(page, selector)}`);
        }
      }
    },
  },
];
