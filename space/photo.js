// A visitor's own photo: dropped, pasted or chosen, cut to a square, found in the generator, compared. It goes on where inside.js ends.

const dialog = $('.photo'), cropper = $('.cropper'), cropped = $('.cropper img'), around = $('.cropper .square'), dial = $('[data-faithful]');
const chosenFile = $('#rw-photo-file'), KEPT = 4, READ = /^image\/(png|jpeg|webp|gif|bmp|tiff)$/, LONGEST = 4096, ROOM = 3e6;  // px; characters kept over a reload
const files = new Map();  // of each photo: its file's name, its content and the square, as they were sent
let file_ = null, sent = [], square = null, moved = false, differ = false;  // the file; its square as shares of its width, by hand or as proposed

const turnTo = state => {
  dialog.dataset.at = state; wrong('');
  for (const part of $$('.photo [data-when]')) part.hidden = !part.dataset.when.split(' ').includes(state);
};
const wrong = message => { $('.photo .wrong').textContent = message || ''; };
const ours = () => (part('film').tiles || []).filter(tile => tile.label).map(tile => tile.seed);  // those of this generator
const own = () => ours().includes(part('canvas').seed) ? part('canvas').seed : ours().at(-1);
const openPhotos = () => {
  if (!dialog.open) dialog.showModal();
  if (dialog.dataset.at === 'finding') return;
  const name = own();
  if (!name) return turnTo('choose');
  turnTo('found'); compareSides(); aside('sides', name);
};
press('[data-photo]', openPhotos);
press('[data-photo-close]', () => dialog.close());
press('[data-photo-new]', () => chosenFile.click());
chosenFile.addEventListener('change', () => { const [given] = chosenFile.files; chosenFile.value = ''; if (given) openPhoto(given); });
dialog.addEventListener('pointerdown', event => { if (event.target === dialog) dialog.close(); });  // beside it

// --- dropped or pasted anywhere ---

let within = false;  // a picture of the page itself is dragged
document.addEventListener('dragstart', () => { within = true; });
document.addEventListener('dragend', () => { within = false; });
const brings = event => !within && event.dataTransfer?.types.includes('Files');
for (const [kind, on] of [['dragenter', true], ['dragover', true], ['dragleave', false], ['drop', false]]) document.addEventListener(kind, event => {
  if (!brings(event)) return;
  event.preventDefault();
  if (kind !== 'dragleave' || !event.relatedTarget) root.classList.toggle('dropping', on);
  if (kind === 'drop' && event.dataTransfer.files.length) receive(event.dataTransfer.files[0]);
});
document.addEventListener('paste', event => {
  const image = [...event.clipboardData?.files || []].find(one => one.type.startsWith('image/'));
  if (image) { event.preventDefault(); receive(image); }
});
const receive = given => /\.(json|safetensors)$/i.test(given.name) ? (go('edit'), loadFile(given)) : openPhoto(given);

// --- the square ---

const openPhoto = async given => {
  if (dialog.dataset.at === 'finding' && busy()) return;
  if (!dialog.open) dialog.showModal();
  URL.revokeObjectURL(cropped.src);
  file_ = given; square = null; moved = false; turnTo('square');
  cropped.src = URL.createObjectURL(given);
  try { await cropped.decode(); } catch { cropped.removeAttribute('src'); }
  if (file_ !== given) return;
  const seen = Boolean(cropped.naturalWidth);
  cropper.hidden = $('.photo .scale').hidden = !seen; $('.photo .unseen').hidden = seen;
  if (!seen && given.type !== 'image/tiff') { turnTo('choose'); return wrong(`${given.name} cannot be read here: save it as JPEG or PNG first.`); }
  if (!seen) return;
  const tall = cropped.naturalHeight / cropped.naturalWidth, side = Math.min(1, tall);
  setSquare({ left: (1 - side) / 2, top: (tall - side) / (tall > 1 ? 3 : 2), side });
  $('[data-find]').focus();
  aside('square', given.name, base64(scaled(512)));
};
const scaled = most => {
  const k = Math.min(1, most / Math.max(cropped.naturalWidth, cropped.naturalHeight)), small = make('canvas', { width: Math.max(1, Math.round(cropped.naturalWidth * k)), height: Math.max(1, Math.round(cropped.naturalHeight * k)) });
  small.getContext('2d').drawImage(cropped, 0, 0, small.width, small.height);
  return small.toDataURL('image/jpeg', 0.95);
};
const base64 = url => url.slice(url.indexOf(',') + 1);
const setSquare = ({ left, top, side }, byHand = false) => {
  const tall = cropped.naturalHeight / cropped.naturalWidth;
  if (byHand) {
    moved = true; side = Math.min(Math.max(side, 0.05 * Math.min(1, tall)), 1, tall);
    left = Math.min(Math.max(left, 0), 1 - side); top = Math.min(Math.max(top, 0), tall - side);
  }
  square = { left, top, side };
  Object.assign(around.style, { left: `${100 * left}%`, top: `${100 * top / tall}%`, width: `${100 * side}%`, height: `${100 * side / tall}%` });
  $('.photo .scale input').value = 100 * side / Math.min(1, tall);
};
const resize = side => setSquare({ left: square.left + (square.side - side) / 2, top: square.top + (square.side - side) / 2, side }, true);
const proposed = () => { if (dialog.dataset.at === 'square' && square && !moved) setSquare(part('square')); };
let dragged = null;
cropper.addEventListener('pointerdown', event => {
  if (event.button > 0 || !square) return;
  event.preventDefault(); cropper.focus({ preventScroll: true }); cropper.setPointerCapture(event.pointerId);
  dragged = { x: event.clientX, y: event.clientY, from: square, corner: event.target.matches('.corner') };
});
cropper.addEventListener('pointermove', event => {
  if (!dragged) return;
  const { width } = cropped.getBoundingClientRect(), x = (event.clientX - dragged.x) / width, y = (event.clientY - dragged.y) / width, { left, top, side } = dragged.from;
  setSquare(dragged.corner ? { left, top, side: side + Math.max(x, y) } : { left: left + x, top: top + y, side }, true);
});
for (const end of ['pointerup', 'pointercancel']) cropper.addEventListener(end, () => { dragged = null; });
cropper.addEventListener('wheel', event => { if (square) { event.preventDefault(); resize(square.side * (event.deltaY > 0 ? 1.05 : 1 / 1.05)); } }, { passive: false });
cropper.addEventListener('keydown', event => {
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key], grow = { '+': 1.05, '=': 1.05, '-': 1 / 1.05 }[event.key];
  if (!square || !by && !grow) return;
  event.preventDefault();
  if (grow) resize(square.side * grow); else setSquare({ ...square, left: square.left + by[0] / 50, top: square.top + by[1] / 50 }, true);
});
$('.photo .scale input').addEventListener('input', event => resize(event.target.value / 100 * Math.min(1, cropped.naturalHeight / cropped.naturalWidth)));

// --- finding it ---

press('[data-find]', async () => {
  const given = file_, seen = Boolean(cropped.naturalWidth), whole = READ.test(given.type) && given.size <= MOST * 2 ** 20 && Math.max(cropped.naturalWidth, cropped.naturalHeight) <= LONGEST || !seen;
  if (given.size > MOST * 2 ** 20 && !seen) return wrong(`${given.name} has ${Math.ceil(given.size / 2 ** 20)} MB: the page opens photos of up to ${MOST} MB.`);
  const width = whole ? cropped.naturalWidth : Math.round(cropped.naturalWidth * Math.min(1, LONGEST / Math.max(cropped.naturalWidth, cropped.naturalHeight)));
  const crop = seen && moved ? [square.left, square.top, square.side].map(share => share * width) : null;
  let data;
  try { data = whole ? await read(given) : base64(scaled(LONGEST)); } catch { return wrong(`${given.name} cannot be read: choose it again.`); }
  turnTo('finding'); for (const image of $$('.finding img')) image.removeAttribute('src');
  $('[data-photo-cancel]').focus();
  sent = [given.name, data, crop];
  send({ name: 'photo', args: [...sent, dial.value / 100], long: true, words: 'Looking at your photo …', undo: () => { if (dialog.dataset.at === 'finding') turnTo('square'); } });
});
const read = given => new Promise((done, failed) => {
  const reader = new FileReader();
  reader.onload = () => done(base64(reader.result)); reader.onerror = failed;
  reader.readAsDataURL(given);
});
press('[data-photo-cancel]', () => { for (const step of waiting.filter(one => one.name === 'photo')) waiting.splice(waiting.indexOf(step), 1); if (running?.name === 'photo') running.stop(); turnTo('square'); });
const finding = () => {
  const { original, so_far: soFar } = part('photo');
  if (original) $('[data-side="original"] img').src = original;
  if (soFar) $('[data-side="so far"] img').src = soFar;
};
const opened = () => {
  const { name, data } = part('opened');
  if (!name) return;
  parts.opened = {}; photos.delete(name); photos.set(name, data); files.set(name, sent);
  for (const other of [...photos.keys()]) if (photos.size > KEPT && !ours().includes(other)) photos.delete(other);
  keepPhotos();
  go('edit'); turnTo('found'); compareSides();
  if (dialog.open) $('.photo [data-paint]').focus();
};
const keepPhotos = () => {  // over a reload, where they fit
  const text = JSON.stringify(Object.fromEntries(photos));
  stored('sessionStorage', text.length < ROOM ? text : '{}', 'rewriter-photos');
};

// --- comparing: original, found again, adapted, edited ---

const SIDES = { original: 'original', found: 'found again', adapted: 'adapted', edited: 'edited' };
const compareSides = () => {
  const { name, pictures = {}, differences = {}, words = {} } = part('sides'), shown = name && name === own();
  $('.versions').replaceChildren(...(shown ? Object.entries(SIDES) : []).filter(([side]) => pictures[side]).map(([side, label]) => make('figure', {},
    img(differ && differences[side] || pictures[side], differ && differences[side] ? `Differences of your photo, ${label}, from the original` : `Your photo, ${label}`),
    make('figcaption', {}, make('b', { textContent: label }), make('small', { textContent: words[side] || '' })))));
  $('.photo .advice').textContent = shown ? part('sides').advice || '' : '';
  $('[data-differ]').setAttribute('aria-pressed', differ);
};
press('[data-differ]', () => { differ = !differ; compareSides(); });
press('[data-photo-save]', () => { const name = own(); if (name) send({ name: 'photo_file', args: [name, ...files.get(name) || []], long: true, words: 'Saving your photo …' }); });
press('[data-paint]', () => { const name = own(); dialog.close(); go('edit'); if (name) pick(name); });
press('[data-photo-remove]', () => {
  const name = own();
  photos.delete(name); files.delete(name); keepPhotos();
  send({ name: 'forget_photo', args: [name] });
  turnTo('choose');
});
addEventListener('pagehide', () => { if (photos.size || files.size || dialog.dataset.at === 'finding') navigator.sendBeacon(`${base}rewriter/step`, JSON.stringify({ tab, name: 'unload' })); });

const progressed = WATCHED.progress, troubled = WATCHED.trouble;
Object.assign(WATCHED, { photo: finding, opened, sides: compareSides, square: proposed,
  progress: () => {
    progressed();
    const { words = '', share = 0 } = part('progress');
    if (dialog.dataset.at === 'finding' && words) { $('.finding p').textContent = words; $('.finding progress').value = share; }
  },
  trouble: () => { troubled(); if (dialog.open) wrong(part('trouble').message); },
});
turnTo('choose');
