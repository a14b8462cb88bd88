// The page of `mrnn serve`. Text from the server is only ever set as text, never as markup.

const $ = (id) => document.getElementById(id);
let token = sessionStorage.getItem("token") || "";
let photo = null; // the File or Blob at hand
let asked = 0; // answers to older questions are dropped

function element(name, text = "", attributes = {}) {
  const node = document.createElement(name);
  node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  // Beside this file, wherever a proxy has put it.
  const response = await fetch(new URL(path, import.meta.url), { ...options, headers });
  if (response.status === 401) $("login").hidden = false;
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    const detail = Array.isArray(body.detail) ? body.detail.map((d) => d.msg).join("; ") : body.detail;
    throw new Error(detail || `the server answered ${response.status}`);
  }
  return response;
}

async function guarded(work) {
  $("error").textContent = "";
  try {
    await work();
  } catch (error) {
    $("error").textContent = error.message;
  }
}

function form(fields) {
  const data = new FormData();
  for (const [key, value] of Object.entries(fields)) data.append(key, value);
  return { method: "POST", body: data };
}

async function blobURL(path) {
  return URL.createObjectURL(await (await ask(path)).blob());
}

// A photo

async function take(blob) {
  photo = blob;
  $("preview").src = URL.createObjectURL(blob);
  $("work").hidden = false;
  $("ranking").replaceChildren();
  await caption();
}

async function caption() {
  const mine = ++asked;
  const wild = Number($("wildness").value);
  const fields = wild ? { sample: true, temperature: wild, seed: Math.floor(Math.random() * 1e9) } : {};
  const answer = await (await ask("v1/caption", form({ image: photo, n: 3, ...fields }))).json();
  if (mine !== asked) return;
  $("guess").textContent = answer.note ? `What is said of this photo is ${answer.note}.` : "";
  $("captions").replaceChildren(
    ...answer.captions.map((c) => {
      const item = element("li");
      const button = element("button", c.text, { type: "button", title: "Explain this caption" });
      button.addEventListener("click", () => guarded(() => explain(c.text)));
      const sure = c.confidence === null ? "" : `confidence ${c.confidence.toFixed(2)}, `;
      item.append(button, " ", element("small", `${sure}log-likelihood ${c.log_likelihood.toFixed(1)}`));
      return item;
    }),
  );
  if (answer.captions.length) await explain(answer.captions[0].text);
}

async function explain(sentence) {
  const mine = asked;
  const answer = await (await ask("v1/explain", form({ image: photo, sentence }))).json();
  if (mine !== asked) return;
  const words = answer.words.slice(0, -1);
  $("words").replaceChildren(
    ...words.map((word) => {
      const bits = word.evidence;
      const told = `${bits >= 0 ? "+" : ""}${bits.toFixed(1)} bits`;
      const button = element("button", word.token, { type: "button", "aria-label": `${word.token}: ${told}` });
      button.style.setProperty("--tone", bits >= 0 ? "var(--for)" : "var(--against)");
      button.style.setProperty("--much", Math.min(Math.abs(bits) / 5, 1) * 0.55);
      const show = () => {
        const parts = Object.entries(word.branches).map(([name, b]) => `${name} ${b.toFixed(1)}`);
        $("word-note").textContent = `${word.token}: ${told}. To its probability add, in bits: ${parts.join(", ")}.`;
        paint(word.heat);
      };
      for (const event of ["mouseenter", "focus", "click"]) button.addEventListener(event, show);
      for (const event of ["mouseleave", "blur"]) button.addEventListener(event, () => paint(null));
      return button;
    }),
  );
  $("word-note").textContent = "";
  $("why").hidden = false;
}

function paint(heat) {
  const canvas = $("heat");
  canvas.classList.toggle("shown", Boolean(heat));
  if (!heat) return;
  canvas.width = heat[0].length;
  canvas.height = heat.length;
  const limit = Math.max(...heat.flat().map(Math.abs), 1e-6);
  const pixels = new ImageData(canvas.width, canvas.height);
  heat.flat().forEach((value, i) => {
    const colour = value >= 0 ? [214, 69, 65] : [52, 110, 190];
    pixels.data.set([...colour, Math.min(255, (Math.abs(value) / limit) * 255)], 4 * i);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

async function rank() {
  const fields = { image: photo, sentences: $("sentences").value };
  if ($("prior-weight").value) fields.prior_weight = $("prior-weight").value;
  const answer = await (await ask("v1/rank", form(fields))).json();
  $("ranking").replaceChildren(
    ...answer.map((r) => {
      const item = element("li", r.sentence);
      const sure = r.confidence === null ? "" : `, confidence ${r.confidence.toFixed(2)}`;
      item.append(" ", element("small", `score ${r.score.toFixed(1)}${sure}`));
      return item;
    }),
  );
}

// The library

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((e) => e.isIntersecting)) {
    seen.unobserve(entry.target);
    blobURL(`v1/thumbnail/${entry.target.dataset.id}`).then((url) => (entry.target.src = url)).catch(() => {});
  }
}, { rootMargin: "300px" });

function show(answer, told) {
  const unknown = answer.unknown.length ? ` The model does not know ${answer.unknown.map((w) => `“${w}”`).join(", ")}.` : "";
  const n = answer.photos.length;
  const count = n ? `${n.toLocaleString()} ${n === 1 ? "photo" : "photos"} ${told}` : "No photo was found.";
  const left = answer.left_out ? ` ${answer.left_out.toLocaleString()} more speak against it.` : "";
  $("found").textContent = count + (left && n ? `.${left}` : left) + unknown;
  $("show-all").hidden = !answer.left_out;
  $("results").replaceChildren(
    ...answer.photos.map((p) => {
      const item = element("li");
      const button = element("button", "", { type: "button" });
      const image = element("img", "", { alt: p.guess ? `${p.caption} (a guess)` : p.caption, width: 256, height: 256 });
      image.dataset.id = p.id;
      seen.observe(image);
      const said = element("span", "", { "aria-hidden": "true" });
      said.append(p.caption, element("small", `${p.name}, ${p.taken.slice(0, 10)}`));
      button.append(image, said);
      button.addEventListener("click", () => guarded(() => view(p)));
      item.append(button);
      return item;
    }),
  );
}

async function search(like = "", all = "") {
  const query = new URLSearchParams();
  const fields = { q: $("query").value, after: $("after").value, before: $("before").value, caption: $("with").value, like, all };
  for (const [key, value] of Object.entries(fields)) if (value) query.set(key, value);
  const told = like ? "like this one, best first" : fields.q ? "for this sentence, best first" : "by date, newest first";
  show(await (await ask(`v1/search?${query}`)).json(), told);
}

async function view(p) {
  $("viewer-photo").src = await blobURL(`v1/photo/${p.id}`);
  $("viewer-photo").alt = p.caption;
  const guess = (p.confidence === null ? "" : ` Confidence ${p.confidence.toFixed(2)}.`) + (p.guess ? " A guess." : "");
  $("viewer-caption").textContent = `${p.caption} (${p.name}, ${p.taken.slice(0, 10)})${guess}`;
  $("viewer-like").onclick = () => guarded(async () => {
    $("viewer").close();
    $("query").value = "";
    await search(p.id);
  });
  $("viewer-explain").onclick = () => guarded(async () => {
    $("viewer").close();
    await take(await (await ask(`v1/photo/${p.id}`)).blob());
    $("photo-title").scrollIntoView();
  });
  $("viewer").showModal();
}

async function indexState() {
  const state = await (await ask("v1/index")).json();
  $("library").hidden = $("find-like").hidden = !state.photos && !state.running;
  $("indexing").textContent = state.running
    ? `Indexing: ${state.done.toLocaleString()} of ${state.total.toLocaleString()} photos`
    : state.photos ? `${state.photos.toLocaleString()} photos in the library` : "";
  if (state.photos && !$("results").children.length && !$("query").value) await search();
  if (state.running) setTimeout(() => guarded(indexState), 1000);
}

// Events

$("file").addEventListener("change", (e) => e.target.files[0] && guarded(() => take(e.target.files[0])));
for (const event of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(event, (e) => {
    e.preventDefault();
    $("drop").classList.toggle("over", event === "dragover");
    if (event === "drop" && e.dataTransfer.files[0]) guarded(() => take(e.dataTransfer.files[0]));
  });
}
$("wildness").addEventListener("input", () => {
  $("wildness-value").textContent = Number($("wildness").value) ? $("wildness").value : "off";
});
$("wildness").addEventListener("change", () => photo && guarded(caption));
$("rank-form").addEventListener("submit", (e) => { e.preventDefault(); guarded(rank); });
$("search-form").addEventListener("submit", (e) => { e.preventDefault(); guarded(() => search()); });
$("show-all").addEventListener("click", () => guarded(() => search("", "true")));
$("find-like").addEventListener("click", () => guarded(async () => {
  show(await (await ask("v1/search", form({ image: photo }))).json(), "like yours, best first");
  $("search-title").scrollIntoView();
}));
$("viewer-close").addEventListener("click", () => $("viewer").close());
$("login").addEventListener("submit", (e) => {
  e.preventDefault();
  token = $("token").value;
  sessionStorage.setItem("token", token);
  $("login").hidden = true;
  guarded(indexState);
});
guarded(indexState);
