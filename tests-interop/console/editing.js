// The past of a key, and edits of it where the server allows them.

import assert from "node:assert/strict";
import { Cluster } from "./cluster.js";
import { at, contrast, fits, screen, sees, signIn, standalone } from "./journeys.js";

const editable = { SYNODKV_ADMIN_CONSOLE_EDITS: "true" };

const open = (program) => Cluster.start(program, { settings: editable });

/** `wes` may write below w/ and read everything; `ria` may only read. */
const withUsers = async (program) => {
  const cluster = await Cluster.start(program, { settings: editable });
  const file = `${cluster.folder}/root.token`;
  await cluster.command("auth", "enable", "--root-token-file", file);
  cluster.as = (...words) => cluster.command(...words, "--token-file", file);
  await cluster.as("auth", "role", "set", "looks", "--grant", "read *");
  await cluster.as("auth", "role", "set", "edits", "--grant", "read *", "--grant", "write default prefix:w/");
  for (const [user, role] of [["ria", "looks"], ["wes", "edits"]]) {
    await cluster.as("auth", "user", "add", user, "--role", role);
    cluster[user] = (await cluster.as("auth", "token", "create", user)).split("\n").at(-1);
  }
  for (const key of ["w/1", "x/1"]) await cluster.as("set", key, "old");
  return cluster;
};

const keyPath = (key) => `/console/keys?key=${Buffer.from(key).toString("hex")}`;

const value = (page) => page.locator(".value pre").first();

const entries = (page) => page.locator(".history-list > li");

async function showHistory(page) {
  await page.locator(".history > summary").click();
  await page.locator(".history-list, .history .state:not(:has-text('Reading'))").first().waitFor();
}

async function write(page, text) {
  await page.getByLabel("New value").fill(text);
  await page.getByRole("button", { name: "Write …" }).click();
  await page.getByRole("button", { name: "Write", exact: true }).click();
}

export const EDITING = [
  {
    name: "history: every version that a key had, and all keys at one of them", cluster: standalone,
    async go(page, cluster) {
      for (const text of ["one", "two"]) await cluster.command("set", "past/a", text);
      await cluster.command("delete", "past/a");
      await cluster.command("set", "past/a", '{"n":3}');
      await cluster.command("set", "past/b", "beside");
      await at(page, cluster, keyPath("past/a"));
      await showHistory(page);
      const texts = await entries(page).allInnerTexts();
      assert.deepEqual(texts.map((text) => /deleted|one|two|"n":3/.exec(text)?.[0]), ['"n":3', "deleted", "two", "one"]);
      await entries(page).nth(2).locator("summary").click();
      await entries(page).nth(2).locator("pre").getByText("two").waitFor();
      await entries(page).nth(2).getByRole("button", { name: "Show all keys at this version" }).click();
      await value(page).getByText("two").waitFor();
      assert.equal(await page.getByText("past/b").count(), 0, "it did not exist then");
      await at(page, cluster, keyPath("users/anna/none"));
      await sees(page, "There is no such key");
      await showHistory(page);
      await sees(page, "This key has not changed in that time.");
    },
  },
  {
    name: "history: only the newest entries, and who may not see it", cluster: withUsers,
    async go(page, cluster) {
      await cluster.as("txn", await cluster.file("many", "set w/many 0"));
      for (let id = 1; id <= 3; id += 1) await cluster.as("set", "w/many", String(id));
      const path = `/console/api/history?key=${Buffer.from("w/many").toString("hex")}&limit=2`;
      const root = (await import("node:fs")).readFileSync(`${cluster.folder}/root.token`, "utf8").trim();
      const found = await (await fetch(`${cluster.url()}${path}`, { headers: { authorization: `Bearer ${root}` } })).json();
      assert.deepEqual([found.entries.length, found.left_out, found.is_complete], [2, 2, true]);
      await at(page, cluster, keyPath("w/many"));
      await signIn(page, cluster.ria);
      await value(page).waitFor();
      await showHistory(page);
      await sees(page, "Not permitted", "The history of a key needs the verbs read and watch for it.");
    },
  },
  {
    name: "editing: a new key, a new value, and the key away, each confirmed", cluster: open,
    async go(page, cluster) {
      await at(page, cluster, "/console/keys");
      await sees(page, "This family is empty.");
      await page.getByRole("button", { name: "New key …" }).click();
      await page.getByLabel("Key (").fill("edited/\\x01");
      await page.getByRole("button", { name: "Go to the key" }).click();
      await sees(page, "There is no such key");
      await page.getByRole("button", { name: "Set a value …" }).click();
      await write(page, "first\nline");
      await page.locator("#notes").getByText(/Written at version/).waitFor();
      await value(page).getByText("first").waitFor();
      await page.getByRole("button", { name: "Edit …" }).click();
      assert.equal(await page.getByLabel("New value").inputValue(), "first\nline");
      await page.getByRole("button", { name: "Hex" }).last().click();
      await page.getByLabel("New value").fill("00 zz");
      await page.getByRole("button", { name: "Write …" }).click();
      await sees(page, "Expected pairs of hexadecimal digits.");
      await write(page, "00 ff 0d");
      await sees(page, "00000000  00 ff 0d");
      await page.getByRole("button", { name: "Edit …" }).click();
      assert.equal(await page.getByLabel("New value").inputValue(), "00ff0d", "no text");
      await page.getByRole("button", { name: "Delete …" }).click();
      await page.getByLabel("Type the key").fill("edited/");
      await page.getByRole("button", { name: "Delete", exact: true }).click();
      await page.locator("#notes").getByText("That is another key").waitFor();
      await page.getByRole("button", { name: "Delete …" }).click();
      await page.getByLabel("Type the key").fill("edited/\\x01");
      await page.getByRole("button", { name: "Delete", exact: true }).click();
      await sees(page, "There is no such key");
      await showHistory(page);
      assert.equal(await entries(page).count(), 3);
    },
  },
  {
    name: "editing: refused if somebody else wrote meanwhile", cluster: open,
    async go(page, cluster) {
      await cluster.command("set", "shared", "seen");
      await at(page, cluster, keyPath("shared"));
      await page.getByRole("button", { name: "Edit …" }).click();
      await cluster.command("set", "shared", "theirs");
      await write(page, "mine");
      await sees(page, "the value has changed since it was shown; nothing was written");
      assert.equal(await cluster.command("get", "shared"), "theirs");
      await page.getByRole("button", { name: "Show the present value" }).click();
      await value(page).getByText("theirs").waitFor();
      await page.getByRole("button", { name: "Edit …" }).click();
      await write(page, "mine, after theirs");
      await value(page).getByText("mine, after theirs").waitFor();
    },
  },
  {
    name: "editing: an older version cannot be edited, and other pages cannot edit", cluster: open,
    async go(page, cluster) {
      await cluster.command("set", "guarded", "1");
      await at(page, cluster, `${keyPath("guarded")}&version=stale`);
      await sees(page, "To edit this key, show its newest version.");
      const path = `${cluster.url()}/console/api/key?key=${Buffer.from("guarded").toString("hex")}`;
      const body = JSON.stringify({ value: null, expected: null });
      const kind = { "content-type": "application/json" };
      for (const headers of [kind, { ...kind, origin: "http://evil.example" }, { ...kind, origin: "null" }]) {
        assert.equal((await fetch(path, { method: "POST", headers, body })).status, 403);
      }
      const asText = await page.evaluate(async ([url, text]) => (await fetch(url, { method: "POST", body: text })).status, [path, body]);
      assert.equal(asText, 415, "a page of another site can send this type");
      assert.equal(await cluster.command("get", "guarded"), "1");
    },
  },
  {
    name: "editing: off unless the server allows it", cluster: standalone,
    async go(page, cluster) {
      await at(page, cluster, keyPath("counter"));
      await value(page).waitFor();
      for (const name of ["Edit …", "Delete …", "New key …"]) assert.equal(await page.getByRole("button", { name }).count(), 0, name);
      const refused = await page.evaluate(async () => {
        const headers = { "content-type": "application/json" };
        const answer = await fetch("/console/api/key?key=61", { method: "POST", headers, body: '{"value":null,"expected":null}' });
        return [answer.status, (await answer.json()).error];
      });
      assert.equal(refused[0], 403);
      assert.match(refused[1], /admin.console_edits = true/);
    },
  },
  {
    name: "editing: only what the identity may write", cluster: withUsers,
    async go(page, cluster) {
      await at(page, cluster, keyPath("x/1"));
      await signIn(page, cluster.wes);
      await page.getByRole("button", { name: "Edit …" }).click();
      await write(page, "new");
      await sees(page, "Not permitted");
      assert.equal(await cluster.as("get", "x/1"), "old");
      await at(page, cluster, keyPath("w/1"));
      await page.getByRole("button", { name: "Edit …" }).click();
      await write(page, "new");
      await value(page).getByText("new").waitFor();
      assert.equal(await cluster.as("get", "w/1"), "new");
    },
  },
  {
    name: "history and editing on a phone, dark and light, by keyboard", cluster: open, page: { width: 375, height: 760, scheme: "dark" },
    async go(page, cluster) {
      for (const text of ["a", "b".repeat(400)]) await cluster.command("set", "phone/key", text);
      for (const scheme of ["dark", "light"]) {
        await page.emulateMedia({ colorScheme: scheme });
        await at(page, cluster, keyPath("phone/key"));
        await page.locator(".history > summary").focus();
        await page.keyboard.press("Enter");
        await entries(page).first().waitFor();
        await page.keyboard.press("Tab");
        await page.keyboard.press("Enter");
        await entries(page).first().locator("pre").waitFor();
        await page.getByRole("button", { name: "Edit …" }).focus();
        await page.keyboard.press("Enter");
        await page.getByLabel("New value").waitFor();
        assert.equal(await page.evaluate(() => document.activeElement.id), "new-value");
        await fits(page);
        for (const selector of [".history-head .pill", ".history-head .dim", ".edit-form label"]) {
          assert.ok(await contrast(page, selector) >= 4.5, `${scheme}, ${selector}: contrast ${await contrast(page, selector)}`);
        }
        await page.keyboard.type("x");
        assert.equal(await screen(page).getByRole("heading", { level: 1 }).innerText(), "Keys", "typing opens no other screen");
      }
    },
  },
];
