// Draws the page from the parts that the server sends, and sends what the visitor does, one request a step; see studio.py.

const root = element.querySelector('.rw'), $ = s => root.querySelector(s), $$ = s => [...root.querySelectorAll(s)];
const parts = {};  // as they were last received; before that, as they came with the page
const part = name => (name in parts ? parts[name] : parts[name] = JSON.parse(props[name] || 'null')) || {};
const show = shown => {
  Object.assign(parts, shown);
  for (const [name, draw] of Object.entries(WATCHED)) if (name in shown) try { draw(); } catch (error) { reportError(error); }
};
const make = (tag, more, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(more || {}))
    if (name.includes('-') || name === 'role' || name === 'for') made.setAttribute(name, value); else made[name] = value;
  made.append(...children.filter(child => child !== null));
  return made;
};
const press = (selector, run) => $$(selector).forEach(button => button.addEventListener('click', () => run(button)));
const busy = () => root.dataset.busy === 'yes';
const still = matchMedia('(prefers-reduced-motion: reduce)').matches;

// --- the server: a step is one request. Steps wait for each other, because each needs the record that the one before returned ---

const LOOKS = ['open', 'pick', 'browse', 'more', 'look', 'refresh', 'save', 'link', 'photo', 'photo_file', 'forget_photo', 'square', 'sides'];  // steps that leave the edit as it is
const LARGE = 32768, AWAY = 60, SILENT = 30, CUT = 3;  // characters of a record; seconds; seconds; streams that end early
const SAFE = 'The server of this page cannot be reached. Your work is safe in this tab';
const base = new URL(window.gradio_config?.root || '.', document.baseURI).href.replace(/\/*$/, '/');
const hex = bytes => [...new Uint8Array(bytes)].map(byte => byte.toString(16).padStart(2, '0')).join('');
const tab = hex(crypto.getRandomValues(new Uint8Array(16)));
const stored = (where, text, key = 'rewriter') => {  // each tab keeps its own work over a reload; a new tab can continue the latest
  try { if (text === undefined) return window[where].getItem(key); window[where].setItem(key, text); } catch { /* full, or forbidden */ }
  return null;
};
let record = stored('sessionStorage'), inline = false, running = null, waiting = [], stale = false;
const photos = new Map(Object.entries(JSON.parse(stored('sessionStorage', undefined, 'rewriter-photos') || '{}')));  // by name, in base64: see photo.js
const beside = {};  // steps that change no record, by name

const stoppable = step => {
  const stopper = new AbortController();
  return Object.assign(step, { stop: () => stopper.abort(), signal: stopper.signal });
};
const pause = (seconds, signal) => new Promise((done, failed) => {
  const timer = setTimeout(done, 1000 * seconds);
  signal.addEventListener('abort', () => { clearTimeout(timer); failed(signal.reason); });
});
const send = step => {
  if (!LOOKS.includes(step.name)) { if (beside.prepare) { beside.prepare.stop(); asked = ''; } beside.attempt?.stop(); beside.why?.stop(); clearTimeout(thinking); }
  const late = waiting.at(-1), again = step.name === 'set' ? late?.args[0] === step.args[0] : step.name === 'pick' || step.long && step.name !== 'load';
  if (again && late?.name === step.name) waiting.pop();  // of choices that wait, the last counts
  waiting.push(stoppable(step));
  if (running) { if (busy()) progress(); } else run();
};
const act = (name, ...args) => send({ name, args });
const work = (name, ...args) => { say(''); send({ name, args, long: true }); };
const fetchWanted = (wanted, { linked = false, on_top = false } = {}) => {  // replaces what is under way
  say(''); sharing.hidden = true;
  waiting = waiting.filter(step => !step.long);
  if (running?.long) running.stop();
  send({ name: 'fetch', args: [wanted, linked, on_top], long: true, words: 'Opening …' });
};
const aside = async (name, ...args) => {
  const step = beside[name] = stoppable({ name, args, quiet: true });
  try { take(step, await perform(step)); } catch { /* stopped, or not possible now */ }
  if (beside[name] === step) delete beside[name];
};
const run = async () => {
  while ((running = waiting.shift() || (stale ? stoppable({ name: 'refresh', args: [] }) : null))) {
    const step = running;
    if (step.long) show({ progress: { share: 0, words: step.words || 'One moment …' } });
    if (step.name === 'refresh') stale = false;
    try { take(step, await perform(step)); } catch (error) {
      if (error.away) for (const lost of waiting.splice(0)) lost.undo?.();
      if (error.status === 400 && step.name === 'open' && record === step.record) record = null;  // it cannot be read
      if (step.long && step.cut) stale = true;  // pictures of what was under way may be shown
      step.undo?.();
      if (!step.signal.aborted) show({ trouble: { message: error.message } });
    }
    if (busy()) show({ progress: null });
  }
  think(); attempt();
};
const perform = async step => {  // until it is answered; returns the last line of the answer
  for (let full = false, tries = 0; ;) {
    let answer = null;
    try { answer = await ask(step, full); } catch { /* the network, or the server is away */ }
    step.signal.throwIfAborted();
    const { end, status, message, wait = 2 } = answer || {}, later = message && (status === 429 || status === 503), at = performance.now();
    if (end) return answer;
    if (status === 409 && !full) { full = true; continue; }
    if (step.name === 'attempt' || message && !later) throw Object.assign(new Error(message), { status });
    if (later) step.since = tries = 0; else { full = true; step.since ||= at; tries += 1; }
    if (at - (step.since || at) > 1000 * AWAY || step.cut > CUT) throw Object.assign(new Error(`${SAFE}: try again later.`), { away: true });
    if (!step.quiet) show({ progress: { share: 0, words: later ? message : `${SAFE}. Trying again …` } });
    await pause(later ? wait : Math.min(8, 2 ** tries / 4), step.signal);
  }
};
const ask = async (step, full) => {
  const { name, args, signal } = step, whole = step.record === undefined ? record : step.record;
  const known = !full && whole?.length > LARGE && crypto.subtle && hex(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(whole)));
  const own = photos.size && (full ? Object.fromEntries(photos) : [...photos.keys()]);
  const body = JSON.stringify({ tab, name, args, inline, ...(own && { photos: own }), ...(known ? { known } : { record: whole }) });
  const answer = await fetch(`${base}rewriter/step`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body, signal });
  if (!answer.ok) return { ...await answer.json().catch(() => ({})), status: answer.status };
  step.since = 0; step.cut = (step.cut || 0) + 1;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = '', last = null; ;) {
    const timer = setTimeout(() => reader.cancel(), 1000 * SILENT);
    const { done, value } = await reader.read().finally(() => clearTimeout(timer)), lines = (text + (done ? '\n' : value)).split('\n');
    text = lines.pop();
    for (const line of lines.filter(each => each.trim()).map(each => JSON.parse(each))) if (line.end) last = line; else take(step, line);
    if (done) return last;
  }
};
const take = (step, { end, record: made, kept, ...shown }) => {  // one line of an answer
  if (step.signal.aborted) return;
  if (step.quiet) { delete shown.progress; delete shown.trouble; }
  if (waiting.some(one => one.name === 'pick')) delete shown.canvas;  // another picture is chosen by now
  if ('trouble' in shown) step.said = true;
  if (shown.trouble?.message) step.undo?.();
  if (end && !step.quiet) {
    step.done = true; stale &&= !('film' in shown && 'canvas' in shown);
    if (made || step.record) record = made || step.record;
    if (made || step.record) keep(step, kept || record);
    shown = { ...(!step.said && step.name !== 'refresh' && { trouble: {} }), ...(busy() && { progress: null }), ...shown };
  }
  show(shown);
};
const keep = (step, text) => {  // what somebody only looked at does not replace earlier work
  const looked = LOOKS.includes(step.name) && !step.restored;
  if (!looked || stored('sessionStorage')) stored('sessionStorage', text);
  if (!looked) stored('localStorage', text);
};

// --- pictures: names of files at the server, or data URLs when a file did not arrive ---

const file = name => !name || /^(data|blob|https?):/.test(name) ? name : base + name;
const img = (name, alt, more) => make('img', { src: file(name), alt, decoding: 'sync', ...more });
const lost = () => { if (!inline) { inline = true; act('refresh'); } };
const decoded = async name => {
  const image = img(name, '');
  try { await image.decode(); return image; } catch { if (!/^data:/.test(name)) lost(); return null; }
};
root.addEventListener('error', ({ target }) => { if (target.tagName === 'IMG' && !/^data:/.test(target.src)) lost(); }, true);

// --- home: the wall, on which a rule travels across and back, and the cards ---

let story = 0, timer = null;
const stories = part('wall').stories || [], wall = $('.wall');
const tell = () => {
  const one = stories[story], { columns, rows } = part('wall');
  if (!one) return;
  wall.style.setProperty('--columns', columns); wall.style.setProperty('--rows', rows);
  wall.setAttribute('aria-label', one.words);
  wall.replaceChildren(...[...Array(columns * rows).keys()].map(i => {
    const layer = (name, url) => make('i', { className: name, style: `background-image: url(${file(url)})` });
    const tile = make('span', {}, layer('then', one.before), layer('now', one.after));
    tile.style.setProperty('--c', i % columns); tile.style.setProperty('--r', Math.floor(i / columns));
    return tile;
  }));
};
const turn = on => {
  wall.classList.toggle('on', on);
  if (stories[story]) $('.story').textContent = stories[story][on ? 'words' : 'rule'];
  $('[data-wall]').textContent = on ? 'Undo it' : 'Do it again';
  $('[data-wall]').disabled = !stories.length;
};
const loop = () => {
  turn(!wall.classList.contains('on'));
  const next = wall.classList.contains('on') ? 5200 : 3000;
  timer = setTimeout(() => {
    if (!wall.classList.contains('on') && stories.length > 1) {
      story = (story + 1) % stories.length; tell(); turn(false);
      timer = setTimeout(loop, 900);
    } else loop();
  }, next);
};
tell(); turn(still || !stories.length);
if (!still && stories.length) timer = setTimeout(loop, 300);
press('[data-wall]', () => { clearTimeout(timer); turn(!wall.classList.contains('on')); });

const drawCards = () => {
  const more = part('rules').rules?.length;
  $('.cards').replaceChildren(...(part('cards').cards || []).map(card => make('li', {},
    make('button', { type: 'button', className: 'card', title: card.title, 'data-key': card.key,
      onclick: () => { go('edit'); fetchWanted(card.key); } },
      img(card.image, ''), make('span', { textContent: card.caption })),
    more ? make('button', { type: 'button', className: 'plain', textContent: 'add on top', 'data-top': card.key,
      'aria-label': `Add ${card.caption} on top of your rules`,
      onclick: () => { go('edit'); fetchWanted(card.key, { on_top: true }); } }) : null)));
};

const go = mode => {
  root.dataset.mode = document.body.dataset.mode = mode;
  clearTimeout(timer);
  if (mode === 'home') { drawCards(); if (!still && stories.length) timer = setTimeout(loop, 300); }
  window.scrollTo(0, 0);
};
press('[data-go]', button => { if (button.dataset.tabOpen) showTab(button.dataset.tabOpen); go(button.dataset.go); });

// --- the canvas: a picture, its original behind a slider, outlines of what is marked, and the paint ---

const stage = $('.stage'), now = $('img.now'), then = $('img.then'), paint = $('canvas.paint'), marks = $('canvas.marks');
const ring = $('.brush'), size = $('.size input'), split = $('.split'), pen = paint.getContext('2d', { willReadFrequently: true });
const SIDE = 256, COLOURS = { copy: '--copy', paste: '--paste', context: '--context', keep: '--keep' };
paint.width = paint.height = SIDE; marks.width = marks.height = 640;
let shown = null, view = 'image', erasing = false, last = null, strokes = [], cursor = [0.5, 0.5], drawing = 0;

const painted = () => pen.getImageData(0, 0, SIDE, SIDE);
const empty = () => !painted().data.some((v, i) => i % 4 === 3 && v > 127);
const mask = () => {  // hard edges: they make short links, and the server scales them softly
  if (empty()) return null;
  const data = painted(), copy = new OffscreenCanvas(SIDE, SIDE), flat = make('canvas', { width: SIDE, height: SIDE });
  for (let i = 0; i < data.data.length; i += 4) {
    const on = data.data[i + 3] > 127;
    data.data[i] = data.data[i + 1] = data.data[i + 2] = on ? 255 : 0; data.data[i + 3] = on ? 255 : 0;
  }
  flat.getContext('2d').putImageData(data, 0, 0);
  return `${shown}:${flat.toDataURL('image/png')}`;
};
const remember = () => { strokes.push(painted()); if (strokes.length > 30) strokes.shift(); };
const clear = () => { if (!empty()) remember(); pen.clearRect(0, 0, SIDE, SIDE); hint(); };
const undoStroke = () => { if (strokes.length) pen.putImageData(strokes.pop(), 0, 0); hint(); };
const stroke = (from, to) => {
  pen.globalCompositeOperation = erasing ? 'destination-out' : 'source-over';
  pen.strokeStyle = '#ff2f9e'; pen.lineCap = pen.lineJoin = 'round'; pen.lineWidth = size.value / 100 * SIDE;
  pen.beginPath(); pen.moveTo(...from); pen.lineTo(to[0] + 0.01, to[1]); pen.stroke();
  pen.globalCompositeOperation = 'source-over';
};
const at = event => {
  const box = paint.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * SIDE, (event.clientY - box.top) / box.height * SIDE];
};
const hover = ([x, y]) => {
  ring.hidden = shown === null;
  Object.assign(ring.style, { left: `${100 * x / SIDE}%`, top: `${100 * y / SIDE}%`, width: `${size.value}%`, height: `${size.value}%` });
};
paint.addEventListener('pointerdown', event => {
  if (shown === null || event.button > 0) return;
  paint.setPointerCapture(event.pointerId); event.preventDefault(); stage.focus({ preventScroll: true });
  compare(100); starts(); remember(); last = at(event); stroke(last, last);
});
paint.addEventListener('pointermove', event => {
  const points = (event.getCoalescedEvents?.() || []).concat(event).map(at);
  hover(points.at(-1));
  if (last) for (const point of points) { stroke(last, point); last = point; }
});
for (const end of ['pointerup', 'pointercancel']) paint.addEventListener(end, () => { if (last) { last = null; stroked(); } });
paint.addEventListener('pointerleave', () => { if (!last) ring.hidden = true; });

const compare = share => {
  split.value = share; stage.style.setProperty('--split', `${share}%`);
  $('.sides').hidden = !(share > 0 && share < 100 && stage.dataset.changed === 'yes');
};
split.addEventListener('input', () => compare(split.value));
const hold = on => stage.classList.toggle('held', on);
const holder = $('[data-hold]');
holder.addEventListener('pointerdown', event => { holder.setPointerCapture(event.pointerId); hold(true); });
for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) holder.addEventListener(end, () => hold(false));
for (const [kind, on] of [['keydown', true], ['keyup', false]])
  holder.addEventListener(kind, event => { if (' Enter'.includes(event.key)) { hold(on); event.preventDefault(); } });

const outline = async (canvas, places) => {  // each mask grown on all sides, less the mask itself
  const turnedOn = canvas.turn = (canvas.turn || 0) + 1, side = canvas.width, thick = Math.max(2, side / 130);
  const images = await Promise.all(places.map(async place => {
    const image = await decoded(place.mask);
    const hard = make('canvas', { width: side, height: side }), on = hard.getContext('2d');  // soft masks get a clear edge
    if (image) on.drawImage(image, 0, 0, side, side);
    const data = on.getImageData(0, 0, side, side);
    for (let i = 3; i < data.data.length; i += 4) data.data[i] = data.data[i] > 110 ? 255 : 0;
    on.putImageData(data, 0, 0);
    return hard;
  }));
  if (turnedOn !== canvas.turn) return;
  const all = canvas.getContext('2d'); all.clearRect(0, 0, side, side);
  places.forEach((place, i) => {
    const layer = make('canvas', { width: side, height: side }), on = layer.getContext('2d');
    for (const [grown, colour] of [[2.2 * thick, '#fff'], [1.5 * thick, getComputedStyle(root).getPropertyValue(COLOURS[place.kind])]]) {
      const ringed = make('canvas', { width: side, height: side }), edge = ringed.getContext('2d');
      for (let a = 0; a < 16; a++) edge.drawImage(images[i], Math.cos(a * Math.PI / 8) * grown, Math.sin(a * Math.PI / 8) * grown, side, side);
      edge.globalCompositeOperation = 'source-in'; edge.fillStyle = colour; edge.fillRect(0, 0, side, side);
      on.drawImage(ringed, 0, 0);
    }
    on.globalCompositeOperation = 'destination-out'; on.drawImage(images[i], 0, 0, side, side);
    all.drawImage(layer, 0, 0);
  });
};
const called = seed => typeof seed === 'string' ? 'your photo' : `picture ${seed}`;
const placesOn = seed => (onInside() ? pointedPlaces() : part('slots').marks || []).filter(place => place.seed === seed);
const picture = async () => {  // the picture on the canvas; it is decoded before it replaces the last one, so that nothing flickers
  const { seed, now: after, then: before, match } = part('canvas'), mine = ++drawing;
  if (seed === undefined) return;
  stage.classList.toggle('original', view === 'other');
  const front = (view === 'match' && match) || after, back = before || after;
  const found = await Promise.all([front, back].map(decoded));
  if (mine !== drawing || found.includes(null)) return;
  if (seed !== shown) { shown = seed; strokes = []; last = null; pen.clearRect(0, 0, SIDE, SIDE); }
  now.src = file(front); now.alt = called(seed).replace(/^./, first => first.toUpperCase()); then.src = file(back);
  stage.dataset.changed = before ? 'yes' : 'no'; stage.dataset.ready = shown;
  split.disabled = holder.disabled = !before;
  $('.seed').textContent = called(seed);
  compare(split.value); if (!last) answered();
  outline(marks, placesOn(seed)); hint();
};

// --- the filmstrip ---

const film = () => {
  const { tiles = [], note = '', seeds = '' } = part('film'), focused = document.activeElement?.dataset?.seed;
  const there = new Map($$('.tile').map(tile => [tile.dataset.seed, tile]));  // whose pictures stay until the new ones are there
  $('.tiles').replaceChildren(...tiles.map(tile => {
    const changed = tile.changed ? ' changed' : '', before = there.get(`${tile.seed}`), url = file(tile[view] || tile.image);
    const layer = before?.querySelector('canvas') || make('canvas', { width: 96, height: 96 });
    const image = before?.querySelector('img') || img(url, '', { draggable: false });
    if (image.src !== url) image.src = url;
    const option = make('button', { type: 'button', role: 'option', className: `tile${changed}`, 'data-seed': tile.seed,
      'aria-label': `${tile.label || `Picture ${tile.seed}`}${changed && ', changed'}`, tabIndex: -1, onclick: () => pick(tile.seed) }, image, layer,
      make('span', { textContent: tile.label || tile.seed }));
    if (tile.other && view === 'image') {
      option.addEventListener('pointerenter', event => { if (event.pointerType === 'mouse' && tile.seed !== shown) { image.src = file(tile.other); option.classList.add('peek'); } });
      option.addEventListener('pointerleave', () => { image.src = file(tile.image); option.classList.remove('peek'); });
    }
    outline(layer, placesOn(tile.seed));
    return option;
  }));
  $('.film .note').textContent = note;
  if (document.activeElement !== $('.seeds input')) $('.seeds input').value = seeds;
  chosen(part('canvas').seed);
  if (focused) $(`.tile[data-seed="${focused}"]`)?.focus();
};
const chosen = seed => {
  const tiles = $$('.tile'), own = tiles.find(tile => tile.dataset.seed === `${seed}`);
  for (const tile of tiles) { tile.setAttribute('aria-selected', tile === own); tile.tabIndex = -1; }
  if (own || tiles[0]) (own || tiles[0]).tabIndex = 0;
};
const pick = async seed => {
  if (seed === part('canvas').seed && ![running, ...waiting].some(step => step?.name === 'pick')) return;
  const tile = (part('film').tiles || []).find(one => one.seed === seed);
  delete stage.dataset.ready;
  if (tile) parts.canvas = { seed, now: tile.image, then: tile.other, match: tile.match };
  chosen(seed); act('pick', seed);
  if (tile) await picture();
};
$('.tiles').addEventListener('keydown', event => {
  const tiles = $$('.tile'), i = tiles.indexOf(document.activeElement);
  const across = Math.max(1, tiles.filter(tile => tile.offsetTop === tiles[0].offsetTop).length);
  const to = { ArrowLeft: i - 1, ArrowRight: i + 1, ArrowUp: i - across, ArrowDown: i + across, Home: 0, End: tiles.length - 1 }[event.key];
  if (to === undefined || !tiles[to]) return;
  event.preventDefault(); tiles[to].focus(); tiles[to].click();
});
press('[data-view]', button => {
  const before = view, wanted = button.dataset.view;
  view = view === wanted ? 'image' : wanted;
  for (const each of $$('[data-view]')) each.setAttribute('aria-pressed', each.dataset.view === view);
  if ((before === 'match') !== (view === 'match')) act('look', view === 'match');
  film(); picture();
});
press('[data-do]', button => act(button.dataset.do));
press('[data-search]', () => work('find', mask()));
$('.seeds input').addEventListener('change', event => act('browse', event.target.value));

// --- slots, found places, verdict ---

const crop = (image, label, run, more) => make(run ? 'button' : 'span', { className: 'crop', title: label, ...(run ? { type: 'button',
  'aria-label': label, onclick: run } : {}), ...more }, image ? img(image, run ? '' : label) : make('small', { textContent: 'photo not here' }));
const slots = () => {
  const value = part('slots'), of = name => $(`[data-slot="${name}"] .crops`);
  const fill = (name, ...crops) => { of(name).replaceChildren(...crops); of(name).parentElement.classList.toggle('full', crops.length > 0); };
  fill('copy', ...(value.copy ? [crop(value.copy.image, `Copied from ${called(value.copy.seed)}`, () => pick(value.copy.seed))] : []));
  fill('paste', ...(value.paste ? [crop(value.paste.image, `${{ erase: 'Erased', paint: 'Painted' }[value.kind] || 'Pasted'} on ${called(value.paste.seed)}`, () => pick(value.paste.seed))] : []));
  for (const name of ['context', 'keep']) fill(name, ...(value[name] || []).map((place, i) => make('span', { className: 'held' },
    crop(place.image, `Place on ${called(place.seed)}`, () => pick(place.seed)),
    make('button', { type: 'button', className: 'drop', textContent: '✕', 'aria-label': `Remove the place on ${called(place.seed)}`,
      onclick: () => place.found ? act('reject', place.found) : act('unmark', name, i) }))));
  root.dataset.step = value.step || '';
  $('[data-mark="paste"]').disabled = !value.copy;
  film(); picture(); found(); think(); chosenForm();
};
let asked = '', thinking = null;
const think = () => {  // the machine chooses in the background as soon as the edit is complete
  const { key, background } = part('slots');
  if (running) return;
  clearTimeout(thinking);
  if (key && background && key !== asked) {
    beside.prepare?.stop();
    if (part('slots').kind !== 'paint') aside('prepare');
    else thinking = setTimeout(() => { if (!running) aside('prepare'); }, 1500);  // somebody may be painting the next stroke
  }
  asked = key || '';
};
let looking = false;  // whether more places were asked for
const found = () => {
  const { key, places = [] } = part('found'), own = key && key === part('slots').found_key ? places : [];
  $('.too').hidden = !own.length;
  if (looking && own.length) { looking = false; $('.too').scrollIntoView({ block: 'center', behavior: still ? 'auto' : 'smooth' }); }
  $('.too .crops').replaceChildren(...own.map(place => {
    const held = make('span', { className: 'held' }), done = name => {  // it is not asked again, whatever is drawn before the answer
      held.remove(); parts.found = { key, places: part('found').places.filter(one => one !== place) };
      act(name, place.place);
    };
    held.append(crop(place.image, `Yes, this place on picture ${place.seed} too`, () => done('accept'), { className: 'crop yes' }),
      make('button', { type: 'button', className: 'drop', textContent: '✕', 'aria-label': `No, not the place on picture ${place.seed}`, onclick: () => done('reject') }));
    return held;
  }));
};
const say = message => { $('.trouble').textContent = message || ''; };
const bar = () => {
  const { next = '', verdict = '', crops = [], mend, details = [], kind, can_execute } = part('bar'), proof = $('.proof');
  $('.next').textContent = insideNext() || next; $('.verdict').dataset.verdict = verdict;
  const shownBefore = proof.querySelector('details')?.open;
  proof.replaceChildren(...crops.map(([before, asked, after]) => make('span', { className: 'triple' },
    ...[[before, 'before'], ...(kind === 'replace' ? [[asked, 'asked for']] : []), [after, 'now']].map(([image, words]) => make('span', {},
      img(image, `${words}, on a picture that the rule was not made with`), make('small', { textContent: words }))))),
    ...(details.length ? [make('details', { open: Boolean(shownBefore) }, make('summary', { textContent: 'Details' }), ...details.map(line => make('p', { textContent: line })))] : []));
  const button = $('[data-mend]');
  $('[data-execute]').textContent = kind === 'paint' || onInside() && kind !== 'erase' && !can_execute ? 'Make it a rule' : '4 Execute';
  button.hidden = !mend; button.textContent = mend?.words || '';
  $('[data-drop]').hidden = verdict !== 'did not take';
  $('[data-execute]').disabled = !can_execute || busy();
};
const chosenForm = () => {  // what the machine has chosen, for the edit as it is now
  const { key, words } = part('chosen'), { key: now, chosen: before } = part('slots');
  const said = part('bar').verdict || !part('bar').can_execute ? '' : before || (key && key === now ? words : '');
  delete root.dataset.chosen;
  if (!said) return;
  root.dataset.chosen = 'yes';
  if (!busy()) $('.next').textContent = said;
};
const progress = () => {
  const { words, share } = part('progress'), on = words !== undefined, meter = $('.bar progress'), then = waiting.length;
  const follow = then ? ` Then ${then === 1 ? 'your next click' : `your next ${then} clicks`}.` : '';
  root.dataset.busy = on ? 'yes' : 'no';
  meter.hidden = $('[data-cancel]').hidden = !on; $('[data-execute]').hidden = on;
  $('.proof').hidden = $('[data-mend]').hidden = $('[data-drop]').hidden = on;
  if (on) { $('.verdict').dataset.verdict = ''; meter.value = share; $('.next').textContent = words + follow; say(''); } else { about(); bar(); chosenForm(); }
};
press('[data-mark]', button => mark(button.dataset.mark));
const mark = what => {
  const value = mask();
  if (!value) return say('Nothing is painted yet: paint on the picture first.');
  const seed = shown, sent = painted();
  say(''); clear(); strokes.pop();
  send({ name: 'mark', args: [what, value], undo: () => { if (seed === shown && empty()) { pen.putImageData(sent, 0, 0); hint(); } } });
};
press('[data-step]', button => act('step', button.dataset.step));
press('[data-execute]', () => work('execute'));
press('[data-mend]', () => { looking = part('bar').mend?.action === 'find'; work('mend'); });
press('[data-drop]', () => act('rule', 'remove', part('bar').made, null));
press('[data-cancel]', () => { running?.stop(); say('Cancelled: nothing has changed.'); });

// --- the first run: hints where the eye is, and a brush that shows how ---

const HINTS = {
  copy: 'Paint over a thing you like, then press Copy.', paste: 'Choose another picture, paint where it should go, then press Paste.',
  context: 'Execute, or first mark more places like this one.', painted: 'Make it a rule, or first mark more places like this one.', done: '',
};
const hint = () => {
  if (onInside()) return insideHint();
  $('[data-hint]').textContent = 'Show me';
  const step = root.dataset.step, ready = !empty(), ghost = (part('hints').hints || []).find(one => one.step === step);
  const button = { copy: 'Copy', paste: 'Paste', context: 'Add to context' }[step];
  $('.hint p').textContent = ready && button ? `Now press ${button}${step === 'context' ? '' : ', or Erase to remove it'}.` : HINTS[step === 'context' && part('slots').kind === 'paint' ? 'painted' : step] || '';
  $('[data-hint]').hidden = ready || !ghost || !['copy', 'paste'].includes(step);
  for (const each of $$('[data-mark]')) each.classList.toggle('wanted', ready && each.dataset.mark === step);
};
press('[data-hint]', async () => {
  if (onInside()) return showStroke();
  const ghost = part('hints').hints.find(one => one.step === root.dataset.step);
  if (!(part('film').tiles || []).some(tile => tile.seed === ghost.seed)) act('browse', `${ghost.seed}, 0-10`);
  await pick(ghost.seed);
  const image = await decoded(ghost.mask);
  if (!image) return;
  const layer = make('canvas', { width: SIDE, height: SIDE }), on = layer.getContext('2d');
  on.drawImage(image, 0, 0, SIDE, SIDE); on.globalCompositeOperation = 'source-in'; on.fillStyle = '#ff2f9e'; on.fillRect(0, 0, SIDE, SIDE);
  let from = 0;
  const tick = time => {
    if (shown !== ghost.seed) {  // it is being fetched, or somebody chose another picture meanwhile
      if (part('canvas').seed === ghost.seed || [running, ...waiting].some(step => step?.name === 'pick' && step.args[0] === ghost.seed)) requestAnimationFrame(tick);
      return;
    }
    if (!from) { from = time; remember(); }
    const share = still ? 1 : Math.min(1, (time - from) / 900);
    pen.clearRect(0, 0, SIDE, SIDE); pen.drawImage(layer, 0, 0, SIDE, SIDE * share, 0, 0, SIDE, SIDE * share);
    if (share < 1) requestAnimationFrame(tick); else hint();
  };
  requestAnimationFrame(tick);
});

// --- rules: while a slider is dragged, one strength after the other is shown; releasing it sets the last one ---

let wanted = null;
const attempt = async () => {
  if (!wanted || beside.attempt || running) return;
  const [rule, value] = wanted;
  wanted = null; await aside('attempt', rule, value); attempt();
};
const rules = () => {
  const { rules: made = [], remarks = [] } = part('rules'), focused = $('.rules :focus')?.ariaLabel;
  wanted = null; $('.made').hidden = !made.length; element.dataset.rules = made.length;
  $('.rules').replaceChildren(...made.map((rule, i) => {
    const button = (text, title, run, idle) => make('button', { type: 'button', textContent: text, title, disabled: Boolean(idle), onclick: run, 'aria-label': `${title}: rule ${i + 1}` });
    const on = make('input', { type: 'checkbox', checked: rule.on, 'aria-label': `Rule ${i + 1} on`, onchange: () => act('rule', 'switch', i, on.checked) });
    const slider = make('input', { type: 'range', min: -1, max: 2, step: 0.05, value: rule.strength, 'aria-label': `Strength of rule ${i + 1}` });
    const output = make('output', { textContent: rule.strength.toFixed(2) });
    slider.addEventListener('input', () => { output.textContent = Number(slider.value).toFixed(2); wanted = [i, Number(slider.value)]; attempt(); });
    slider.addEventListener('change', () => { wanted = null; act('rule', 'strength', i, Number(slider.value)); });
    return make('li', { className: 'rule' }, make('header', {}, on, make('b', { textContent: rule.title }),
      button('↑', 'Move up', () => act('rule', 'move', i, i - 1), i === 0), button('↓', 'Move down', () => act('rule', 'move', i, i + 1), i + 1 === made.length),
      button('Save', 'Download', () => act('save', 'rule', i)), button('✕', 'Remove', () => act('rule', 'remove', i, null))),
      make('label', {}, 'Strength', slider, output), make('p', { textContent: rule.verdict, className: 'words' }));
  }), ...remarks.map(words => make('li', { textContent: words, className: 'remark' })));
  if (focused) $(`.rules [aria-label="${focused}"]`)?.focus();
};

const suggested = () => {
  const { layers = [] } = part('suggested');
  $('.suggested').hidden = !layers.length;
  $('.suggested .crops').replaceChildren(...layers.map(({ layer, words, image }) => make('span', { className: 'layer' },
    crop(image, `Use ${words}`, () => act('set', 'layer', layer)), make('small', { textContent: words }))));
};

// --- what the machine chose, and choosing by hand ---

const fields = $$('#title, #layer, #form, #method, #rank, #smoothness, #budget, #truncation');
const count = field => { if (field.type === 'range') field.nextElementSibling.textContent = Number(field.value); };
const typing = field => field.dataset.typed || field.matches('[type=text], [type=number]') && field === document.activeElement ||
  [running, ...waiting].some(step => step?.name === 'set' && step.args[0] === field.id && !step.done);
const offer = (select, choices) => {
  const value = select.value, said = JSON.stringify(choices);
  if (select.dataset.said === said) return;
  select.replaceChildren(...choices.map(([label, name]) => make('option', { textContent: label, value: name })));
  select.value = value; select.dataset.said = said;
};
const settings = () => {
  const { layer, forms = [], methods = [], ...values } = part('settings');
  if (!layer) return;
  offer($('#layer'), layer.choices); offer($('#form'), forms); offer($('#method'), methods.map(name => [name, name]));
  for (const field of fields) if (!typing(field)) { field.value = field.id === 'layer' ? layer.value : values[field.id]; count(field); }
};
for (const field of fields) {
  field.addEventListener('input', () => { field.dataset.typed = 'yes'; count(field); });
  field.addEventListener('change', () => {
    delete field.dataset.typed;
    act('set', field.id, field.matches('[type=range], [type=number]') ? Number(field.value) : field.value);
  });
  field.addEventListener('blur', () => { delete field.dataset.typed; settings(); });
}
press('#suggest, #zero', button => work(button.id));

// --- generators, sharing, files ---

const about = () => {
  const { generators = [], value, licence = '' } = part('about');
  $('#rw-generator').replaceChildren(...generators.map(([label, name]) => make('option', { textContent: label, value: name, selected: name === value })));
  $('.licence').textContent = licence;
};
$('#rw-generator').addEventListener('change', event => { go('edit'); fetchWanted(event.target.value); });
const sharing = $('.share'), shares = $('[data-share]');
const shut = event => { if (!sharing.hidden && (event.key === 'Escape' || event.type === 'pointerdown' && !sharing.contains(event.target) && event.target !== shares)) { sharing.hidden = true; shares.setAttribute('aria-expanded', 'false'); } };
for (const kind of ['keydown', 'pointerdown']) root.addEventListener(kind, shut);
press('[data-share]', () => { sharing.hidden = !sharing.hidden; shares.setAttribute('aria-expanded', !sharing.hidden); });
press('[data-save]', button => { $('.share output').textContent = 'One moment …'; act(button.dataset.save === 'link' ? 'link' : 'save', ...(button.dataset.save === 'link' ? [] : [button.dataset.save])); });
press('[data-open]', button => {
  document.body.dataset.more = 'yes';  // on a phone, what is below is hidden until it is asked for
  const panel = document.getElementById(button.dataset.open), head = panel?.querySelector('button');
  if (panel?.matches('details')) panel.open = true; else if (head && !panel.querySelector('.open')) head.click();
  panel?.scrollIntoView({ behavior: still ? 'auto' : 'smooth' });
});
const link = async () => {
  const { text, words } = part('link'), output = $('.share output');
  if (!text) { output.textContent = words || ''; return; }
  const address = `${location.origin}${location.pathname}#edit=${text}`;
  const field = make('input', { readOnly: true, value: address, 'aria-label': 'Link to this edit' });
  let copied = 'Copy this link:';
  try { await navigator.clipboard.writeText(address); copied = 'Link copied.'; } catch { /* no permission: it is shown */ }
  output.replaceChildren(`${copied} `, field, ` ${words}`); field.select();
};
const download = () => {
  const { name, url } = part('download');
  if (!url) return;
  const anchor = make('a', { href: url, download: name });
  document.body.append(anchor); anchor.click(); anchor.remove();
  $('.share output').textContent = `Saved ${name}.`;
};
press('#load', () => chooser.click());
const chooser = $('#load-file'), MOST = 32;
chooser.addEventListener('change', () => {
  const [given] = chooser.files;
  chooser.value = '';  // so that the same file can be chosen again
  loadFile(given);
});
const loadFile = given => {
  if (given.size > MOST * 2 ** 20) return say(`${given.name} has ${Math.ceil(given.size / 2 ** 20)} MB: the page loads files of up to ${MOST} MB.`);
  const reader = new FileReader();
  reader.onload = () => work('load', given.name, reader.result.slice(reader.result.indexOf(',') + 1));
  reader.onerror = () => say(`${given.name} cannot be read: choose it again.`);
  reader.readAsDataURL(given);
};
const pending = () => { const { wanted: name, on_top } = part('pending'); if (name) { go('edit'); fetchWanted(name, { linked: true, on_top: Boolean(on_top) }); } };

// A finger's tap soon after a stroke gets no click in some browsers, which take it for the end of a fling: make up for it.
let tapped = null, made = [null, 0];
root.addEventListener('pointerdown', event => {
  tapped = event.pointerType === 'touch' ? { button: event.target.closest('button'), x: event.clientX, y: event.clientY } : null;
});
root.addEventListener('pointerup', event => {
  const { button, x, y } = tapped || {};
  tapped = null;
  if (!button || button.disabled || button === holder || Math.hypot(event.clientX - x, event.clientY - y) > 12) return;
  let clicked = false;
  const seen = () => { clicked = true; };
  button.addEventListener('click', seen, { once: true, capture: true });
  setTimeout(() => {
    button.removeEventListener('click', seen, { capture: true });
    if (!clicked) { button.click(); made = [button, performance.now()]; }
  }, 80);
});
root.addEventListener('click', event => {  // the browser's own, if it comes after all
  if (event.isTrusted && event.target.closest('button') === made[0] && performance.now() - made[1] < 500) event.stopImmediatePropagation();
}, { capture: true });

// --- keys ---

stage.addEventListener('keydown', event => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (step) cursor = cursor.map((v, i) => Math.min(1, Math.max(0, v + step[i] / 50)));
  const point = cursor.map(v => v * SIDE);
  if (event.key === ' ' && shown !== null && !(event.repeat && paints())) { starts(); remember(); stroke(point, point); stroked(); }
  if (step || event.key === ' ') { hover(point); event.preventDefault(); }
});
const tool = name => {
  erasing = name === 'eraser';
  for (const each of ['paint', 'eraser']) $(`[data-tool="${each}"]`).setAttribute('aria-pressed', (each === 'eraser') === erasing);
};
press('[data-tool]', ({ dataset: { tool: name } }) => ({ undo: paints() ? () => act('step', 'undo') : undoStroke, clear }[name] || (() => tool(name)))());
const larger = by => { size.value = Number(size.value) + by; if (!ring.hidden) hover(cursor.map(v => v * SIDE)); };
const SHORTCUTS = {
  c: () => mark('copy'), v: () => mark('paste'), x: () => mark('erase'), a: () => mark('context'), b: () => tool('paint'), e: () => tool('eraser'),
  '[': () => larger(-2), ']': () => larger(2), Delete: clear, Backspace: clear,
};
document.addEventListener('keydown', event => {
  if (root.dataset.mode !== 'edit' || $('.photo').open || event.target.closest?.('input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable]')) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key, control = event.ctrlKey || event.metaKey;
  let run = !control && !event.altKey && (onInside() ? INSIDE_KEYS : SHORTCUTS)[key];
  if (control && key === 'z') run = event.shiftKey ? () => act('step', 'redo') : strokes.length && !empty() ? undoStroke : () => act('step', 'undo');
  if (control && key === 'y') run = () => act('step', 'redo');
  if (control && key === 'Enter') run = () => { if (!$('[data-execute]').disabled) work('execute'); };
  if (key === 'o' && !control) { hold(true); return; }
  if (run) { event.preventDefault(); run(); }
});
document.addEventListener('keyup', event => { if (event.key === 'o' || event.key === 'O') hold(false); });

// --- what is drawn when, the first drawing, and what a reload and an address ask for ---

const trouble = () => {
  const { message } = part('trouble');
  say(message); about();
  if (message && $('.share output').textContent === 'One moment …') $('.share output').textContent = '';
};
const naming = () => document.querySelectorAll('#publish-name :is(input, textarea)').forEach(field => { field.placeholder = part('suggested_name').placeholder || ''; });
const WATCHED = { film, canvas: () => { picture(); chosen(part('canvas').seed); }, slots, found, bar: () => { bar(); chosenForm(); }, chosen: chosenForm,
  progress, rules, about, settings, suggested, suggested_name: naming, cards: drawCards, download, link, pending, trouble, hints: hint };
const asks = new URLSearchParams(location.search), latest = stored('localStorage'), restore = $('[data-restore]');
if (asks.has('here')) {  // given only to the browser that this machine opened; it publishes as the person who started the page
  stored('sessionStorage', asks.get('here'), 'rewriter-here'); asks.delete('here');
  history.replaceState(history.state, '', `${location.pathname}?${asks}${location.hash}`.replace(/\?(?=#|$)/, ''));
}
window.rewriter = { record: () => record || '', here: () => stored('sessionStorage', undefined, 'rewriter-here') || '' };
const linked = ['edit', 'seed', 'model'].some(name => asks.has(name)) || location.hash.startsWith('#edit=') || Boolean(record);
restore.hidden = linked || !latest;
press('[data-restore]', () => { go('edit'); send({ name: 'open', args: [{}], record: latest, restored: true }); restore.hidden = true; });
$('.made').open = innerWidth > 720;
document.body.dataset.more = innerWidth > 720 ? 'yes' : 'no';
about(); film(); rules(); slots(); bar(); settings(); naming(); drawCards(); go(linked ? 'edit' : 'home');
if (linked || !part('film').tiles) send({ name: 'open', args: [{ hash: location.hash, link: Object.fromEntries(asks) }], record });
window.addEventListener('hashchange', () => { if (location.hash.startsWith('#edit=')) fetchWanted(location.hash, { linked: true }); });
element.dataset.ready = 'yes';
