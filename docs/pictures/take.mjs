// Takes the pictures in this folder of the pages that `midstudy ui` serves.
//
//   npm install playwright-core        (in a folder outside the project; and a Chromium: Debian's package `chromium`)
//   node take.mjs http://127.0.0.1:PORT STUDY TASK OUTPUT_FOLDER
//
// where TASK is the fine-tuning task whose arms are compared.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const settle_ms = Number(process.env.SETTLE_MS ?? 6000); // for charts to be drawn; more on a busy machine
const [server, study, task, output] = process.argv.slice(2);

async function api(path, body) {
  const answer = await fetch(`${server}/api/2.0/mlflow/${path}`, {
    method: body ? 'POST' : 'GET', headers: { 'Content-Type': 'application/json' }, body: body && JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

const found = await api(`experiments/get-by-name?experiment_name=${encodeURIComponent(study)}`);
const experiment = found.experiment.experiment_id;
const runs = async (filter) =>
  (await api('runs/search', { experiment_ids: [experiment], filter, order_by: ['metrics.`arm/sft_loss` ASC'] })).runs
    .map((run) => run.info.run_id);
const ids = async (filter) => `runs=${encodeURIComponent(JSON.stringify(await runs(filter)))}`;
const experiments = `experiments=${encodeURIComponent(JSON.stringify([experiment]))}`;
const tuned = "tags.stage_kind = 'sft' and params.trunk_seed = '0' and params.sft_seed = '1337'";
const branches = "tags.stage_kind != 'sft' and tags.stage_kind != 'evaluation' and params.trunk_seed = '0'";
const sorted = 'workflowType=machine_learning&startTime=ALL&orderByKey=metrics.%60arm%2Fsft_loss%60&orderByAsc=true';
const curve = 'metric=%22train%2Floss_nats%22&plot_metric_keys=%5B%22train%2Floss_nats%22%5D&plot_layout=%7B%22autosize%22%3Atrue%7D'
  + '&x_axis=step&y_axis_scale=linear&line_smoothness=0&show_point=true&deselected_curves=%5B%5D&last_linear_y_axis_range=%5B%5D';

// Name, page, size of the window, and what is clicked before the picture is taken.
const pictures = [
  ['mlflow-study', `experiments/${experiment}/runs?workflowType=machine_learning&startTime=ALL`, 1400, 640, '.ag-row [role=button], .ag-row button'],
  ['mlflow-arms', `experiments/${experiment}/runs?viewStateShareKey=midstudy`, 1600, 860],
  ['mlflow-sft-charts', `experiments/${experiment}/runs?${sorted}&compareRunsMode=CHART&searchFilter=`
    + encodeURIComponent(`${tuned} and params.task = '${task}'`), 1400, 860],
  ['mlflow-compare', `compare-runs?${await ids(`${tuned} and params.task = '${task}'`)}&${experiments}`, 1400, 900],
  ['mlflow-curves', `metric?${await ids(branches)}&${curve}&${experiments}`, 1400, 800,
    '[data-component-id=fullscreen_button_chartcard]'],
];

const profile = mkdtempSync(join(tmpdir(), 'pictures-'));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});
await browser.addInitScript(() => localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true'));
const page = await browser.newPage();
for (const [name, address, width, height, clicked] of pictures) {
  await page.setViewportSize({ width, height });
  await page.goto('about:blank');
  await page.goto(`${server}/#/${address}`);
  await page.locator('.ag-row, .js-plotly-plot, [role=row]').first().waitFor({ timeout: 90_000 });
  await page.waitForTimeout(settle_ms);
  if (clicked) {
    await page.locator(clicked).first().click();
    await page.waitForTimeout(settle_ms);
  }
  await page.screenshot({ path: join(output, `${name}.png`) });
  console.log(name);
}
await browser.close();
rmSync(profile, { recursive: true });
