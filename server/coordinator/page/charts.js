// The curves. A point is what status_page.h says: [last step, loss, full loss, samples/s, tokens/s,
// seconds from commit to commit, pull, forward, backward, push].
import {rate, short} from './text.js';

const STEP = 0, LOSS = 1, FULL = 2, SAMPLES = 3, TOKENS = 4, ELAPSED = 5, PULL = 6, PUSH = 9;
const PARTS = ['pull wait', 'forward', 'backward', 'push', 'all else'];

const MOST_BINS = 100;

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const column = (points, y) =>
    points.filter((point) => y(point) !== null).map((point) => ({x: point[STEP], y: y(point)}));

// Means over neighbours, weighted by their time: one step that was held up would else be all that a
// chart of times shows. Points are of equally many steps.
function smooth(points) {
  const size = Math.ceil(points.length / MOST_BINS);
  const bins = [];
  for (let begin = 0; begin < points.length; begin += size) {
    const some = points.slice(begin, begin + size).filter((point) => point[ELAPSED] !== null);
    if (some.length === 0) continue;
    const elapsed = some.reduce((sum, point) => sum + point[ELAPSED], 0);
    bins.push(some.at(-1).map((_, column) => {
      if (column < SAMPLES) return some.at(-1)[column];
      const rate = column < ELAPSED;
      const sum = some.reduce((all, point) => all + point[column] * (rate ? point[ELAPSED] : 1), 0);
      return sum / (rate ? elapsed : some.length);
    }));
  }
  return bins;
}

// What of a step's time no part of the mean worker explains: reduction, evaluation, commit.
function rest(point) {
  let sum = 0;
  for (let part = PULL; part <= PUSH; ++part) sum += point[part] ?? 0;
  return point[ELAPSED] === null ? null : Math.max(0, point[ELAPSED] - sum);
}

function chart(id, datasets, {stacked = false, zero = true, text}) {
  const grid = {color: color('--grid'), borderColor: color('--grid')};
  const ticks = {color: color('--dim'), maxRotation: 0};
  return new Chart(document.getElementById(id), {
    type: 'line',
    data: {datasets: datasets.map((dataset) => ({
      data: [], borderWidth: 1.5, pointRadius: 0, pointHitRadius: 6, ...dataset,
    }))},
    options: {
      animation: false,
      parsing: false,
      normalized: true,
      maintainAspectRatio: false,
      interaction: {mode: 'nearest', axis: 'x', intersect: false},
      scales: {
        x: {type: 'linear', grid, ticks: {...ticks, precision: 0}},
        y: {stacked, beginAtZero: zero, grid, ticks: {...ticks, callback: text}},
      },
      plugins: {
        legend: {display: datasets.length > 1, labels: {color: color('--text'), boxWidth: 12}},
        tooltip: {callbacks: {
          title: (items) => items.length ? `step ${items[0].parsed.x}` : '',
          label: (item) => `${item.dataset.label ?? ''} ${text(item.parsed.y)}`,
        }},
      },
    },
  });
}

export class Charts {
  constructor() {
    this.points = [];
    this.draw();
    // Canvases do not follow the style sheet by themselves.
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.draw());
  }

  draw() {
    for (const old of [this.loss, this.rate, this.time]) old?.destroy();
    this.loss = chart('loss-chart', [
      {label: 'subnetworks, mean', borderColor: color('--c1'), backgroundColor: color('--c1')},
      {label: 'full model, validation', borderColor: color('--c2'),
        backgroundColor: color('--c2'), pointRadius: 3},
    ], {zero: false, text: short});
    this.rate = chart('rate-chart', [{borderColor: color('--c1')}], {text: rate});
    this.time = chart('time-chart', PARTS.map((label, part) => ({
      label, fill: true, borderWidth: 0, backgroundColor: color(`--p${part}`),
    })), {stacked: true, text: (value) => `${short(value)} s`});
    this.show();
  }

  // `news`: "curves" of status.json.
  add(news) {
    this.points.length = news.from;
    this.points.push(...news.points);
    if (news.points.length > 0) this.show();
  }

  show() {
    const points = this.points;
    const tokens = points.some((point) => point[TOKENS] > 0);
    document.getElementById('rate-unit').textContent = tokens ? 'tokens/s' : 'samples/s';
    const put = (chart, series) => {
      series.forEach((data, i) => { chart.data.datasets[i].data = data; });
      // A single point has no line.
      chart.data.datasets[0].pointRadius = series[0].length === 1 ? 2 : 0;
      chart.update();
      // For those who cannot see it.
      chart.canvas.setAttribute('aria-label', series.map((data, i) => {
        const newest = data.at(-1);
        return newest === undefined ? '' : `${chart.data.datasets[i].label ?? ''} ${data.length} ` +
            `points up to step ${newest.x}: ${newest.y}`;
      }).filter((line) => line !== '').join('; '));
    };
    const full = column(points, (p) => p[FULL]);
    this.loss.data.datasets[1].pointRadius = full.length > 30 ? 1 : 3;
    put(this.loss, [column(points, (p) => p[LOSS]), full]);
    const bins = smooth(points);
    put(this.rate, [column(bins, (p) => p[tokens ? TOKENS : SAMPLES])]);
    put(this.time, PARTS.map((_, part) => {
      return column(bins, (p) => PULL + part <= PUSH ? p[PULL + part] : rest(p));
    }));
  }
}
