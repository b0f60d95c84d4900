// A browser that reports whatever goes wrong in a page.

import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { chromium } from "playwright-core";

export function open() {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu"] });
}

/**
 * A page whose faults are collected: errors of scripts, violations of the content security policy,
 * files that are missing, requests to other servers. An answer with an error status is no fault of
 * the page: journeys check what it says then.
 */
export async function newPage(browser, { width = 1280, height = 860, scheme = "light" } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, reducedMotion: "reduce" });
  await context.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`));
  });
  const folder = process.env.CONSOLE_WEB;
  if (folder) await context.route(/\/console\/[^/]+\.(js|css|svg)$/, (route) => fromFolder(route, folder));
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(`script: ${error.message}`));
  page.on("console", (message) => {
    const isAnswer = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !isAnswer) page.faults.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => {
    const [asked, own] = [new URL(request.url()), page.url() === "about:blank" ? null : new URL(page.url())];
    if (own && !request.isNavigationRequest() && asked.origin !== own.origin) page.faults.push(`asks another server: ${asked}`);
  });
  page.on("response", (response) => {
    const path = new URL(response.url()).pathname;
    if (response.status() >= 400 && path.startsWith("/console/") && !path.startsWith("/console/api/")) page.faults.push(`no such file: ${path}`);
  });
  return page;
}

/** A file as it is in a folder, with the headers of the server: to try a change without a build. */
async function fromFolder(route, folder) {
  const path = join(folder, basename(new URL(route.request().url()).pathname));
  if (!existsSync(path)) return route.continue();
  return route.fulfill({ response: await route.fetch(), path });
}

export async function faultsOf(page) {
  const violations = await page.evaluate(() => window.violations).catch(() => []);
  return [...page.faults, ...violations.map((violation) => `policy: ${violation}`)];
}
