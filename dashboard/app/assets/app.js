// The page's state: which tab, which filters, which tick is explained, and what the server last said.
import { el } from "/assets/dom.js";
import { isDark, repaint, tidy } from "/assets/figures.js";
import { VIEWS } from "/assets/views.js";

const byId = (id) => document.getElementById(id);
const tabs = [...document.querySelectorAll('[role="tab"]')];
const KINDS = [["class", "classes"], ["pool", "pools"]];
const LATE = 3; // periods without a tick

const state = {
  tab: "now",
  detail: "",
  chosen: { class: new Set(), pool: new Set() },
  span: 3600,
  paused: false,
  said: null, // the server's newest news
  version: "",
  slow: "", // changes once a minute, for what is read from folders
  query() {
    const query = new URLSearchParams({ span: state.span });
    for (const [kind, names] of KINDS) {
      for (const name of state.chosen[kind]) if (state.said?.[names]?.includes(name)) query.append(kind, name);
    }
    return query.toString();
  },
  again: () => render(),
};

// Rendering

let rendering = false;
let stale = false;

const render = async () => {
  if (rendering) {
    stale = true;
    return;
  }
  rendering = true;
  try {
    do {
      stale = false;
      state.slow = String(Math.floor(Date.now() / 60000));
      const panel = byId(`panel-${state.tab}`);
      await VIEWS[state.tab].render(panel, state);
      panel.dataset.version = state.version;
      tidy();
    } while (stale);
    trouble("page", "");
  } catch (error) {
    trouble("page", `The page could not be renewed: ${error.message}. It is tried again with the next tick.`);
  } finally {
    rendering = false;
  }
};

// What is wrong, in one line at the top

const troubles = {};
const trouble = (whose, text) => {
  troubles[whose] = text;
  const all = Object.values(troubles).filter(Boolean).join(" ");
  const banner = byId("trouble");
  if (banner.textContent !== all) banner.textContent = all;
  banner.hidden = !all;
};

// Tabs, by mouse, by arrow keys, and by the page's address

const choose = (tab, { focus = false } = {}) => {
  state.tab = tab;
  for (const own of tabs) {
    const selected = own.dataset.tab === tab;
    own.setAttribute("aria-selected", String(selected));
    own.tabIndex = selected ? 0 : -1;
    byId(own.getAttribute("aria-controls")).hidden = !selected;
    if (selected && focus) own.focus();
  }
  byId("filters").hidden = tab === "policies";
  document.title = `${tabs.find((own) => own.dataset.tab === tab).textContent} · ${state.said?.scenario || "poolpilot"}`;
  render();
};

const follow = () => {
  const [tab, ...rest] = decodeURIComponent(window.location.hash.slice(1)).split("/");
  state.detail = tab === "decisions" ? rest.join("/") : "";
  choose(tab in VIEWS ? tab : "now");
};

for (const own of tabs) {
  own.addEventListener("click", () => { window.location.hash = own.dataset.tab; });
  own.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -tabs.length, End: tabs.length }[event.key];
    if (!step) return;
    event.preventDefault();
    const here = tabs.indexOf(own);
    const to = Math.abs(step) === 1 ? (here + step + tabs.length) % tabs.length : step < 0 ? 0 : tabs.length - 1;
    state.detail = "";
    history.pushState(null, "", `#${tabs[to].dataset.tab}`);
    choose(tabs[to].dataset.tab, { focus: true });
  });
}
window.addEventListener("hashchange", follow);
window.addEventListener("popstate", follow);

// Filters

const chips = (kind, names) => {
  const box = byId(`filter-${kind}`).querySelector(".chips");
  const told = JSON.stringify(names);
  if (box.dataset.told === told) return;
  box.dataset.told = told;
  box.replaceChildren(...names.map((name) => el("label", { class: "chip", title: name },
    el("input", {
      type: "checkbox", value: name, checked: state.chosen[kind].has(name),
      on: { change: (event) => {
        if (event.target.checked) state.chosen[kind].add(name); else state.chosen[kind].delete(name);
        filtered();
      } },
    }), el("span", {}, name))));
};

const filtered = () => {
  byId("reset").hidden = !KINDS.some(([kind]) => state.chosen[kind].size);
  render();
};

byId("span").addEventListener("change", (event) => { state.span = Number(event.target.value); render(); });
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("filters").addEventListener("reset", (event) => {
  event.preventDefault();
  for (const [kind] of KINDS) state.chosen[kind].clear();
  document.querySelectorAll(".chip input").forEach((box) => { box.checked = false; });
  byId("span").focus();
  filtered();
});

const spans = (history_s) => {
  const select = byId("span");
  if (select.dataset.told === String(history_s)) return;
  select.dataset.told = String(history_s);
  const offered = [300, 900, 3600, 4 * 3600, 12 * 3600].filter((span) => span < history_s);
  const words = (span) => (span < 3600 ? `${span / 60} minutes` : `${span / 3600} ${span === 3600 ? "hour" : "hours"}`);
  select.replaceChildren(...[...offered, history_s].map((span) => el("option", { value: span }, words(span))));
  state.span = Math.min(3600, history_s);
  select.value = String(state.span);
};

// News

const told = (said) => {
  const first = state.said === null;
  state.said = said;
  trouble("source", said.trouble);
  trouble("connection", "");
  spans(said.history_s);
  byId("source").textContent = `${said.source}, ${said.ticks} ticks kept${said.leader ? `, led by ${said.leader}` : ""}`;
  if (said.tick !== null) {
    byId("scenario").textContent = said.scenario;
    const speed = Math.abs(said.speed - 1) > 0.05 ? `, at ${Math.round(said.speed * 10) / 10} times real time` : "";
    byId("lead").textContent = `${said.policy} ${said.policy_hash}; fallback ${said.fallback}${speed}`;
    const mode = byId("mode");
    mode.hidden = false;
    mode.textContent = said.mode;
    mode.dataset.mode = said.mode;
    for (const [kind, names] of KINDS) chips(kind, said[names]);
  } else {
    byId("scenario").textContent = "No ticks yet";
    byId("lead").textContent = said.source;
  }
  age();
  const version = `${said.tick} ${said.trouble} ${said.started}`;
  if (state.paused && !first) return;
  if (version !== state.version) {
    state.version = version;
    render();
  }
};

const words = (seconds) =>
  seconds < 1.5 ? "just now" : seconds < 120 ? `${Math.round(seconds)} s ago` : seconds < 7200 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds / 3600)} h ago`;

const age = () => {
  const fresh = byId("fresh");
  if (!state.said || state.said.tick === null) {
    byId("fresh-text").textContent = state.said ? "no ticks" : "connecting";
    fresh.dataset.tone = "muted";
    return;
  }
  const seconds = Math.max(0, Date.now() / 1000 - state.said.wall_s);
  const late = seconds > LATE * (state.said.period_s || 10) + 2;
  byId("fresh-text").textContent = state.paused ? "paused" : `${late ? "last tick" : "live,"} ${words(seconds)}`;
  fresh.dataset.tone = state.paused ? "muted" : late ? "bad" : "good";
  trouble("late", late && !state.said.trouble && seconds < 7 * 24 * 3600
    ? `No tick for ${words(seconds).replace(" ago", "")}. Does the sidecar still run? Its /healthz and its log tell; what is shown is of then.` : "");
};

const connect = () => {
  const news = new EventSource("/events");
  news.addEventListener("state", (event) => told(JSON.parse(event.data)));
  news.addEventListener("error", () => {
    trouble("connection", "The dashboard's server does not answer; it is tried again. Does poolpilot dashboard still run?");
    if (news.readyState === EventSource.CLOSED) window.setTimeout(connect, 3000);
  });
};

byId("pause").addEventListener("click", (event) => {
  state.paused = !state.paused;
  event.target.setAttribute("aria-pressed", String(state.paused));
  event.target.textContent = state.paused ? "Resume" : "Pause";
  age();
  if (!state.paused && state.said) told(state.said);
});

// Colours

const paint = () => {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Change to ${isDark() ? "light" : "dark"} colours`);
};
byId("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", document.documentElement.dataset.theme); } catch { /* a private window keeps nothing */ }
  paint();
  repaint();
});
try {
  const kept = localStorage.getItem("theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
} catch { /* as above */ }
paint();
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

window.setInterval(age, 1000);
window.addEventListener("pagehide", () => { trouble("connection", ""); });
follow();
connect();
