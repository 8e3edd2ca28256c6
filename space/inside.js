// The second tab, Inside: painting with units, pointing at things, looking at units. It goes on where page.js ends, and is
// called from there: its functions are known from the start.

function onInside() { return root.dataset.tab === 'inside'; }
function paints() { return onInside() && root.dataset.pointing === 'no'; }  // a stroke is sent as soon as it ends

const LIGHTLY = 10;  // units that can be switched off together without much harm to what else they draw
let thing = '', draws = true, places = [];  // what painting draws, or removes; places pointed at: {seed, mask, value}

// --- two tabs of one canvas ---

function showTab(name, focus) {
  root.dataset.tab = name; stored('sessionStorage', name, 'rewriter-tab');
  for (const tab of $$('[data-tab-of]')) {
    const on = tab.dataset.tabOf === name;
    tab.setAttribute('aria-selected', on); tab.tabIndex = on ? 0 : -1;
    document.getElementById(tab.getAttribute('aria-controls')).hidden = !on;
    if (on && focus) tab.focus();
  }
  const too = $('.too'), home = name === 'inside' ? $('.units') : $('[data-slot="keep"]');  // found places are asked about on both
  home.before(too);
  tool('paint'); pen.clearRect(0, 0, SIDE, SIDE); strokes = [];
  film(); picture(); why(); bar(); chosenForm(); hint();
}
function insideNext() {  // while nothing is marked or painted, the bar speaks of this tab
  if (onInside() && root.dataset.pointing === 'yes') return places.length ? 'Next: find its units, or point at it on more pictures.' : 'Next: paint over the thing, then add this place.';
  const { copy, paste, context = [] } = part('slots');
  if (!onInside() || part('bar').can_execute || part('bar').verdict !== undefined || copy || paste || context.length || part('slots').kind === 'switch') return '';
  return thing ? `Next: paint on the picture where you want: ${thing}.` : 'Next: point at a thing of your own, to paint with it.';
}
press('[data-tab-of]', button => showTab(button.dataset.tabOf));
$('.tabs').addEventListener('keydown', event => {
  const to = { ArrowLeft: 'rewrite', ArrowRight: 'inside', Home: 'rewrite', End: 'inside' }[event.key];
  if (to) { event.preventDefault(); showTab(to, true); }
});

// --- what to paint with ---

const things = () => part('inside').things || [];
const inside = () => {
  if (!things().some(one => one.name === thing)) thing = things()[0]?.name || '';
  $('.things').replaceChildren(...things().map(one => make('span', { className: 'held' },
    make('button', { type: 'button', role: 'radio', className: 'thing', 'data-thing': one.name, 'aria-checked': one.name === thing,
      tabIndex: one.name === thing ? 0 : -1, title: `${one.count} units of ${one.layer}`, onclick: () => choose(one.name) },
    one.image ? img(one.image, '') : null, make('span', { textContent: one.name })),
    one.own ? make('button', { type: 'button', className: 'drop', textContent: '✕', 'aria-label': `Remove ${one.name} from your things`,
      onclick: () => act('forget', one.name) }) : null)));
  $('.stroked').hidden = $('.units').hidden = !thing;
  $('[data-point]').hidden = part('inside').room < 1;
  units(); insideHint(); if (!busy()) bar();
};
const choose = name => {
  thing = name;
  for (const each of $$('.thing')) { const on = each.dataset.thing === name; each.setAttribute('aria-checked', on); each.tabIndex = on ? 0 : -1; }
  if (root.dataset.pointing === 'yes') pointing(false);
  units(); if (!busy()) { bar(); chosenForm(); } hint();
};
$('.things').addEventListener('keydown', event => {
  const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key], all = $$('.thing');
  if (!by || !event.target.matches('.thing')) return;
  const to = all[(all.indexOf(event.target) + by + all.length) % all.length];
  event.preventDefault(); to.focus(); choose(to.dataset.thing);
});
const drawing_ = on => {
  draws = on;
  for (const each of $$('[data-draws]')) each.setAttribute('aria-pressed', (each.dataset.draws === 'yes') === on);
  hint();
};
press('[data-draws]', button => drawing_(button.dataset.draws === 'yes'));
const strength = $('.strength input');
strength.addEventListener('input', () => { $('.strength output').textContent = `${strength.value} %`; });
const INSIDE_KEYS = { d: () => drawing_(true), r: () => drawing_(false), '[': () => larger(-2), ']': () => larger(2),
  b: () => tool('paint'), e: () => { if (!paints()) tool('eraser'); }, Delete: clear, Backspace: clear };

// --- a stroke: it is sent when it ends, and the paint goes when the picture answers ---

function starts() { if (paints()) { pen.clearRect(0, 0, SIDE, SIDE); strokes = []; } }
function stroked() {
  if (!paints()) return hint();
  if (!thing) { clear(); return say('There is nothing to paint with yet: point at a thing of your own.'); }
  const value = mask();
  if (!value) return;
  strokes = []; say('');
  sendStroke(value);
}
const sendStroke = value => {
  stage.dataset.waits = 'yes';
  if (view === 'other') $('[data-view="other"]').click();
  send({ name: 'stroke', args: [thing, value, !draws, strength.value / 100], undo: answered });
};
function answered() {  // the picture is there, or the stroke was refused
  if (!paints() || [running, ...waiting].some(step => step?.name === 'stroke' && !step.done)) return;
  delete stage.dataset.waits;
  if (!last) pen.clearRect(0, 0, SIDE, SIDE);
}
async function showStroke() {  // where the thing is on another picture, on this one
  if (root.dataset.pointing === 'yes') return addPlace();
  const one = things().find(each => each.name === thing);
  if (!one?.mark || shown === null) return;
  drawing_(true); sendStroke(`${shown}:${one.mark}`);
}
function insideHint() {
  if (!onInside()) return;
  const painted = part('strokes').count, ready = !empty(), pointed = root.dataset.pointing === 'yes';
  const words = pointed ? (ready ? 'Now press Add this place.' : places.length ? 'Paint over it on another picture, or press Find its units.' : 'Paint over the thing on the picture.')
    : !thing ? 'Point at a thing of your own: then paint with it.'
    : draws ? `Paint where you want: ${thing}${painted && part('bar').can_execute ? '; or press Make it a rule' : ''}.` : `Paint over what should go: ${thing}.`;
  $('.hint p').textContent = words;
  $('[data-hint]').textContent = pointed ? 'Add this place' : 'Show me';
  $('[data-hint]').hidden = pointed ? !ready : Boolean(painted) || !draws || Boolean(part('rules').rules?.length) || !things().find(each => each.name === thing)?.mark;
  $('[data-place]').classList.toggle('wanted', ready);
}

// --- why not: what is left of the last stroke after each layer ---

let asking = null;
const painted_ = () => {  // after each step
  const { key } = part('strokes');
  clearTimeout(asking); why(); units(); insideHint(); answered();
  if (key && onInside() && key !== part('why').key) asking = setTimeout(() => { if (!running) aside('why'); }, 250);
};
function why() {
  const { key, words, bars = [], appears } = part('why'), box = $('.why');
  box.hidden = !onInside() || !key || key !== part('strokes').key;
  $('.hint').classList.toggle('narrower', !box.hidden);
  if (box.hidden) return;
  box.dataset.appears = appears ? 'yes' : 'no'; box.querySelector('p').textContent = words;
  const percent = share => Math.round(100 * Math.min(1, Math.max(0, share))), name = one => one.layer === 'picture' ? 'picture' : `${one.side} px`;
  const plot = box.querySelector('.plot');
  plot.setAttribute('aria-label', `What is left of it: ${bars.map(one => `${one.layer === 'picture' ? 'in the picture' : `after ${one.layer}`} ${percent(one.share)} %`).join(', ')}`);
  plot.replaceChildren(...bars.map(one => {
    const made = make('span', { title: `${one.layer}: ${percent(one.share)} %` }, make('b', { textContent: `${percent(one.share)} %` }), make('i', {}), make('small', { textContent: name(one) }));
    made.style.setProperty('--share', percent(one.share) / 100);
    return made;
  }));
}

// --- pointing at a thing of one's own ---

function pointedPlaces() { return root.dataset.pointing === 'yes' ? places.map(place => ({ ...place, kind: 'context' })) : []; }
const pointing = on => {
  root.dataset.pointing = on ? 'yes' : 'no'; $('.pointing').hidden = !on;
  const button = $('[data-point]');
  button.setAttribute('aria-expanded', on); button.textContent = on ? 'Stop pointing' : 'Point at a thing of your own';
  tool('paint'); pen.clearRect(0, 0, SIDE, SIDE); strokes = []; pointed(); picture();
};
const pointed = () => {
  $('.pointing .crops').replaceChildren(...places.map((place, i) => make('span', { className: 'held' }, crop(place.image, `Place on ${called(place.seed)}`, () => pick(place.seed)),
    make('button', { type: 'button', className: 'drop', textContent: '✕', 'aria-label': `Remove the place on ${called(place.seed)}`, onclick: () => { places.splice(i, 1); pointed(); picture(); } }))));
  $('[data-find-units]').disabled = !places.length; $('[data-place]').disabled = places.length >= 5;
  $('[data-find-units]').classList.toggle('primary', places.length > 0);
  film(); if (!busy()) { bar(); chosenForm(); } hint();
};
press('[data-point]', () => pointing(root.dataset.pointing === 'no'));
const cutOut = () => {  // the painted place on the picture that is shown, as a small picture of its own
  const { data } = painted(), at = [...Array(SIDE * SIDE).keys()].filter(i => data[4 * i + 3] > 127), xs = at.map(i => i % SIDE), ys = at.map(i => Math.floor(i / SIDE));
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const side = Math.min(SIDE, Math.max(right - left, bottom - top) + 40), fit = (a, b) => Math.min(SIDE - side, Math.max(0, (a + b - side) / 2));
  const small = make('canvas', { width: 96, height: 96 }), k = now.naturalWidth / SIDE;
  small.getContext('2d').drawImage(now, fit(left, right) * k, fit(top, bottom) * k, side * k, side * k, 0, 0, 96, 96);
  return small.toDataURL('image/jpeg', 0.9);
};
press('[data-place]', addPlace);
function addPlace() {
  const value = mask();
  if (!value) return say('Nothing is painted yet: paint over the thing first.');
  say(''); places.push({ seed: shown, mask: value.slice(value.indexOf(':') + 1), value, image: cutOut() });
  pen.clearRect(0, 0, SIDE, SIDE); strokes = []; pointed(); picture();
}
press('[data-find-units]', () => {
  const name = $('[data-name]').value.trim();
  if (!name) { $('[data-name]').focus(); return say('Give the thing a name first.'); }
  work('point', name, places.map(place => place.value));
});
const pointedOut = () => {
  const { name } = part('pointed');
  if (!name) return;
  parts.pointed = {}; places = []; $('[data-name]').value = ''; pointing(false); choose(name);
};

// --- its units, and their switches ---

const levels = () => part('strokes').switched?.[things().find(one => one.name === thing)?.layer] || {};
function units() {
  const { thing: of, rows = [], all = [], layer } = part('units'), own = of === thing && thing ? rows : [], one = things().find(each => each.name === thing);
  $('#rw-units').textContent = thing ? `Units that draw: ${thing}` : 'Its units';
  $('[data-units]').hidden = own.length > 0;
  const set = levels(), count = Object.keys(set).length;
  $('[data-all="as made"]').hidden = !count; $('[data-all="off"]').hidden = !one;
  $('.units .note').textContent = own.length ? `The first ${own.length} of ${all.length}. Pictures are bright where a unit is on. IoU: how far that and the thing overlap, 1 at best, where it was pointed at and on pictures found to be alike; AUC: how surely a unit tells the thing from the rest, 0.5 by chance.`
    : one ? `${one.count} units of ${one.layer} draw it. ${one.few > LIGHTLY ? `It takes ${one.few} of them to remove it everywhere, and they draw much else too: better paint it away.` : `The first ${one.few} off, and most of it is gone from every picture; what else they draw goes with it.`}${count ? ` ${count} of that layer ${count > 1 ? 'are' : 'is'} switched.` : ''}` : '';
  const focused = $('.rows :focus')?.ariaLabel;
  $('.rows').replaceChildren(...own.map(({ unit, iou, auc, others, pictures }) => {
    const off = String(unit) in set, box = make('input', { type: 'checkbox', role: 'switch', checked: !off, 'aria-label': `Unit ${unit} of ${layer}`,
      onchange: () => work('switch', thing, box.checked ? 'as made' : 'off', [unit]) });
    return make('li', {}, make('label', {}, box, make('b', { textContent: `unit ${unit} of ${layer}` }),
      make('small', { textContent: iou === undefined ? '' : `IoU ${iou.toFixed(2)}, elsewhere ${others.toFixed(2)} · AUC ${auc.toFixed(2)}` })),
      make('span', { className: 'crops' }, ...pictures.map(picture => img(picture, `Unit ${unit} of ${layer} is on where this picture is bright`))));
  }));
  if (focused) $(`.rows [aria-label="${focused}"]`)?.focus();
}
press('[data-units]', () => work('units', thing));
press('[data-all]', button => work('switch', thing, button.dataset.all));

Object.assign(WATCHED, { inside, strokes: painted_, why, units, pointed: pointedOut });
inside();
let arrived = false;
const arrive = () => {  // a link may bring work of this tab
  if (arrived || !['paint', 'switch'].includes(part('slots').kind)) return;
  arrived = true; if (!onInside()) showTab('inside');
};
const slotted = WATCHED.slots;
WATCHED.slots = () => { slotted(); arrive(); };
showTab(stored('sessionStorage', undefined, 'rewriter-tab') === 'inside' ? 'inside' : 'rewrite'); arrive();
