// The four tabs: what each asks for, and how it is laid out.
import { cards, el, options, put, table } from "/assets/dom.js";
import { figure, show } from "/assets/figures.js";

const get = async (path, query) => {
  const answer = await fetch(`${path}?${query}`);
  if (answer.status === 401) window.location.assign("/login");
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
};

const empty = (text) => el("p", { class: "empty" }, text);
const block = (title, ...children) => el("div", { class: "block" }, el("h2", {}, title), children);
const place = (name) => el("div", { "data-place": name });
const at = (panel, name) => panel.querySelector(`[data-place="${name}"]`);
const chart = (key, title, says, nothing) =>
  el("div", { class: key === "weights" ? "chart wide" : "chart" }, el("h3", {}, title), figure(key, says, nothing));

const layOut = (panel, ...children) => {
  if (!panel.dataset.laidOut) {
    panel.dataset.laidOut = "yes";
    panel.replaceChildren(...children);
    emptied(panel, "Reading ...");
  }
};

// An empty state stands in the place of everything else.
const emptied = (panel, text) => {
  let note = panel.querySelector(":scope > .empty");
  if (text && !note) {
    note = empty(text);
    panel.prepend(note);
  }
  if (note) note.textContent = text;
  if (note) note.hidden = !text;
  for (const child of panel.children) if (child !== note) child.hidden = Boolean(text);
  return Boolean(text);
};

const TIMELINES = [
  ["load", "Load (line), forecast five minutes before (dots)"], ["attainment", "Requests within their targets, last minute"],
  ["cost", "Cost rate"], ["replicas", "Replicas ready (line), wanted (dots)"], ["queue", "Queue in the engines"],
  ["kv", "KV cache in use"], ["weights", "Where requests go, by class and pool"], ["caps", "Batch caps"],
  ["temperature", "Hottest GPU"],
];
const NOTHING = {
  kv: "No engine tells its KV cache.",
  temperature: "No source tells temperatures: see gpu_metrics in docs/telemetry.md.",
  attainment: "No request finished in this span.",
};

const now = {
  async render(panel, state) {
    layOut(panel, place("cards"), place("warnings"),
      block("Pools", place("pools")), block("Classes", place("classes")),
      el("div", { class: "charts" }, TIMELINES.map(([key, title]) => chart(key, title, title, NOTHING[key]))));
    const told = await get("/data/now", state.query());
    if (emptied(panel, told.empty)) return;
    for (const [key, says] of Object.entries(told.figures)) {
      panel.querySelector(`[data-figure="${key}"]`)?.setAttribute("aria-label", says);
    }
    put(at(panel, "cards"), JSON.stringify(told.cards), () => cards(told.cards));
    put(at(panel, "warnings"), JSON.stringify(told.warnings), () => told.warnings.length
      ? el("ul", { class: "warnings", "aria-label": "Warnings" }, told.warnings.map((warned) =>
        el("li", {},
          el("span", { class: "mark", "data-tone": warned.tone, "aria-hidden": "true" }, warned.tone === "bad" ? "▲" : "△"),
          el("span", {}, warned.text), el("span", { class: "todo" }, warned.todo))))
      : null);
    put(at(panel, "pools"), JSON.stringify(told.pools), () => table(told.pools, { label: "Pools" }));
    put(at(panel, "classes"), JSON.stringify(told.classes), () => table(told.classes, { label: "Classes" }));
    for (const [key] of TIMELINES) {
      show(panel.querySelector(`[data-figure="${key}"]`), `/figures/${key}?${state.query()}`, state.version);
    }
  },
};

const decisions = {
  all: false,
  async render(panel, state) {
    layOut(panel, el("div", { class: "two" },
      el("div", { class: "aside" },
        el("div", { class: "row" }, el("h2", {}, "Ticks"),
          el("label", {}, el("input", {
            type: "checkbox", id: "all-ticks",
            on: { change: (event) => { decisions.all = event.target.checked; state.again(); } },
          }), "also those that changed nothing"),
          el("a", { href: "#decisions", id: "follow" }, "Follow the newest")),
        place("list")),
      el("div", { class: "story" }, place("head"), place("cards"),
        block("What the guard and the mode changed, and why", place("guard")),
        block("Replicas and batch caps", place("replicas")),
        block("Where requests go", place("weights")),
        block("What it saw: classes", place("seen-classes")),
        block("What it saw: pools", place("seen-pools")))));
    const query = state.query();
    const [told, story] = await Promise.all([
      get("/data/decisions", `${query}${decisions.all ? "&all=1" : ""}`),
      get("/data/decision", `${query}&id=${encodeURIComponent(state.detail)}`),
    ]);
    if (emptied(panel, told.empty)) return;
    panel.querySelector("#follow").hidden = !state.detail;
    const current = story.id ? `decisions/${story.id}` : "";
    put(at(panel, "list"), JSON.stringify([told.list, current]), () => table(told.list, { label: "Ticks", tall: true, current }));
    const whole = panel.querySelector(".story");
    for (const child of whole.children) child.hidden = Boolean(story.empty) && child !== at(panel, "head");
    put(at(panel, "head"), JSON.stringify([story.title, story.lead, story.empty]), () => story.empty
      ? empty(story.empty)
      : [el("h2", { id: "story" }, story.title), el("p", { class: "note" }, story.lead)]);
    if (story.empty) return;
    put(at(panel, "cards"), JSON.stringify(story.cards), () => cards(story.cards));
    for (const [name, given, label] of [
      ["guard", story.guard, "Changes of the guard"], ["replicas", story.replicas, "Replicas and caps"],
      ["weights", story.weights, "Weights"], ["seen-classes", story.seen_classes, "Classes as seen"],
      ["seen-pools", story.seen_pools, "Pools as seen"],
    ]) {
      put(at(panel, name), JSON.stringify(given), () => table(given, { label }));
    }
  },
};

const select = (id, label, change) =>
  el("label", {}, label, el("select", { id, on: { change: (event) => change(event.target.value) } }));

const policies = {
  run: "", suite: "", against: "", training: null, group: "",
  async render(panel, state) {
    const choose = (name) => (value) => { policies[name] = value; state.again(); };
    layOut(panel, place("problems"),
      el("div", { "data-part": "evaluation" },
        el("div", { class: "row" }, select("run", "Evaluation", choose("run")), select("suite", "Suite", choose("suite")),
          select("against", "Compare with", choose("against"))),
        place("command"),
        block("Cost and attainment as shipped", place("table")),
        el("div", { class: "chart" }, el("h3", {}, "Cost against attainment"),
          figure("frontier", "Each policy's bill against its attainment, over a sweep of its head-room",
            "This run swept no head-rooms: --headroom 0.8,1,1.2 draws frontiers.")),
        el("div", { "data-part": "differences" },
          block("Against the other run", place("differences")),
          el("div", { class: "chart" }, el("h3", {}, "Differences"),
            figure("differences", "Differences of bill and shortfall from the other run, with intervals")))),
      el("div", { "data-part": "training" },
        el("div", { class: "row" }, el("h2", {}, "Training curves"), select("training-run", "Runs", (value) => {
          policies.training = value === "" ? null : [value];
          state.again();
        }), select("group", "Curves", choose("group"))),
        el("div", { class: "chart" }, figure("training", "Curves of training runs over environment steps"))));
    const asked = new URLSearchParams({ run: policies.run, suite: policies.suite, against: policies.against });
    const told = await get("/data/policies", asked);
    if (emptied(panel, told.empty)) return;
    put(at(panel, "problems"), JSON.stringify(told.problems), () => told.problems.map((text) => el("p", { class: "banner" }, text)));
    const part = (name) => panel.querySelector(`[data-part="${name}"]`);
    part("evaluation").hidden = !told.run;
    if (told.run) {
      options(panel.querySelector("#run"), told.runs, told.run);
      options(panel.querySelector("#suite"), told.suites, told.suite);
      options(panel.querySelector("#against"), told.runs.filter((name) => name !== told.run), told.against, "no other run");
      put(at(panel, "command"), told.command + told.commit, () => told.command
        ? el("p", { class: "note" }, el("code", {}, told.command), told.commit ? ` at commit ${told.commit}` : "") : null);
      put(at(panel, "table"), JSON.stringify(told.table), () => table(told.table, { label: "Policies" }));
      const query = new URLSearchParams({ run: told.run, suite: told.suite, against: told.against });
      show(panel.querySelector('[data-figure="frontier"]'), `/figures/frontier?${query}`, told.commit);
      part("differences").hidden = !told.differences;
      if (told.differences) {
        put(at(panel, "differences"), JSON.stringify(told.differences), () => table(told.differences, { label: "Differences" }));
        show(panel.querySelector('[data-figure="differences"]'), `/figures/differences?${query}`, told.commit);
      }
    }
    part("training").hidden = !told.trainings.length;
    if (told.trainings.length) policies.curves(panel, told, state);
  },
  curves(panel, told, state) {
    const names = told.trainings.map((own) => own.name);
    const chosen = policies.training ? names.filter((name) => policies.training.includes(name)) : names.slice(0, 6);
    const tags = [...new Set(told.trainings.filter((own) => chosen.includes(own.name)).flatMap((own) => own.tags))].sort();
    const groups = [...new Set(tags.map((tag) => tag.split("/")[0]))];
    options(panel.querySelector("#training-run"), names, policies.training ? chosen[0] || "" : "", names.length > 6 ? "the newest six" : "all");
    options(panel.querySelector("#group"), groups, groups.includes(policies.group) ? policies.group : "", "most telling");
    const wanted = policies.group && groups.includes(policies.group)
      ? tags.filter((tag) => tag.startsWith(`${policies.group}/`)) : told.first_tags.filter((tag) => tags.includes(tag));
    const query = new URLSearchParams([...chosen.map((name) => ["run", name]), ...wanted.map((tag) => ["tag", tag])]);
    show(panel.querySelector('[data-figure="training"]'), `/figures/training?${query}`, state.slow);
  },
};

const savings = {
  async render(panel, state) {
    layOut(panel, place("cards"),
      el("div", { class: "chart" }, el("h3", {}, "Saved so far"),
        figure("saved", "Dollars saved against the fallback rule so far, with a 95 % interval")),
      el("div", { class: "chart" }, el("h3", {}, "Bill by layer"),
        figure("layers", "Dollars per hour by layer of the bill, under the fallback rule, under the policy, and as measured")),
      block("By layer", place("layers")), block("By pool", place("pools")), place("notes"));
    const told = await get("/data/savings", state.query());
    if (emptied(panel, told.empty)) return;
    put(at(panel, "cards"), JSON.stringify(told.cards), () => cards(told.cards));
    put(at(panel, "layers"), JSON.stringify(told.layers), () => table(told.layers, { label: "Savings by layer" }));
    put(at(panel, "pools"), JSON.stringify(told.pools), () => table(told.pools, { label: "Savings by pool" }));
    put(at(panel, "notes"), JSON.stringify(told.notes), () => told.notes.map((text) => el("p", { class: "note" }, text)));
    for (const key of ["saved", "layers"]) {
      show(panel.querySelector(`[data-figure="${key}"]`), `/figures/${key}?${state.query()}`, state.version);
    }
  },
};

export const VIEWS = { now, decisions, policies, savings };
