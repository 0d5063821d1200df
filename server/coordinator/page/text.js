// Numbers as people read them. Pure functions.

export const count = (value) => value.toLocaleString('en-US');

// "24.2k": three digits.
export function rate(value) {
  if (value === 0) return '0';
  for (const [size, letter] of [[1e9, 'G'], [1e6, 'M'], [1e3, 'k']]) {
    if (value >= 0.9995 * size) return (value / size).toPrecision(3) + letter;
  }
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

// "1.2 / 1.9 GiB": all in the unit of the largest.
export function bytes(...values) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  for (let most = Math.max(...values); most >= 1023.5 && unit + 1 < units.length; most /= 1024) ++unit;
  const texts = values.map((value) => value / 1024 ** unit).map(
      (value) => value.toFixed(value < 9.95 && unit > 0 ? 1 : 0));
  return `${texts.join(' / ')} ${units[unit]}`;
}

// "48 s", "2 m 5 s", "2 h 5 m", "1 d 3 h"
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 600) return `${Math.floor(s / 60)} m ${s % 60} s`;
  if (s < 3600) return `${Math.floor(s / 60)} m`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} m`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// Of a chart's axis: no more digits than it takes.
export const short = (value) => String(Number(value.toPrecision(4)));

export function seconds(value) {
  return value < 0.0995 ? `${(1000 * value).toPrecision(2)} ms` : `${value.toPrecision(3)} s`;
}

export const clock = (date) => date.toLocaleTimeString([], {hour: '2-digit', minute: '2-digit'});

// "19:04:07", with the day if it is not today.
export function moment(date) {
  const time = date.toLocaleTimeString([], {hour12: false});
  const today = new Date().toDateString() === date.toDateString();
  return today ? time : `${date.toLocaleDateString([], {month: 'short', day: 'numeric'})} ${time}`;
}
