// A person with a browser, for one test: headless Chromium over its debugging pipe.
//
//   node browser.mjs CHROMIUM FOLDER < steps.json
//
// Steps come as a JSON list and are done in order; what is seen goes to the standard output, one JSON line a step:
//   {"open": URL}                      goes there and waits for the page
//   {"click": "text of a link or button"}
//   {"fill": {"login": "ann", "password": "x"}}      fields by name
//   {"shoot": "name"}                  name-desktop.png and name-phone.png (1280 and 390 points wide) in FOLDER
//   {"forget": true}                   another browser: no cookies
// Each line is {"url", "title", "text", "scripts", "wide"}: `scripts` counts them, `wide` is true if a phone would have
// to scroll sideways.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [chromium, folder] = process.argv.slice(2);
const steps = JSON.parse(readFileSync(0, 'utf8'));

const profile = mkdtempSync(join(tmpdir(), 'warren-browser-'));
// The browser writes to it until it has ended, so a file may appear while the folder goes.
process.on('exit', () => rmSync(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 }));

const browser = spawn(
  chromium,
  ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--hide-scrollbars',
    '--remote-debugging-pipe', `--user-data-dir=${profile}`, 'about:blank'],
  { stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'] },
);
let complaints = '';
browser.stderr.on('data', (text) => { complaints = (complaints + text).slice(-4000); });
browser.on('exit', () => { console.error(`Chromium ended\n${complaints}`); process.exit(1); });

// Messages are JSON, each ended by a zero byte.
let last = 0;
let rest = '';
const answers = new Map();
browser.stdio[4].setEncoding('utf8').on('data', (text) => {
  const parts = (rest + text).split('\0');
  rest = parts.pop();
  for (const part of parts) {
    const message = JSON.parse(part);
    const waiting = answers.get(message.id);
    if (waiting) {
      answers.delete(message.id);
      if (message.error) waiting.reject(new Error(JSON.stringify(message.error)));
      else waiting.resolve(message.result);
    }
  }
});
function say(method, params = {}, sessionId) {
  last += 1;
  const id = last;
  browser.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  return new Promise((resolve, reject) => answers.set(id, { resolve, reject }));
}

let session;
let context;
async function fresh() {
  if (context) await say('Target.disposeBrowserContext', { browserContextId: context });
  context = (await say('Target.createBrowserContext')).browserContextId;
  const { targetId } = await say('Target.createTarget', { url: 'about:blank', browserContextId: context });
  session = (await say('Target.attachToTarget', { targetId, flatten: true })).sessionId;
  await size(1280, 800, false);
}
const size = (width, height, mobile) =>
  say('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: mobile ? 2 : 1, mobile }, session);
async function evaluate(expression) {
  const { result, exceptionDetails } = await say('Runtime.evaluate', { expression, returnByValue: true }, session);
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}
const pause = (time) => new Promise((done) => { setTimeout(done, time); });

// A mark in the window tells the page that was left from the one that came.
async function arrive(go) {
  await evaluate('window.warrenMark = true').catch(() => {});
  await go();
  for (let turn = 0; turn < 300; turn += 1) {
    await pause(50);
    const there = await evaluate('document.readyState === "complete" && !window.warrenMark').catch(() => false);
    if (there) return;
  }
  throw new Error(`no page came; this one says: ${await evaluate('document.body.innerText')}`);
}

const CLICK = (text) => `(() => {
  const all = [...document.querySelectorAll('a, button, input[type=submit]')];
  const found = all.find((e) => (e.innerText || e.value || '').trim() === ${JSON.stringify(text)});
  if (!found) throw new Error('nothing to click says ${text}: ' + document.body.innerText);
  found.click();
})()`;

async function step({ open, click, fill, shoot, forget }) {
  if (forget) await fresh();
  if (open) await arrive(() => say('Page.navigate', { url: open }, session));
  if (fill) {
    for (const [name, value] of Object.entries(fill)) {
      await evaluate(`document.querySelector('[name=${name}]').value = ${JSON.stringify(value)}`);
    }
  }
  if (click) await arrive(() => evaluate(CLICK(click)));
  await size(390, 844, true);
  const wide = await evaluate('document.documentElement.scrollWidth > 390');
  for (const [name, width, height, mobile] of [['phone', 390, 844, true], ['desktop', 1280, 800, false]]) {
    await size(width, height, mobile);
    if (shoot) {
      const { data } = await say('Page.captureScreenshot', { format: 'png' }, session);
      writeFileSync(join(folder, `${shoot}-${name}.png`), Buffer.from(data, 'base64'));
    }
  }
  return {
    url: await evaluate('location.href'),
    title: await evaluate('document.title'),
    text: await evaluate('document.body.innerText'),
    scripts: await evaluate('document.scripts.length'),
    wide,
  };
}

await fresh();
for (const one of steps) {
  console.log(JSON.stringify(await step(one)));
}
browser.removeAllListeners('exit');
browser.on('exit', () => process.exit(0));
browser.kill();
