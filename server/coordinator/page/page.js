// Asks for status.json once a second and shows it. All texts of a run, such as names of workers, are
// others': they become text nodes and attributes, never markup.
import {Charts} from './charts.js';
import {drawPicture} from './picture.js';
import * as text from './text.js';

const SILENT_SEC = 5, WAITS_SEC = 3, MOST_EVENTS = 50;
const PHASES = {training: 'good', over: 'off', paused: 'bad', 'going back': 'warn'};

const at = (id) => document.getElementById(id);
const put = (id, value) => { at(id).textContent = value; };

function element(name, className, content = '') {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = content;
  return made;
}

// ---- What is wrong, the worst first -----------------------------------------------------------

// Workers and shards that were in the run and are not: name -> the event that says so.
function gone(status) {
  const last = new Map();
  for (const event of status.events) {
    const name = event.worker ?? event.shard;
    if (['leave', 'let_go', 'exclude'].includes(event.event)) last.set(name, event);
    if (['join', 'ready'].includes(event.event)) last.delete(name);
  }
  for (const member of status.members) last.delete(member.name);
  return last;
}

const training = (status) => status.all_workers.states.training ?? 0;

function alertsOf(status) {
  const alerts = [];
  const say = (level, what) => alerts.push({level, what});
  if (status.phase === 'over') {
    const finished = status.waiting_for === 'finished';
    say(finished ? 'good' : 'bad', `The run is over: ${status.waiting_for}`);
  }
  for (const error of [status.checkpoint_error, status.events_error, status.curves_error])
    if (error) say('bad', `Error, which stays here: ${error}`);
  // A step of a large model takes its time.
  const patience = Math.max(WAITS_SEC, 3 * (status.step_times.elapsed_sec ?? 0));
  const wait = status.waits.find((one) => one.who === 'the run');
  if (wait && wait.since_sec >= patience) {
    const level = status.phase === 'training' || status.phase === 'paused' ? 'bad' : 'warn';
    say(level, `Waits for ${text.duration(wait.since_sec)}: ${wait.for_what}`);
  }
  for (const member of status.members) {
    if (member.silence_sec >= SILENT_SEC && status.phase !== 'over')
      say('bad', `${member.name} was not heard for ${text.duration(member.silence_sec)}`);
  }
  if (training(status) < status.workers_wanted) {
    for (const event of gone(status).values())
      say('warn', `${text.moment(new Date(event.time))} ${event.text}`);
  }
  if (status.worst_memory_ratio > 1.05) {
    const more = Math.round(100 * (status.worst_memory_ratio - 1));
    say('warn', `A worker needs ${more}% more memory than was predicted`);
  }
  return alerts;
}

function showAlerts(alerts) {
  const now = JSON.stringify(alerts);
  if (at('alerts').dataset.shown === now) return;  // else it would be read out every second
  at('alerts').dataset.shown = now;
  at('alerts').replaceChildren(...alerts.map(({level, what}) => element('p', `alert ${level}`, what)));
}

// ---- The run at a glance ------------------------------------------------------------------------

function states(count) {
  const entries = Object.entries(count.states).filter(([, members]) => members > 0);
  return entries.map(([state, members]) => `${members} ${state}`).join(', ');
}

function showTiles(status) {
  const done = status.committed + 1;
  put('run', status.run_dir);
  put('phase', status.phase);
  at('phase').className = `pill ${PHASES[status.phase] ?? 'warn'}`;
  const share = status.steps > 0 ? done / status.steps : 0;
  const percent = `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;
  put('steps', `${text.count(done)} of ${text.count(status.steps)} steps, ${percent}`);
  at('bar').value = share;
  const eta = status.phase === 'training' ? status.eta_sec : undefined;
  const ends = new Date(1000 * (status.time_sec + (eta ?? 0)));
  put('eta', eta === undefined ? status.waiting_for :
      `${text.duration(eta)} left, until ${eta > 72000 ? text.moment(ends) : text.clock(ends)}`);
  document.title = `${percent} ${status.phase} · ${status.run_dir}`;

  put('loss', status.loss?.toFixed(4) ?? '-');
  put('full', status.full_loss == null ? 'subnetworks, mean' :
      `full model ${status.full_loss.toFixed(4)} at step ${text.count(status.full_loss_step)}`);
  const pace = status.step_times.elapsed_sec;
  const samples = status.totals.samples / status.totals.times.elapsed_sec;
  const tokens = status.tokens_per_sec;
  put('speed', tokens > 0 ? `${text.rate(tokens)} tok/s` : samples > 0 ? `${text.rate(samples)} samples/s` : '-');
  put('pace', pace > 0 ? `${text.seconds(pace)} a step` : '');
  const workers = training(status);
  const wanted = workers < status.workers_wanted ? ` of ${status.workers_wanted}` : '';
  put('workers', `${workers}${wanted} train`);
  at('workers').className = workers < status.workers_wanted ? 'warn' : '';
  put('shards', `shards: ${states(status.all_shards) || 'none yet'}`);
  put('checkpoint', status.checkpoint === undefined ? 'none yet' : `step ${text.count(status.checkpoint)}`);
  put('age', status.checkpoint === undefined ? '' : `${text.duration(status.checkpoint_age_sec)} ago`);
}

// ---- Members and events -----------------------------------------------------------------------

function memoryCell(member) {
  const cell = element('td', '');
  cell.dataset.label = 'Memory';
  const peak = member.allocated_peak_bytes, predicted = member.predicted_bytes;
  if (!peak) return cell.append('-'), cell;
  cell.append(predicted ? text.bytes(peak, predicted) : text.bytes(peak));
  // By a shard's prediction nothing is dealt.
  if (!predicted || member.role !== 'worker') return cell;
  const meter = document.createElement('meter');
  // Green up to the prediction, yellow beyond.
  Object.assign(meter, {min: 0, max: Math.max(predicted * 1.25, peak), high: predicted * 1.05, value: peak});
  cell.append(' ', meter);
  return cell;
}

function memberRow(member) {
  const worker = member.role === 'worker';
  const silent = member.silence_sec >= SILENT_SEC;
  const row = element('tr', silent ? 'silent' : '');
  const cell = (label, value, className = '') => {
    const made = element('td', className, value);
    made.dataset.label = label;
    row.append(made);
  };
  const does = member.phase === member.state ? '-' : member.phase;
  const lasts = does !== '-' && member.phase_sec >= WAITS_SEC;
  cell('Name', member.name, 'member');
  cell('State', member.state);
  cell('Does', does + (lasts ? `, for ${text.duration(member.phase_sec)}` : ''));
  cell('Step', member.step < 0 ? '-' : text.count(member.step));
  cell('Units', worker ? text.count(member.units) : '-');
  cell('Samples/s', member.samples_per_sec > 0 ? text.rate(member.samples_per_sec) : '-');
  row.append(memoryCell(member));
  cell('Heard', member.silence_sec < 2 ? 'just now' : `${text.duration(member.silence_sec)} ago`);
  return row;
}

function showMembers(status) {
  const order = new Intl.Collator('en', {numeric: true});
  const members = [...status.members].sort((a, b) =>
      (b.silence_sec >= SILENT_SEC) - (a.silence_sec >= SILENT_SEC) ||
      order.compare(b.role, a.role) || order.compare(a.name, b.name));
  at('members').replaceChildren(...members.map(memberRow));
  put('left-out', status.members_left_out > 0 ? `and ${status.members_left_out} more workers` : '');
}

function showEvents(status) {
  const bad = ['exclude', 'go_back', 'checkpoint_failed', 'skip', 'pause', 'no_plan'];
  at('events').replaceChildren(...status.events.slice(-MOST_EVENTS).reverse().map((event) => {
    const item = element('li', bad.includes(event.event) ? 'bad' : '');
    item.append(element('time', '', text.moment(new Date(event.time))), ` ${event.text}`);
    return item;
  }));
}

// ---- The loop ---------------------------------------------------------------------------------

const charts = new Charts();
let next = '';        // where the curves go on
let pictured = '';    // of which plan and view the picture is
let heard = 0;        // when the coordinator last answered
let timer = 0;

function show(news) {
  const status = news.status;
  heard = Date.now();
  next = news.curves.next;
  charts.add(news.curves);
  showTiles(status);
  showAlerts(alertsOf(status));
  showMembers(status);
  showEvents(status);
  const plan = `${status.generation} ${status.view} ${status.plan_hash}`;
  if (status.units === undefined) {
    if (plan !== pictured) pictured = '';  // ask for them
    return;
  }
  pictured = plan;
  const workers = status.members.filter((member) => member.role === 'worker' && member.units > 0);
  drawPicture(at('picture'), at('units-note'), at('pointed'), status.units, workers);
}

function showContact(error) {
  document.body.classList.toggle('stale', error !== null);
  const since = heard > 0 ? ` for ${text.duration((Date.now() - heard) / 1000)}` : '';
  put('contact', error === null ? 'live' :
      `no answer${since}: below is what it said last. If the run is over, sdp status says how it ended.`);
}

async function poll() {
  clearTimeout(timer);
  try {
    const units = pictured === '' ? '&units=1' : '';
    const since = next === '' ? '' : `since=${next}`;
    const answer = await fetch(`status.json?${since}${units}`, {signal: AbortSignal.timeout(8000)});
    if (!answer.ok) throw new Error(await answer.text());
    show(await answer.json());
    showContact(null);
  } catch (error) {
    showContact(error);
  }
  if (!document.hidden) timer = setTimeout(poll, 1000);
}

document.addEventListener('visibilitychange', () => { if (!document.hidden) poll(); });
poll();
