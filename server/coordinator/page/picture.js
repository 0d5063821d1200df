// Workers x units: a filled cell is a unit that the worker holds.
const SVG = 'http://www.w3.org/2000/svg';
const ROW = 20, GAP = 2, MOST_NAMED = 40, CHAR = 6.6;

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// `units`, `workers`: "units" and the workers of "members" of the status. Shared units, which all
// hold, are only counted.
export function drawPicture(svg, note, pointed, units, workers) {
  const columns = units.map((unit, index) => ({...unit, index})).filter((unit) => !unit.shared);
  const shared = units.length - columns.length;
  const named = columns.length <= MOST_NAMED;
  note.textContent = columns.length === 0 ? '' :
      `A row is a worker, a column one of ${columns.length} units of the model; filled: it holds ` +
      `and trains it.` + (named ? ' The number below says how many hold it.' : '') +
      (shared > 0 ? ` ${shared} shared units are on every worker.` : '');
  const longest = (names) => Math.max(0, ...names.map((name) => name.length)) * CHAR;
  const left = Math.min(160, longest(workers.map((worker) => worker.name))) + 8;
  const top = named ? 0.8 * longest(columns.map((unit) => unit.name)) + 14 : 4;
  const width = Math.max(4, Math.min(28, Math.floor(1000 / Math.max(1, columns.length))));
  const bottom = top + workers.length * ROW;
  const slant = named ? 0.6 * longest(columns.map((unit) => unit.name).slice(-1)) : 0;
  svg.replaceChildren();
  svg.setAttribute('width', left + columns.length * width + slant + 4);
  svg.setAttribute('height', bottom + 20);

  columns.forEach((unit, i) => {
    const x = left + i * width;
    if (named) {
      const at = `translate(${x + width / 2 + 3} ${top - 6}) rotate(-55)`;
      svg.append(element('text', {transform: at, class: 'name'}, unit.name));
    }
    const nobody = unit.holders === 0;
    if (named || nobody) {
      const at = {x: x + (width - GAP) / 2, y: bottom + 14, 'text-anchor': 'middle'};
      svg.append(element('text', nobody ? {...at, class: 'nobody'} : at, String(unit.holders)));
    }
  });
  workers.forEach((worker, row) => {
    const y = top + row * ROW;
    const label = worker.name.length * CHAR > 160 ? worker.name.slice(0, 22) + '…' : worker.name;
    svg.append(element('text', {x: left - 8, y: y + 14, 'text-anchor': 'end'}, label));
    const held = columns.map((unit) => worker.held?.[unit.index] === '1');
    const cells = (wanted) => held.map((has, i) => has === wanted ?
        `M${left + i * width} ${y}h${width - GAP}v${ROW - GAP}h${GAP - width}z` : '').join('');
    svg.append(element('path', {d: cells(false), class: 'absent'}));
    svg.append(element('path', {
      d: cells(true), class: 'held', 'data-worker': worker.name,
      'data-units': columns.filter((_, i) => held[i]).map((unit) => unit.name).join(' '),
    }));
  });

  svg.onpointermove = (event) => {
    const box = svg.getBoundingClientRect();
    const unit = columns[Math.floor((event.clientX - box.left - left) / width)];
    const worker = workers[Math.floor((event.clientY - box.top - top) / ROW)];
    if (unit === undefined || worker === undefined) return;
    const holds = worker.held?.[unit.index] === '1' ? 'holds' : 'does not hold';
    pointed.textContent = `${worker.name} ${holds} ${unit.name}, which ${unit.holders} of ` +
        `${workers.length} workers hold`;
  };
}
