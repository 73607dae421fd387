// What benchmarks/live.py asks of Firefox: each figure, one key on its second slider. Prints what was seen as JSON.
import puppeteer from "puppeteer-core";

const [executablePath, site, figures] = process.argv.slice(2);
const browser = await puppeteer.launch({ browser: "firefox", executablePath, headless: true });
const seen = {};
for (const [figure, page] of Object.entries(JSON.parse(figures))) {
  const tab = await browser.newPage(), complaints = [];
  tab.on("pageerror", error => complaints.push(error.message));
  tab.on("console", message => { if (["error", "warn"].includes(message.type())) complaints.push(message.text()); });
  await tab.goto(`${site}/book/${page}.html`);
  const place = `[data-figure=${figure}]`;
  await tab.evaluate(place => document.querySelector(place).scrollIntoView(), place);
  await tab.waitForSelector(`${place}[data-state=live] td`, { timeout: 60000 });
  await tab.evaluate(place => document.querySelectorAll(`${place} input[type=range]`)[1].focus(), place);
  await tab.keyboard.press("ArrowLeft");
  await new Promise(go => setTimeout(go, 3000));
  const numbers = await tab.evaluate(place => document.querySelector(`${place} .live-numbers`).innerText, place);
  seen[figure] = { numbers, address: await tab.evaluate(() => location.search), complaints };
  await tab.close();
}
await browser.close();
console.log(JSON.stringify(seen));
